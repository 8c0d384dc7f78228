//! `config.json` key by key: what is not asked for has to be known not to matter.

use crate::Error;
use crate::interop::import::{not_as_expected, read_bounded};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

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

/// Keys that configurations of `transformers` have besides a model's own: how texts are drawn, and how files are
/// written. What a model computes from its tokens depends on none.
const OF_EVERY_MODEL: &[&str] = &[
    "_commit_hash",
    "bad_words_ids",
    "begin_suppress_tokens",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_p",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "prefix",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "transformers.js_config",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
];

/// Keys of every model that would change what it computes, were they not off.
const OFF: &[&str] = &["add_cross_attention", "is_decoder", "tie_encoder_decoder"];

/// Parts of the names of keys that change what a model computes, so that nobody is told to ignore one.
const MATTER: &[&str] = &[
    "act",
    "alibi",
    "attn",
    "attention",
    "bias",
    "block",
    "cap",
    "clip",
    "conv",
    "expert",
    "gate",
    "head",
    "layer",
    "lora",
    "mamba",
    "mlp",
    "moe",
    "multiplier",
    "norm",
    "parallel",
    "position",
    "qk",
    "quant",
    "residual",
    "rope",
    "rotary",
    "router",
    "scal",
    "sliding",
    "soft",
    "sparse",
    "ssm",
    "swa",
    "theta",
    "tie",
    "window",
];

/// The keys that nobody asked for yet.
pub(super) struct Keys {
    path: PathBuf,
    left: Map<String, Value>,
    ignored: Vec<String>,
    /// Their place, in messages: `attn_config.`.
    within: String,
    /// All that is wrong with the file, so that it is said in one go.
    problems: Rc<RefCell<Vec<(String, String)>>>,
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
            problems: Rc::default(),
        })
    }

    /// The value of a key; `None` where it is absent or null.
    pub(super) fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, Error> {
        match self.left.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let got = value.to_string();
                match serde_json::from_value(value) {
                    Ok(parsed) => Ok(Some(parsed)),
                    Err(error) => {
                        self.problem(key, &kind(&error), &got);
                        Ok(None)
                    }
                }
            }
        }
    }

    /// The value of a key; where it is missing or of another kind, that is a problem, and a zero goes on.
    pub(super) fn need<T: DeserializeOwned + Default>(&mut self, key: &str) -> Result<T, Error> {
        if self.left.get(key).is_none_or(Value::is_null) {
            self.problem(key, "a value", "none");
        }
        Ok(self.take(key)?.unwrap_or_default())
    }

    /// An object's keys; none where it is absent.
    pub(super) fn object(&mut self, key: &str) -> Result<Self, Error> {
        let left = self.take(key)?.unwrap_or_default();
        Ok(Self {
            path: self.path.clone(),
            left,
            ignored: self.ignored.clone(),
            within: format!("{}{key}.", self.within),
            problems: Rc::clone(&self.problems),
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
                let expected = format!("{expected} (others are not supported)");
                self.problem(key, &expected, &value.to_string());
                Ok(())
            }
        }
    }

    /// The same where the value follows from other keys, of which some are missing unless it is `known`.
    pub(super) fn only_known(&mut self, key: &str, known: bool, value: Value) -> Result<(), Error> {
        if known {
            return self.only(key, &[value]);
        }
        self.left.remove(key);
        Ok(())
    }

    /// A key that has to say what the tensors do.
    pub(super) fn as_held(&mut self, key: &str, stated: bool, held: bool, ending: &str) {
        if stated != held {
            let are = if held { "are" } else { "are no" };
            let expected = format!("{held}, for there {are} tensors …{ending}");
            self.problem(key, &expected, &stated.to_string());
        }
    }

    /// Whatever is left must not matter.
    pub(super) fn finish(&self) -> Result<(), Error> {
        for (key, value) in &self.left {
            let name = key.as_str();
            let harmless = HARMLESS.contains(&name)
                || OF_EVERY_MODEL.contains(&name)
                || (OFF.contains(&name) && *value == Value::Bool(false))
                || self.ignored.contains(key);
            let empty = match value {
                Value::Array(several) => several.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                value => value.is_null(),
            };
            if harmless || empty {
                continue;
            }
            let matters = MATTER.iter().any(|part| key.contains(part));
            let expected = match matters {
                true => "no such setting (it is not supported, and models differ by it)".to_owned(),
                false => format!(
                    "a setting that is known, or --ignore-key {key} where it does not matter"
                ),
            };
            self.problem(key, &expected, &value.to_string());
        }
        Ok(())
    }

    /// The outcome of reading the file, unless something is wrong with it: then all that is.
    pub(super) fn judged<T>(&self, read: Result<T, Error>) -> Result<T, Error> {
        let mut problems = self.problems.take();
        let Some((mut expected, mut got)) = problems.pop() else {
            return read;
        };
        for (before, what) in problems.iter().rev() {
            expected = format!("{before}, got {what}; {expected}");
        }
        // Of values that were replaced by zeros, nothing more is said.
        if let Err(Error::File {
            expected: more,
            got: last,
            ..
        }) = read
        {
            expected = format!("{expected}, got {got}; {more}");
            got = last;
        }
        Err(not_as_expected(&self.path, expected, got))
    }

    fn problem(&self, key: &str, expected: &str, got: &str) {
        let place = format!("{}{key}: {expected}", self.within);
        self.problems.borrow_mut().push((place, shortened(got)));
    }

    pub(super) fn wrong(&self, key: &str, expected: &str, got: &str) -> Error {
        let place = format!("{}{key}: {expected}", self.within);
        not_as_expected(&self.path, place, shortened(got))
    }
}

fn shortened(got: &str) -> String {
    const LONGEST: usize = 200;
    got[..got.floor_char_boundary(LONGEST)].to_owned()
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
