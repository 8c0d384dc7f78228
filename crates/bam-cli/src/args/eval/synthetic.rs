//! `bam eval synthetic`.

use super::{EndsArgs, OutputArgs};
use crate::args::Length;
use bam_attention::Skipping;
use bam_data::synthetic_task::SyntheticTask;
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct SyntheticArgs {
    /// Folders of models
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    /// Tasks: copy, recall-8, recall-32, induction, latest, flip-flop, flip-flop-sparse; all if not given
    #[arg(long, value_delimiter = ',')]
    pub tasks: Vec<SyntheticTask>,
    /// Lengths in tokens (4096, 64k, 1M), or multiples of the training length (16x)
    #[arg(long, value_delimiter = ',', default_value = "1x,2x,4x,8x,16x")]
    pub lengths: Vec<Length>,
    /// Samples of each task and length
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,
    /// Keys that may be left unread: off, exact (no bit changes), or the share of a row's posterior
    /// that may be dropped, for example 1e-6
    #[arg(long, default_value = "exact")]
    pub skip: Skipping,
    #[command(flatten)]
    pub ends: EndsArgs,
    /// Seed of the samples
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    pub output: OutputArgs,
}
