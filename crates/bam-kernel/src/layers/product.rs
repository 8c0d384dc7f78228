//! Products of matrices, by the crate [`gemm`], into memory that nobody clears first.

use super::matrix::Matrix;
use crate::operands::Values;
use gemm::Parallelism;

/// Multiplications that are worth the waking of threads.
const WORTH: usize = 192 * 192 * 192;

/// `a·b` of numbers in `f32`, row after row, the same bits for any number of threads.
///
/// # Panics
/// If `b` has not as many rows as `a` columns, or numbers are in `bf16`.
#[must_use]
pub fn product(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let ([m, k], [rows, n]) = (a.shape, b.shape);
    assert_eq!(k, rows, "columns of a and rows of b");
    let (Values::F32(of_a), Values::F32(of_b)) = (a.values, b.values) else {
        panic!("expected numbers in f32, got bf16: product_bf16 multiplies those");
    };
    if k == 0 {
        return vec![0.0; m * n];
    }
    let mut out: Vec<f32> = Vec::with_capacity(m * n);
    let threads = if m * n * k < WORTH {
        Parallelism::None
    } else {
        Parallelism::Rayon(0)
    };
    let [[a_row, a_column], [b_row, b_column]] =
        [a.strides, b.strides].map(|of| of.map(|s| s as isize));
    // SAFETY: shapes and strides of `a` and `b` are those of their slices, and there is room for `m·n` numbers, which are
    // all written and, since `read_dst` is false, never read before.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            of_a.as_ptr(),
            a_column,
            a_row,
            of_b.as_ptr(),
            b_column,
            b_row,
            0.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
        out.set_len(m * n);
    }
    out
}
