//! Cooperative matrices: products that a plane takes together, from shared memory to shared memory, in the
//! shape that the device reports (`cmma` of CubeCL: `VK_KHR_cooperative_matrix`, Metal's `simdgroup_matrix`).
//!
//! Nobody says which unit holds which number of such a matrix. So sums return through shared memory to the
//! units of a [grid], which are those of [`Plain`](super::plain::Plain), and softmax is as it is there.
//! Numbers on the way into a product are rounded to its type.

use super::grid::{self, Across};
use super::{Span, Units, vector};
use crate::fused::cube::tiling::{Products, Tiling, padded};
use cubecl::cmma::{self, MatrixIdent, MatrixLayout};
use cubecl::prelude::*;
use std::marker::PhantomData;

/// Products of numbers of type `A`.
pub(crate) struct Cmma<A>(PhantomData<A>);

/// Shared memory of a cube: matrices begin at every 32nd byte, as CUDA's want to.
#[derive(CubeType)]
pub(crate) struct Memory<A: Float> {
    kept: Sequence<Shared<[A]>>,
    brought: Sequence<Shared<[A]>>,
    /// Weights on the way into a product, row by row.
    weights: Shared<[A]>,
    /// Sums on the way out of one, row by row.
    sums: Shared<[f32]>,
    /// Numbers per row and unit across.
    across: Shared<[f32]>,
}

#[cube]
impl<A: Float> Units for Cmma<A> {
    type Memory = Memory<A>;

    fn memory(#[comptime] t: Tiling) -> Memory<A> {
        let mut kept = Sequence::new();
        let mut brought = Sequence::new();
        #[unroll]
        for _ in 0..t.kept {
            kept.push(Shared::<[A]>::new_aligned_slice(
                comptime!(t.rows * padded(t.width)),
                32usize,
            ));
        }
        #[unroll]
        for _ in 0..2usize {
            brought.push(Shared::<[A]>::new_aligned_slice(
                comptime!(t.columns * padded(t.width)),
                32usize,
            ));
        }
        Memory::<A> {
            kept,
            brought,
            weights: Shared::<[A]>::new_aligned_slice(
                comptime!(t.rows * padded(t.columns)),
                32usize,
            ),
            sums: Shared::<[f32]>::new_aligned_slice(
                comptime!(t.rows * padded(t.columns)),
                32usize,
            ),
            across: Shared::<[f32]>::new_aligned_slice(comptime!(t.rows * t.units_x), 32usize),
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
        from: &Tensor<Vector<F, N>>,
        span: &Span,
        #[comptime] place: usize,
        memory: &mut Memory<A>,
        #[comptime] t: Tiling,
    ) {
        load::<A, F, N>(from, span, &mut memory.kept[place], t.rows, t);
    }

    /// Products wait before they begin.
    fn ready() {}

    fn bring<F: Float, N: Size>(
        from: &Tensor<Vector<F, N>>,
        span: &Span,
        #[comptime] place: usize,
        memory: &mut Memory<A>,
        #[comptime] t: Tiling,
    ) {
        load::<A, F, N>(from, span, &mut memory.brought[place], t.columns, t);
    }

    fn products<F: Float, N: Size>(
        _block: &Tensor<Vector<F, N>>,
        _of_block: &Span,
        _tile: &Tensor<Vector<F, N>>,
        _of_tile: &Span,
        #[comptime] place: usize,
        memory: &mut Memory<A>,
        sums: &mut Array<f32>,
        #[comptime] t: Tiling,
    ) {
        let columns = comptime!(t.columns_held());
        sync_cube();
        multiply::<A>(
            &memory.kept[place],
            &memory.brought[place],
            0usize,
            MatrixLayout::ColMajor,
            &mut memory.sums,
            t.width,
            comptime!(padded(t.width)),
            t.columns,
            t,
        );
        sync_cube();
        #[unroll]
        for i in 0..comptime!(t.rows_held()) {
            #[unroll]
            for j in 0..columns {
                sums[comptime!(i * columns + j)] = memory.sums
                    [Self::row(i, t) * comptime!(padded(t.columns)) + Self::column(j, t)];
            }
        }
    }

    fn mix<F: Float, N: Size>(
        fragment: &Array<f32>,
        _tile: &Tensor<Vector<F, N>>,
        _of_tile: &Span,
        #[comptime] place: usize,
        keep: &Array<f32>,
        out: &mut Array<f32>,
        memory: &mut Memory<A>,
        #[comptime] t: Tiling,
    ) {
        let rows = comptime!(t.rows_held());
        let columns = comptime!(t.columns_held());
        let outs = comptime!(t.out_held());
        // As wide as there is room for sums.
        let strip = comptime!(t.width.min(t.columns));
        let of_strip = comptime!(strip / t.units_x);
        #[unroll]
        for i in 0..rows {
            #[unroll]
            for j in 0..columns {
                memory.weights
                    [Self::row(i, t) * comptime!(padded(t.columns)) + Self::column(j, t)] =
                    A::cast_from(fragment[comptime!(i * columns + j)]);
            }
        }
        #[unroll]
        for s in 0..comptime!(t.width / strip) {
            sync_cube();
            multiply::<A>(
                &memory.weights,
                &memory.brought[place],
                comptime!(s * strip),
                MatrixLayout::RowMajor,
                &mut memory.sums,
                t.columns,
                comptime!(padded(t.columns)),
                strip,
                t,
            );
            sync_cube();
            #[unroll]
            for i in 0..rows {
                #[unroll]
                for e in 0..of_strip {
                    let at = comptime!(i * outs + s * of_strip + e);
                    let sum = memory.sums
                        [Self::row(i, t) * comptime!(padded(t.columns)) + Self::column(e, t)];
                    out[at] = out[at] * keep[i] + sum;
                }
            }
        }
    }

    fn lay_out(fragment: &Array<f32>, memory: &mut Memory<A>, #[comptime] t: Tiling) {
        sync_cube();
        #[unroll]
        for i in 0..comptime!(t.rows_held()) {
            #[unroll]
            for j in 0..comptime!(t.columns_held()) {
                memory.sums[Self::row(i, t) * comptime!(padded(t.columns)) + Self::column(j, t)] =
                    fragment[comptime!(i * t.columns_held() + j)];
            }
        }
        sync_cube();
    }

    fn laid_out(row: usize, column: usize, memory: &Memory<A>, #[comptime] t: Tiling) -> f32 {
        memory.sums[row * comptime!(padded(t.columns)) + column]
    }

    fn largest_across(values: &mut Array<f32>, memory: &mut Memory<A>, #[comptime] t: Tiling) {
        grid::across(values, &mut memory.across, Across::Largest, t);
    }

    fn sum_across(values: &mut Array<f32>, memory: &mut Memory<A>, #[comptime] t: Tiling) {
        grid::across(values, &mut memory.across, Across::Sum, t);
    }
}

/// `sums[row, column] = Σ_c left[row, c]·right[c, first + column]` over `depth` numbers, for the rows of a
/// block and `count` columns. `right` lies row by row, or column by column. The planes take turns.
#[cube]
fn multiply<A: Float>(
    left: &Shared<[A]>,
    right: &Shared<[A]>,
    #[comptime] first: usize,
    #[comptime] layout: MatrixLayout,
    sums: &mut Shared<[f32]>,
    #[comptime] depth: usize,
    #[comptime] pitch: usize,
    #[comptime] count: usize,
    #[comptime] t: Tiling,
) {
    let (m, n, k) = comptime!(shape(t));
    let of_right = comptime!(padded(t.width));
    let of_sums = comptime!(padded(t.columns));
    let across = comptime!(count / n);
    let mut matrix = (UNIT_POS / PLANE_DIM) as usize;
    while matrix < comptime!(t.rows / m * across) {
        let row = matrix / across * m;
        let column = matrix % across * n;
        let sum = cmma::Matrix::<f32>::from_value(
            MatrixIdent::Accumulator,
            m,
            n,
            k,
            MatrixLayout::Undefined,
            0.0f32,
        );
        for step in 0..comptime!(depth / k) {
            let at = row * pitch + step * k;
            let a = cmma::Matrix::<A>::from_slice(
                MatrixIdent::A,
                m,
                n,
                k,
                MatrixLayout::RowMajor,
                &left[at..at + 1],
                pitch as u32,
            );
            let mut at = step * k * of_right + column + first;
            if comptime!(layout == MatrixLayout::ColMajor) {
                at = (column + first) * of_right + step * k;
            }
            let b = cmma::Matrix::<A>::from_slice(
                MatrixIdent::B,
                m,
                n,
                k,
                layout,
                &right[at..at + 1],
                of_right as u32,
            );
            cmma::execute(&a, &b, &sum, &sum);
        }
        let at = row * of_sums + column;
        cmma::store(
            &mut sums[at..at + 1],
            &sum,
            of_sums as u32,
            MatrixLayout::RowMajor,
        );
        matrix += (CUBE_DIM / PLANE_DIM) as usize;
    }
}

/// Rows, columns and depth of a product.
fn shape(t: Tiling) -> (usize, usize, usize) {
    match t.products {
        Products::Cmma(shape) => shape,
        of => unreachable!("cooperative matrices by {of:?}"),
    }
}

/// Rows into shared memory: zeros beyond the last row and the head dimension.
#[cube]
fn load<A: Float, F: Float, N: Size>(
    from: &Tensor<Vector<F, N>>,
    span: &Span,
    to: &mut Shared<[A]>,
    #[comptime] count: usize,
    #[comptime] t: Tiling,
) {
    let n = N::value();
    let per_row = comptime!(t.width / n);
    let mut e = UNIT_POS as usize;
    while e < comptime!(count * per_row) {
        let r = e / per_row;
        let c = e % per_row * n;
        let x = vector::<F, N>(from, span, r, c);
        #[unroll]
        for lane in 0..n {
            to[r * comptime!(padded(t.width)) + c + lane] = A::cast_from(x.extract(lane));
        }
        e += comptime!(t.units());
    }
}
