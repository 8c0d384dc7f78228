//! Plain units: products of a block and a tile without matrix units, on anything that computes.

use super::tiling::Tiling;
use cubecl::prelude::*;

/// Rows of a matrix in memory: row `r` is `first + r`, and begins at `base + (first + r)·stride`.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Span {
    pub base: usize,
    pub stride: usize,
    pub first: usize,
    /// Rows from here on are zeros.
    pub end: usize,
}

/// Shared memory of a cube.
#[derive(CubeType)]
pub(super) struct Memory {
    /// Pieces of what is being multiplied.
    pub stage: Shared<[f32]>,
    /// Numbers per row and column, columns one after the other.
    pub fragment: Shared<[f32]>,
    /// Numbers per row and unit across.
    pub across: Shared<[f32]>,
}

#[cube]
pub(super) fn memory(#[comptime] t: Tiling) -> Memory {
    Memory {
        stage: Shared::<[f32]>::new_slice(comptime!(t.stage())),
        fragment: Shared::<[f32]>::new_slice(comptime!(t.columns * t.row_pitch())),
        across: Shared::<[f32]>::new_slice(comptime!(t.across())),
    }
}

/// The row that this unit holds as its `i`-th.
#[cube]
pub(super) fn row(i: usize, #[comptime] t: Tiling) -> usize {
    UNIT_POS as usize / t.units_x + i * t.units_y
}

/// The column that this unit holds as its `j`-th, of a tile or of the output.
#[cube]
pub(super) fn column(j: usize, #[comptime] t: Tiling) -> usize {
    UNIT_POS as usize % t.units_x + j * t.units_x
}

/// `sums[i, j] = Σ_c block[row i, c]·tile[column j, c]`.
#[cube]
pub(super) fn products<F: Float>(
    block: &Tensor<F>,
    of_block: &Span,
    tile: &Tensor<F>,
    of_tile: &Span,
    memory: &mut Memory,
    sums: &mut Array<f32>,
    #[comptime] t: Tiling,
) {
    let rows = comptime!(t.rows_held());
    let columns = comptime!(t.columns_held());
    let mut a = Array::<f32>::new(rows);
    let mut b = Array::<f32>::new(columns);
    #[unroll(t.unroll)]
    for i in 0..rows * columns {
        sums[i] = 0.0f32;
    }
    let tile_at = comptime!(t.step * t.row_pitch());
    for chunk in 0..(block.shape(3) + comptime!(t.step - 1)) / t.step {
        let first = chunk * t.step;
        sync_cube();
        turn::<F>(block, of_block, first, &mut memory.stage, 0usize, t.rows, t);
        turn::<F>(
            tile,
            of_tile,
            first,
            &mut memory.stage,
            tile_at,
            t.columns,
            t,
        );
        sync_cube();
        for c in 0..t.step {
            let of_rows = c * comptime!(t.row_pitch());
            let of_columns = c * comptime!(t.column_pitch()) + tile_at;
            #[unroll(t.unroll)]
            for i in 0..rows {
                a[i] = memory.stage[of_rows + row(i, t)];
            }
            #[unroll(t.unroll)]
            for j in 0..columns {
                b[j] = memory.stage[of_columns + column(j, t)];
            }
            #[unroll(t.unroll)]
            for i in 0..rows {
                #[unroll(t.unroll)]
                for j in 0..columns {
                    sums[i * columns + j] += a[i] * b[j];
                }
            }
        }
    }
}

/// The columns `first..first + step` of `count` rows into the stage, one column after the other.
#[cube]
fn turn<F: Float>(
    from: &Tensor<F>,
    span: &Span,
    first: usize,
    stage: &mut Shared<[f32]>,
    at: usize,
    #[comptime] count: usize,
    #[comptime] t: Tiling,
) {
    let pitch = comptime!(count + 1);
    let mut e = UNIT_POS as usize;
    while e < comptime!(count * t.step) {
        let r = e / t.step;
        let c = e % t.step;
        let mut x = f32::new(0.0);
        if span.first + r < span.end && first + c < from.shape(3) {
            x = f32::cast_from(from[span.base + (span.first + r) * span.stride + first + c]);
        }
        stage[at + c * pitch + r] = x;
        e += comptime!(t.units());
    }
}

/// `out[i, e] = keep[i]·out[i, e] + Σ_c fragment[i, c]·tile[c, e]`: summed from zero over the tile first,
/// so that a million light keys don't vanish one by one in the rounding of a heavy one.
///
/// Leaves the fragment in shared memory.
#[cube]
pub(super) fn mix<F: Float>(
    fragment: &Array<f32>,
    tile: &Tensor<F>,
    of_tile: &Span,
    keep: &Array<f32>,
    out: &mut Array<f32>,
    memory: &mut Memory,
    #[comptime] t: Tiling,
) {
    let rows = comptime!(t.rows_held());
    let columns = comptime!(t.columns_held());
    let outs = comptime!(t.out_held());
    let pitch = comptime!(t.row_pitch());
    let width = comptime!(t.width);
    sync_cube();
    #[unroll(t.unroll)]
    for i in 0..rows {
        #[unroll(t.unroll)]
        for j in 0..columns {
            memory.fragment[column(j, t) * pitch + row(i, t)] = fragment[i * columns + j];
        }
    }
    let mut sums = Array::<f32>::new(comptime!(rows * outs));
    let mut a = Array::<f32>::new(rows);
    #[unroll(t.unroll)]
    for i in 0..comptime!(rows * outs) {
        sums[i] = 0.0f32;
    }
    for chunk in 0..comptime!(t.columns / t.step) {
        let first = chunk * t.step;
        sync_cube();
        let mut e = UNIT_POS as usize;
        while e < comptime!(t.step * width) {
            let r = of_tile.first + first + e / width;
            let c = e % width;
            let mut x = f32::new(0.0);
            if r < of_tile.end && c < tile.shape(3) {
                x = f32::cast_from(tile[of_tile.base + r * of_tile.stride + c]);
            }
            memory.stage[e] = x;
            e += comptime!(t.units());
        }
        sync_cube();
        for c in 0..t.step {
            #[unroll(t.unroll)]
            for i in 0..rows {
                a[i] = memory.fragment[(first + c) * pitch + row(i, t)];
            }
            #[unroll(t.unroll)]
            for e in 0..outs {
                let b = memory.stage[c * width + column(e, t)];
                #[unroll(t.unroll)]
                for i in 0..rows {
                    sums[i * outs + e] += a[i] * b;
                }
            }
        }
    }
    #[unroll(t.unroll)]
    for i in 0..rows {
        #[unroll(t.unroll)]
        for e in 0..outs {
            out[i * outs + e] = out[i * outs + e] * keep[i] + sums[i * outs + e];
        }
    }
}

/// The largest of the numbers that the units of a row hold, for every row.
#[cube]
pub(super) fn largest_across(values: &mut Array<f32>, memory: &mut Memory, #[comptime] t: Tiling) {
    spread_across(values, memory, t);
    #[unroll(t.unroll)]
    for i in 0..comptime!(t.rows_held()) {
        let at = row(i, t) * t.units_x;
        let mut most = memory.across[at];
        for x in 1..t.units_x {
            most = max(most, memory.across[at + x]);
        }
        values[i] = most;
    }
}

/// The sum of the numbers that the units of a row hold, for every row, in the order of the units.
#[cube]
pub(super) fn sum_across(values: &mut Array<f32>, memory: &mut Memory, #[comptime] t: Tiling) {
    spread_across(values, memory, t);
    #[unroll(t.unroll)]
    for i in 0..comptime!(t.rows_held()) {
        let at = row(i, t) * t.units_x;
        let mut sum = memory.across[at];
        for x in 1..t.units_x {
            sum += memory.across[at + x];
        }
        values[i] = sum;
    }
}

#[cube]
fn spread_across(values: &mut Array<f32>, memory: &mut Memory, #[comptime] t: Tiling) {
    sync_cube();
    #[unroll(t.unroll)]
    for i in 0..comptime!(t.rows_held()) {
        memory.across[row(i, t) * t.units_x + UNIT_POS as usize % t.units_x] = values[i];
    }
    sync_cube();
}
