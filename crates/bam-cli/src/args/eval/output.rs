//! The results of an evaluation.

use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct OutputArgs {
    /// Where to write the record, for one model; a file of the evaluation's name (passkey.json) in each
    /// model's folder if not given
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print the record as JSON; of several models a list
    #[arg(long)]
    pub json: bool,
}
