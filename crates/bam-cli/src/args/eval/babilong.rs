//! `bam eval babilong`.

use super::super::Length;
use super::{OutputArgs, export};
use bam_attention::Skipping;
use bam_eval::babilong::BabiTask;
use bam_eval::exchange::export::ExportFolder;
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct BabilongArgs {
    /// Folders of models
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    /// Folder with bAbI's files (v1.2), such as qa1_single-supporting-fact_test.txt
    #[arg(long)]
    pub facts: PathBuf,
    /// The text to scatter facts in; if not given, the books that the program carries
    #[arg(long)]
    pub haystack: Option<PathBuf>,
    /// Tasks: qa1 to qa20
    #[arg(long, value_delimiter = ',', default_value = "qa1,qa2,qa3,qa4,qa5")]
    pub tasks: Vec<BabiTask>,
    /// Tokens of prompt and answer (1k, 64k), multiples of the training length (16x), or 0k for facts only
    #[arg(long, value_delimiter = ',', default_value = "0k,1k,2k,4k")]
    pub lengths: Vec<BabilongLength>,
    /// Questions of each task and length, the first ones that fit
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,
    /// Seed of the texts
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Begin every prompt with the token that begins documents
    #[arg(long)]
    pub begin: bool,
    /// Keys that may be left unread: off, exact (no bit changes), or the share of a row's posterior
    /// that may be dropped, for example 1e-6
    #[arg(long, default_value = "exact")]
    pub skip: Skipping,
    /// Also write the results as another program does: lm-eval:DIR or babilong:DIR
    #[arg(long, value_name = "FORMAT:DIR", value_parser = export::to_lm_eval_or_babilong)]
    pub export: Vec<ExportFolder>,
    #[command(flatten)]
    pub output: OutputArgs,
}

impl BabilongArgs {
    /// The lengths, each once.
    pub fn distinct_lengths(&self) -> Vec<&BabilongLength> {
        let mut lengths: Vec<&BabilongLength> = Vec::new();
        for length in &self.lengths {
            if !lengths.iter().any(|other| other.label == length.label) {
                lengths.push(length);
            }
        }
        lengths
    }
}

/// A length as it was typed, which names files; `None` for facts only.
#[derive(Clone, Debug, PartialEq)]
pub struct BabilongLength {
    pub label: String,
    pub length: Option<Length>,
}

impl std::str::FromStr for BabilongLength {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let length = match text {
            "0k" | "0" => None,
            text => Some(text.parse()?),
        };
        Ok(Self {
            label: text.to_owned(),
            length,
        })
    }
}
