//! `bam train`.

use super::DeviceArgs;
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct TrainArgs {
    /// The recipe (TOML); not needed with --resume, and the run's own if given
    #[arg(required_unless_present = "resume")]
    pub recipe: Option<PathBuf>,
    /// Folder of the run
    #[arg(long)]
    pub out: PathBuf,
    /// tokenizer.json that prepared the tokens; not needed with --resume, and the run's own if given
    #[arg(long, required_unless_present = "resume")]
    pub tokenizer: Option<PathBuf>,
    /// Override a value of the recipe, for example --set train.steps=100
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "recipe")]
    pub overrides: Vec<String>,
    /// Continue the run in the folder from its last checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Parts of a step that run at once; all cores if not given
    #[arg(long, value_parser = super::number::at_least_one)]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub device: DeviceArgs,
}
