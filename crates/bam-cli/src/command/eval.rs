//! `bam eval`: a file for each evaluation.

pub mod babilong;
pub mod loglikelihood;
mod outbox;
pub mod passkey;
pub mod perplexity;
pub mod ruler;
pub mod unfinished;

use crate::args::{EvalCommand, Export, Format, Length};
use crate::console::{Misuse, Progress};
use crate::runs;
use bam_eval::exchange::{Moment, folder_name};
use bam_lm::model::Transformer;
use bam_lm::model::checkpoint::place;
use bam_record::Record;
use bam_report::scores::{self, Score};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

pub fn run(command: &EvalCommand) -> anyhow::Result<ExitCode> {
    match command {
        EvalCommand::Passkey(args) => passkey::run(args),
        EvalCommand::Perplexity(args) => perplexity::run(args),
        EvalCommand::Loglikelihood(args) => loglikelihood::run(args),
        EvalCommand::Ruler(args) => ruler::run(args),
        EvalCommand::Babilong(args) => babilong::run(args),
    }
}

/// Lengths in the model's tokens, in ascending order.
fn tokens_of(lengths: &[Length], model: &Transformer) -> Vec<usize> {
    let train_length = model.config().train_length;
    let lengths = lengths.iter();
    let mut lengths: Vec<usize> = lengths.map(|length| length.tokens(train_length)).collect();
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

/// One file can't hold the records of several models, and what can't be written is known before the
/// first has been at work for hours. `name` is that of a record in its model's folder.
fn check_out(out: Option<&Path>, models: &[PathBuf], name: &str) -> anyhow::Result<()> {
    match out {
        Some(_) if models.len() > 1 => {
            Err(Misuse(format!("--out: expected one model, got {}", models.len())).into())
        }
        Some(out) => runs::ensure_writable(out),
        None => (models.iter().filter(|dir| dir.is_dir()))
            .try_for_each(|dir| runs::ensure_writable(&dir.join(name))),
    }
}

/// Of several models a missing one is known before the first has been at work for hours.
fn check_models(models: &[PathBuf]) -> anyhow::Result<()> {
    for dir in models.iter().skip(1) {
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            let there = place(dir, file).is_file();
            anyhow::ensure!(
                there,
                "{}: expected a model's {file}, got none",
                dir.display()
            );
        }
    }
    Ok(())
}

/// Two models of one name would write into the same files of other programs.
fn check_exports(exports: &[Export], models: &[PathBuf]) -> anyhow::Result<()> {
    let mut names: Vec<String> = models
        .iter()
        .map(|dir| folder_name(&dir.to_string_lossy()))
        .collect();
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
    match twice.filter(|_| !exports.is_empty()) {
        Some(pair) => {
            let message = format!("--export: expected each model once, got {} twice", pair[0]);
            Err(Misuse(message).into())
        }
        None => Ok(()),
    }
}

/// Progress over answers that come from several threads, cell by cell.
struct Tally {
    progress: Progress,
    done: AtomicU64,
    expected: u64,
}

impl Tally {
    fn new(total: u64, name: &str) -> Self {
        Self {
            progress: Progress::new(total, name),
            done: AtomicU64::new(0),
            expected: 0,
        }
    }

    fn answered(&self, message: &str) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.progress.at(done, message);
    }

    /// A cell of so many is over; what could not be made is done too.
    fn over(&mut self, cell: u64, message: &str) {
        self.expected += cell;
        if self.done.swap(self.expected, Ordering::Relaxed) < self.expected {
            self.progress.at(self.expected, message);
        }
    }
}

/// The folders that results go to in a format.
fn folders(exports: &[Export], format: Format) -> impl Iterator<Item = &Path> {
    let of = exports.iter().filter(move |export| export.format == format);
    of.map(|export| export.dir.as_path())
}

fn moment() -> Moment {
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let stamp = humantime::format_rfc3339_micros(now).to_string();
    Moment {
        seconds: since.as_secs_f64(),
        stamp: stamp.trim_end_matches('Z').replace(':', "-"),
    }
}

/// Names of models beside their records.
fn names<M>(models: &[PathBuf], records: &[Record<M>]) -> Vec<String> {
    let dirs = models.iter().map(PathBuf::as_path);
    runs::told_apart(records.iter().map(|record| record.name.as_str()).zip(dirs))
}

/// Prints the records as one table, or as JSON: of one model the record, of several a list.
fn show<M: Serialize>(
    models: &[PathBuf],
    records: &[Record<M>],
    json: bool,
    scores: impl Fn(&str, &Record<M>) -> Vec<Score>,
) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    if json {
        let text = match records {
            [only] => serde_json::to_string_pretty(only)?,
            records => serde_json::to_string_pretty(records)?,
        };
        writeln!(stdout, "{text}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let names = names(models, records);
    let of = names.iter().zip(records);
    let scores: Vec<Score> = of.flat_map(|(name, record)| scores(name, record)).collect();
    write!(stdout, "{}", scores::table(&scores))?;
    Ok(ExitCode::SUCCESS)
}
