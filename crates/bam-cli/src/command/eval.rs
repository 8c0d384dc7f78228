//! `bam eval`: a file for each evaluation.

mod babilong;
mod loglikelihood;
pub mod models;
mod passkey;
mod perplexity;
mod ruler;
mod synthetic;

use crate::args::EvalCommand;
use std::process::ExitCode;

pub fn run(command: &EvalCommand) -> anyhow::Result<ExitCode> {
    match command {
        EvalCommand::Passkey(args) => passkey::run(args),
        EvalCommand::Perplexity(args) => perplexity::run(args),
        EvalCommand::Loglikelihood(args) => loglikelihood::run(args),
        EvalCommand::Ruler(args) => ruler::run(args),
        EvalCommand::Babilong(args) => babilong::run(args),
        EvalCommand::Synthetic(args) => synthetic::run(args),
    }
}
