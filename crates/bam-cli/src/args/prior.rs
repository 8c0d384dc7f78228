//! `bam prior`.

use super::Length;
use bam_lm::analysis::surgery::{Change, HeadName};
use bam_lm::model::encoding::PriorKind;
use clap::{ArgGroup, Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum PriorCommand {
    /// Change the priors of a trained model's heads, and nothing else
    Edit(PriorEditArgs),
    /// Differences between the heads of two models
    Diff(PriorDiffArgs),
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("change").required(true).multiple(true).args(["family", "scale", "shape", "location"])))]
#[command(group(ArgGroup::new("where").required(true).args(["out", "in_place"])))]
pub struct PriorEditArgs {
    /// Folder of a model
    pub model: PathBuf,
    /// Heads by layer and number, from 0: 1.3, 1.* (a layer), *.3 (in every layer), all. Where all layers
    /// share one prior: 3
    #[arg(
        long = "head",
        required = true,
        value_delimiter = ',',
        value_name = "L.H"
    )]
    pub heads: Vec<HeadName>,
    /// Another family, from its starting values at this head's place: uniform, alibi, bam, laplace, gaussian, …
    #[arg(long)]
    pub family: Option<PriorKind>,
    /// Speed at which the prior falls: x0.5 times what it was, or a value such as 0.03 or =0.03
    #[arg(long, value_name = "CHANGE", allow_hyphen_values = true)]
    pub scale: Option<Change>,
    /// Bend of its tail: x0.5, or a value (bam: 1 is ALiBi, 0 flat, below 0 anti-local)
    #[arg(long, value_name = "CHANGE", allow_hyphen_values = true)]
    pub shape: Option<Change>,
    /// Place of its peak, in tokens: x2, or a value (keys before the query are below 0)
    #[arg(long, value_name = "CHANGE", allow_hyphen_values = true)]
    pub location: Option<Change>,
    /// Folder for the edited model, with the tokenizer; must not exist or be empty
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Replace the model's own config.json and model.safetensors
    #[arg(long)]
    pub in_place: bool,
    /// Print what was done as JSON, as config.json keeps it
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct PriorDiffArgs {
    /// Folder of a model
    pub before: PathBuf,
    /// Folder of another one of the same shape
    pub after: PathBuf,
    /// Keys of the row that prior masses are taken over
    #[arg(long, default_value = "500x")]
    pub keys: Length,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}
