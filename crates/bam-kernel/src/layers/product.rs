//! Products of matrices, by the crate [`gemm`], into memory that nobody clears first.

use gemm::Parallelism;

/// A matrix, or its transpose, over numbers that lie row after row.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    values: &'a [f32],
    /// Rows, columns.
    shape: [usize; 2],
    /// Numbers from a row to the next, and from a column to the next.
    strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// Rows of so many columns.
    ///
    /// # Panics
    /// If the last row is not whole.
    #[must_use]
    pub fn of_columns(values: &'a [f32], columns: usize) -> Self {
        let rows = values.len() / columns.max(1);
        assert_eq!(rows * columns, values.len(), "rows of {columns} columns");
        Self {
            values,
            shape: [rows, columns],
            strides: [columns, 1],
        }
    }

    /// Its transpose.
    #[must_use]
    pub fn transposed(self) -> Self {
        let ([rows, columns], [by_row, by_column]) = (self.shape, self.strides);
        Self {
            values: self.values,
            shape: [columns, rows],
            strides: [by_column, by_row],
        }
    }
}

/// Multiplications that are worth the waking of threads.
const WORTH: usize = 192 * 192 * 192;

/// `a·b`, row after row, the same bits for any number of threads.
///
/// # Panics
/// If `b` has not as many rows as `a` columns.
#[must_use]
pub fn product(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let ([m, k], [rows, n]) = (a.shape, b.shape);
    assert_eq!(k, rows, "columns of a and rows of b");
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
            a.values.as_ptr(),
            a_column,
            a_row,
            b.values.as_ptr(),
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
