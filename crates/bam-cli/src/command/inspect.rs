//! `bam inspect`: a file for each way of looking.

mod context;
mod excerpt;
mod heads;
mod text;

use crate::args::InspectCommand;
use std::process::ExitCode;

pub fn run(command: &InspectCommand) -> anyhow::Result<ExitCode> {
    match command {
        InspectCommand::Heads(args) => heads::run(args),
        InspectCommand::Context(args) => context::run(args),
        InspectCommand::Text(args) => text::run(args),
    }
}
