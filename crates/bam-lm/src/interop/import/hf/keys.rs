//! `config.json` key by key: what is not asked for has to be known not to matter.

use crate::Error;
use crate::interop::import::{not_as_expected, read_bounded};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Larger configurations are refused before they are parsed.
const LARGEST: u64 = 1 << 20;

/// Keys that change nothing of what a trained model computes.
const HARMLESS: &[&str] = &[
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attention_softmax_in_fp32",
    "attn_implementation",
    "auto_map",
    "bias_dropout_fusion",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "emb_pdrop",
    "embedding_fraction",
    "eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "id2label",
    "init_config",
    "init_device",
    "initializer_range",
    "is_encoder_decoder",
    "label2id",
    "masked_softmax_fusion",
    "name",
    "offset_alibi",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "resid_pdrop",
    "return_dict",
    "skip_bias_add",
    "skip_bias_add_qkv",
    "slow_but_exact",
    "tokenizer_name",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_cache",
    "verbose",
];

/// The keys that nobody asked for yet.
pub(super) struct Keys {
    path: PathBuf,
    left: Map<String, Value>,
    ignored: Vec<String>,
    /// Their place, in messages: `attn_config.`.
    within: String,
}

impl Keys {
    pub(super) fn read(path: &Path, ignored: &[String]) -> Result<Self, Error> {
        let bytes = read_bounded(path, LARGEST)?;
        let parsed: Result<Map<String, Value>, _> = bam_data::parse_json(&bytes);
        let left = parsed
            .map_err(|error| not_as_expected(path, "a model configuration", error.to_string()))?;
        Ok(Self {
            path: path.to_owned(),
            left,
            ignored: ignored.to_vec(),
            within: String::new(),
        })
    }

    /// The value of a key; `None` where it is absent or null.
    pub(super) fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, Error> {
        match self.left.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let got = value.to_string();
                let parsed = serde_json::from_value(value);
                let parsed = parsed.map_err(|error| self.wrong(key, &kind(&error), &got))?;
                Ok(Some(parsed))
            }
        }
    }

    pub(super) fn need<T: DeserializeOwned>(&mut self, key: &str) -> Result<T, Error> {
        let value = self.take(key)?;
        value.ok_or_else(|| self.wrong(key, "a value", "none"))
    }

    /// An object's keys; none where it is absent.
    pub(super) fn object(&mut self, key: &str) -> Result<Self, Error> {
        let left = self.take(key)?.unwrap_or_default();
        Ok(Self {
            path: self.path.clone(),
            left,
            ignored: self.ignored.clone(),
            within: format!("{}{key}.", self.within),
        })
    }

    /// A setting that is only supported where it is absent, null, or one of these.
    pub(super) fn only(&mut self, key: &str, supported: &[Value]) -> Result<(), Error> {
        match self.left.remove(key) {
            None | Some(Value::Null) => Ok(()),
            Some(value) if supported.contains(&value) => Ok(()),
            Some(value) => {
                let supported: Vec<String> = supported.iter().map(Value::to_string).collect();
                let expected = match supported.is_empty() {
                    true => "none".to_owned(),
                    false => format!("{} or none", supported.join(", ")),
                };
                Err(self.wrong(
                    key,
                    &format!("{expected} (others are not supported)"),
                    &value.to_string(),
                ))
            }
        }
    }

    /// Whatever is left must not matter.
    pub(super) fn finish(&self) -> Result<(), Error> {
        let harmless = |key: &str| HARMLESS.contains(&key) || self.ignored.iter().any(|k| k == key);
        match self
            .left
            .iter()
            .find(|(key, value)| !harmless(key) && !value.is_null())
        {
            None => Ok(()),
            Some((key, value)) => {
                let expected = format!(
                    "a setting that is known, or --ignore-key {key} where it does not matter"
                );
                Err(self.wrong(key, &expected, &value.to_string()))
            }
        }
    }

    pub(super) fn wrong(&self, key: &str, expected: &str, got: &str) -> Error {
        const LONGEST: usize = 200;
        let mut got = got.to_owned();
        got.truncate(got.floor_char_boundary(LONGEST));
        not_as_expected(&self.path, format!("{}{key}: {expected}", self.within), got)
    }
}

/// The value expected, in words; the error of a type says it at its end.
fn kind(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let kind = text
        .rsplit_once("expected ")
        .map_or(&*text, |(_, kind)| kind);
    match kind {
        "usize" | "u64" | "u32" => "a whole number".into(),
        "f64" | "f32" => "a number".into(),
        kind => kind.into(),
    }
}
