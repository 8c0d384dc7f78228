//! The plan of a run of `bam upcycle`, and the names of its files.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

pub const PLAN: &str = "plan.json";
pub const START: &str = "start";
pub const TOKENS: &str = "tokens";
pub const HELD_OUT: &str = "held-out.txt";

/// The plan of a run, besides its recipe.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The model as it was.
    pub model: PathBuf,
    /// The name of the text that perplexity is measured on.
    pub document: String,
    pub lengths: Vec<usize>,
    pub samples: usize,
    pub pieces: usize,
    pub seed: u64,
}
