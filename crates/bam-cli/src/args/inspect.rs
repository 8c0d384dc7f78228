//! `bam inspect`.

use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Folder of a model
    pub model: PathBuf,
    /// Keys of the row that masses are taken over; 500 × the training length if not given
    #[arg(long)]
    pub keys: Option<usize>,
    /// Also print each head's prior curve
    #[arg(long)]
    pub curves: bool,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}
