//! `bam inspect` and `bam doctor`.

use super::number::share;
use super::{DeviceArgs, Length};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum InspectCommand {
    /// Each head's prior over distance, and its posterior on a text
    Heads(HeadsArgs),
    /// Reach of heads in long rows, whatever they read
    Context(ContextArgs),
    /// A text token by token: where heads look from each
    Text(TextArgs),
}

#[derive(Args, Debug)]
pub struct HeadsArgs {
    /// Folder of a model
    pub model: PathBuf,
    /// Keys of the row that prior masses are taken over; 500x if not given. With --text they are as many
    /// as are read of it
    #[arg(long, conflicts_with = "text")]
    pub keys: Option<Length>,
    /// A text file to measure posteriors on
    #[arg(long)]
    pub text: Option<PathBuf>,
    /// Tokens to read of it; its first 16x at most if not given
    #[arg(long, requires = "text")]
    pub length: Option<Length>,
    /// Rows to measure, evenly over the second half of what is read
    #[arg(long, requires = "text", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub rows: u32,
    /// Also print each head's prior curve
    #[arg(long)]
    pub curves: bool,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
    /// Write a page that works offline
    #[arg(long)]
    pub html: Option<PathBuf>,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Args, Debug)]
pub struct ContextArgs {
    /// Folder of a model
    pub model: PathBuf,
    /// Keys of the longest row
    #[arg(long, default_value = "500x")]
    pub length: Length,
    /// The share of a row's posterior that may lie beyond a horizon
    #[arg(long, default_value = "1e-6", value_parser = share)]
    pub epsilon: f64,
    /// The passkey record of this model to compare with; passkey.json in its folder if not given
    #[arg(long)]
    pub passkey: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Args, Debug)]
pub struct TextArgs {
    /// Folder of a model with its tokenizer
    pub model: PathBuf,
    /// A text file
    pub text: PathBuf,
    /// Tokens to read of it; its first 512 at most if not given
    #[arg(long)]
    pub length: Option<Length>,
    /// Only heads of this layer, from 0
    #[arg(long)]
    pub layer: Option<usize>,
    /// Only heads of this number, from 0
    #[arg(long)]
    pub head: Option<usize>,
    /// Colours; auto is for terminals where NO_COLOR is not set
    #[arg(long, value_enum, default_value_t = ColourArg::Auto)]
    pub color: ColourArg,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
    /// Write a page that works offline
    #[arg(long)]
    pub html: Option<PathBuf>,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ColourArg {
    Auto,
    Always,
    Never,
}

#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Folder of a model
    pub model: PathBuf,
    /// Keys of the longest row
    #[arg(long, default_value = "500x")]
    pub length: Length,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}
