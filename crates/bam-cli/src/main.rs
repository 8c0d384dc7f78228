//! `bam`: train, evaluate, inspect and generate with Bayesian attention.
//!
//! Flags and glue: what was typed is in [`args`], every command in its own file under [`command`].
//! The work is done by the libraries.
#![forbid(unsafe_code)]

mod args;
mod command;
mod console;
mod corpus;
mod device;
mod runs;

use args::{Arguments, Command, TokenizerCommand};
use clap::{CommandFactory, Parser};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

/// The system's gives large pieces of memory back at once, and asks for them again in the next step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    device::quiet_panics();
    let result = match catch_unwind(AssertUnwindSafe(|| run(arguments.command))) {
        Ok(result) => result,
        // It was said when it happened.
        Err(_) if device::in_use().is_some() => return ExitCode::FAILURE,
        Err(panic) => resume_unwind(panic),
    };
    match result {
        Ok(code) => code,
        Err(error) if console::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            console::print_error(&error);
            match error.is::<console::UsageError>() {
                true => ExitCode::from(console::USAGE),
                false => ExitCode::FAILURE,
            }
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Quickstart(args) => command::quickstart::run(&args),
        Command::Tokenizer(TokenizerCommand::Train(args)) => command::tokenizer::train(&args),
        Command::Prepare(args) => command::prepare::run(&args),
        Command::Train(args) => command::train::run(&args),
        Command::Eval(command) => command::eval::run(&command),
        Command::Generate(args) => command::generate::run(&args),
        Command::Serve(args) => command::serve::run(&args),
        Command::Inspect(command) => command::inspect::run(&command),
        Command::Doctor(args) => command::doctor::run(&args),
        Command::Prior(command) => command::prior::run(&command),
        Command::Report(args) => command::report::run(&args),
        Command::Import(command) => command::import::run(&command),
        Command::Upcycle(args) => command::upcycle::run(&args),
        Command::Export(command) => command::export::run(&command),
        Command::Logits(args) => command::reference::logits(&args),
        Command::Parity(args) => command::reference::parity(&args),
        Command::Devices(args) => command::devices::run(&args),
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "bam", &mut script);
            std::io::Write::write_all(&mut std::io::stdout(), &script)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
