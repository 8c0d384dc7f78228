//! Models in the layout of the Hugging Face hub: MPT, Bloom and LLaMA, as `transformers` writes them.
//!
//! A folder is data from somewhere: names are checked before files are opened, headers before anything
//! is allocated, and a setting that is not known to change nothing is an error. What a file can make us
//! allocate is bounded by its own size.

mod bloom;
mod keys;
mod layout;
mod llama;
mod mpt;
mod renaming;

use super::not_as_expected;
use crate::Error;
use crate::model::checkpoint::{INDEX_FILE, NamedTensors, TensorFiles, weight_files};
use crate::model::{ModelConfig, Transformer};
use bam_data::{ChatTemplates, Tokenizer};
use burn::tensor::Device;
use keys::Keys;
use layout::Layout;
pub use layout::Options;
use renaming::Renaming;
use std::path::{Path, PathBuf};

/// Reads a folder's model: `config.json` and safetensors, whole or in shards.
///
/// # Errors
/// If a file is missing, broken or elsewhere, the configuration asks for what we do not compute, or
/// tensors are missing, unknown, of another shape or type, or not finite.
pub fn read_model(folder: &Path, options: &Options, device: &Device) -> Result<Transformer, Error> {
    let mut keys = Keys::read(&folder.join("config.json"), &options.ignored)?;
    let model_type: Option<String> = keys.take("model_type")?;
    let model_type = model_type.unwrap_or_else(|| "none".to_owned());
    let read: Result<(ModelConfig, Box<dyn Layout>), Error> = match model_type.as_str() {
        "mpt" => mpt::read(&mut keys, options),
        "bloom" => bloom::read(&mut keys, options),
        "llama" => llama::read(&mut keys, options),
        other => return Err(keys.wrong("model_type", "mpt, bloom or llama", other)),
    };
    if read.is_ok() {
        keys.finish()?;
    }
    let files = read.as_ref().ok().map(|(config, layout)| {
        let files = open(folder, layout.prefix())?;
        for (key, stated, ending) in layout.biases(config) {
            keys.as_held(key, stated, files.any(ending), ending);
        }
        Ok::<_, Error>(files)
    });
    let read = read.and_then(|(config, layout)| Ok((config.checked()?, layout)));
    let (config, layout) = keys.judged(read)?;
    let mut files = files.expect("a layout was read")?;
    let mut tensors = NamedTensors::new();
    let mut model = Renaming::new(&mut files, &mut tensors);
    let table = [config.vocabulary, config.dim];
    model.keep(layout.embeddings(), EMBEDDINGS, &table, false)?;
    layout.rename(&config, &mut model)?;
    head(&config, layout.embeddings(), &mut files, &mut tensors)?;
    files.finish(&model_type)?;
    config.with_tensors(tensors, folder, device)
}

/// A folder's tensors, all in the folder itself.
fn open(folder: &Path, prefix: &str) -> Result<TensorFiles, Error> {
    let index = folder.join(INDEX_FILE);
    if index.exists() {
        lies_inside(folder, &index)?;
    }
    for file in weight_files(folder)? {
        lies_inside(folder, &file)?;
    }
    TensorFiles::open(folder, prefix)
}

/// Reads the folder's `tokenizer.json`, if it has one.
///
/// # Errors
/// If the file lies elsewhere or is no tokenizer that we use.
pub fn read_tokenizer(folder: &Path) -> Result<Option<Tokenizer>, Error> {
    const NAME: &str = "tokenizer.json";
    match folder.join(NAME).symlink_metadata() {
        Err(_) => Ok(None),
        Ok(_) => {
            companions(folder)?;
            let path = folder.join(NAME);
            lies_inside(folder, &path)?;
            Ok(Some(Tokenizer::from_file(&path)?))
        }
    }
}

/// Files in which a model of the hub says how it is talked to.
const COMPANIONS: [&str; 5] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Files of a folder, by their paths in it, that say how its model is talked to: settings of the tokenizer and
/// of generation, chat templates.
///
/// # Errors
/// If one lies elsewhere.
pub fn companions(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = COMPANIONS.map(PathBuf::from).to_vec();
    let further = ChatTemplates::further(folder)?.into_iter();
    found.extend(further.map(|(_, name)| name));
    found.retain(|name| folder.join(name).symlink_metadata().is_ok());
    for name in &found {
        lies_inside(folder, &folder.join(name))?;
    }
    Ok(found)
}

/// Takes the head; one that is tied may be spelled out as well, and has to be the embeddings then.
fn head(
    config: &ModelConfig,
    embeddings: &str,
    files: &mut TensorFiles,
    tensors: &mut NamedTensors,
) -> Result<(), Error> {
    const HEAD: &str = "lm_head.weight";
    let shape = [config.vocabulary, config.dim];
    if !config.design.tied_head {
        let values = files.take(HEAD, &shape)?;
        tensors.insert("output.weight".to_owned(), (shape.to_vec(), values));
    } else if files.has(HEAD) {
        let values = files.take(HEAD, &shape)?;
        if tensors[&format!("{EMBEDDINGS}.weight")].1 != values {
            let expected = format!("the values of {embeddings}.weight (tie_word_embeddings)");
            return Err(files.wrong(HEAD, expected, "others"));
        }
    }
    Ok(())
}

/// The name of the embeddings in our checkpoints.
const EMBEDDINGS: &str = "tok_embeddings";

/// Refuses a path of the folder that leads out of it. The hub's own cache is let through: a
/// snapshot's files there are links to `../../blobs`.
fn lies_inside(folder: &Path, path: &Path) -> Result<(), Error> {
    let resolve = |path: &Path| path.canonicalize().map_err(Error::io(path, "find it"));
    let (real, home) = (resolve(path)?, resolve(folder)?);
    let snapshots = home.parent().filter(|parent| parent.ends_with("snapshots"));
    let blobs = snapshots
        .and_then(Path::parent)
        .map(|cache| cache.join("blobs"));
    let within = [Some(home), blobs].into_iter().flatten();
    if within.into_iter().any(|home| real.starts_with(home)) && real.is_file() {
        return Ok(());
    }
    let expected = "a file in the folder itself";
    Err(not_as_expected(
        path,
        expected,
        format!("{}", real.display()),
    ))
}
