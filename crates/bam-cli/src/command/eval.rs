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
    let mut lengths: Vec<usize> = lengths
        .iter()
        .map(|length| match length {
            Length::Tokens(tokens) => *tokens,
            Length::Times(times) => (times * train_length as f64).round() as usize,
        })
        .collect();
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}
