//! `bam eval`.

mod babilong;
mod ends;
mod export;
mod output;
mod ruler;
mod synthetic;

pub use babilong::BabilongArgs;
pub use ends::EndsArgs;
pub use output::OutputArgs;
pub use ruler::{RulerArgs, TaskChoice};
pub use synthetic::SyntheticArgs;

use super::Length;
use super::number::{at_least_one, share};
use crate::console::UsageError;
use bam_attention::Skipping;
use bam_eval::exchange::export::ExportFolder;
use bam_eval::passkey::Depths;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// Passkey retrieval over lengths and depths
    Passkey(PasskeyArgs),
    /// Perplexity by position on one long document
    Perplexity(PerplexityArgs),
    /// Likelihood of given continuations: LAMBADA, HellaSwag, ARC, PIQA as files of requests
    Loglikelihood(LoglikelihoodArgs),
    /// RULER: thirteen tasks of retrieval, tracing and counting, at any length
    Ruler(RulerArgs),
    /// BABILong: bAbI's questions, with their facts scattered in a long text
    Babilong(BabilongArgs),
    /// Copying, recall, induction, latest values, flip-flops: tasks of exact difficulty, at any length
    Synthetic(SyntheticArgs),
}

#[derive(Args, Debug)]
pub struct PasskeyArgs {
    /// Folders of models
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    /// Context lengths in tokens (4096, 64k, 1M), or multiples of the training length (16x)
    #[arg(long, value_delimiter = ',', default_value = "1x,2x,4x,8x,16x")]
    pub lengths: Vec<Length>,
    /// Samples per length
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,
    /// Places of keys
    #[arg(long, value_enum, default_value_t = DepthChoice::Equidistant)]
    pub depths: DepthChoice,
    /// Number of equidistant depths; 5 if not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub depth_count: Option<u32>,
    /// Digits of the key that the prompt gives away
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1))]
    pub given: u32,
    /// Continue greedily instead of teacher forcing
    #[arg(long)]
    pub greedy: bool,
    /// Keys that may be left unread: off, exact (no bit changes), or the share of a row's posterior
    /// that may be dropped, for example 1e-6
    #[arg(long, default_value = "exact")]
    pub skip: Skipping,
    /// Keep of every head only the keys within its certified horizon: what is forgotten holds at most
    /// this share of any row's posterior, for example 1e-6
    #[arg(long, value_name = "EPSILON", value_parser = share)]
    pub certified_cache: Option<f64>,
    #[command(flatten)]
    pub ends: EndsArgs,
    /// Seed of keys and random depths
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    pub output: OutputArgs,
}

impl PasskeyArgs {
    /// The places of keys; a number of depths is one of equidistant depths only.
    pub fn depths(&self) -> Result<Depths, UsageError> {
        const USUAL_DEPTHS: u32 = 5;
        let depths = match self.depths {
            DepthChoice::Equidistant => {
                return Ok(Depths::Equidistant(
                    self.depth_count.unwrap_or(USUAL_DEPTHS) as usize,
                ));
            }
            DepthChoice::Beginning => Depths::Beginning,
            DepthChoice::End => Depths::End,
            DepthChoice::Random => Depths::Random,
        };
        match self.depth_count {
            None => Ok(depths),
            Some(count) => {
                let depths = self.depths.to_possible_value();
                let depths = depths.map_or_else(String::new, |value| value.get_name().to_owned());
                Err(UsageError(format!(
                    "--depth-count: expected --depths equidistant, got --depths {depths} and {count}"
                )))
            }
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DepthChoice {
    Equidistant,
    Beginning,
    End,
    Random,
}

#[derive(Args, Debug)]
pub struct PerplexityArgs {
    /// Folders of models
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    /// The document: a text file
    pub document: PathBuf,
    /// Tokens to read (4096, 64k), or a multiple of the training length (16x); the whole document if not given
    #[arg(long)]
    pub length: Option<Length>,
    /// Positions per window
    #[arg(long, default_value_t = 1024, value_parser = at_least_one)]
    pub window: usize,
    /// Keep of every head only the keys within its certified horizon: what is forgotten holds at most
    /// this share of any row's posterior, for example 1e-6
    #[arg(long, value_name = "EPSILON", value_parser = share)]
    pub certified_cache: Option<f64>,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct LoglikelihoodArgs {
    /// Folders of models
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    /// Requests: .jsonl(.gz/.zst) with context, continuation, task and label on each line
    #[arg(long, required = true)]
    pub requests: Vec<PathBuf>,
    /// Questions of each task, the first ones; all if not given
    #[arg(long, value_parser = at_least_one)]
    pub limit: Option<usize>,
    /// Begin every row with the token that begins documents; lm-eval does not
    #[arg(long)]
    pub begin: bool,
    /// Also write the results as another program does: lm-eval:DIR
    #[arg(long, value_name = "FORMAT:DIR", value_parser = export::to_lm_eval)]
    pub export: Vec<ExportFolder>,
    #[command(flatten)]
    pub output: OutputArgs,
}
