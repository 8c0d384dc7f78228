//! `bam inspect`: a file for each way of looking.

mod context;
mod heads;
mod text;
mod text_tokens;

use crate::args::InspectCommand;
pub use heads::beside_gates;
use std::process::ExitCode;

pub fn run(command: &InspectCommand) -> anyhow::Result<ExitCode> {
    match command {
        InspectCommand::Heads(args) => heads::run(args),
        InspectCommand::Context(args) => context::run(args),
        InspectCommand::Text(args) => text::run(args),
    }
}
