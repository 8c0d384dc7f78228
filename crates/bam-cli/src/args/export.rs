//! `bam export`.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum ExportCommand {
    /// A folder that transformers loads with trust_remote_code, and bam as well
    Hf(ExportHfArgs),
    /// A GGUF file for llama.cpp: ALiBi or rotary models without scalable softmax
    Gguf(ExportGgufArgs),
}

#[derive(Args, Debug)]
pub struct ExportHfArgs {
    /// Folder of a model
    pub model: PathBuf,
    /// Folder to make; must not exist or be empty
    #[arg(long)]
    pub out: PathBuf,
}

#[derive(Args, Debug)]
pub struct ExportGgufArgs {
    /// Folder of a model with its tokenizer
    pub model: PathBuf,
    /// File to write
    #[arg(long)]
    pub out: PathBuf,
    /// Name of the model in the file; the folder's if not given
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,
    /// Replace a file that is there
    #[arg(long)]
    pub replace: bool,
}
