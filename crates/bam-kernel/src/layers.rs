//! The layers of a transformer around attention that go row by row, and their gradients: one pass over the
//! numbers where a tensor library takes one for every operator. And products of matrices, those of `bf16` in tiles
//! where the processor has AMX. Slices in, slices out, rows one after the other;
//! the same bits for any number of threads.

mod cross_entropy;
mod gate;
mod matrix;
#[cfg(feature = "products")]
mod product;
pub(crate) mod product_bf16;
mod rms_norm;

use crate::rounding;
use rayon::prelude::*;

pub use cross_entropy::{CrossEntropy, cross_entropy, cross_entropy_gradient};
pub use gate::{gated, gated_gradients};
pub use matrix::Matrix;
#[cfg(feature = "products")]
pub use product::product;
pub use product_bf16::product_bf16;
pub use rms_norm::{rms_norm, rms_norm_gradients};

/// Numbers of a task. Less work than this is done where it is asked for: waking a thread takes as long.
pub const TASK: usize = 1 << 18;

/// `Σ x²` of any numbers, in `f64`: tasks of a fixed size, whose sums are added in order.
#[must_use]
pub fn sum_of_squares(values: &[f32]) -> f64 {
    if values.len() <= TASK {
        return rounding::sum_of_squares(values);
    }
    let of_tasks: Vec<f64> = values
        .par_chunks(TASK)
        .map(rounding::sum_of_squares)
        .collect();
    of_tasks.iter().sum()
}

/// Rows of a task.
fn rows_of_task(columns: usize) -> usize {
    (TASK / columns.max(1)).max(1)
}
