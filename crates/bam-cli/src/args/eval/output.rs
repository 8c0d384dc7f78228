//! The results of an evaluation, and the device that finds them.

use crate::args::DeviceArgs;
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct OutputArgs {
    /// The record's file, for one model; if not given, one of the evaluation's name (passkey.json) in each
    /// model's folder
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print the record as JSON; of several models a list
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}
