//! `bam generate`.

use super::DeviceArgs;
use super::number::{at_least_one, from_zero, share, some_share};
use bam_attention::Skipping;
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Folder of a model with its tokenizer
    pub model: PathBuf,
    /// The prompt; standard input if not given
    #[arg(long)]
    pub prompt: Option<String>,
    /// Tokens to generate
    #[arg(long, default_value_t = 200)]
    pub tokens: usize,
    /// Divides the logits; 0 takes the most probable token
    #[arg(long, default_value_t = 0.8, value_parser = from_zero)]
    pub temperature: f64,
    /// Only the k most probable tokens
    #[arg(long, value_parser = at_least_one)]
    pub top_k: Option<usize>,
    /// Only the most probable tokens that hold this mass together
    #[arg(long, default_value_t = 0.95, value_parser = some_share)]
    pub top_p: f64,
    /// Same seed, same text
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Keys that may be left unread: off, exact (no bit changes), or the share of a row's posterior
    /// that may be dropped, for example 1e-6
    #[arg(long, default_value = "exact")]
    pub skip: Skipping,
    /// Keep of every head only the keys within its certified horizon: what is forgotten holds at most
    /// this share of any row's posterior, for example 1e-6
    #[arg(long, value_name = "EPSILON", value_parser = share)]
    pub certified_cache: Option<f64>,
    #[command(flatten)]
    pub device: DeviceArgs,
}
