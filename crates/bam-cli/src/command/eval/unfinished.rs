//! What evaluations have found, sample by sample, until all of a command is done.
//!
//! Each model's record has a file beside it, `passkey.unfinished.jsonl`: a line for every finding, written as
//! it is found. A command that was stopped, however that came about, goes on from there when it is given
//! again; when it has come to its end the files go. A finding is taken up only where the same was asked of
//! the same model under the same settings by the same version of the program, so other lengths, samples
//! and tasks share what they have in common.

use crate::console;
use anyhow::Context;
use bam_data::Tokenizer;
use bam_data::sha256_of;
use bam_eval::watch::Watch;
use bam_lm::model::Transformer;
use bam_lm::model::checkpoint::WEIGHTS_FILE;
use bam_record::Record;
use bam_report::text::counted;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What the same command does with what is kept, where samples do not depend on each other.
pub const GOES_ON: &str = "the same command goes on from there";

/// The files of a command, one a model.
#[derive(Debug, Default)]
pub struct Unfinished(Vec<Findings>);

impl Unfinished {
    /// Evaluates one model after the other. `None` after Ctrl-C: then it has said what is kept, and what
    /// the same command does with it `again`.
    pub fn each<M>(
        models: &[PathBuf],
        again: &str,
        mut evaluate: impl FnMut(&Path, &mut Self) -> anyhow::Result<Option<Record<M>>>,
    ) -> anyhow::Result<Option<(Self, Vec<Record<M>>)>> {
        let mut unfinished = Self::default();
        let mut records = Vec::new();
        for dir in models {
            match evaluate(dir, &mut unfinished)? {
                Some(record) => records.push(record),
                None => {
                    unfinished.stopped(again);
                    return Ok(None);
                }
            }
        }
        Ok(Some((unfinished, records)))
    }

    /// What is known of a model from before, and where more goes: beside its `record`.
    ///
    /// `settings` are those that decide what is found besides model, tokenizer and question.
    pub fn of(
        &mut self,
        (dir, model, tokenizer): (&Path, &Transformer, &Tokenizer),
        record: &Path,
        settings: Value,
    ) -> anyhow::Result<&Findings> {
        let run = json!([
            crate::runs::version(),
            sha256_of(&dir.join(WEIGHTS_FILE))?,
            serde_json::to_value(model.config())?,
            tokenizer.sha256(),
            settings,
        ]);
        let digest = Sha256::digest(run.to_string());
        let run = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let findings = Findings::open(record.with_extension("unfinished.jsonl"), run)?;
        self.0.push(findings);
        Ok(&self.0[self.0.len() - 1])
    }

    fn stopped(&self, again: &str) {
        let kept: usize = self.0.iter().map(Findings::kept).sum();
        let files = self.0.iter().filter(|findings| findings.kept() > 0);
        let files = files.map(|findings| findings.path.display().to_string());
        let files = files.collect::<Vec<_>>().join(", ");
        console::note(&match kept {
            0 => "stopped before there was a result".to_owned(),
            kept => format!(
                "stopped; {} kept in {files}: {again}",
                counted(kept, "result")
            ),
        });
    }

    /// All is done and in the records.
    pub fn finished(self) -> anyhow::Result<()> {
        for findings in &self.0 {
            if findings.path.exists() {
                let failed = || format!("{}: could not remove it", findings.path.display());
                fs::remove_file(&findings.path).with_context(failed)?;
            }
        }
        Ok(())
    }
}

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// What stands for model and settings.
    run: String,
    asked: String,
    /// Since the finding before.
    seconds: f64,
    found: Value,
}

/// What is known of one model.
#[derive(Debug)]
pub struct Findings {
    path: PathBuf,
    run: String,
    known: HashMap<String, Line>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: Option<File>,
    /// Lines written.
    written: usize,
    /// The time of the last one.
    last: f64,
    /// Of known findings that were taken up.
    seconds_before: f64,
    /// It can't be written, which has been said.
    failed: bool,
}

impl State {
    fn write(&mut self, path: &Path, line: &Line) -> std::io::Result<()> {
        let line = serde_json::to_string(line)?;
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(append(path)?),
        };
        // In one piece, so that whoever ends the program finds whole lines.
        file.write_all(format!("{line}\n").as_bytes())?;
        self.written += 1;
        Ok(())
    }
}

impl Findings {
    fn open(path: PathBuf, run: String) -> anyhow::Result<Self> {
        let known = match path.exists() {
            true => {
                read(&path).with_context(|| format!("{}: could not read it", path.display()))?
            }
            false => Vec::new(),
        };
        let all = known.len();
        let known: HashMap<String, Line> = known
            .into_iter()
            .filter(|line| line.run == run)
            .map(|line| (line.asked.clone(), line))
            .collect();
        if all > 0 {
            console::note(&match known.len() {
                0 => format!(
                    "{}: what is in it is of another model, other settings or another version, and is not used",
                    path.display()
                ),
                known => format!(
                    "{}: {} from a run that was stopped",
                    path.display(),
                    counted(known, "result")
                ),
            });
        }
        Ok(Self {
            path,
            run,
            known,
            state: Mutex::new(State {
                file: None,
                written: 0,
                last: console::seconds(),
                seconds_before: 0.0,
                failed: false,
            }),
        })
    }

    /// Stops at Ctrl-C, takes up what is known and keeps what is found. `tick` hears of either.
    pub fn watched<F: Serialize + DeserializeOwned, T>(
        &self,
        tick: &(dyn Fn(&F) + Sync),
        work: impl FnOnce(Watch<F>) -> T,
    ) -> T {
        work(Watch {
            stop: &console::interrupted,
            known: &|asked| self.known(asked).inspect(tick),
            found: &|asked, found| {
                self.keep(asked, found);
                tick(found);
            },
        })
    }

    /// Seconds that earlier runs spent on what was taken up since this was last asked.
    pub fn seconds_before(&self) -> f64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.seconds_before)
    }

    fn known<F: DeserializeOwned>(&self, asked: &str) -> Option<F> {
        let line = self.known.get(asked)?;
        let found = F::deserialize(&line.found).ok()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.seconds_before += line.seconds;
        Some(found)
    }

    fn keep<F: Serialize>(&self, asked: &str, found: &F) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = console::seconds();
        let seconds = now - std::mem::replace(&mut state.last, now);
        let line = Line {
            run: self.run.clone(),
            asked: asked.to_owned(),
            seconds,
            found: json!(found),
        };
        if let Err(error) = state.write(&self.path, &line)
            && !std::mem::replace(&mut state.failed, true)
        {
            console::note(&format!(
                "{}: could not write it, so what is found is lost if this run is stopped: {error}",
                self.path.display()
            ));
        }
    }

    /// Findings in the file.
    fn kept(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.known.len() + state.written
    }
}
/// The whole lines of a file. What ended in the middle of one left a piece that is none.
fn read(path: &Path) -> std::io::Result<Vec<Line>> {
    let lines = BufReader::new(File::open(path)?).split(b'\n');
    let lines = lines.map(|line| Ok(serde_json::from_slice(&line?).ok()));
    lines.filter_map(Result::transpose).collect()
}

/// The file, at its end, on a line of its own.
fn append(path: &Path) -> std::io::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)?;
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(findings: &Findings, asked: &str) -> Option<i32> {
        findings.known(asked)
    }

    #[test]
    fn findings_are_taken_up_by_the_same_run_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passkey.unfinished.jsonl");
        let open = |run: &str| Findings::open(path.clone(), run.into()).unwrap();
        let first = open("a");
        assert!(!path.exists(), "nothing is found yet");
        first.keep("one", &1);
        first.keep("two", &2);
        // Cut in the middle of a line, as a machine that goes off leaves it.
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let second = open("a");
        assert_eq!(
            (known(&second, "one"), known(&second, "two")),
            (Some(1), None)
        );
        second.keep("two", &3);
        assert_eq!(known(&open("a"), "two"), Some(3));
        assert_eq!(known(&open("b"), "one"), None);
        assert_eq!(open("a").kept(), 2);
        Unfinished(vec![second]).finished().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn time_is_added_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.unfinished.jsonl");
        let line = |asked: &str, seconds| Line {
            run: "a".into(),
            asked: asked.into(),
            seconds,
            found: 1.into(),
        };
        let lines = [line("one", 2.0), line("two", 3.5), line("three", 100.0)];
        let lines = lines.map(|line| serde_json::to_string(&line).unwrap());
        fs::write(&path, lines.join("\n")).unwrap();
        let findings = Findings::open(path, "a".into()).unwrap();
        known(&findings, "one");
        known(&findings, "two");
        assert_eq!(findings.seconds_before(), 5.5);
        assert_eq!(findings.seconds_before(), 0.0);
    }
}
