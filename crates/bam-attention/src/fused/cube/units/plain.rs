//! Plain units: products without matrix instructions, on anything that computes.
//!
//! The units form a [grid]. Operands pass through shared memory in pieces; nothing is kept of a block but what is in registers.

use super::grid::{self, Across};
use super::{Span, Units, vector};
use crate::fused::cube::tiling::Tiling;
use cubecl::prelude::*;

pub(crate) struct Plain;

/// Shared memory of a cube.
#[derive(CubeType)]
pub(crate) struct Memory {
    /// Pieces of what is being multiplied.
    stage: Shared<[f32]>,
    /// Numbers per row and column, columns one after the other.
    fragment: Shared<[f32]>,
    /// Numbers per row and unit across.
    across: Shared<[f32]>,
}

#[cube]
impl Units for Plain {
    type Memory = Memory;

    fn memory(#[comptime] t: Tiling) -> Memory {
        Memory {
            stage: Shared::<[f32]>::new_slice(comptime!(t.stage())),
            fragment: Shared::<[f32]>::new_slice(comptime!(t.columns * t.row_pitch())),
            across: Shared::<[f32]>::new_slice(comptime!(t.rows * t.units_x)),
        }
    }

    fn row(i: usize, #[comptime] t: Tiling) -> usize {
        grid::row(i, t)
    }

    fn column(j: usize, #[comptime] t: Tiling) -> usize {
        grid::column(j, t)
    }

    fn leads(#[comptime] t: Tiling) -> bool {
        grid::leads(t)
    }

    fn keep<F: Float, N: Size>(
        _from: &Tensor<Vector<F, N>>,
        _span: &Span,
        #[comptime] _place: usize,
        _memory: &mut Memory,
        #[comptime] _t: Tiling,
    ) {
    }

    fn ready() {}

    fn bring<F: Float, N: Size>(
        _from: &Tensor<Vector<F, N>>,
        _span: &Span,
        #[comptime] _place: usize,
        _memory: &mut Memory,
        #[comptime] _t: Tiling,
    ) {
    }

    fn products<F: Float, N: Size>(
        block: &Tensor<Vector<F, N>>,
        of_block: &Span,
        tile: &Tensor<Vector<F, N>>,
        of_tile: &Span,
        #[comptime] _place: usize,
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
            turn::<F, N>(block, of_block, first, &mut memory.stage, 0usize, t.rows, t);
            turn::<F, N>(
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
                    a[i] = memory.stage[of_rows + Self::row(i, t)];
                }
                #[unroll(t.unroll)]
                for j in 0..columns {
                    b[j] = memory.stage[of_columns + Self::column(j, t)];
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

    fn mix<F: Float, N: Size>(
        fragment: &Array<f32>,
        tile: &Tensor<Vector<F, N>>,
        of_tile: &Span,
        #[comptime] _place: usize,
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
        let n = N::value();
        #[unroll(t.unroll)]
        for i in 0..rows {
            #[unroll(t.unroll)]
            for j in 0..columns {
                memory.fragment[Self::column(j, t) * pitch + Self::row(i, t)] =
                    fragment[i * columns + j];
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
            while e < comptime!(t.step * width / n) {
                let r = first + e * n / width;
                let c = e * n % width;
                let x = vector::<F, N>(tile, of_tile, r, c);
                #[unroll]
                for lane in 0..n {
                    memory.stage[e * n + lane] = f32::cast_from(x.extract(lane));
                }
                e += comptime!(t.units());
            }
            sync_cube();
            for c in 0..t.step {
                #[unroll(t.unroll)]
                for i in 0..rows {
                    a[i] = memory.fragment[(first + c) * pitch + Self::row(i, t)];
                }
                #[unroll(t.unroll)]
                for e in 0..outs {
                    let b = memory.stage[c * width + Self::column(e, t)];
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

    /// Mixing has laid it out.
    fn lay_out(_fragment: &Array<f32>, _memory: &mut Memory, #[comptime] _t: Tiling) {}

    fn laid_out(row: usize, column: usize, memory: &Memory, #[comptime] t: Tiling) -> f32 {
        memory.fragment[column * comptime!(t.row_pitch()) + row]
    }

    fn largest_across(values: &mut Array<f32>, memory: &mut Memory, #[comptime] t: Tiling) {
        grid::across(values, &mut memory.across, Across::Largest, t);
    }

    fn sum_across(values: &mut Array<f32>, memory: &mut Memory, #[comptime] t: Tiling) {
        grid::across(values, &mut memory.across, Across::Sum, t);
    }
}

/// The columns `first..first + step` of `count` rows into the stage, one column after the other.
#[cube]
fn turn<F: Float, N: Size>(
    from: &Tensor<Vector<F, N>>,
    span: &Span,
    first: usize,
    stage: &mut Shared<[f32]>,
    at: usize,
    #[comptime] count: usize,
    #[comptime] t: Tiling,
) {
    let pitch = comptime!(count + 1);
    let n = N::value();
    let per_row = comptime!(t.step / n);
    let mut e = UNIT_POS as usize;
    while e < comptime!(count * per_row) {
        let r = e / per_row;
        let c = e % per_row * n;
        let x = vector::<F, N>(from, span, r, first + c);
        #[unroll]
        for lane in 0..n {
            stage[at + (c + lane) * pitch + r] = f32::cast_from(x.extract(lane));
        }
        e += comptime!(t.units());
    }
}
