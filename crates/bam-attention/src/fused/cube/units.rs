//! The units of a cube and their products, with or without matrix instructions.
//!
//! A pass is written once, over numbers that units hold: some rows of a block times some columns of a
//! tile. Which unit holds which, and how products are taken, is this trait's.

use super::tiling::Tiling;
use cubecl::prelude::*;

pub(super) mod cmma;
mod grid;
pub(super) mod mma;
pub(super) mod plain;

/// Rows of a matrix in memory: row `r` is `first + r`, and begins at `base + (first + r)·stride`.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Span {
    pub base: usize,
    pub stride: usize,
    pub first: usize,
    /// Rows from here on are zeros.
    pub end: usize,
}

/// The rows of a head from `first` on; all of `x` is `[batch, heads, rows, dim]`.
#[cube]
pub(super) fn span<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    batch: usize,
    head: usize,
    first: usize,
) -> Span {
    Span {
        base: batch * x.stride(0) + head * x.stride(1),
        stride: x.stride(2),
        first,
        end: x.shape(2),
    }
}

/// The numbers of a row from `column` on; zeros beyond the last row and the head dimension.
#[cube]
fn vector<F: Float, N: Size>(
    from: &Tensor<Vector<F, N>>,
    span: &Span,
    row: usize,
    column: usize,
) -> Vector<F, N> {
    let mut x = Vector::<F, N>::new(F::new(0.0_f32));
    if span.first + row < span.end && column < from.shape(3) {
        x = from[(span.base + (span.first + row) * span.stride + column) / N::value()];
    }
    x
}

/// The units of a cube at work on one block and one tile after the other.
///
/// Operands are known by their place: the block's operands as `kept` 0 and 1, the tile's as
/// `brought` 0 and 1. Between two tiles, and between two calls of the same method, lies a barrier of the
/// pass: barriers are what a software device compiles slowest.
#[cube]
pub(super) trait Units: Send + Sync + 'static {
    /// Shared memory.
    type Memory: CubeType;

    fn memory(#[comptime] t: Tiling) -> Self::Memory;

    /// The row of the block that this unit holds as its `i`-th.
    fn row(i: usize, #[comptime] t: Tiling) -> usize;

    /// The column that this unit holds as its `j`-th, of a tile or of the output.
    fn column(j: usize, #[comptime] t: Tiling) -> usize;

    /// Whether this unit writes what all units of its rows know.
    fn leads(#[comptime] t: Tiling) -> bool;

    /// Takes in the block's operand: once, before any tile is met.
    fn keep<F: Float, N: Size>(
        from: &Tensor<Vector<F, N>>,
        span: &Span,
        #[comptime] place: usize,
        memory: &mut Self::Memory,
        #[comptime] t: Tiling,
    );

    /// Waits until what all units took in is there.
    fn ready();

    /// Takes in a tile's operand.
    fn bring<F: Float, N: Size>(
        from: &Tensor<Vector<F, N>>,
        span: &Span,
        #[comptime] place: usize,
        memory: &mut Self::Memory,
        #[comptime] t: Tiling,
    );

    /// `sums[i, j] = Σ_c block[row i, c]·tile[column j, c]`, both of the same place.
    fn products<F: Float, N: Size>(
        block: &Tensor<Vector<F, N>>,
        of_block: &Span,
        tile: &Tensor<Vector<F, N>>,
        of_tile: &Span,
        #[comptime] place: usize,
        memory: &mut Self::Memory,
        sums: &mut Array<f32>,
        #[comptime] t: Tiling,
    );

    /// `out[i, e] = keep[i]·out[i, e] + Σ_c fragment[i, c]·tile[c, e]`: summed from zero over the tile
    /// first, so that a million light keys don't vanish one by one in the rounding of a heavy one.
    fn mix<F: Float, N: Size>(
        fragment: &Array<f32>,
        tile: &Tensor<Vector<F, N>>,
        of_tile: &Span,
        #[comptime] place: usize,
        keep: &Array<f32>,
        out: &mut Array<f32>,
        memory: &mut Self::Memory,
        #[comptime] t: Tiling,
    );

    /// Lays out, for [`Units::laid_out`], the fragment that was mixed last.
    fn lay_out(fragment: &Array<f32>, memory: &mut Self::Memory, #[comptime] t: Tiling);

    /// A number of the fragment that was laid out.
    fn laid_out(row: usize, column: usize, memory: &Self::Memory, #[comptime] t: Tiling) -> f32;

    /// The largest of the numbers that the units of a row hold, for every row.
    fn largest_across(values: &mut Array<f32>, memory: &mut Self::Memory, #[comptime] t: Tiling);

    /// The sum of the numbers that the units of a row hold, for every row, in a fixed order.
    fn sum_across(values: &mut Array<f32>, memory: &mut Self::Memory, #[comptime] t: Tiling);
}

/// The number at a place of a matrix in memory.
#[cube]
pub(super) fn number<F: Float, N: Size>(from: &Tensor<Vector<F, N>>, at: usize) -> f32 {
    let vector = from[at / N::value()];
    f32::cast_from(vector.extract_dynamic(at % N::value()))
}
