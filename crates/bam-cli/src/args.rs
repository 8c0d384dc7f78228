//! The command line: a file for each group of commands.

mod data;
mod device;
mod eval;
mod export;
mod generate;
mod import;
mod inspect;
mod length;
mod number;
mod prior;
mod quickstart;
mod reference;
mod serve;
mod study;
mod train;
mod upcycle;

pub use data::{CorpusArgs, PrepareArgs, TokenizerCommand, TokenizerTrainArgs};
pub use device::{DeviceArgs, DevicesArgs};
pub use eval::{
    BabilongArgs, EvalCommand, LoglikelihoodArgs, OutputArgs, PasskeyArgs, PerplexityArgs,
    RulerArgs, SyntheticArgs, TaskChoice,
};
pub use export::{ExportCommand, ExportGgufArgs, ExportHfArgs};
pub use generate::GenerateArgs;
pub use import::{ImportAlilamaArgs, ImportCommand, ImportHfArgs, ImportLlama2cArgs};
pub use inspect::{ColourArg, ContextArgs, DoctorArgs, HeadsArgs, InspectCommand, TextArgs};
pub use length::Length;
pub use prior::{PriorCommand, PriorDiffArgs, PriorEditArgs};
pub use quickstart::{QuickstartArgs, ReportArgs};
pub use reference::{LogitsArgs, ParityArgs};
pub use serve::ServeArgs;
pub use study::StudyArgs;
pub use train::{PlanArgs, TrainArgs};
pub use upcycle::UpcycleArgs;

use clap::{Parser, Subcommand};

/// Train language models at a short context under different positional priors, and read far beyond it.
#[derive(Debug, Parser)]
#[command(name = "bam", version, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train three small models on books, measure them to 500 × their context, write a report
    Quickstart(QuickstartArgs),
    /// Compare encodings by a plan: models by seeds by measures, resumable, in parallel
    Study(StudyArgs),
    /// Tokenizers
    #[command(subcommand)]
    Tokenizer(TokenizerCommand),
    /// Turn a corpus into token shards
    Prepare(PrepareArgs),
    /// Train a model from a recipe
    Train(TrainArgs),
    /// Evaluate a model
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Generate text
    Generate(GenerateArgs),
    /// Serve a model over HTTP, as OpenAI's clients expect it, with a page to look into it
    Serve(ServeArgs),
    /// Look into a model
    #[command(subcommand)]
    Inspect(InspectCommand),
    /// Whether the numbers hold on long rows, before anything runs; exit code 1 on an error
    Doctor(DoctorArgs),
    /// Change the priors of a trained model, and see what changed
    #[command(subcommand)]
    Prior(PriorCommand),
    /// Turn the records of runs into one HTML page
    Report(ReportArgs),
    /// Bring models from elsewhere
    #[command(subcommand)]
    Import(ImportCommand),
    /// Go on with a trained model's priors alone, from where they are; measure before and after
    Upcycle(UpcycleArgs),
    /// Take models elsewhere
    #[command(subcommand)]
    Export(ExportCommand),
    /// Write a model's logits for given tokens
    Logits(LogitsArgs),
    /// Compare with a case of the reference program; exit code 1 beyond its tolerances
    Parity(ParityArgs),
    /// List the devices that this build and this machine have, or check that they compute rightly
    Devices(DevicesArgs),
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}
