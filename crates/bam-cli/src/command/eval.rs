//! `bam eval`: a file for each evaluation.

pub mod loglikelihood;
pub mod passkey;
pub mod perplexity;

use crate::args::{EvalCommand, Length};
use bam_lm::model::Transformer;
use std::process::ExitCode;

pub fn run(command: &EvalCommand) -> anyhow::Result<ExitCode> {
    match command {
        EvalCommand::Passkey(args) => passkey::run(args),
        EvalCommand::Perplexity(args) => perplexity::run(args),
        EvalCommand::Loglikelihood(args) => loglikelihood::run(args),
    }
}

/// Lengths in the model's tokens, in ascending order.
fn tokens_of(lengths: &[Length], model: &Transformer) -> Vec<usize> {
    let train_length = model.config().train_length;
    let lengths = lengths.iter();
    let mut lengths: Vec<usize> = lengths.map(|length| length.tokens(train_length)).collect();
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}
