//! The layers of a transformer around attention that go row by row, and their gradients: one pass over the
//! numbers where a tensor library takes one for every operator. Slices in, slices out, rows one after the other;
//! the same bits for any number of threads.

mod cross_entropy;
mod gate;
mod rms_norm;

pub use cross_entropy::{CrossEntropy, cross_entropy, cross_entropy_gradient};
pub use gate::{gated, gated_gradients};
pub use rms_norm::{rms_norm, rms_norm_gradients};

/// Numbers of a task. Less work than this is done where it is asked for: waking a thread takes as long.
const TASK: usize = 1 << 18;

/// Rows of a task.
fn rows_of_task(columns: usize) -> usize {
    (TASK / columns.max(1)).max(1)
}
