//! `bam train`.

use super::number;
use bam_lm::device::DeviceName;
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct TrainArgs {
    /// The recipe (TOML); not needed with --resume, and the run's own if given
    #[arg(required_unless_present = "resume")]
    pub recipe: Option<PathBuf>,
    /// Folder of the run; not needed with --plan
    #[arg(long, required_unless_present = "plan")]
    pub out: Option<PathBuf>,
    /// tokenizer.json that prepared the tokens; not needed with --resume, and the run's own if given; with --plan, --vocabulary does as well
    #[arg(long, required_unless_present_any = ["resume", "vocabulary"])]
    pub tokenizer: Option<PathBuf>,
    /// Override a value of the recipe, for example --set train.steps=100
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "recipe")]
    pub overrides: Vec<String>,
    /// Continue the run in the folder from its last checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Parts of a step that run at once; all cores if not given
    #[arg(long, value_parser = number::at_least_one)]
    pub threads: Option<usize>,
    /// Device that computes: cpu, auto, or one that `bam devices` lists, such as cuda or cuda:1; the recipe's if not given. Several,
    /// as cuda:0,cuda:1, take turns at the parts of a step
    #[arg(long, value_name = "DEVICE", value_delimiter = ',')]
    pub device: Vec<DeviceName>,
    #[command(flatten)]
    pub plan: PlanArgs,
}

/// A run that is only planned.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// Say what the run would be, without training: parameters, tokens, memory, work, time
    #[arg(long, conflicts_with = "resume")]
    pub plan: bool,
    /// Tokens of the vocabulary, where there is no tokenizer yet
    #[arg(long, value_name = "N", requires = "plan", conflicts_with = "tokenizer", value_parser = number::at_least_one)]
    pub vocabulary: Option<usize>,
    /// Memory of the device in GiB, instead of what its driver says
    #[arg(long, value_name = "GIB", requires = "plan", value_parser = number::above_zero)]
    pub memory: Option<f64>,
    /// Speed of the device in 10¹² operations a second, for the time that the run would take
    #[arg(long, value_name = "X", requires = "plan", value_parser = number::above_zero)]
    pub tflops: Option<f64>,
    /// Take that time from a few steps on the device
    #[arg(long, requires = "plan", conflicts_with = "tflops")]
    pub measure: bool,
    /// Processes that share the run: memory of each, and the bytes between them
    #[arg(long, value_name = "N", requires = "plan", value_parser = number::at_least_one)]
    pub ranks: Option<usize>,
    /// Print the plan as JSON
    #[arg(long, requires = "plan")]
    pub json: bool,
}
