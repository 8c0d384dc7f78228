//! Training: gradients of a batch, the optimizer, the schedule, and the loop around them.

pub mod gradients;
pub mod optimizer;
pub mod schedule;

pub use gradients::{Gradients, batch_gradients};
pub use optimizer::{LearningRates, RAdam, RAdamConfig};
pub use schedule::CosineSchedule;
