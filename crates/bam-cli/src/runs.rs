//! A model's folder: weights, tokenizer, records.

use crate::{device, ranks};
use anyhow::Context;
use bam_data::atomic_file::{NewFile, NewFolder, write_atomically};
use bam_data::{ChatTemplates, TOKENIZER_FILE, Tokenizer};
use bam_lm::interop::export::hf;
use bam_lm::model::Transformer;
use bam_lm::model::checkpoint::{CONFIG_FILE, place, read_json, replace};
use bam_record::{Record, RunRecords};
use burn::tensor::Device;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

pub const PASSKEY: &str = "passkey.json";
pub const PERPLEXITY: &str = "perplexity.json";
pub const HEADS: &str = "heads.json";
pub const LOGLIKELIHOOD: &str = "loglikelihood.json";
pub const UPCYCLE: &str = "upcycle.json";
pub const RULER: &str = "ruler.json";
pub const BABILONG: &str = "babilong.json";
pub const SYNTHETIC: &str = "synthetic.json";

/// Reads a folder's model for inference.
pub fn load_model(dir: &Path, device: &Device) -> anyhow::Result<Transformer> {
    Ok(Transformer::load(dir, device)?)
}

/// Reads a folder's tokenizer and checks that it is the model's size.
pub fn load_tokenizer(dir: &Path, model: &Transformer) -> anyhow::Result<Tokenizer> {
    let path = dir.join(TOKENIZER_FILE);
    let tokenizer = Tokenizer::from_file(&path)?;
    ensure_fits(&path.display().to_string(), &tokenizer, model)?;
    Ok(tokenizer)
}

/// Refuses a tokenizer with tokens that the model does not have.
pub fn ensure_fits(what: &str, tokenizer: &Tokenizer, model: &Transformer) -> anyhow::Result<()> {
    let (tokens, rows) = (tokenizer.vocabulary_size(), model.config().vocabulary);
    anyhow::ensure!(
        tokens <= rows,
        "{what}: expected at most the model's {rows} tokens, got {tokens}"
    );
    Ok(())
}

/// Files of a model's folder besides its configuration and weights: those that others need to read
/// text with it. Records of evaluations and of training are not: they are of one model only.
const COMPANIONS: [&str; 10] = [
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];

/// Copies what belongs to a model's folder, as far as it is there.
pub fn copy_companions(from: &Path, to: &Path) -> anyhow::Result<()> {
    let code = hf::CODE.map(|(name, _)| name);
    let mut names: Vec<_> = COMPANIONS
        .into_iter()
        .chain(code)
        .map(PathBuf::from)
        .collect();
    names.retain(|name| from.join(name).is_file());
    let further = ChatTemplates::further(from)?.into_iter();
    names.extend(further.map(|(_, name)| name));
    for name in names {
        copy(from, &name, to)?;
    }
    Ok(())
}

/// Copies a file to the same path in another folder.
pub fn copy(from: &Path, name: &Path, to: &Path) -> anyhow::Result<()> {
    let (path, copy) = (from.join(name), to.join(name));
    let made = copy.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::copy(&path, &copy))
        .with_context(|| format!("{}: could not copy it", path.display()))?;
    Ok(())
}

/// Writes a model that comes of the one in `source`, whose `config.json` may have fields of others'
/// making; they are kept.
pub fn save_model(model: &Transformer, source: &Path, dir: &Path) -> anyhow::Result<()> {
    let mut config = read_object(&place(source, CONFIG_FILE))?;
    if let Value::Object(fields) = serde_json::to_value(model.config_file())? {
        config.extend(fields);
    }
    let config = serde_json::to_vec_pretty(&config)?;
    Ok(replace(dir, &config, model.to_tensors())?)
}

/// A JSON object with all of its fields.
pub fn read_object(path: &Path) -> anyhow::Result<Map<String, Value>> {
    Ok(read_json(path, "a JSON object")?)
}

/// A text file's text.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    bam_data::read_text(path).with_context(|| format!("{}: could not read it", path.display()))
}

/// Refuses a name that no file can be written under, before the work that is to be written.
pub fn ensure_writable(path: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        path.is_file() || !path.exists(),
        "{}: expected the name of a file to write, got {}",
        path.display(),
        if path.is_dir() {
            "a folder"
        } else {
            "what is no file"
        }
    );
    // Begun as the file itself is later, and dropped.
    let trial = NewFile::create(path).map(drop);
    trial.with_context(|| format!("{}: could not write it", path.display()))
}

/// Refuses a folder that holds something.
pub fn ensure_new(dir: &Path) -> anyhow::Result<()> {
    let occupied = std::fs::read_dir(dir).is_ok_and(|mut files| files.next().is_some());
    anyhow::ensure!(
        !occupied && !dir.is_file(),
        "{}: expected a new folder, got {}",
        dir.display(),
        if occupied {
            "one that is not empty"
        } else {
            "a file"
        }
    );
    Ok(())
}

/// Makes a folder whole or not at all: it is filled under a temporary name and renamed.
///
/// # Errors
/// If it exists and is not empty, or can't be filled; nothing is left behind then.
pub fn new_folder(
    dir: &Path,
    fill: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    ensure_new(dir)?;
    let could_not = |what: &str| format!("{}: could not {what}", dir.display());
    let new = NewFolder::create(dir).with_context(|| could_not("create it"))?;
    fill(new.path())?;
    new.finish()
        .with_context(|| could_not("rename it into place"))
}

/// The time, RFC 3339.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}

/// The version of the program, with the commit where it is known.
pub fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match env!("BAM_COMMIT") {
        "" => version.to_owned(),
        commit => format!("{version} ({commit})"),
    }
}

/// Wraps an evaluation's numbers with what they are of.
fn record<M>(
    model: &Transformer,
    seed: u64,
    seconds: f64,
    metrics: M,
) -> anyhow::Result<Record<M>> {
    Ok(Record {
        name: model.config().encoding.to_string(),
        created: now(),
        commit: version(),
        seed,
        model: serde_json::to_value(model.config())?,
        threads: rayon::current_num_threads(),
        device: Some(device::in_use().unwrap_or_default().to_string()),
        seconds,
        metrics,
    })
}

/// Writes an evaluation's record, on the first rank, and gives it back.
pub fn write_record<M: Serialize>(
    path: &Path,
    model: &Transformer,
    seed: u64,
    seconds: f64,
    metrics: M,
) -> anyhow::Result<Record<M>> {
    let record = record(model, seed, seconds, metrics)?;
    if ranks::leads() {
        write_json(path, &record)?;
    }
    Ok(record)
}

/// Names of models side by side: those of one encoding are told apart by their folders, and a folder that comes
/// again by its number.
pub fn told_apart<'a>(named: impl Iterator<Item = (&'a str, &'a Path)>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (name, dir) in named {
        let in_folder = format!("{name} ({})", dir.display());
        let numbered = (2..).map(|number| format!("{in_folder} {number}"));
        let mut possible = [name.to_owned(), in_folder.clone()]
            .into_iter()
            .chain(numbered);
        names.extend(possible.find(|possible| !names.contains(possible)));
    }
    names
}

/// Writes a value as JSON, whole or not at all.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
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
        synthetic: read_if_there(&dir.join(SYNTHETIC))?,
        ruler: read_if_there(&dir.join(RULER))?,
    })
}

fn read_if_there<M: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<Record<M>>> {
    match path.exists() {
        false => Ok(None),
        true => Ok(Some(read_json(path, "a record")?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_models_have_one_name() {
        let named = [
            ("bam", "a"),
            ("bam", "b"),
            ("alibi", "c"),
            ("bam", "b"),
            ("bam", "b"),
        ];
        let names = told_apart(named.into_iter().map(|(name, dir)| (name, Path::new(dir))));
        let expected = ["bam", "bam (b)", "alibi", "bam (b) 2", "bam (b) 3"];
        assert_eq!(names, expected);
    }
}
