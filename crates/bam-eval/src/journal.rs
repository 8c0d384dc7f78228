//! The resume journal: all that an evaluation has found, sample by sample, until its record is written.
//!
//! A line of the file for every finding, written as it is found. A run that was stopped, however that came
//! about, goes on from there. A finding is taken up only where the same sample was asked of the same model
//! under the same settings by the same version of the program, so runs with other lengths, samples and tasks
//! share all that they have in common.

use bam_data::atomic_file::FileError;
use bam_data::hexadecimal;
use bam_lm::Error;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// Model, settings and version, as a digest.
    run: String,
    asked: String,
    /// Since the finding before.
    seconds: f64,
    found: Value,
}

/// The findings of one model.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    run: String,
    known: HashMap<String, Entry>,
    /// Lines of other runs.
    others: usize,
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
    /// The first failure to write, until it is asked for; later ones are the same one's.
    failure: Option<io::Error>,
    failed: bool,
}

impl Journal {
    /// Reads the file, if there is one; the time is `now`. `run` is a digest of all that findings depend on
    /// besides what was asked.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn open(path: PathBuf, run: String, now: f64) -> Result<Self, Error> {
        let entries = match path.exists() {
            true => read(&path).map_err(FileError::new(&path, "read it"))?,
            false => Vec::new(),
        };
        let (ours, others): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().partition(|entry| entry.run == run);
        let known = ours.into_iter().map(|entry| (entry.asked.clone(), entry));
        Ok(Self {
            path,
            run,
            known: known.collect(),
            others: others.len(),
            state: Mutex::new(State {
                file: None,
                written: 0,
                last: now,
                seconds_before: 0.0,
                failure: None,
                failed: false,
            }),
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Findings in the file, of this run and of others.
    #[must_use]
    pub fn kept(&self) -> (usize, usize) {
        (self.known.len() + self.state().written, self.others)
    }

    /// Seconds that earlier runs spent on the findings taken up since this was last asked.
    #[must_use]
    pub fn seconds_before(&self) -> f64 {
        std::mem::take(&mut self.state().seconds_before)
    }

    /// The failure to write, told once: from then on findings may be lost.
    #[must_use]
    pub fn failure(&self) -> Option<io::Error> {
        self.state().failure.take()
    }

    /// Removes the file: all is done and in a record.
    ///
    /// # Errors
    /// If that can't be done.
    pub fn remove(self) -> Result<(), Error> {
        match self.path.exists() {
            true => {
                Ok(fs::remove_file(&self.path).map_err(FileError::new(&self.path, "remove it"))?)
            }
            false => Ok(()),
        }
    }

    /// The finding of an earlier run.
    pub(crate) fn known<F: DeserializeOwned>(&self, asked: &str) -> Option<F> {
        let entry = self.known.get(asked)?;
        let found = F::deserialize(&entry.found).ok()?;
        self.state().seconds_before += entry.seconds;
        Some(found)
    }

    pub(crate) fn keep<F: Serialize>(&self, asked: &str, found: &F, now: f64) {
        let mut state = self.state();
        let seconds = now - std::mem::replace(&mut state.last, now);
        let entry = Entry {
            run: self.run.clone(),
            asked: asked.to_owned(),
            seconds,
            found: json!(found),
        };
        if let Err(error) = state.write(&self.path, &entry)
            && !std::mem::replace(&mut state.failed, true)
        {
            state.failure = Some(error);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, path: &Path, entry: &Entry) -> io::Result<()> {
        let line = serde_json::to_string(entry)?;
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

/// The whole lines of a file. A piece of one, as a program that is killed leaves it, is none.
fn read(path: &Path) -> io::Result<Vec<Entry>> {
    let lines = BufReader::new(File::open(path)?).split(b'\n');
    let entries = lines.map(|line| Ok(serde_json::from_slice(&line?).ok()));
    entries.filter_map(Result::transpose).collect()
}

/// The file, at its end, on a line of its own.
fn append(path: &Path) -> io::Result<File> {
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

/// A name for texts: SHA-256 of them and their lengths, in hexadecimal.
pub(crate) fn digest(texts: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut digest = Sha256::new();
    for text in texts {
        let text = text.as_ref();
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    }
    hexadecimal(&digest.finalize())
}

/// Numbers as text, which keeps every bit.
pub(crate) mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(journal: &Journal, asked: &str) -> Option<i32> {
        journal.known(asked)
    }

    #[test]
    fn findings_are_taken_up_by_the_same_run_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passkey.unfinished.jsonl");
        let open = |run: &str| Journal::open(path.clone(), run.into(), 0.0).unwrap();
        let first = open("a");
        assert!(!path.exists(), "nothing is found yet");
        first.keep("one", &1, 1.0);
        first.keep("two", &2, 2.0);
        // Cut in the middle of a line, as a machine that goes off leaves it.
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let second = open("a");
        assert_eq!(
            (known(&second, "one"), known(&second, "two")),
            (Some(1), None)
        );
        second.keep("two", &3, 1.0);
        assert_eq!(known(&open("a"), "two"), Some(3));
        assert_eq!(known(&open("b"), "one"), None);
        assert_eq!((open("a").kept(), open("b").kept()), ((2, 0), (0, 2)));
        assert!(second.failure().is_none());
        second.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn time_is_added_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.unfinished.jsonl");
        let entry = |asked: &str, seconds| Entry {
            run: "a".into(),
            asked: asked.into(),
            seconds,
            found: 1.into(),
        };
        let entries = [entry("one", 2.0), entry("two", 3.5), entry("three", 100.0)];
        let lines = entries.map(|entry| serde_json::to_string(&entry).unwrap());
        fs::write(&path, lines.join("\n")).unwrap();
        let journal = Journal::open(path, "a".into(), 0.0).unwrap();
        known(&journal, "one");
        known(&journal, "two");
        assert_eq!(journal.seconds_before(), 5.5);
        assert_eq!(journal.seconds_before(), 0.0);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told_once() {
        let path = tempfile::tempdir().unwrap().path().join("gone/x.jsonl");
        let journal = Journal::open(path, "a".into(), 0.0).unwrap();
        journal.keep("one", &1, 1.0);
        assert!(journal.failure().is_some());
        journal.keep("two", &2, 2.0);
        assert!(journal.failure().is_none());
        assert_eq!(journal.kept(), (0, 0));
    }

    #[test]
    fn digests_tell_where_texts_end() {
        assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
        assert_eq!(digest(["ab", "c"]), digest(["ab", "c"]));
    }

    #[test]
    fn numbers_keep_every_bit() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Number(#[serde(with = "exact")] f64);
        for number in [
            -17.276_419_584_372_103,
            0.1 + 0.2,
            5e-324,
            0.0,
            f64::NEG_INFINITY,
        ] {
            let text = serde_json::to_string(&Number(number)).unwrap();
            let read: Number = serde_json::from_str(&text).unwrap();
            assert_eq!(read.0.to_bits(), number.to_bits(), "{text}");
        }
    }
}
