//! Models in the layout of the Hugging Face hub: MPT, Bloom and LLaMA, as `transformers` writes them.
//!
//! A folder is data from somewhere: names are checked before files are opened, headers before anything
//! is allocated, and a setting that is not known to change nothing is an error. What a file can make us
//! allocate is bounded by its own size.

mod bloom;
mod keys;
mod llama;
mod mpt;
mod renaming;
mod tensors;

use crate::Error;
use crate::model::checkpoint::NamedTensors;
use crate::model::encoding::Encoding;
use crate::model::{Design, ModelConfig, PriorScope, PriorStart, Transformer};
use bam_data::Tokenizer;
use burn::tensor::Device;
use keys::Keys;
use renaming::Renaming;
use std::path::Path;
use tensors::TensorFiles;

/// What `config.json` may leave open.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How position enters, where it is not as the configuration says: `nope`, `rotary` or `alibi`.
    pub position: Option<Encoding>,
    /// The context that the model was trained at.
    pub train_length: Option<usize>,
    /// Keys of the configuration that are said not to matter.
    pub ignored: Vec<String>,
}

/// Reads a folder's model: `config.json` and safetensors, whole or in shards.
///
/// # Errors
/// If a file is missing, broken or elsewhere, the configuration asks for what we do not compute, or
/// tensors are missing, unknown, of another shape or type, or not finite.
pub fn read_model(folder: &Path, options: &Options, device: &Device) -> Result<Transformer, Error> {
    let mut keys = Keys::read(&folder.join("config.json"), &options.ignored)?;
    let model_type: String = keys.need("model_type")?;
    let (config, layout): (ModelConfig, Box<dyn Layout>) = match model_type.as_str() {
        "mpt" => mpt::read(&mut keys, options)?,
        "bloom" => bloom::read(&mut keys, options)?,
        "llama" => llama::read(&mut keys, options)?,
        other => return Err(keys.wrong("model_type", "mpt, bloom or llama", other)),
    };
    let config = config.checked()?;
    keys.finish()?;
    let mut files = TensorFiles::open(folder, layout.prefix())?;
    let mut tensors = NamedTensors::new();
    let mut model = Renaming::new(&mut files, &mut tensors);
    let table = [config.vocabulary, config.dim];
    model.keep(layout.embeddings(), EMBEDDINGS, &table, false)?;
    layout.rename(&config, &mut model)?;
    head(&config, layout.embeddings(), &mut files, &mut tensors)?;
    files.finish(&model_type)?;
    config.init(device).with_tensors(tensors, folder)
}

/// Reads the folder's `tokenizer.json`, if it has one.
///
/// # Errors
/// If the file lies elsewhere or is no tokenizer that we use.
pub fn read_tokenizer(folder: &Path) -> Result<Option<Tokenizer>, Error> {
    const NAME: &str = "tokenizer.json";
    match folder.join(NAME).symlink_metadata() {
        Err(_) => Ok(None),
        Ok(_) => Ok(Some(Tokenizer::from_file(&tensors::inside(folder, NAME)?)?)),
    }
}

/// What the layouts differ in, besides the keys of their configurations.
trait Layout {
    /// What the names of most tensors begin with, in some files.
    fn prefix(&self) -> &'static str;

    /// The name of the embeddings, without the prefix.
    fn embeddings(&self) -> &'static str;

    /// Gives everything between the embeddings and the head the names of our checkpoints.
    fn rename(&self, config: &ModelConfig, model: &mut Renaming) -> Result<(), Error>;
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

/// A configuration with what none of the layouts has.
fn plain_config() -> ModelConfig {
    ModelConfig {
        encoding: Encoding {
            position: crate::model::encoding::Position::Prior(Vec::new()),
            ssmax: None,
        },
        dim: 0,
        layers: 0,
        heads: 0,
        key_heads: 0,
        hidden: 0,
        vocabulary: 0,
        train_length: 0,
        norm_epsilon: 0.0,
        rotary_theta: 10_000.0,
        prior_scope: PriorScope::Global,
        prior_start: PriorStart::default(),
        ssmax_from: 0,
        design: Design::default(),
    }
}

/// What was asked for instead of `usual`, if it is one of `possible`.
fn position(options: &Options, usual: &str, possible: &[&str]) -> Result<Encoding, Error> {
    let Some(given) = &options.position else {
        return usual.parse();
    };
    match possible.contains(&given.to_string().as_str()) {
        true => Ok(given.clone()),
        false => Err(Error::Value {
            what: "position",
            expected: format!("one of {} for this layout", possible.join(", ")),
            got: given.to_string(),
        }),
    }
}
