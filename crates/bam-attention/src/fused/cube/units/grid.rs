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

/// The number that is made of those of a row's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Across {
    Largest,
    Sum,
}

#[cube]
pub(super) fn across(
    values: &mut Array<f32>,
    told: &mut Shared<[f32]>,
    #[comptime] of: Across,
    #[comptime] t: Tiling,
) {
    #[unroll(t.unroll)]
    for i in 0..comptime!(t.rows_held()) {
        told[row(i, t) * t.units_x + UNIT_POS as usize % t.units_x] = values[i];
    }
    sync_cube();
    #[unroll(t.unroll)]
    for i in 0..comptime!(t.rows_held()) {
        let at = row(i, t) * t.units_x;
        let mut all = told[at];
        for x in 1..t.units_x {
            if comptime!(of == Across::Largest) {
                all = max(all, told[at + x]);
            } else {
                all += told[at + x];
            }
        }
        values[i] = all;
    }
}
