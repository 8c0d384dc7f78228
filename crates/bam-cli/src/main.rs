//! `bam`: train, evaluate, inspect and generate with Bayesian attention.
//!
//! Flags and glue: what was typed is in [`args`], every command in its own file under [`command`].
//! The work is done by the libraries.
#![forbid(unsafe_code)]

mod args;
mod command;
mod console;
mod corpus;
mod runs;

use args::{Arguments, Command, TokenizerCommand};
use clap::{CommandFactory, Parser};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    console::quiet_panics();
    match run(arguments.command) {
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
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "bam", &mut script);
            std::io::Write::write_all(&mut std::io::stdout(), &script)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
