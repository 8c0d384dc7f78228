//! A model's folder: weights, tokenizer, records.

use bam_lm::data::Tokenizer;
use bam_lm::model::Transformer;
use bam_lm::model::checkpoint::{read_json, write_atomically};
use bam_lm::record::{Record, RunRecords};
use burn::tensor::Device;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

pub const PASSKEY: &str = "passkey.json";
pub const PERPLEXITY: &str = "perplexity.json";
pub const HEADS: &str = "heads.json";
pub const LOGLIKELIHOOD: &str = "loglikelihood.json";
pub const RULER: &str = "ruler.json";
pub const BABILONG: &str = "babilong.json";

/// Reads a folder's model for inference.
pub fn load_model(dir: &Path) -> anyhow::Result<Transformer> {
    Ok(Transformer::load(dir, &Device::flex())?)
}

/// Reads a folder's tokenizer and checks that it is the model's size.
pub fn load_tokenizer(dir: &Path, model: &Transformer) -> anyhow::Result<Tokenizer> {
    let path = dir.join("tokenizer.json");
    let tokenizer = Tokenizer::from_file(&path)?;
    anyhow::ensure!(
        tokenizer.vocabulary_size() <= model.config().vocabulary,
        "{}: expected at most the model's {} tokens, got {}",
        path.display(),
        model.config().vocabulary,
        tokenizer.vocabulary_size()
    );
    Ok(tokenizer)
}

/// Wraps an evaluation's numbers with what they are of.
fn record<M>(
    model: &Transformer,
    seed: u64,
    seconds: f64,
    metrics: M,
) -> anyhow::Result<Record<M>> {
    let commit = env!("BAM_COMMIT");
    let version = env!("CARGO_PKG_VERSION");
    Ok(Record {
        name: model.config().encoding.to_string(),
        created: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
        commit: match commit {
            "" => version.to_owned(),
            commit => format!("{version} ({commit})"),
        },
        seed,
        model: serde_json::to_value(model.config())?,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        seconds,
        metrics,
    })
}

/// Writes an evaluation's record, and gives it back.
pub fn write_record<M: Serialize>(
    path: &Path,
    model: &Transformer,
    seed: u64,
    seconds: f64,
    metrics: M,
) -> anyhow::Result<Record<M>> {
    let record = record(model, seed, seconds, metrics)?;
    write_json(path, &record)?;
    Ok(record)
}

/// Names of models side by side: those of one encoding are told apart by their folders.
pub fn told_apart<'a>(named: impl Iterator<Item = (&'a str, &'a Path)>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (name, dir) in named {
        names.push(match names.iter().any(|other| other == name) {
            true => format!("{name} ({})", dir.display()),
            false => name.to_owned(),
        });
    }
    names
}

/// Writes a value as JSON, whole or not at all.
fn write_json<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let json = serde_json::to_vec_pretty(value)?;
    Ok(write_atomically(path, &json)?)
}

/// All records of a run's folder. What is missing is `None`; what is broken is an error.
pub fn read_records(dir: &Path) -> anyhow::Result<RunRecords> {
    anyhow::ensure!(
        dir.is_dir(),
        "{}: expected the folder of a run, got none",
        dir.display()
    );
    let metrics = dir.join("metrics.jsonl");
    let training = match metrics.exists() {
        false => Vec::new(),
        true => bam_lm::train::read_metrics(&metrics)?,
    };
    Ok(RunRecords {
        training,
        passkey: read_if_there(&dir.join(PASSKEY))?,
        perplexity: read_if_there(&dir.join(PERPLEXITY))?,
        heads: read_if_there(&dir.join(HEADS))?,
    })
}

fn read_if_there<M: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<Record<M>>> {
    match path.exists() {
        false => Ok(None),
        true => Ok(Some(read_json(path, "a record")?)),
    }
}
