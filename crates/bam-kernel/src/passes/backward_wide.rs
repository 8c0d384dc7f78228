//! The five products of a block of rows going back, in `f32`, whatever the numbers were.

use super::backward_block::{Given, Products, dot};
use super::inputs::Inputs;
use super::panel::{BLOCK, Panels, QueryPanels, Sight};
use super::product::{
    Aligned, Factors, LINES, Lanes, Line, STRETCH, Strips, aligned, lines, lines_from_rows,
    panel_rows, rows_by_panel, rows_from_lines,
};
use super::tile::KeyTile;
use crate::key_norms::TILE;
use pulp::Simd;
use std::ops::Range;

/// Memory of a block and of a tile, which serves one after the other.
pub(super) struct Wide<'a> {
    tile: KeyTile<'a>,
    /// The keys of the tile.
    keys: Strips,
    /// Per stretch, the scaled queries and the gradient of the output.
    q_rows: [Strips; BLOCK / STRETCH],
    out_gradient_rows: [Strips; BLOCK / STRETCH],
    /// The gradient of the output again: `[panels, padded dim, rows of a panel]`.
    out_gradient: Panels,
    /// For rows that are widened.
    room: [Aligned<f32>; 3],
}

impl<'a> Wide<'a> {
    pub fn new(inputs: &Inputs<'a>) -> Self {
        let padded = inputs.padded_dim();
        let of_stretches = || std::array::from_fn(|_| Strips::new(STRETCH, padded));
        Self {
            tile: KeyTile::new(inputs),
            keys: Strips::new(TILE, padded),
            q_rows: of_stretches(),
            out_gradient_rows: of_stretches(),
            out_gradient: Panels::new(inputs),
            room: std::array::from_fn(|_| aligned(0.0, padded)),
        }
    }
}

/// Those products with `GROUP` keys side by side.
pub(super) struct Grouped<'t, 'a, const GROUP: usize>(pub &'t mut Wide<'a>);

impl<'a, S: Simd, const GROUP: usize, const VECTORS: usize> Products<'a, S, VECTORS>
    for Grouped<'_, 'a, GROUP>
{
    const KEYS: usize = LINES;
    const READS_HIDDEN: bool = false;

    #[inline(always)]
    fn load_rows(
        &mut self,
        simd: S,
        given: &Given<'a>,
        queries: &mut QueryPanels<'a>,
        delta: &mut [f32],
    ) {
        let (inputs, gradient) = (given.inputs, &given.out_gradient);
        let (batch, head, rows) = (queries.batch, queries.head, queries.rows.clone());
        queries.load_q(inputs);
        let at = (batch, head, rows.clone());
        let to = &mut *self.0;
        to.out_gradient
            .load(inputs, gradient, at, queries.width, |_| 1.0);
        let count = queries.content_factors.len();
        let padded = (rows.start..).take(count.next_multiple_of(STRETCH));
        for (r, row) in padded.enumerate() {
            let (stretch, own) = (r / STRETCH, r % STRETCH);
            let [of_q, of_gradient] =
                [&mut to.q_rows, &mut to.out_gradient_rows].map(|rows| &mut rows[stretch]);
            if row >= rows.end || inputs.plan.is_padding_query(batch, row) {
                of_q.write::<S>(own, &[], 0.0);
                of_gradient.write::<S>(own, &[], 0.0);
                continue;
            }
            let [of_q_row, of_gradient_row, of_out] = &mut to.room;
            let factor = queries.content_factors[r];
            of_q.write::<S>(own, inputs.q.read((batch, head, row), of_q_row), factor);
            let gradient = gradient.read((batch, head, row), of_gradient_row);
            of_gradient.write::<S>(own, gradient, 1.0);
            let out = given.out.read((batch, head, row), of_out);
            delta[r] = dot(simd, gradient, out);
        }
    }

    #[inline(always)]
    fn load_tile(&mut self, inputs: &Inputs<'a>, (batch, head): (usize, usize), first_key: usize) {
        let to = &mut *self.0;
        to.tile.load(inputs, batch, head, first_key);
        let keys = to.tile.keys().chunks_exact(inputs.padded_dim());
        for (index, key) in keys.enumerate() {
            to.keys.write::<S>(index, key, 1.0);
        }
    }

    #[inline(always)]
    fn logits(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        queries: &QueryPanels<'_>,
        (panel, first_key): (usize, usize),
        sight: &Sight,
        scores: &mut Lanes<'_>,
    ) {
        let tile = (self.0.tile.keys(), first_key);
        queries.logits::<S, GROUP, VECTORS>(simd, inputs, panel, tile, sight, scores);
    }

    #[inline(always)]
    fn gradients_of_logits(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        (panel, keys): (usize, Range<usize>),
        d_logits: &mut Lanes<'_>,
        mut sink: impl FnMut(usize, &Line<S, VECTORS>) -> Line<S, VECTORS>,
    ) {
        let (width, padded) = (panel_rows::<S, VECTORS>(), inputs.padded_dim());
        let gradient = &self.0.out_gradient.values[panel * padded * width..];
        let values = &self.0.tile.values()[keys.start * padded..keys.end * padded];
        rows_by_panel::<S, GROUP, VECTORS>(
            simd,
            (values, padded),
            inputs.dim,
            lines::<S, VECTORS>(gradient),
            #[inline(always)]
            |key, products| {
                let key = keys.start + key;
                *d_logits.line::<S, VECTORS>(key) = sink(key, products);
            },
        );
    }

    /// Sums are `[rows of a panel, padded dim]`.
    #[inline(always)]
    fn add_to_rows(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        queries: &QueryPanels<'_>,
        (panel, first_key, keys): (usize, usize, &Range<usize>),
        d_logits: &mut Lanes<'_>,
        sums: &mut [f32],
    ) {
        let rows = d_logits.first..d_logits.first + panel_rows::<S, VECTORS>();
        let factors = Factors {
            values: d_logits.values,
            stride: STRETCH,
        };
        let in_sight = |rows| queries.keys_in_sight(inputs, panel, rows, first_key, keys);
        rows_from_lines(simd, factors, rows, in_sight, &self.0.keys, sums);
    }

    #[inline(always)]
    fn add_to_keys(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        queries: &QueryPanels<'_>,
        (stretch, first_key, keys): (usize, usize, Range<usize>),
        [posterior, d_logits]: [&[f32]; 2],
        [dk, dv]: [&mut [f32]; 2],
    ) {
        let padded = inputs.padded_dim();
        let rows = stretch * STRETCH..(stretch + 1) * STRETCH;
        let rows_of = |some: Range<usize>| {
            let first = first_key + keys.start;
            queries.rows_in_sight(inputs, &rows, first + some.start..first + some.end)
        };
        for (factors, right, sums) in [
            (posterior, &self.0.out_gradient_rows[stretch], dv),
            (d_logits, &self.0.q_rows[stretch], dk),
        ] {
            lines_from_rows(
                simd,
                &factors.as_chunks().0[keys.clone()],
                rows_of,
                right,
                &mut sums[keys.start * padded..keys.end * padded],
            );
        }
    }

    #[inline(always)]
    fn sums_of_row(&self, (sums, r): (&[f32], usize), factor: f32, to: &mut [f32]) {
        let padded = sums.len() / panel_rows::<S, VECTORS>();
        for (to, sum) in to.iter_mut().zip(&sums[r * padded..][..padded]) {
            *to = factor * sum;
        }
    }
}
