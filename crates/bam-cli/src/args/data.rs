//! `bam tokenizer` and `bam prepare`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum TokenizerCommand {
    /// Train a byte-level BPE
    Train(TokenizerTrainArgs),
}

#[derive(Args, Debug)]
pub struct CorpusArgs {
    /// A file or folder of .txt, .md, .jsonl(.gz/.zst) or .parquet, or hf://datasets/OWNER/NAME/PATH
    ///
    /// Rows whose text is null are left out; their number is said at the end. Other fields may hold
    /// anything, NaN too.
    pub corpus: String,
    /// The field or column that holds the text
    #[arg(long, default_value = "text")]
    pub field: String,
    /// Folder for files from the Hugging Face hub
    #[arg(long, default_value = "runs/hub")]
    pub cache: PathBuf,
}

#[derive(Args, Debug)]
pub struct TokenizerTrainArgs {
    #[command(flatten)]
    pub corpus: CorpusArgs,
    /// The file to write
    #[arg(long)]
    pub out: PathBuf,
    /// Tokens
    #[arg(long, default_value_t = 32_768)]
    pub vocabulary: usize,
    /// Let runs of digits become tokens
    #[arg(long)]
    pub merge_digits: bool,
}

#[derive(Args, Debug)]
pub struct PrepareArgs {
    #[command(flatten)]
    pub corpus: CorpusArgs,
    /// tokenizer.json
    #[arg(long)]
    pub tokenizer: PathBuf,
    /// Folder for the shards
    #[arg(long)]
    pub out: PathBuf,
    /// Replace the folder's shards
    #[arg(long)]
    pub replace: bool,
}
