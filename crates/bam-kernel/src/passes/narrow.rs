//! The forward products of `bf16` numbers, in AMX tiles, and the pairs that the way back takes too.
//!
//! Queries and keys are multiplied as they came, exactly, and scaled after. Weights are rounded to
//! `bf16`, half a unit in the last of eight digits; the evidence they are divided by is not. The lanes
//! are those of the `f32` panels, with a **pair** of numbers in each: two elements of a query, or the
//! weights of two keys.

use super::inputs::Inputs;
use super::panel::{Products, QueryPanels, Sight, write_row};
use super::product::{Aligned, Lanes, aligned, panel_rows};
use crate::instructions::Instructions;
use crate::instructions::amx::tiles::{SIDE, Tiles};
use crate::key_norms::TILE;
use crate::operands::{Rows, paired};
use half::bf16;
use pulp::Simd;
use rayon::prelude::*;
use std::ops::Range;

/// Numbers that one row of a tile holds.
pub(super) const STEP: usize = 2 * SIDE;

/// Keys or values of every tile, element by element as pairs of keys: made once, read by every block of rows.
pub(super) struct PairedKeys {
    /// `[batch, key heads, tiles, padded dim, TILE / 2]`; zeros where there is none and at padding.
    pairs: Aligned<u32>,
    of_tile: usize,
}

impl PairedKeys {
    /// Of these rows, the keys or the values. `None` if AMX is not to be used, or the numbers don't fit it.
    pub fn new(inputs: &Inputs<'_>, from: &Rows<'_>) -> Option<Self> {
        if inputs.plan.call().instructions != Instructions::Amx || !from.are_narrow() {
            return None;
        }
        let of_tile = inputs.padded_dim() * TILE / 2;
        let tiles = inputs.keys().div_ceil(TILE);
        let heads = inputs.key_heads();
        let mut pairs = aligned(0, inputs.batch * heads * tiles * of_tile);
        let absent = vec![bf16::ZERO; inputs.dim];
        let of_tiles = pairs.par_chunks_mut(of_tile.max(1)).enumerate();
        of_tiles.for_each(|(index, pairs)| {
            let (head, first_key) = (index / tiles, index % tiles * TILE);
            let (batch, head) = (head / heads, head % heads);
            let row = |key: usize| match is_there(inputs, batch, key) {
                true => from.narrow(batch, head, key),
                false => &absent,
            };
            for pair in 0..TILE / 2 {
                let key = first_key + 2 * pair;
                let column = pairs[pair..].iter_mut().step_by(TILE / 2);
                for ((to, first), second) in column.zip(row(key)).zip(row(key + 1)) {
                    *to = paired(*first, *second);
                }
            }
        });
        Some(Self { pairs, of_tile })
    }

    /// `[padded dim, TILE / 2]`.
    pub fn tile(
        &self,
        inputs: &Inputs<'_>,
        (batch, head): (usize, usize),
        first_key: usize,
    ) -> &[u32] {
        let tiles = inputs.keys().div_ceil(TILE);
        let index = (batch * inputs.key_heads() + head) * tiles + first_key / TILE;
        &self.pairs[index * self.of_tile..][..self.of_tile]
    }
}

/// Pairs of a row, as many as fill rows of tiles.
pub(super) fn pairs_of_row(inputs: &Inputs<'_>) -> usize {
    inputs.dim.next_multiple_of(STEP) / 2
}

/// Reads the rows of a block in pairs of neighbouring elements, `[panels, depth, rows of a panel]`; zeros past
/// the end and at padding.
pub(super) fn load_panels(
    inputs: &Inputs<'_>,
    from: &Rows<'_>,
    queries: &QueryPanels<'_>,
    to: &mut Aligned<u32>,
) {
    let (width, depth) = (queries.width, pairs_of_row(inputs));
    to.clear();
    to.resize(queries.count() * width * depth, 0);
    let mut row = vec![0; depth];
    for (r, index) in queries.rows.clone().enumerate() {
        if !inputs.plan.is_padding_query(queries.batch, index) {
            pair_up(from.narrow(queries.batch, queries.head, index), &mut row);
            write_row(to, width, depth, r, &row);
        }
    }
}

/// Reads the rows of a tile in pairs of neighbouring elements, `[TILE, depth]`.
#[inline(always)]
pub(super) fn load_tile(
    inputs: &Inputs<'_>,
    from: &Rows<'_>,
    (batch, head): (usize, usize),
    first_key: usize,
    to: &mut [u32],
) {
    for (index, to) in to.chunks_exact_mut(pairs_of_row(inputs)).enumerate() {
        match is_there(inputs, batch, first_key + index) {
            true => pair_up(from.narrow(batch, head, first_key + index), to),
            false => to.fill(0),
        }
    }
}

fn is_there(inputs: &Inputs<'_>, batch: usize, key: usize) -> bool {
    key < inputs.keys() && !inputs.plan.is_padding_key(batch, key)
}

/// A block of queries and a tile of keys and values, as pairs of `bf16`.
pub(super) struct Narrow<'p> {
    tiles: Tiles,
    /// `[panels, depth, rows of a panel]`.
    q: Aligned<u32>,
    /// Pairs of a row.
    depth: usize,
    first_key: usize,
    /// `[TILE, depth]`.
    keys: Aligned<u32>,
    paired: &'p PairedKeys,
    /// `[padded dim, TILE / 2]`, of the tile.
    values: &'p [u32],
    /// `[TILE / 2, rows of a panel]`.
    weights: Aligned<u32>,
    /// `[padded dim, rows of a panel]`.
    products: Aligned<f32>,
}

impl<'p> Narrow<'p> {
    /// Given the paired values. `None` if the queries or the panel don't fit AMX.
    pub fn new(
        inputs: &Inputs<'_>,
        queries: &QueryPanels<'_>,
        paired: &'p PairedKeys,
    ) -> Option<Self> {
        let width = queries.width;
        if !inputs.q.are_narrow() || !inputs.k.are_narrow() || !width.is_multiple_of(SIDE) {
            return None;
        }
        let depth = pairs_of_row(inputs);
        let mut q = aligned(0, 0);
        load_panels(inputs, &inputs.q, queries, &mut q);
        Some(Self {
            tiles: Tiles::new()?,
            q,
            depth,
            first_key: 0,
            keys: aligned(0, TILE * depth),
            paired,
            values: &[],
            weights: aligned(0, TILE / 2 * width),
            products: aligned(0.0, inputs.padded_dim() * width),
        })
    }
}

impl<'a, S: Simd, const VECTORS: usize> Products<'a, S, VECTORS> for Narrow<'_> {
    #[inline(always)]
    fn load(&mut self, inputs: &Inputs<'a>, at: (usize, usize), first_key: usize) {
        self.first_key = first_key;
        self.values = self.paired.tile(inputs, at, first_key);
        load_tile(inputs, &inputs.k, at, first_key, &mut self.keys);
    }

    #[inline(always)]
    fn logits(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        queries: &QueryPanels<'_>,
        panel: usize,
        sight: &Sight,
        scores: &mut [f32],
    ) {
        let scores = &mut Lanes::of_panel::<S, VECTORS>(scores);
        let operands = (&self.keys[..], &self.q[..]);
        products_of_rows::<S, VECTORS>(
            &self.tiles,
            operands,
            self.depth,
            panel,
            &sight.keys,
            scores,
        );
        queries.finish_logits::<S, VECTORS>(simd, inputs, panel, self.first_key, sight, scores);
    }

    /// Sums are `[padded dim, rows of a panel]`.
    #[inline(always)]
    fn add_values(
        &mut self,
        simd: S,
        _: &Inputs<'_>,
        queries: &QueryPanels<'_>,
        (_, keys): (usize, Range<usize>),
        weights: &mut [f32],
        sums: &mut [f32],
    ) {
        let width = queries.width;
        let whole = whole_steps(&keys);
        weights[whole.start * width..keys.start * width].fill(0.0);
        weights[keys.end * width..whole.end * width].fill(0.0);
        rows_from_keys::<S, VECTORS>(
            simd,
            &self.tiles,
            (self.values, whole),
            &mut Lanes::of_panel::<S, VECTORS>(weights),
            (&mut self.weights, &mut self.products),
            sums,
        );
    }

    #[inline(always)]
    fn scale(&self, sums: &mut [f32], factors: &[f32]) {
        for sums in sums.chunks_exact_mut(factors.len()) {
            for (sum, factor) in sums.iter_mut().zip(factors) {
                *sum *= factor;
            }
        }
    }

    #[inline(always)]
    fn expectation(&self, sums: &[f32], r: usize, evidence: f32, out: &mut [f32]) {
        let width = panel_rows::<S, VECTORS>();
        for (out, sum) in out.iter_mut().zip(sums[r..].iter().step_by(width)) {
            *out = sum / evidence;
        }
    }
}

/// Writes a row as pairs; zeros after its end.
#[inline(always)]
fn pair_up(row: &[bf16], to: &mut [u32]) {
    let (pairs, rest) = row.as_chunks::<2>();
    let (to, after) = to.split_at_mut(pairs.len());
    for (to, [first, second]) in to.iter_mut().zip(pairs) {
        *to = paired(*first, *second);
    }
    after.fill(0);
    if let Some(last) = rest.first() {
        after[0] = paired(*last, bf16::ZERO);
    }
}

/// Those keys and more, as many as fill rows of tiles.
pub(super) fn whole_steps(keys: &Range<usize>) -> Range<usize> {
    keys.start / STEP * STEP..keys.end.next_multiple_of(STEP)
}

/// `Σ_t row[t]·key[t]` of a panel's rows, `[panels, depth, rows of a panel]`, and the tile's keys, `[TILE, depth]`:
/// written to the lines of the keys in sight, and of some around them.
#[inline(always)]
pub(super) fn products_of_rows<S: Simd, const VECTORS: usize>(
    tiles: &Tiles,
    (keys, rows): (&[u32], &[u32]),
    depth: usize,
    panel: usize,
    in_sight: &Range<usize>,
    out: &mut Lanes<'_>,
) {
    let width = panel_rows::<S, VECTORS>();
    let start = in_sight.start / SIDE * SIDE;
    let count = in_sight.end.next_multiple_of(SIDE) - start;
    tiles.product(
        (&keys[start * depth..], depth),
        [count, depth, width],
        &rows[panel * depth * width..][..depth * width],
        (
            &mut out.values[start * out.stride + out.first..],
            out.stride,
        ),
    );
}

/// `sums[t][row] += Σ_key keys[t][key]·factors[key][row]`: what the rows of a panel gather from some keys, whole
/// steps of them. The factors are rounded to `bf16`.
///
/// # Shapes
/// - `keys`: `[padded dim, TILE / 2]` pairs
/// - `room`: `[TILE / 2, rows of a panel]` and `[padded dim, rows of a panel]`
/// - `sums`: `[padded dim, rows of a panel]`
#[inline(always)]
pub(super) fn rows_from_keys<S: Simd, const VECTORS: usize>(
    simd: S,
    tiles: &Tiles,
    (keys, whole): (&[u32], Range<usize>),
    factors: &mut Lanes<'_>,
    (rounded, products): (&mut [u32], &mut [f32]),
    sums: &mut [f32],
) {
    let width = panel_rows::<S, VECTORS>();
    let rounded = &mut rounded[..whole.len() / 2 * width];
    let pairs = S::as_mut_simd_u32s(rounded).0.as_chunks_mut::<VECTORS>().0;
    for (pair, to) in pairs.iter_mut().enumerate() {
        let key = whole.start + 2 * pair;
        let [first, second] = [key, key + 1].map(|key| *factors.line::<S, VECTORS>(key));
        for c in 0..VECTORS {
            to[c] = round_pair(simd, first[c], second[c]);
        }
    }
    tiles.product(
        (&keys[whole.start / 2..], TILE / 2),
        [sums.len() / width, whole.len() / 2, width],
        rounded,
        (products, width),
    );
    for (sum, product) in sums.iter_mut().zip(products) {
        *sum += *product;
    }
}

/// Two vectors to one of pairs, rounded to nearest.
#[inline(always)]
pub(super) fn round_pair<S: Simd>(simd: S, first: S::f32s, second: S::f32s) -> S::u32s {
    let (half, high) = (simd.splat_u32s(0x8000), simd.splat_u32s(0xFFFF_0000));
    let rounded = |x| simd.add_u32s(simd.transmute_u32s_f32s(x), half);
    let low = simd.wrapping_dyn_shr_u32s(rounded(first), simd.splat_u32s(16));
    simd.or_u32s(low, simd.and_u32s(rounded(second), high))
}
