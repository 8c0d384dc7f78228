//! `bam eval ruler`.

use super::super::Length;
use super::{OutputArgs, export};
use bam_attention::Skipping;
use bam_eval::exchange::export::ExportFolder;
use bam_eval::ruler::Task;
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct RulerArgs {
    /// Folders of models
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    /// Tasks by RULER's names, or all; if not given, those that need no file, and qa_1 and qa_2 where
    /// theirs is given
    #[arg(long, value_delimiter = ',')]
    pub tasks: Vec<TaskChoice>,
    /// Tokens of prompt and answer (512, 64k, 1M), or multiples of the training length (16x)
    #[arg(long, value_delimiter = ',', default_value = "4k")]
    pub lengths: Vec<Length>,
    /// Samples of each task and length; 100 if not given (RULER takes 500), or all that a file has
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: Option<u32>,
    /// Seed of the samples
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// The text to hide needles in: a text file, or RULER's PaulGrahamEssays.json; if not given, the
    /// books that the program carries
    #[arg(long)]
    pub essays: Option<PathBuf>,
    /// SQuAD's dev-v2.0.json, for qa_1
    #[arg(long)]
    pub squad: Option<PathBuf>,
    /// HotpotQA's hotpot_dev_distractor_v1.json, or its objects as .jsonl(.gz/.zst), for qa_2
    #[arg(long)]
    pub hotpotqa: Option<PathBuf>,
    /// Answer the samples of these files instead: RULER's validation.jsonl, or what lm-eval logs
    #[arg(long, conflicts_with_all = ["lengths", "seed", "essays", "squad", "hotpotqa"])]
    pub samples_from: Vec<PathBuf>,
    /// Write the samples to this folder, as RULER lays them out: LENGTH/TASK/validation.jsonl
    #[arg(long)]
    pub save_samples: Option<PathBuf>,
    /// Begin every prompt with the token that begins documents; lm-eval does not
    #[arg(long)]
    pub begin: bool,
    /// Keys that may be left unread: off, exact (no bit changes), or the share of a row's posterior
    /// that may be dropped, for example 1e-6
    #[arg(long, default_value = "exact")]
    pub skip: Skipping,
    /// Also write the results as another program does: lm-eval:DIR or ruler:DIR
    #[arg(long, value_name = "FORMAT:DIR", value_parser = export::to_lm_eval_or_ruler)]
    pub export: Vec<ExportFolder>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A task, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskChoice {
    All,
    One(Task),
}

impl std::str::FromStr for TaskChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            name => name.parse().map(Self::One),
        }
    }
}
