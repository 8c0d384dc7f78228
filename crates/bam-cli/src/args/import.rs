//! `bam import`.

use super::reference::ImportReferenceArgs;
use bam_lm::model::encoding::Encoding;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// MPT, Bloom or LLaMA: a folder in the layout of the Hugging Face hub, with safetensors
    Hf(ImportHfArgs),
    /// A trained model of Alilama, as safetensors
    Alilama(ImportAlilamaArgs),
    /// A trained model of llama2.c, oldest format; its tokens are not imported
    Llama2c(ImportLlama2cArgs),
    /// A case of the reference program
    Reference(ImportReferenceArgs),
}

#[derive(Args, Debug)]
pub struct ImportHfArgs {
    /// Folder with config.json, model.safetensors or its shards, and tokenizer.json if there is one
    pub folder: PathBuf,
    /// Folder for the model; must not exist or be empty
    #[arg(long)]
    pub out: PathBuf,
    /// Use of position, where it is not as config.json says: nope, alibi, or rotary (LLaMA)
    #[arg(long)]
    pub position: Option<Encoding>,
    /// The context that the model was trained at, where config.json does not say it
    #[arg(long)]
    pub train_length: Option<usize>,
    /// A setting of config.json that is unknown to bam and does not matter
    #[arg(long, value_name = "KEY")]
    pub ignore_key: Vec<String>,
}

#[derive(Args, Debug)]
pub struct ImportAlilamaArgs {
    /// The weights
    pub weights: PathBuf,
    /// Its byte-pair vocabulary, a minbpe file
    #[arg(long)]
    pub tokenizer: PathBuf,
    /// Folder for the model; must not exist or be empty
    #[arg(long)]
    pub out: PathBuf,
}

#[derive(Args, Debug)]
pub struct ImportLlama2cArgs {
    /// The weights
    pub weights: PathBuf,
    /// Folder for the model; must not exist or be empty
    #[arg(long)]
    pub out: PathBuf,
}
