//! The five products of a block of rows going back, of `bf16` numbers in AMX tiles.
//!
//! Scores and `g·v` are exact products, summed in `f32`, as the scores of the forward pass are. The posterior and
//! the gradients of logits are rounded to `bf16` where they are multiplied again: half a unit in the last of eight
//! digits, `2⁻⁸` of each. What is summed along diagonals is not.
//!
//! Rows of a tile hold pairs of what is summed over. Keys gather from rows: row `r` of 32 is paired with
//! row `r + 16`, so that a line of the posterior becomes pairs without moving a number to another lane. Rows
//! gather from keys: neighbouring keys are paired, as the weights of the forward pass are.

use super::backward_block::{Given, Products, dot, whole};
use super::inputs::Inputs;
use super::narrow::{
    PairedKeys, STEP, load_panels, load_tile, pairs_of_row, products_of_rows, round_pair,
    rows_from_keys, whole_steps,
};
use super::panel::{BLOCK, QueryPanels, Sight};
use super::product::{Aligned, Lanes, Line, STRETCH, aligned, panel_rows};
use crate::instructions::amx::tiles::{SIDE, Tiles};
use crate::key_norms::TILE;
use crate::operands::Rows;
use pulp::Simd;
use std::ops::Range;

/// Pairs of the rows of a stretch.
const PAIRS: usize = STRETCH / 2;

/// Memory of a block and of a tile, which serves one after the other.
pub(super) struct Narrow<'p> {
    paired: &'p PairedKeys,
    /// Queries and gradients of the output, `[panels, depth, rows of a panel]`, pairs of elements.
    q: Aligned<u32>,
    out_gradient: Aligned<u32>,
    /// The same, `[stretches, PAIRS, padded dim]`, pairs of rows.
    q_rows: Aligned<u32>,
    out_gradient_rows: Aligned<u32>,
    /// The factor of each row's `q·k`; 0 past the end.
    content_factors: Aligned<f32>,
    /// `[TILE, depth]`, pairs of elements.
    keys: Aligned<u32>,
    values: Aligned<u32>,
    /// Factors that keys or rows gather by: `[TILE, PAIRS]`, or `[TILE / 2, rows of a panel]`.
    rounded: Aligned<u32>,
    /// Sums that they gathered: `[SIDE, padded dim]`, or `[padded dim, rows of a panel]`.
    products: Aligned<f32>,
    /// For rows that are widened.
    room: [Aligned<f32>; 2],
}

impl<'p> Narrow<'p> {
    pub fn new(inputs: &Inputs<'_>, paired: &'p PairedKeys) -> Self {
        let (padded, depth) = (inputs.padded_dim(), pairs_of_row(inputs));
        let pairs = |count| aligned(0, count);
        Self {
            paired,
            q: pairs(0),
            out_gradient: pairs(0),
            q_rows: pairs(BLOCK / 2 * padded),
            out_gradient_rows: pairs(BLOCK / 2 * padded),
            content_factors: aligned(0.0, BLOCK),
            keys: pairs(TILE * depth),
            values: pairs(TILE * depth),
            rounded: pairs(TILE * PAIRS),
            products: aligned(0.0, padded * STRETCH),
            room: std::array::from_fn(|_| aligned(0.0, padded)),
        }
    }
}

/// Those products in the tiles of this thread.
pub(super) struct InTiles<'t, 'p> {
    tiles: Tiles,
    memory: &'t mut Narrow<'p>,
    /// `[padded dim, TILE / 2]`, of the tile.
    keys: &'p [u32],
    depth: usize,
}

impl<'t, 'p> InTiles<'t, 'p> {
    /// `None` if the numbers don't fit AMX.
    pub fn new(given: &Given<'_>, memory: &'t mut Narrow<'p>) -> Option<Self> {
        let inputs = given.inputs;
        let operands = [&inputs.q, &inputs.k, &inputs.v, &given.out_gradient];
        if !operands.iter().all(|rows| rows.are_narrow()) {
            return None;
        }
        Some(Self {
            tiles: Tiles::new()?,
            memory,
            keys: &[],
            depth: pairs_of_row(inputs),
        })
    }
}

impl<'a, S: Simd, const VECTORS: usize> Products<'a, S, VECTORS> for InTiles<'_, '_> {
    const KEYS: usize = STEP;
    const READS_HIDDEN: bool = true;

    #[inline(always)]
    fn load_rows(
        &mut self,
        simd: S,
        given: &Given<'a>,
        queries: &mut QueryPanels<'a>,
        delta: &mut [f32],
    ) {
        let (inputs, gradient) = (given.inputs, &given.out_gradient);
        let to = &mut *self.memory;
        load_panels(inputs, &inputs.q, queries, &mut to.q);
        load_panels(inputs, gradient, queries, &mut to.out_gradient);
        load_pairs_of_rows(inputs, &inputs.q, queries, &mut to.q_rows);
        load_pairs_of_rows(inputs, gradient, queries, &mut to.out_gradient_rows);
        to.content_factors.fill(0.0);
        to.content_factors[..queries.content_factors.len()]
            .copy_from_slice(&queries.content_factors);
        let [of_gradient, of_out] = &mut to.room;
        for (delta, row) in delta.iter_mut().zip(queries.rows.clone()) {
            if !inputs.plan.is_padding_query(queries.batch, row) {
                let at = (queries.batch, queries.head, row);
                let out = given.out.read(at, of_out);
                *delta = dot(simd, gradient.read(at, of_gradient), out);
            }
        }
    }

    #[inline(always)]
    fn load_tile(&mut self, inputs: &Inputs<'a>, at: (usize, usize), first_key: usize) {
        self.keys = self.memory.paired.tile(inputs, at, first_key);
        load_tile(inputs, &inputs.k, at, first_key, &mut self.memory.keys);
        load_tile(inputs, &inputs.v, at, first_key, &mut self.memory.values);
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
        let operands = (&self.memory.keys[..], &self.memory.q[..]);
        let (keys, depth) = (&sight.keys, self.depth);
        products_of_rows::<S, VECTORS>(&self.tiles, operands, depth, panel, keys, scores);
        queries.finish_logits::<S, VECTORS>(simd, inputs, panel, first_key, sight, scores);
    }

    #[inline(always)]
    fn gradients_of_logits(
        &mut self,
        _: S,
        _: &Inputs<'_>,
        (panel, keys): (usize, Range<usize>),
        d_logits: &mut Lanes<'_>,
        mut sink: impl FnMut(usize, &Line<S, VECTORS>) -> Line<S, VECTORS>,
    ) {
        let operands = (&self.memory.values[..], &self.memory.out_gradient[..]);
        let depth = self.depth;
        products_of_rows::<S, VECTORS>(&self.tiles, operands, depth, panel, &keys, d_logits);
        for key in keys {
            let line = d_logits.line::<S, VECTORS>(key);
            *line = sink(key, line);
        }
    }

    /// Sums are `[padded dim, rows of a panel]`.
    #[inline(always)]
    fn add_to_rows(
        &mut self,
        simd: S,
        _: &Inputs<'_>,
        _: &QueryPanels<'_>,
        (_, _, keys): (usize, usize, &Range<usize>),
        d_logits: &mut Lanes<'_>,
        sums: &mut [f32],
    ) {
        let room = (&mut self.memory.rounded[..], &mut self.memory.products[..]);
        let keys = (self.keys, whole_steps(keys));
        rows_from_keys::<S, VECTORS>(simd, &self.tiles, keys, d_logits, room, sums);
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
        let Narrow {
            q_rows,
            out_gradient_rows,
            content_factors,
            rounded,
            products,
            ..
        } = &mut *self.memory;
        let padded = inputs.padded_dim();
        let rows = stretch * STRETCH..(stretch + 1) * STRETCH;
        let of_stretch = stretch * PAIRS * padded..(stretch + 1) * PAIRS * padded;
        let content_factors = &content_factors[rows.clone()];
        let products = &mut products[..SIDE * padded];
        for (factors, scales, right, sums) in [
            (posterior, None, &out_gradient_rows[of_stretch.clone()], dv),
            (d_logits, Some(content_factors), &q_rows[of_stretch], dk),
        ] {
            for first in keys.clone().step_by(SIDE) {
                let some = first_key + first..first_key + first + SIDE;
                let seeing = queries.rows_in_sight(inputs, &rows, some);
                if seeing.is_empty() {
                    continue;
                }
                let seeing = whole(&seeing, STEP);
                let pairs = seeing.start / 2..seeing.end / 2;
                let factors = factors[first * STRETCH..].chunks_exact(STRETCH);
                for (line, to) in factors.zip(rounded.chunks_exact_mut(PAIRS)).take(SIDE) {
                    let scales = scales.map(|scales| &scales[seeing.clone()]);
                    round_line(simd, &line[seeing.clone()], scales, &mut to[pairs.clone()]);
                }
                self.tiles.product(
                    (&rounded[pairs.start..], PAIRS),
                    [SIDE, pairs.len(), padded],
                    &right[pairs.start * padded..pairs.end * padded],
                    (products, padded),
                );
                let sums = sums[first * padded..].iter_mut();
                for (sum, product) in sums.zip(&*products) {
                    *sum += product;
                }
            }
        }
    }

    #[inline(always)]
    fn sums_of_row(&self, (sums, r): (&[f32], usize), factor: f32, to: &mut [f32]) {
        let width = panel_rows::<S, VECTORS>();
        for (to, sum) in to.iter_mut().zip(sums[r..].iter().step_by(width)) {
            *to = factor * sum;
        }
    }
}

/// Reads the rows of a block in pairs of rows; zeros past the end and at padding.
fn load_pairs_of_rows(
    inputs: &Inputs<'_>,
    from: &Rows<'_>,
    queries: &QueryPanels<'_>,
    to: &mut [u32],
) {
    let padded = inputs.padded_dim();
    to.fill(0);
    for (r, index) in queries.rows.clone().enumerate() {
        if inputs.plan.is_padding_query(queries.batch, index) {
            continue;
        }
        let (step, half, lane) = (r / STEP, r / SIDE % 2, r % SIDE);
        let to = &mut to[(step * SIDE + lane) * padded..];
        let row = from.narrow(queries.batch, queries.head, index);
        for (to, number) in to.iter_mut().zip(row) {
            *to |= u32::from(number.to_bits()) << (16 * half);
        }
    }
}

/// Rounds numbers, each times its scale if there are any, to pairs: whole steps of them.
#[inline(always)]
fn round_line<S: Simd>(simd: S, line: &[f32], scales: Option<&[f32]>, to: &mut [u32]) {
    let steps = line.as_chunks::<STEP>().0.iter();
    for (index, (line, to)) in steps.zip(to.as_chunks_mut::<SIDE>().0).enumerate() {
        let [low, high] = [&line[..SIDE], &line[SIDE..]].map(|half| S::as_simd_f32s(half).0);
        for (v, to) in S::as_mut_simd_u32s(to).0.iter_mut().enumerate() {
            let (mut first, mut second) = (low[v], high[v]);
            if let Some(scales) = scales {
                let scales = &scales[index * STEP..][..STEP];
                let [low, high] = [&scales[..SIDE], &scales[SIDE..]];
                first = simd.mul_f32s(first, S::as_simd_f32s(low).0[v]);
                second = simd.mul_f32s(second, S::as_simd_f32s(high).0[v]);
            }
            *to = round_pair(simd, first, second);
        }
    }
}
