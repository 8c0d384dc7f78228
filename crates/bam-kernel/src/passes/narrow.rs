//! The forward products of `bf16` numbers, in AMX tiles.
//!
//! Queries and keys are multiplied as they came, exactly, and scaled after. Weights are rounded to
//! `bf16`, half a unit in the last of eight digits; the evidence they are divided by is not. The lanes
//! are those of the `f32` panels, with a **pair** of numbers in each: two elements of a query, or the
//! weights of two keys.

use super::inputs::Inputs;
use super::panel::{Products, QueryPanels, Sight, write_row};
use super::product::{Aligned, aligned, lines, panel_rows};
use crate::instructions::Instructions;
use crate::instructions::amx::tiles::{SIDE, Tiles};
use crate::key_norms::TILE;
use half::bf16;
use pulp::Simd;
use rayon::prelude::*;
use std::ops::Range;

/// Keys whose weights one row of a tile holds.
const STEP: usize = 2 * SIDE;

/// The values of every tile, element by element as pairs of keys: made once, read by every block of rows.
pub(super) struct PairedValues {
    /// `[batch, key heads, tiles, padded dim, TILE / 2]`; zeros where there is none and at padding.
    pairs: Aligned<u32>,
    of_tile: usize,
}

impl PairedValues {
    /// `None` if AMX is not to be used, or the numbers don't fit it.
    pub fn new(inputs: &Inputs<'_>) -> Option<Self> {
        if inputs.plan.call().instructions != Instructions::Amx || !inputs.v.are_narrow() {
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
            let value = |key: usize| match is_there(inputs, batch, key) {
                true => inputs.v.narrow(batch, head, key),
                false => &absent,
            };
            for pair in 0..TILE / 2 {
                let key = first_key + 2 * pair;
                let column = pairs[pair..].iter_mut().step_by(TILE / 2);
                for ((to, first), second) in column.zip(value(key)).zip(value(key + 1)) {
                    *to = paired(*first, *second);
                }
            }
        });
        Some(Self { pairs, of_tile })
    }

    fn tile(&self, inputs: &Inputs<'_>, (batch, head): (usize, usize), first_key: usize) -> &[u32] {
        let tiles = inputs.keys().div_ceil(TILE);
        let index = (batch * inputs.key_heads() + head) * tiles + first_key / TILE;
        &self.pairs[index * self.of_tile..][..self.of_tile]
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
    paired: &'p PairedValues,
    /// `[padded dim, TILE / 2]`, of the tile.
    values: &'p [u32],
    /// `[TILE / 2, rows of a panel]`.
    weights: Aligned<u32>,
    /// `[padded dim, rows of a panel]`.
    products: Aligned<f32>,
}

impl<'p> Narrow<'p> {
    /// `None` if the queries or the panel don't fit AMX.
    pub fn new(
        inputs: &Inputs<'_>,
        queries: &QueryPanels<'_>,
        paired: &'p PairedValues,
    ) -> Option<Self> {
        let width = queries.width;
        if !inputs.q.are_narrow() || !width.is_multiple_of(SIDE) {
            return None;
        }
        let depth = inputs.dim.next_multiple_of(2 * SIDE) / 2;
        let mut q = aligned(0, queries.count() * width * depth);
        let mut row = vec![0; depth];
        for (r, index) in queries.rows.clone().enumerate() {
            if !inputs.plan.is_padding_query(queries.batch, index) {
                pair_up(
                    inputs.q.narrow(queries.batch, queries.head, index),
                    &mut row,
                );
                write_row(&mut q, width, depth, r, &row);
            }
        }
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
    fn load(&mut self, inputs: &Inputs<'a>, (batch, head): (usize, usize), first_key: usize) {
        self.first_key = first_key;
        self.values = self.paired.tile(inputs, (batch, head), first_key);
        for (index, to) in self.keys.chunks_exact_mut(self.depth).enumerate() {
            match is_there(inputs, batch, first_key + index) {
                true => pair_up(inputs.k.narrow(batch, head, first_key + index), to),
                false => to.fill(0),
            }
        }
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
        let (width, depth) = (queries.width, self.depth);
        let keys = sight.keys.start / SIDE * SIDE..sight.keys.end.next_multiple_of(SIDE);
        self.tiles.product(
            (&self.keys[keys.start * depth..keys.end * depth], depth),
            depth,
            &self.q[panel * depth * width..][..depth * width],
            width,
            &mut scores[keys.start * width..keys.end * width],
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
        let whole = keys.start / STEP * STEP..keys.end.next_multiple_of(STEP);
        weights[whole.start * width..keys.start * width].fill(0.0);
        weights[keys.end * width..whole.end * width].fill(0.0);
        let pairs = whole.start / 2..whole.end / 2;
        let rounded = &mut self.weights[pairs.start * width..pairs.end * width];
        let weights = &weights[whole.start * width..whole.end * width];
        round_pairs::<S, VECTORS>(simd, weights, rounded);
        self.tiles.product(
            (&self.values[pairs.start..], TILE / 2),
            pairs.len(),
            rounded,
            width,
            &mut self.products,
        );
        for (sum, product) in sums.iter_mut().zip(&self.products[..]) {
            *sum += product;
        }
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

fn paired(first: bf16, second: bf16) -> u32 {
    u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16
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

/// Two lines of weights to one of pairs, rounded to nearest.
#[inline(always)]
fn round_pairs<S: Simd, const VECTORS: usize>(simd: S, weights: &[f32], pairs: &mut [u32]) {
    let half = simd.splat_u32s(0x8000);
    let (high, sixteen) = (simd.splat_u32s(0xFFFF_0000), simd.splat_u32s(16));
    let (pairs, _) = S::as_mut_simd_u32s(pairs);
    let (pairs, _) = pairs.as_chunks_mut::<VECTORS>();
    let (weights, _) = lines::<S, VECTORS>(weights).as_chunks::<2>();
    for (pair, [first, second]) in pairs.iter_mut().zip(weights) {
        for c in 0..VECTORS {
            let rounded = |x| simd.add_u32s(simd.transmute_u32s_f32s(x), half);
            let low = simd.wrapping_dyn_shr_u32s(rounded(first[c]), sixteen);
            pair[c] = simd.or_u32s(low, simd.and_u32s(rounded(second[c]), high));
        }
    }
}
