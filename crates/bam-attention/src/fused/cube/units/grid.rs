//! Units that form a grid. The one at `(y, x)` holds the rows `y + units_y·i` of a block and the columns
//! `x + units_x·j` of a tile, so neighbours read neighbouring numbers.

use crate::fused::cube::tiling::Tiling;
use cubecl::prelude::*;

#[cube]
pub(super) fn row(i: usize, #[comptime] t: Tiling) -> usize {
    UNIT_POS as usize / t.units_x + i * t.units_y
}

#[cube]
pub(super) fn column(j: usize, #[comptime] t: Tiling) -> usize {
    UNIT_POS as usize % t.units_x + j * t.units_x
}

#[cube]
pub(super) fn leads(#[comptime] t: Tiling) -> bool {
    UNIT_POS as usize % t.units_x == 0
}

#[cube]
pub(super) fn largest_across(
    values: &mut Array<f32>,
    across: &mut Shared<[f32]>,
    #[comptime] t: Tiling,
) {
    spread(values, across, t);
    #[unroll(t.unroll)]
    for i in 0..comptime!(t.rows_held()) {
        let at = row(i, t) * t.units_x;
        let mut most = across[at];
        for x in 1..t.units_x {
            most = max(most, across[at + x]);
        }
        values[i] = most;
    }
}

#[cube]
pub(super) fn sum_across(
    values: &mut Array<f32>,
    across: &mut Shared<[f32]>,
    #[comptime] t: Tiling,
) {
    spread(values, across, t);
    #[unroll(t.unroll)]
    for i in 0..comptime!(t.rows_held()) {
        let at = row(i, t) * t.units_x;
        let mut sum = across[at];
        for x in 1..t.units_x {
            sum += across[at + x];
        }
        values[i] = sum;
    }
}

#[cube]
fn spread(values: &mut Array<f32>, across: &mut Shared<[f32]>, #[comptime] t: Tiling) {
    #[unroll(t.unroll)]
    for i in 0..comptime!(t.rows_held()) {
        across[row(i, t) * t.units_x + UNIT_POS as usize % t.units_x] = values[i];
    }
    sync_cube();
}
