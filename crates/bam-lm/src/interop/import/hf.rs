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
mod tensors;

use crate::Error;
use crate::model::checkpoint::NamedTensors;
use crate::model::{ModelConfig, Transformer};
use bam_data::{ChatTemplates, Tokenizer};
use burn::tensor::Device;
use keys::Keys;
use layout::Layout;
pub use layout::Options;
use renaming::Renaming;
use std::path::{Path, PathBuf};
use tensors::TensorFiles;

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
    let read = read.and_then(|(config, layout)| Ok((config.checked()?, layout)));
    let (config, layout) = keys.judged(read)?;
    let mut files = TensorFiles::open(folder, layout.prefix())?;
    let mut tensors = NamedTensors::new();
    let mut model = Renaming::new(&mut files, &mut tensors);
    let table = [config.vocabulary, config.dim];
    model.keep(layout.embeddings(), EMBEDDINGS, &table, false)?;
    layout.rename(&config, &mut model)?;
    head(&config, layout.embeddings(), &mut files, &mut tensors)?;
    files.finish(&model_type)?;
    config.with_tensors(tensors, folder, device)
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
            Ok(Some(Tokenizer::from_file(&tensors::inside(folder, NAME)?)?))
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
        tensors::lies_inside(folder, &folder.join(name))?;
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
