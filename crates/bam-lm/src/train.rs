//! Training: gradients of a batch, the optimizer, the schedule, and the loop around them.

pub mod gradients;
mod learn;
pub mod optimizer;
pub mod plan;
pub mod recipe;
mod reduction;
pub mod run;
pub mod schedule;
mod shares;
mod trainer;
mod workers;

pub use gradients::{Gradients, batch_gradients};
pub use learn::{Learn, Part};
pub use optimizer::{LearningRates, RAdam, RAdamConfig};
pub use plan::Plan;
pub use recipe::Recipe;
pub use run::{Outcome, RunFolder, read_metrics};
pub use schedule::CosineSchedule;
pub use trainer::Trainer;
pub use workers::Workers;
