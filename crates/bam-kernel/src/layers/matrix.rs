//! A factor of a product of matrices.

use crate::operands::Values;

/// A matrix as it lies in memory, or its transpose.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub(super) values: Values<'a>,
    /// Rows, columns.
    pub(super) shape: [usize; 2],
    /// Numbers from a row to the next, and from a column to the next.
    pub(super) strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// Row after row.
    ///
    /// # Panics
    /// If there are more or fewer numbers than the shape says.
    #[must_use]
    pub fn new(values: impl Into<Values<'a>>, shape: [usize; 2]) -> Self {
        let values = values.into();
        assert_eq!(values.len(), shape[0] * shape[1], "numbers of {shape:?}");
        Self {
            values,
            shape,
            strides: [shape[1], 1],
        }
    }

    /// Columns as rows, without moving a number.
    #[must_use]
    pub fn transposed(self) -> Self {
        let ([rows, columns], [by_row, by_column]) = (self.shape, self.strides);
        Self {
            shape: [columns, rows],
            strides: [by_column, by_row],
            ..self
        }
    }
}
