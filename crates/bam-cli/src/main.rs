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
mod error_text;
mod experiment;
mod ranks;
mod runs;

use args::{Arguments, Command, TokenizerCommand};
use clap::{CommandFactory, Parser};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

/// The system's gives large pieces of memory back at once, and asks for them again in the next step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    device::quiet_panics();
    let result = match catch_unwind(AssertUnwindSafe(start)) {
        Ok(result) => result,
        Err(panic) => {
            // It was said when it happened.
            ranks::fail(1, |_| ());
            if device::in_use().is_some() {
                return ExitCode::FAILURE;
            }
            resume_unwind(panic)
        }
    };
    let code = match result {
        Ok(code) => code,
        Err(error) if console::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<ranks::Agreed>() => {
            if ranks::leads() {
                console::print_error("", &error);
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            let code = match error.is::<console::UsageError>() {
                true => console::USAGE,
                false => 1,
            };
            ranks::fail(code, |rank| console::print_error(rank, &error));
            ExitCode::from(code)
        }
    };
    ranks::end();
    code
}

/// Finds the other ranks, if there are any, before anything that was typed is done: one that was told otherwise would be waited for,
/// or mix its work into theirs.
fn start() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::try_parse();
    match arguments.as_ref().map(|arguments| &arguments.command) {
        // Processes of a study take its jobs one by one and need not know of each other.
        Ok(Command::Study(_)) => {}
        Ok(command) => ranks::begin(matches!(
            command,
            Command::Quickstart(_) | Command::Prepare(_) | Command::Train(_) | Command::Eval(_)
        ))?,
        // Help is given, and a mistake told, without others too.
        Err(_) => drop(ranks::begin(true)),
    }
    ranks::agree(Ok(()), |()| {
        let words = std::env::args_os().skip(1);
        let command = ranks::command(words.map(|word| word.to_string_lossy().into_owned()));
        Ok(vec![("version", runs::version()), ("command", command)])
    })?;
    match arguments {
        Ok(arguments) => run(arguments.command),
        Err(mistake) => {
            if ranks::leads() {
                // Where nobody reads it, nothing is lost.
                let _ = mistake.print();
            }
            Ok(ExitCode::from(mistake.exit_code() as u8))
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Quickstart(args) => command::quickstart::run(&args),
        Command::Study(args) => command::study::run(&args),
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
