//! The prior over keys on a device. A term per row cancels, so every row takes the prior relative to a reference of its own,
//! near the largest number that it sees: what is rounded is then small wherever a key counts (`docs/kernel.md`, §4a and §10).

use super::bounds::{BIG, GRAIN};
use super::pairs::{Pair, pair};
use super::rules::{Numbers, PADDING, Rules, keys_in_sight};
use super::tensors::UNITS;
use super::tiling::Tiling;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// The prior over keys as passes read it.
pub(super) struct ByKey {
    /// `[batch, heads, keys, 2]`.
    pub pairs: CubeTensor,
    /// `[batch, heads, queries, 2]`.
    pub references: CubeTensor,
    /// `[batch, heads, grains, 2, 2]`.
    pub ranges: CubeTensor,
}

/// Units that look for a row's reference together: some rows fill a cube of [`UNITS`].
pub(super) const PER_REFERENCE: usize = 16;

/// The prior in pairs, `[batch, heads, keys, 2]`, zeros at padding; smallest and largest parts of every [`GRAIN`] keys,
/// `[batch, heads, grains, 2, 2]`, by one unit each.
#[cube(launch_unchecked)]
pub(super) fn key_pairs(
    high: &Tensor<f32>,
    low: &Tensor<f32>,
    key_ids: &Tensor<i32>,
    pairs: &mut Tensor<Pair>,
    ranges: &mut Tensor<Pair>,
    #[comptime] rules: Rules,
) {
    let at = ABSOLUTE_POS;
    let (heads, keys) = (high.shape(1), high.shape(2));
    let grains = ranges.shape(2);
    if at < high.shape(0) * heads * grains {
        let first = at % grains * GRAIN;
        let mut least = pair(BIG, BIG);
        let mut most = pair(-BIG, -BIG);
        let mut none = false;
        for key in first..min(first + GRAIN, keys) {
            let place = at / grains * keys + key;
            let mut u = pair(0.0, 0.0);
            let mut counts = true;
            if comptime!(rules.documents) {
                counts = key_ids[at / grains / heads * keys + key] != i32::new(PADDING);
            }
            if counts {
                u = pair(high[place], low[place]);
                least = min(least, u);
                most = max(most, u);
                let size = u.extract(0usize) + u.extract(1usize);
                none = none || size != size;
            }
            pairs[place] = u;
        }
        // A range that is none bounds nothing: its tiles are never left out.
        ranges[at * 2] = select(none, pair(-BIG, -BIG), least);
        ranges[at * 2 + 1] = select(none, pair(BIG, BIG), most);
    }
}

/// The reference of every row, `[batch, heads, queries, 2]`: the largest high and the largest low part of the keys that it sees
/// by position, from the first of its document to the last; [`-BIG`](BIG) where there is none.
#[cube(launch_unchecked)]
pub(super) fn references(
    pairs: &Tensor<Pair>,
    ranges: &Tensor<Pair>,
    spans: &Tensor<i32>,
    references: &mut Tensor<Pair>,
    of: &Numbers,
    #[comptime] rules: Rules,
) {
    let at = ABSOLUTE_POS / PER_REFERENCE;
    let share = ABSOLUTE_POS % PER_REFERENCE;
    let (heads, keys) = (pairs.shape(1), pairs.shape(2));
    let rows = references.shape(2);
    let is_row = at < references.shape(0) * heads * rows;
    let mut largest = pair(-BIG, -BIG);
    if is_row {
        let row = at % rows;
        let (from, to) = keys_in_sight(row as i32, row as i32 + 1, keys as i32, of, rules);
        let mut from = max(from, 0);
        let mut to = max(to, 0);
        if comptime!(rules.documents) {
            let span = (at / rows / heads * rows + row) * 2;
            from = max(from, spans[span]);
            to = min(to, spans[span + 1]);
        }
        let (from, to) = (from as usize, to as usize);
        let mut grain = from / GRAIN + share;
        while grain * GRAIN < to {
            let first = grain * GRAIN;
            let end = min(first + GRAIN, keys);
            if from <= first && end <= to {
                largest = max(
                    largest,
                    ranges[(at / rows * ranges.shape(2) + grain) * 2 + 1],
                );
            } else {
                for key in max(first, from)..min(end, to) {
                    largest = max(largest, pairs[at / rows * keys + key]);
                }
            }
            grain += PER_REFERENCE;
        }
    }
    let mut told = Shared::<[Pair]>::new_slice(UNITS);
    told[UNIT_POS as usize] = largest;
    sync_cube();
    if is_row && share == 0 {
        for other in 1..PER_REFERENCE {
            largest = max(largest, told[UNIT_POS as usize + other]);
        }
        references[at] = largest;
    }
}

/// Copies the pairs of a tile's keys; those beyond the last, which no row sees, are of the last.
#[cube]
pub(super) fn load_pairs(
    pairs: &Tensor<Pair>,
    prior_head: usize,
    first_key: usize,
    to: &mut Shared<[Pair]>,
    #[comptime] t: Tiling,
) {
    let keys = pairs.shape(2);
    let mut e = UNIT_POS as usize;
    while e < t.columns {
        to[e] = pairs[prior_head * keys + min(first_key + e, keys - 1)];
        e += comptime!(t.units());
    }
}
