//! A run's folder: metrics, checkpoints, and the finished model.
//!
//! ```text
//! recipe.toml  tokenizer.json  metrics.jsonl  metrics.csv
//! checkpoint-00000100/   config.json model.safetensors tokenizer.json optimizer.safetensors state.json
//! config.json  model.safetensors                          (the finished model)
//! ```
//!
//! A checkpoint is written under a temporary name and renamed, so one that has its name is whole. A
//! run that is killed loses at most the steps since the last one and repeats them to the same bits.

use super::recipe::Recipe;
use super::trainer::Trainer;
use crate::Error;
use crate::model::Transformer;
use crate::model::checkpoint::{WEIGHTS_FILE, read_json, read_tensors, write_tensors};
use bam_data::atomic_file::{NewFolder, sweep, write_atomically};
use bam_data::{TOKENIZER_FILE, Tokenizer, sha256_of};
use bam_record::TrainingStep;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const RECIPE_FILE: &str = "recipe.toml";
const METRICS_FILE: &str = "metrics.jsonl";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const STATE_FILE: &str = "state.json";
const CHECKPOINT: &str = "checkpoint-";

/// The folder of one run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    dir: PathBuf,
}

/// The state of a checkpoint besides tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct State {
    step: u64,
    /// SHA-256 of the files of tensors, by name; checkpoints of earlier versions have none.
    #[serde(default)]
    sha256: BTreeMap<String, String>,
}

/// The end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were taken and the model is in the folder.
    Finished,
    /// It was asked to stop; a checkpoint holds the step it had reached.
    Stopped,
}

impl RunFolder {
    /// A new run's folder.
    ///
    /// # Errors
    /// If the folder exists and is not empty, or can't be written.
    pub fn create(dir: &Path, recipe: &Recipe, tokenizer: &Tokenizer) -> Result<Self, Error> {
        let occupied = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
        if occupied {
            return Err(Error::File {
                path: dir.to_owned(),
                expected: "a new folder for the run, or --resume".into(),
                got: "one that is not empty".into(),
            });
        }
        fs::create_dir_all(dir).map_err(Error::io(dir, "create it"))?;
        tokenizer.save_into(dir)?;
        // The recipe comes last: a folder that has one is a run.
        write_atomically(&dir.join(RECIPE_FILE), recipe.to_toml().as_bytes())?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// The folder of a run that was begun, with its recipe and tokenizer.
    ///
    /// # Errors
    /// If it holds no run.
    pub fn open(dir: &Path) -> Result<(Self, Recipe, Tokenizer), Error> {
        let path = dir.join(RECIPE_FILE);
        let text = bam_data::read_text(&path).map_err(Error::io(&path, "read it"))?;
        let recipe = Recipe::from_toml(&text, &[], &path)?;
        let tokenizer = Tokenizer::from_file(&dir.join(TOKENIZER_FILE))?;
        Ok((
            Self {
                dir: dir.to_owned(),
            },
            recipe,
            tokenizer,
        ))
    }

    /// The folder of a run that another rank creates or has opened.
    #[must_use]
    pub fn of_another_rank(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self { dir }
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts the trainer where the latest checkpoint left it and drops later metrics and what a killed
    /// run left of a checkpoint; gives back the step. A run without a checkpoint starts at 0.
    ///
    /// Ranks all read the checkpoint, and it must be the same one; rank 0 alone drops.
    ///
    /// # Errors
    /// If the checkpoint is broken, or another one on some rank.
    pub fn restore(&self, trainer: &mut Trainer) -> Result<u64, Error> {
        let ranks = Arc::clone(&trainer.workers.ranks);
        let latest = self.checkpoints()?.pop();
        let mut state = "none".to_owned();
        if let Some((_, dir)) = &latest {
            let path = dir.join(STATE_FILE);
            let of: State = read_json(&path, "a checkpoint's state")?;
            for (name, expected) in &of.sha256 {
                let (path, expected) = (dir.join(name), format!("a file of SHA-256 {expected}"));
                let got = format!("a file of SHA-256 {}", sha256_of(&[&path])?);
                if got != expected {
                    return Err(Error::File {
                        path,
                        expected,
                        got,
                    });
                }
            }
            state = serde_json::to_string(&of).expect("a state is plain data");
            let device = trainer.model.device();
            let path = dir.join(OPTIMIZER_FILE);
            let optimizer = (read_tensors(&path)?, &*path);
            trainer.restore(of.step, Transformer::load(dir, &device)?, optimizer)?;
        }
        // Its hashes are in its state, so equal states are equal checkpoints.
        ranks.same("the latest checkpoint", &state)?;
        if !ranks.leads() {
            return Ok(trainer.step);
        }
        sweep(&self.dir, |name| name.starts_with(CHECKPOINT))?;
        let metrics = self.dir.join(METRICS_FILE);
        let text = read_complete_lines(&metrics)?;
        // Lines are kept as they stand: a number that is read and written again can lose its last bit.
        let kept: String = text
            .split_inclusive('\n')
            .zip(parse_lines(&text, &metrics)?)
            .filter(|(_, line)| line.step <= trainer.step)
            .map(|(text, _)| text)
            .collect();
        write_atomically(&metrics, kept.as_bytes())?;
        Ok(trainer.step)
    }

    /// Trains to the end, or until `stop` says so, with metrics every step and checkpoints at the
    /// recipe's interval. Of several ranks all call it, rank 0 alone writes, and all stop where one is told to.
    ///
    /// # Errors
    /// If a step fails or something can't be written, on the rank where it does. Checkpoints stay as they are.
    pub fn train(
        &self,
        trainer: &mut Trainer,
        clock: impl Fn() -> f64,
        stop: impl Fn() -> bool,
        mut progress: impl FnMut(&TrainingStep),
    ) -> Result<Outcome, Error> {
        let ranks = Arc::clone(&trainer.workers.ranks);
        let path = self.dir.join(METRICS_FILE);
        let mut options = fs::OpenOptions::new();
        let open = || options.create(true).append(true).open(&path);
        let metrics = ranks.leads().then(open).transpose();
        let mut metrics = metrics.map_err(Error::io(&path, "open it"))?;
        let interval = trainer.recipe.train.checkpoint_every;
        while !trainer.finished() {
            let line = trainer.advance(&clock)?;
            if let Some(metrics) = &mut metrics {
                metrics
                    .write_all(json_line(&line).as_bytes())
                    .map_err(Error::io(&path, "write it"))?;
            }
            progress(&line);
            let stopping = ranks.any(stop());
            if stopping || trainer.step.is_multiple_of(interval) || trainer.finished() {
                self.checkpoint(trainer)?;
            }
            if stopping && !trainer.finished() {
                return Ok(Outcome::Stopped);
            }
        }
        if ranks.leads() {
            let csv = csv(&self.metrics()?);
            write_atomically(&self.dir.join("metrics.csv"), csv.as_bytes())?;
            trainer.model.save(&self.dir)?;
        }
        // Whoever goes on finds the model.
        ranks.wait();
        Ok(Outcome::Finished)
    }

    /// The metrics so far.
    ///
    /// # Errors
    /// Those of [`read_metrics`].
    pub fn metrics(&self) -> Result<Vec<TrainingStep>, Error> {
        read_metrics(&self.dir.join(METRICS_FILE))
    }

    /// Made by all ranks; rank 0 writes.
    fn checkpoint(&self, trainer: &Trainer) -> Result<(), Error> {
        let ranks = &*trainer.workers.ranks;
        if ranks.are_several() {
            let found = fingerprint(&trainer.model).to_string();
            ranks.same("the fingerprint of its model", &found)?;
        }
        let optimizer = trainer.optimizer_tensors();
        let name = format!("{CHECKPOINT}{:08}", trainer.step);
        let dir = self.dir.join(&name);
        if !ranks.leads() || dir.exists() {
            return Ok(());
        }
        let new = NewFolder::create(&dir).map_err(Error::io(&dir, "create it"))?;
        trainer.model.save(new.path())?;
        write_tensors(&new.path().join(OPTIMIZER_FILE), optimizer)?;
        Tokenizer::from_file(&self.dir.join(TOKENIZER_FILE))?.save_into(new.path())?;
        let files = [WEIGHTS_FILE, OPTIMIZER_FILE].into_iter();
        let sums = files.map(|name| Ok((name.into(), sha256_of(&[new.path().join(name)])?)));
        let state = State {
            step: trainer.step,
            sha256: sums.collect::<Result<_, Error>>()?,
        };
        let state = serde_json::to_vec(&state).expect("a state is plain data");
        write_atomically(&new.path().join(STATE_FILE), &state)?;
        let older = self.checkpoints()?;
        new.finish()
            .map_err(Error::io(&dir, "rename it into place"))?;
        for (_, path) in older {
            fs::remove_dir_all(&path).map_err(Error::io(&path, "remove it"))?;
        }
        Ok(())
    }

    /// Whole checkpoints, by step.
    fn checkpoints(&self) -> Result<Vec<(u64, PathBuf)>, Error> {
        let entries = fs::read_dir(&self.dir).map_err(Error::io(&self.dir, "list it"))?;
        let mut found: Vec<(u64, PathBuf)> = entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let step = path
                    .file_name()?
                    .to_str()?
                    .strip_prefix(CHECKPOINT)?
                    .parse()
                    .ok()?;
                Some((step, path))
            })
            .collect();
        found.sort();
        Ok(found)
    }
}

/// A number that differs where models do: ranks that drifted apart, by a fault or by unlike machines, are found by it.
fn fingerprint(model: &Transformer) -> u64 {
    let tensors: BTreeMap<_, _> = model.to_tensors().into_iter().collect();
    let mut hasher = DefaultHasher::new();
    let values = tensors.values().flat_map(|(_, values)| values);
    values.for_each(|value| hasher.write_u32(value.to_bits()));
    hasher.finish()
}

/// The lines of a `metrics.jsonl`; none where there is no file. A last line that a killed run left
/// half-written is not one.
///
/// # Errors
/// If the file can't be read, or is broken before its last line.
pub fn read_metrics(path: &Path) -> Result<Vec<TrainingStep>, Error> {
    parse_lines(&read_complete_lines(path)?, path)
}

fn read_complete_lines(path: &Path) -> Result<String, Error> {
    let mut text = match bam_data::read_text(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        text => text.map_err(Error::io(path, "read it"))?,
    };
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    Ok(text)
}

fn parse_lines(text: &str, path: &Path) -> Result<Vec<TrainingStep>, Error> {
    text.lines()
        .map(|line| {
            serde_json::from_str(line).map_err(|error| Error::File {
                path: path.to_owned(),
                expected: "one JSON object per line".into(),
                got: error.to_string(),
            })
        })
        .collect()
}

fn json_line(line: &TrainingStep) -> String {
    serde_json::to_string(line).expect("metrics are plain data") + "\n"
}

/// A table that trackers import: a `step` column and one per number.
fn csv(lines: &[TrainingStep]) -> String {
    let mut csv = "step,tokens,loss,learning_rate,gradient_norm,tokens_per_second,\
                   validation_loss,validation_bits_per_byte\n"
        .to_owned();
    for line in lines {
        let optional = |number: Option<f64>| number.map(|x| x.to_string()).unwrap_or_default();
        csv += &format!(
            "{},{},{},{},{},{},{},{}\n",
            line.step,
            line.tokens,
            line.loss,
            line.learning_rate,
            line.gradient_norm,
            line.tokens_per_second,
            optional(line.validation_loss),
            optional(line.validation_bits_per_byte)
        );
    }
    csv
}
