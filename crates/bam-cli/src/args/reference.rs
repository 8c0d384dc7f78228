//! `bam import reference`, `bam logits` and `bam parity`.

use super::DeviceArgs;
use bam_lm::train::recipe::AttentionChoice;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct ImportReferenceArgs {
    /// Folder with config.json and model.safetensors (or model_init.safetensors)
    pub case: PathBuf,
    /// Folder for the model; must not exist or be empty
    pub out: PathBuf,
}

#[derive(Args, Debug)]
pub struct LogitsArgs {
    /// Folder of a model
    pub model: PathBuf,
    /// Safetensors file with `tokens` [rows, length] and optional `document_ids`
    #[arg(long)]
    pub tokens: PathBuf,
    /// The file for `logits` [rows, length, vocabulary]
    #[arg(long)]
    pub out: PathBuf,
    /// Computation of attention
    #[arg(long, value_enum, default_value_t = AttentionArg::Fused)]
    pub attention: AttentionArg,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Args, Debug)]
pub struct ParityArgs {
    /// Folder of a case
    pub case: PathBuf,
    /// Computation of attention
    #[arg(long, value_enum, default_value_t = AttentionArg::Fused)]
    pub attention: AttentionArg,
    /// Print every comparison as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum AttentionArg {
    Fused,
    Reference,
}

impl From<AttentionArg> for AttentionChoice {
    fn from(choice: AttentionArg) -> Self {
        match choice {
            AttentionArg::Fused => Self::Fused,
            AttentionArg::Reference => Self::Reference,
        }
    }
}
