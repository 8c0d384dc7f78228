//! `bam study`.

use super::DeviceArgs;
use super::number::{above_zero, at_least_one};
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct StudyArgs {
    /// The study (TOML): groups of models, their seeds, and measures; recipes/study.toml is one
    pub study: PathBuf,
    /// Folder of models, records, study.html and study.md; what is there is not made again
    #[arg(long, default_value = "runs/study")]
    pub out: PathBuf,
    /// Say which jobs there are, which are done, and how long the others will take by those
    #[arg(long)]
    pub plan: bool,
    /// Only groups of these names
    #[arg(long, value_name = "NAME")]
    pub group: Vec<String>,
    /// Stop after so many minutes, as Ctrl-C does; the same command goes on
    #[arg(long, value_parser = above_zero)]
    pub minutes: Option<f64>,
    /// Processes that work side by side, each with its share of the threads. More of them, under a launcher or on other
    /// machines, may work at the same folder
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub jobs: usize,
    /// Begun by another process: stops when standard input ends, and leaves the page to it
    #[arg(long, hide = true)]
    pub worker: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}
