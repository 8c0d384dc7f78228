//! Memory that results are written into: the caller's, in the caller's layout.

use crate::error::KernelError;
use crate::operands::Rows;
use std::marker::PhantomData;
use std::slice::from_raw_parts_mut;

/// Rows of `[batch, head, row, dim]` to be written: the numbers of a row are neighbours in memory, whatever the order of
/// the first three axes, and no two rows share one.
#[derive(Debug)]
pub struct RowsMut<'a> {
    first: *mut f32,
    shape: [usize; 4],
    strides: [usize; 3],
    memory: PhantomData<&'a mut [f32]>,
}

impl<'a> RowsMut<'a> {
    /// All numbers one after the other, `[batch, heads, rows, dim]`.
    ///
    /// # Errors
    /// If there are more or fewer than the shape says.
    pub fn new(values: &'a mut [f32], shape: [usize; 4]) -> Result<Self, KernelError> {
        Rows::new(&*values, shape)?;
        let [_, heads, rows, dim] = shape;
        Self::strided(values, shape, [heads * rows * dim, rows * dim, dim])
    }

    /// The row `(b, h, i)` begins at number `b·strides[0] + h·strides[1] + i·strides[2]`.
    ///
    /// # Errors
    /// If a row ends beyond the slice, or two of them share numbers.
    pub fn strided(
        values: &'a mut [f32],
        shape: [usize; 4],
        strides: [usize; 3],
    ) -> Result<Self, KernelError> {
        Rows::strided(&*values, shape, strides)?;
        let rows = !shape.contains(&0);
        let axes = strides.into_iter().zip(shape);
        let mut axes: Vec<_> = axes.filter(|(_, n)| *n > 1 && rows).collect();
        axes.sort_unstable();
        let mut reach = shape[3];
        for (stride, n) in axes {
            if stride < reach {
                return Err(KernelError::length(
                    "rows apart, to write to",
                    &shape,
                    Some(reach),
                    "a stride of at least ",
                    stride,
                ));
            }
            reach += (n - 1) * stride;
        }
        Ok(Self {
            first: values.as_mut_ptr(),
            shape,
            strides,
            memory: PhantomData,
        })
    }

    /// `[batch, heads, rows, dim]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Each head's rows, to be written apart from each other: those of the first batch row, then the next.
    pub(crate) fn heads(&mut self) -> Vec<HeadRows<'_>> {
        let ([batch, heads, count, dim], [by_batch, by_head, stride]) = (self.shape, self.strides);
        let places = (0..batch).flat_map(|b| (0..heads).map(move |h| b * by_batch + h * by_head));
        let head = |place| HeadRows {
            // SAFETY: a row's first number is inside of the slice that this was made of.
            first: unsafe { self.first.add(place) },
            count,
            stride,
            dim,
            memory: PhantomData,
        };
        places.map(head).collect()
    }
}

/// Rows of one head that nobody else writes.
pub(crate) struct HeadRows<'a> {
    first: *mut f32,
    count: usize,
    stride: usize,
    dim: usize,
    memory: PhantomData<&'a mut [f32]>,
}

// SAFETY: as `&mut [f32]`: only their owner reaches the numbers.
unsafe impl Send for RowsMut<'_> {}
unsafe impl Sync for RowsMut<'_> {}
unsafe impl Send for HeadRows<'_> {}
unsafe impl Sync for HeadRows<'_> {}

impl HeadRows<'_> {
    /// Row `r` of them.
    #[inline(always)]
    pub fn row(&mut self, r: usize) -> &mut [f32] {
        assert!(r < self.count);
        // SAFETY: the rows were found inside of a slice and apart from each other, and these are this owner's.
        unsafe { from_raw_parts_mut(self.first.add(r * self.stride), self.dim) }
    }

    /// Takes the first `count` rows off.
    pub fn take(&mut self, count: usize) -> Self {
        assert!(count <= self.count);
        let taken = Self { count, ..*self };
        self.first = self.first.wrapping_add(count * self.stride);
        self.count -= count;
        taken
    }

    /// At most so many rows at a time.
    pub fn blocks(mut self, count: usize) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || (self.count > 0).then(|| self.take(count.min(self.count))))
    }
}
