//! The differences of layouts, and all that they have in common.

use super::renaming::Renaming;
use crate::Error;
use crate::model::encoding::{Encoding, LayerEncoding, PriorKind};
use crate::model::{Design, ModelConfig, PriorScope, PriorStart};

/// Choices that `config.json` may leave open.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The position, where it is not as the configuration says: `nope`, `rotary` or `alibi`.
    pub position: Option<Encoding>,
    /// The context that the model was trained at.
    pub train_length: Option<usize>,
    /// Keys of the configuration that are said not to matter.
    pub ignored: Vec<String>,
}

/// The differences of layouts, besides the keys of their configurations.
pub trait Layout {
    /// The prefix of most tensors' names, in some files.
    fn prefix(&self) -> &'static str;

    /// The name of the embeddings, without the prefix.
    fn embeddings(&self) -> &'static str;

    /// Keys that say which biases there are: what each says, and the end of a tensor's name that tells.
    fn biases(&self, _config: &ModelConfig) -> Vec<(&'static str, bool, &'static str)> {
        Vec::new()
    }

    /// Gives everything between the embeddings and the head the names of our checkpoints.
    fn rename(&self, config: &ModelConfig, model: &mut Renaming) -> Result<(), Error>;
}

/// A configuration with what none of the layouts has.
pub fn plain_config() -> ModelConfig {
    ModelConfig {
        encoding: Encoding::from(LayerEncoding {
            position: PriorKind::Nope.into(),
            forgets: false,
            temperature: None,
        }),
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

/// The choice made instead of `usual`, if it is one of `possible`.
pub fn position(options: &Options, usual: &str, possible: &[&str]) -> Result<Encoding, Error> {
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
