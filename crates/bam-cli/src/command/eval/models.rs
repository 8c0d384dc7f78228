//! One evaluation of one model after the other: journals, progress, records, files of other programs.

use crate::args::{Length, OutputArgs};
use crate::console::{self, Progress, UsageError};
use crate::{ranks, runs};
use anyhow::ensure;
use bam_data::Tokenizer;
use bam_eval::evaluation::{Context, Evaluation, Subject, evaluate, run_digest};
use bam_eval::exchange::export::{Export, ExportFolder, Exports, Format};
use bam_eval::exchange::run::{Moment, folder_name};
use bam_eval::exchange::staged_files::StagedFiles;
use bam_eval::journal::Journal;
use bam_lm::model::Transformer;
use bam_lm::model::checkpoint::{place, weight_files};
use bam_record::Record;
use bam_report::scores::{self, Score};
use bam_report::text::counted;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// Models that a command evaluates, and what becomes of the results.
pub struct Models<'a> {
    models: &'a [PathBuf],
    output: &'a OutputArgs,
    exports: &'a [ExportFolder],
    /// The record's name in a model's folder.
    record: &'static str,
}

impl<'a> Models<'a> {
    /// Checks all that can be known before any work: two models can't write into the same file, and every
    /// record can be written.
    pub fn new(
        models: &'a [PathBuf],
        output: &'a OutputArgs,
        exports: &'a [ExportFolder],
        record: &'static str,
    ) -> anyhow::Result<Self> {
        match &output.out {
            Some(_) if models.len() > 1 => {
                let message = format!("--out: expected one model, got {}", models.len());
                return Err(UsageError(message).into());
            }
            Some(out) => runs::ensure_writable(out)?,
            None => (models.iter().filter(|dir| dir.is_dir()))
                .try_for_each(|dir| runs::ensure_writable(&dir.join(record)))?,
        }
        let names = models.iter().map(|dir| folder_name(&dir.to_string_lossy()));
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        let by_model = |export: &ExportFolder| export.format != Format::RulerSamples;
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
        if let Some(pair) = twice.filter(|_| exports.iter().any(by_model)) {
            let message = format!("--export: expected each model once, got {} twice", pair[0]);
            return Err(UsageError(message).into());
        }
        Ok(Self {
            models,
            output,
            exports,
            record,
        })
    }

    /// Evaluates one model after the other. `None` after Ctrl-C: then it has said what is kept.
    pub fn records<M>(
        &self,
        mut evaluate: impl FnMut(&LoadedModel, &mut Session) -> anyhow::Result<Option<Record<M>>>,
    ) -> anyhow::Result<Option<Vec<Record<M>>>> {
        // Of several models a missing one is known before the first has been at work for hours.
        for dir in self.models.iter().skip(1) {
            for file in ["config.json", "tokenizer.json"] {
                let there = place(dir, file).is_file();
                let dir = dir.display();
                ensure!(there, "{dir}: expected a model's {file}, got none");
            }
            weight_files(dir)?;
        }
        console::catch_interrupts();
        let device = self.output.device.open()?;
        let mut session = Session::open(self.exports)?;
        let mut records = Vec::new();
        for dir in self.models {
            let model = runs::load_model(dir, &device)?;
            let out = self.output.out.clone();
            let loaded = LoadedModel {
                dir,
                tokenizer: runs::load_tokenizer(dir, &model)?,
                model,
                out: out.unwrap_or_else(|| dir.join(self.record)),
            };
            match evaluate(&loaded, &mut session)? {
                Some(record) => records.push(record),
                None => {
                    session.stopped();
                    return Ok(None);
                }
            }
        }
        session.finish()?;
        Ok(Some(records))
    }

    /// The same, and shows the records.
    pub fn run<M: Serialize>(
        &self,
        evaluate: impl FnMut(&LoadedModel, &mut Session) -> anyhow::Result<Option<Record<M>>>,
        scores: impl Fn(&str, &Record<M>) -> Vec<Score>,
    ) -> anyhow::Result<ExitCode> {
        match self.records(evaluate)? {
            Some(records) => self.show(&records, scores),
            None => Ok(ExitCode::from(console::INTERRUPTED)),
        }
    }

    /// Prints the records as one table, or as JSON: of one model the record, of several a list.
    pub fn show<M: Serialize>(
        &self,
        records: &[Record<M>],
        scores: impl Fn(&str, &Record<M>) -> Vec<Score>,
    ) -> anyhow::Result<ExitCode> {
        if !ranks::leads() {
            return Ok(ExitCode::SUCCESS);
        }
        let mut stdout = std::io::stdout().lock();
        if self.output.json {
            let text = match records {
                [only] => serde_json::to_string_pretty(only)?,
                records => serde_json::to_string_pretty(records)?,
            };
            writeln!(stdout, "{text}")?;
            return Ok(ExitCode::SUCCESS);
        }
        let names = self.names(records);
        let of = names.iter().zip(records);
        let scores: Vec<Score> = of.flat_map(|(name, record)| scores(name, record)).collect();
        write!(stdout, "{}", scores::table(&scores))?;
        Ok(ExitCode::SUCCESS)
    }

    /// Names of models beside their records.
    pub fn names<M>(&self, records: &[Record<M>]) -> Vec<String> {
        let dirs = self.models.iter().map(PathBuf::as_path);
        runs::told_apart(records.iter().map(|record| record.name.as_str()).zip(dirs))
    }
}

/// A model under evaluation, and the name of its record.
pub struct LoadedModel<'a> {
    pub dir: &'a Path,
    pub model: Transformer,
    pub tokenizer: Tokenizer,
    pub out: PathBuf,
}

impl LoadedModel<'_> {
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            model: &self.model,
            tokenizer: &self.tokenizer,
        }
    }

    /// Lengths in the model's tokens, in ascending order.
    pub fn tokens_of(&self, lengths: &[Length]) -> Vec<usize> {
        let train_length = self.model.config().train_length;
        let lengths = lengths.iter();
        let mut lengths: Vec<usize> = lengths.map(|length| length.tokens(train_length)).collect();
        lengths.sort_unstable();
        lengths.dedup();
        lengths
    }

    /// Runs an evaluation of it and writes the record. `None` after Ctrl-C.
    pub fn measure<E: Export>(
        &self,
        evaluation: &E,
        seed: u64,
        session: &mut Session,
    ) -> anyhow::Result<Option<Record<E::Metrics>>> {
        let of = (self.dir, self.subject(), self.out.as_path());
        session.measure(E::NAME, of, evaluation, seed)
    }
}

/// A command under way: what it leaves behind when it is stopped, and what it delivers at its end.
pub struct Session<'a> {
    exports: &'a [ExportFolder],
    journals: Vec<Journal>,
    files: StagedFiles,
    /// Whether samples that are kept are of use to the same command.
    goes_on: bool,
}

impl<'a> Session<'a> {
    pub fn open(exports: &'a [ExportFolder]) -> anyhow::Result<Self> {
        // One rank delivers.
        let exports = if ranks::leads() { exports } else { &[] };
        let folders = exports.iter().map(|export| export.dir.as_path());
        Ok(Self {
            exports,
            journals: Vec::new(),
            files: StagedFiles::open(folders)?,
            goes_on: true,
        })
    }

    /// Runs an evaluation of the model in a folder under a title and writes the record. `None` after Ctrl-C.
    pub fn measure<E: Export>(
        &mut self,
        title: &str,
        (dir, subject, out): (&Path, Subject, &Path),
        evaluation: &E,
        seed: u64,
    ) -> anyhow::Result<Option<Record<E::Metrics>>> {
        self.goes_on = E::INDEPENDENT;
        let (folder, began) = (dir.to_string_lossy(), moment());
        let run = run_digest(&runs::version(), dir, subject, evaluation)?;
        ranks::all().same("model and tokenizer", &run)?;
        let journal = ranks::leads().then(|| open_journal(out, run)).transpose()?;
        let mut exports = Exports::new(self.exports, &mut self.files, &folder, &began);
        let scored = |set: &E::Set, score: &E::Score| {
            let exports = &mut exports;
            evaluation.export_cell(set, score, exports)
        };
        let measured = watched(title, evaluation, journal.as_ref(), scored);
        self.journals.extend(journal);
        let Some((metrics, seconds)) = measured? else {
            return Ok(None);
        };
        let record = runs::write_record(out, subject.model, seed, seconds, metrics)?;
        evaluation.export_record(&record, &mut exports)?;
        Ok(Some(record))
    }

    fn stopped(&self) {
        let kept = |journal: &Journal| journal.kept().0;
        let files = self.journals.iter().filter(|journal| kept(journal) > 0);
        let files = files.map(|journal| journal.path().display().to_string());
        let files = files.collect::<Vec<_>>().join(", ");
        let again = match self.goes_on {
            true => "the same command goes on from there",
            false => "a document is read from its beginning, so the same command begins it anew",
        };
        console::note(&match self.journals.iter().map(kept).sum() {
            0 => "stopped before there was a result".to_owned(),
            kept => {
                let kept = counted(kept, "result");
                format!("stopped; {kept} kept in {files}: {again}")
            }
        });
    }

    /// All is done and in the records.
    pub fn finish(self) -> anyhow::Result<()> {
        self.files.deliver()?;
        Ok(self.journals.into_iter().try_for_each(Journal::remove)?)
    }
}

/// The journal beside a record, with a word on what it holds.
fn open_journal(record: &Path, run: String) -> anyhow::Result<Journal> {
    let path = record.with_extension("unfinished.jsonl");
    let journal = Journal::open(path, run, console::seconds())?;
    let path = journal.path().display();
    match journal.kept() {
        (0, 0) => {}
        (0, _) => console::note(&format!(
            "{path}: what is in it is of another model, other settings or another version, and is not used"
        )),
        (known, _) => console::note(&format!(
            "{path}: {} from a run that was stopped",
            counted(known, "result")
        )),
    }
    Ok(journal)
}

/// Runs an evaluation with a bar, until Ctrl-C. Its figures and the seconds that they took.
pub fn watched<E: Evaluation>(
    title: &str,
    evaluation: &E,
    journal: Option<&Journal>,
    scored: impl FnMut(&E::Set, &E::Score) -> Result<(), bam_lm::Error>,
) -> anyhow::Result<Option<(E::Metrics, f64)>> {
    let bar = OnceLock::new();
    let progress = |done: u64, of: u64, message: &str| {
        if let Some((journal, error)) = journal.and_then(|of| Some((of, of.failure()?))) {
            console::note(&format!(
                "{}: could not write it, so what is found is lost if this run is stopped: {error}",
                journal.path().display()
            ));
        }
        let bar = bar.get_or_init(|| Progress::new(of, title));
        if done > 0 {
            bar.at(done, message);
        }
    };
    let ranks = ranks::all();
    let context = Context {
        stop: &console::interrupted,
        clock: &console::seconds,
        progress: &progress,
        ranks: &*ranks,
    };
    let measured = evaluate(evaluation, &context, journal, scored)?;
    bar.get().map(Progress::finish);
    Ok(measured)
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
