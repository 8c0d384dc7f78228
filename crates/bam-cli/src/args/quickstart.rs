//! `bam quickstart` and `bam report`.

use super::DeviceArgs;
use bam_lm::model::encoding::Encoding;
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct QuickstartArgs {
    /// Folder for models, records and report.html
    #[arg(long, default_value = "runs/quickstart")]
    pub out: PathBuf,
    /// Encodings to compare, for example bam+ssmax,nope,kerple_log+ssmax
    #[arg(long, value_delimiter = ';', value_parser = encodings, default_value = "bam+ssmax,alibi,rotary")]
    pub encodings: Vec<EncodingList>,
    /// All twelve encodings of the paper
    #[arg(long, conflicts_with = "encodings")]
    pub all: bool,
    /// Training steps per model
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Longest context evaluated, in multiples of the training length
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub longest: u64,
    /// Seed of weights, rows and keys
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Continue a quickstart that was interrupted
    #[arg(long)]
    pub resume: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// One comma-separated list; groups of heads such as alibi:2,bam:2 stay together.
#[derive(Clone, Debug)]
pub struct EncodingList(pub Vec<Encoding>);

fn encodings(text: &str) -> Result<EncodingList, String> {
    // "a:1,b:3" is one encoding, "a,b" are two: parts with a colon belong to their neighbours.
    let mut names: Vec<String> = Vec::new();
    for part in text.split(',') {
        match names.last_mut() {
            Some(last) if part.contains(':') && last.contains(':') && !last.contains('+') => {
                *last += ",";
                *last += part;
            }
            _ => names.push(part.to_owned()),
        }
    }
    let parsed: Result<Vec<Encoding>, _> = names.iter().map(|name| name.parse()).collect();
    parsed.map(EncodingList).map_err(|error| error.to_string())
}

#[derive(Args, Debug)]
pub struct ReportArgs {
    /// Folders of runs
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// The page
    #[arg(long, default_value = "report.html")]
    pub out: PathBuf,
    /// Its title
    #[arg(
        long,
        default_value = "Positional priors, read far beyond their training length"
    )]
    pub title: String,
}
