//! `bam upcycle`.

use super::Length;
use super::number::{above_zero, any_share, at_least_one};
use bam_attention::TemperatureScope;
use bam_lm::analysis::upcycle::Target;
use bam_lm::device::DeviceName;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct UpcycleArgs {
    /// Folder of a model with its tokenizer
    #[arg(required_unless_present = "resume")]
    pub model: Option<PathBuf>,
    /// Folder of the run and, in the end, of the model; must not exist or be empty
    #[arg(long)]
    pub out: PathBuf,
    /// Data to learn from: a folder that `bam prepare` wrote, or a file or folder of text
    #[arg(long, required_unless_present = "resume")]
    pub data: Option<PathBuf>,
    /// A text to measure perplexity on; the last tenth of DATA, held out, if that is one text file
    #[arg(long, value_name = "TEXT")]
    pub held_out: Option<PathBuf>,
    /// Family that the priors become; bam if not given, with --drop-rotary same
    #[arg(long, value_enum)]
    pub family: Option<FamilyArg>,
    /// Go on without rotations (DroPE): layers that rotate queries and keys get uniform priors, or with --family bam priors that learn, and all weights learn
    #[arg(long)]
    pub drop_rotary: bool,
    /// Add scalable softmax, on likelihood and prior or on the likelihood only
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "both")]
    pub ssmax: Option<TemperatureScopeArg>,
    /// The first layer that gets it; the second, if there are several, if not given
    #[arg(long, requires = "ssmax")]
    pub ssmax_from: Option<usize>,
    /// Start of its scales, above 0; where the mean temperature is 1 at the training length, if not given
    #[arg(long, requires = "ssmax", allow_negative_numbers = true, value_parser = above_zero)]
    pub ssmax_scale: Option<f64>,
    /// Steps
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Tokens of a row; 4x if not given, with --drop-rotary 1x
    #[arg(long)]
    pub length: Option<Length>,
    /// Rows of a step
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    pub rows: usize,
    /// Equal parts that a step's rows are read in
    #[arg(long, default_value_t = 2, value_parser = at_least_one)]
    pub parts: usize,
    /// The largest learning rate; 0.01 if not given, with --drop-rotary 0.001, and ten times that for priors
    #[arg(long, allow_negative_numbers = true, value_parser = above_zero)]
    pub rate: Option<f64>,
    /// The share of rows that are passkey documents instead of text
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true, value_parser = any_share)]
    pub passkey_rows: f64,
    /// Lengths to measure at, before and after
    #[arg(long, value_delimiter = ',', default_value = "1x,2x,4x,8x,16x")]
    pub lengths: Vec<Length>,
    /// Passkeys per length; 0 for none
    #[arg(long, default_value_t = 10)]
    pub samples: u32,
    /// Pieces of the held-out text, at most, that perplexity is the mean of
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub pieces: u32,
    /// Steps between two checkpoints
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub checkpoint_every: u64,
    /// Seed of rows and keys
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Continue the run in the folder, which knows all the rest
    #[arg(long, conflicts_with_all = [
        "model", "data", "held_out", "family", "drop_rotary", "ssmax", "steps", "length", "rows", "parts", "rate",
        "passkey_rows", "lengths", "samples", "pieces", "checkpoint_every", "seed",
    ])]
    pub resume: bool,
    /// Parts of a step that run at once; all cores if not given
    #[arg(long, value_parser = at_least_one)]
    pub threads: Option<usize>,
    /// Print the record as JSON
    #[arg(long)]
    pub json: bool,
    /// Device that computes: cpu, auto, or one that `bam devices` lists, such as cuda or cuda:1; cpu if not given, with --resume the run's
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
}

impl UpcycleArgs {
    /// The family that was given, or the one that is usual.
    pub fn family(&self) -> FamilyArg {
        self.family.unwrap_or(match self.drop_rotary {
            true => FamilyArg::Same,
            false => FamilyArg::Bam,
        })
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum FamilyArg {
    /// Generalised Gaussian: location, scale and shape of every head
    Bam,
    /// Laplace: the slope of every head
    Laplace,
    /// Their kind, if that is learned or rotations are dropped
    Same,
}

impl From<FamilyArg> for Target {
    fn from(family: FamilyArg) -> Self {
        match family {
            FamilyArg::Bam => Self::GeneralizedGaussian,
            FamilyArg::Laplace => Self::Laplace,
            FamilyArg::Same => Self::Same,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TemperatureScopeArg {
    #[value(name = "both")]
    LikelihoodAndPrior,
    #[value(name = "content")]
    Likelihood,
}

impl From<TemperatureScopeArg> for TemperatureScope {
    fn from(scope: TemperatureScopeArg) -> Self {
        match scope {
            TemperatureScopeArg::LikelihoodAndPrior => Self::LikelihoodAndPrior,
            TemperatureScopeArg::Likelihood => Self::Likelihood,
        }
    }
}
