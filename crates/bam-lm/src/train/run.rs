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
use crate::model::checkpoint::{read_json, read_tensors, write_tensors};
use bam_data::atomic_file::{NewFolder, sweep, write_atomically};
use bam_data::{TOKENIZER_FILE, Tokenizer};
use bam_record::TrainingStep;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

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
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct State {
    step: u64,
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
        let text = fs::read_to_string(&path).map_err(Error::io(&path, "read it"))?;
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

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts the trainer where the latest checkpoint left it and drops later metrics and what a killed
    /// run left of a checkpoint; gives back the step. A run without a checkpoint starts at 0.
    ///
    /// # Errors
    /// If the checkpoint is broken.
    pub fn restore(&self, trainer: &mut Trainer) -> Result<u64, Error> {
        sweep(&self.dir, |name| name.starts_with(CHECKPOINT))?;
        if let Some((_, dir)) = self.checkpoints()?.pop() {
            let state: State = read_json(&dir.join(STATE_FILE), "a checkpoint's state")?;
            let device = trainer.model.device();
            trainer.model = (trainer.recipe.train).prepared(Transformer::load(&dir, &device)?)?;
            let path = dir.join(OPTIMIZER_FILE);
            trainer
                .optimizer
                .restore(&trainer.model, state.step, read_tensors(&path)?, &path)?;
            trainer.step = state.step;
        }
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
    /// recipe's interval.
    ///
    /// # Errors
    /// If a step fails or something can't be written. Checkpoints stay as they are.
    pub fn train(
        &self,
        trainer: &mut Trainer,
        clock: impl Fn() -> f64,
        stop: impl Fn() -> bool,
        mut progress: impl FnMut(&TrainingStep),
    ) -> Result<Outcome, Error> {
        let path = self.dir.join(METRICS_FILE);
        let mut metrics = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::io(&path, "open it"))?;
        let interval = trainer.recipe.train.checkpoint_every;
        while !trainer.finished() {
            let line = trainer.advance(&clock)?;
            metrics
                .write_all(json_line(&line).as_bytes())
                .map_err(Error::io(&path, "write it"))?;
            progress(&line);
            let stopping = stop();
            if stopping || trainer.step.is_multiple_of(interval) || trainer.finished() {
                self.checkpoint(trainer)?;
            }
            if stopping && !trainer.finished() {
                return Ok(Outcome::Stopped);
            }
        }
        write_atomically(
            &self.dir.join("metrics.csv"),
            csv(&self.metrics()?).as_bytes(),
        )?;
        trainer.model.save(&self.dir)?;
        Ok(Outcome::Finished)
    }

    /// The metrics so far.
    ///
    /// # Errors
    /// Those of [`read_metrics`].
    pub fn metrics(&self) -> Result<Vec<TrainingStep>, Error> {
        read_metrics(&self.dir.join(METRICS_FILE))
    }

    fn checkpoint(&self, trainer: &Trainer) -> Result<(), Error> {
        let name = format!("{CHECKPOINT}{:08}", trainer.step);
        let dir = self.dir.join(&name);
        if dir.exists() {
            return Ok(());
        }
        let new = NewFolder::create(&dir).map_err(Error::io(&dir, "create it"))?;
        trainer.model.save(new.path())?;
        write_tensors(
            &new.path().join(OPTIMIZER_FILE),
            trainer.optimizer.to_tensors(&trainer.model),
        )?;
        Tokenizer::from_file(&self.dir.join(TOKENIZER_FILE))?.save_into(new.path())?;
        let state =
            serde_json::to_vec(&State { step: trainer.step }).expect("a state is plain data");
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

/// The lines of a `metrics.jsonl`; none where there is no file. A last line that a killed run left
/// half-written is not one.
///
/// # Errors
/// If the file can't be read, or is broken before its last line.
pub fn read_metrics(path: &Path) -> Result<Vec<TrainingStep>, Error> {
    parse_lines(&read_complete_lines(path)?, path)
}

fn read_complete_lines(path: &Path) -> Result<String, Error> {
    let mut text = match fs::read_to_string(path) {
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
