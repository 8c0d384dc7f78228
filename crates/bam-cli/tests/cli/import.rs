//! `import`: models of other programs.

use crate::program::{FAILED, args, fail, refuses, succeed};
use crate::tensors::{self, Tensor, Tensors};
use crate::workshop::Workshop;
use safetensors::Dtype;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub fn library_tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bam-lm/tests")
}

/// A folder with a copy of a case's model, to be spoiled, and beside it what is imported.
pub struct Shop {
    pub folder: TempDir,
}

impl Shop {
    pub fn new(case: &str) -> Self {
        let shop = Self {
            folder: TempDir::new().unwrap(),
        };
        fs::create_dir(shop.hf()).unwrap();
        for entry in fs::read_dir(library_tests().join("hf").join(case)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, shop.hf().join(path.file_name().unwrap())).unwrap();
        }
        shop
    }

    pub fn hf(&self) -> PathBuf {
        self.folder.path().join("hf")
    }

    pub fn out(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    pub fn import(&self) -> Vec<OsString> {
        args!["import hf {} --out {}", self.hf(), self.out()]
    }

    /// Refused, and nothing is left behind.
    pub fn refused(&self, named: &[&str]) {
        refuses(self.folder.path(), &self.import(), named);
        assert!(!self.out().exists());
    }

    pub fn weights(&self) -> PathBuf {
        self.hf().join("model.safetensors")
    }

    pub fn with_weights(&self, spoil: impl Fn(&mut Tensors), named: &[&str]) {
        let whole = fs::read(self.weights()).unwrap();
        let mut spoiled = tensors::read(&self.weights());
        spoil(&mut spoiled);
        tensors::write(&self.weights(), &spoiled);
        self.refused(named);
        fs::write(self.weights(), whole).unwrap();
    }

    pub fn with_json(&self, file: &str, change: impl Fn(&mut serde_json::Value), named: &[&str]) {
        let path = self.hf().join(file);
        let whole = fs::read(&path).unwrap();
        let mut value = serde_json::from_slice(&whole).unwrap();
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
        self.refused(named);
        fs::write(path, whole).unwrap();
    }
}

/// The largest difference of the program's logits of an imported model from those of `transformers`.
fn error(shop: &Shop) -> f32 {
    let io = tensors::read(&shop.hf().join("io.safetensors"));
    let path = |name| shop.folder.path().join(name);
    let (tokens, out) = (path("tokens.safetensors"), path("logits.safetensors"));
    tensors::write(
        &tokens,
        &Tensors::from([("tokens".into(), io["tokens"].clone())]),
    );
    succeed(&args![
        "logits {} --tokens {} --out {}",
        shop.out(),
        tokens,
        out
    ]);
    let (ours, theirs) = (
        tensors::read(&out)["logits"].floats(),
        io["logits"].floats(),
    );
    let differences = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

#[test]
fn models_of_the_hub_are_imported() {
    let mut cases = 0;
    for entry in fs::read_dir(library_tests().join("hf")).unwrap() {
        let case = entry.unwrap().path();
        if !case.is_dir() {
            continue;
        }
        cases += 1;
        let case = case.file_name().unwrap().to_str().unwrap().to_owned();
        let shop = Shop::new(&case);
        succeed(&shop.import());
        let error = error(&shop);
        assert!(error < 1e-4, "{case}: {error:e}");
        for command in [["inspect", "heads"], ["inspect", "context"]] {
            succeed(&args!["{} {} {}", command[0], command[1], shop.out()]);
        }
        succeed(&args!["doctor {}", shop.out()]);
    }
    assert_eq!(cases, 9);
}

/// Numbers of 16 bits become the same numbers of 32.
#[test]
fn half_precision_is_read_as_it_is() {
    let shop = Shop::new("llama_nope");
    let honest = tensors::read(&shop.weights());
    succeed(&shop.import());
    let whole = tensors::read(&shop.out().join("model.safetensors"));
    fs::remove_dir_all(shop.out()).unwrap();
    let halved = honest.iter().map(|(name, tensor)| {
        let bytes = tensor.floats().into_iter().flat_map(|x| {
            let bits = (x.to_bits() >> 16) as u16;
            bits.to_le_bytes()
        });
        let half = Tensor {
            dtype: Dtype::BF16,
            shape: tensor.shape.clone(),
            bytes: bytes.collect(),
        };
        (name.clone(), half)
    });
    tensors::write(&shop.weights(), &halved.collect());
    succeed(&shop.import());
    let half = tensors::read(&shop.out().join("model.safetensors"));
    for (name, tensor) in whole {
        let expected = tensor.floats().into_iter();
        let expected: Vec<f32> = expected
            .map(|x| f32::from_bits(x.to_bits() >> 16 << 16))
            .collect();
        assert_eq!(half[&name].floats(), expected, "{name}");
    }
}

/// A setting that is not computed is refused by name.
/// Memory does not follow the claims of a configuration.
/// Tokenizers made to hang or to fill all memory: refused in no time, by every command that reads one.
#[test]
fn trained_models_of_other_programs() {
    let folder = TempDir::new().unwrap();
    let weights = library_tests().join("weights");
    let (model, minbpe) = (
        folder.path().join("alilama"),
        weights.join("alilama_minbpe.model"),
    );
    let file = weights.join("alilama_alibi_batches512.safetensors");
    succeed(&args![
        "import alilama {} --tokenizer {} --out {}",
        file,
        minbpe,
        model
    ]);
    let story = succeed(&args![
        "generate {} --prompt {} --tokens 5 --temperature 0",
        model,
        " STARTSTORY Once upon a time, there was a little"
    ]);
    assert!(story.contains("a little girl named Lily."), "{story}");
    let other = folder.path().join("other");
    let words = args![
        "import alilama {} --tokenizer {} --out {}",
        file,
        file,
        other
    ];
    refuses(folder.path(), &words, &["alilama"]);
    let stories = weights.join("stories260K.bin");
    succeed(&args!["import llama2c {} --out {}", stories, other]);
    succeed(&args!["inspect heads {}", other]);
    let words = args![
        "import llama2c {} --out {}",
        minbpe,
        folder.path().join("third")
    ];
    refuses(folder.path(), &words, &["alilama_minbpe.model"]);
}

/// A recipe asks for a design as an import does.
#[test]
fn recipes_ask_for_designs() {
    let shop = Workshop::new();
    let design = "model.design={ norm = \"layer\", activation = \"gelu\", gated = false, attention_bias = true, \
                  feed_forward_bias = true, embedding_norm = true, tied_head = true, clip_qkv = 3.0, \
                  attention_residual = \"normed\" }";
    succeed(&shop.train("model", &["train.steps=3", design]));
    let model = shop.path("model");
    succeed(&args![
        "generate {} --prompt {} --tokens 2",
        model,
        "the river"
    ]);
    let weights = tensors::read(&model.join("model.safetensors"));
    assert!(!weights.contains_key("output.weight"));
    for name in [
        "layers.1.attention.wo.bias",
        "embedding_norm.bias",
        "layers.0.feed_forward.w2.bias",
    ] {
        assert!(
            weights[name].floats().iter().any(|x| *x != 0.0),
            "{name} did not learn"
        );
    }
}

/// All that is wrong with a configuration is said in one go, and its place once; what matters is not advised away.
#[test]
fn a_configurations_problems_are_told_together() {
    let shop = Shop::new("llama_nope");
    shop.with_json(
        "config.json",
        |config| {
            let config = config.as_object_mut().unwrap();
            config.insert("hidden_act".into(), "relu".into());
            config.insert(
                "rope_scaling".into(),
                serde_json::json!({"type": "linear", "factor": 2.0}),
            );
            config.insert("logit_scale".into(), 0.5.into());
            config.insert("favourite_colour".into(), "blue".into());
            config.remove("vocab_size");
        },
        &[
            "hidden_act: \"silu\" or none (others are not supported), got \"relu\"",
            "rope_scaling.factor: no such setting",
            "rope_scaling.type: \"default\" or none",
            "vocab_size: a value, got none",
            "logit_scale: no such setting (it is not supported, and models differ by it), got 0.5",
            "--ignore-key favourite_colour",
        ],
    );
    // Nothing follows from what is missing, and biases are among the problems that are told together.
    let shop_of_biases = Shop::new("llama_nope");
    let path = shop_of_biases.hf().join("config.json");
    let whole = fs::read_to_string(&path).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&whole).unwrap();
    let fields = config.as_object_mut().unwrap();
    for (key, value) in [
        ("attention_bias", true.into()),
        ("mlp_bias", true.into()),
        ("hidden_act", "gelu".into()),
        ("head_dim", 8.into()),
    ] {
        fields.insert(key.into(), value);
    }
    fields.remove("hidden_size");
    fs::write(&path, config.to_string()).unwrap();
    let message = fail(FAILED, &shop_of_biases.import());
    for named in [
        "hidden_size: a value, got none",
        "hidden_act",
        "attention_bias: false, for there are no tensors",
        "mlp_bias: false, for there are no tensors",
    ] {
        assert!(message.contains(named), "{named}: {message}");
    }
    assert!(!message.contains("head_dim"), "{message}");
    Shop::new("llama_biases_tied").with_json(
        "config.json",
        |config| config["attention_bias"] = false.into(),
        &["attention_bias: true, for there are tensors"],
    );
    // Files of Windows tools begin with a mark, and Python writes numbers that JSON has not.
    let path = shop.hf().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let marked = format!(
        "\u{feff}{}",
        text.replacen('{', "{\"initializer_range\": NaN,", 1)
    );
    fs::write(&path, marked).unwrap();
    succeed(&shop.import());
}

/// Settings of generation and of files, which every configuration of transformers may have, change no logits.
#[test]
fn settings_of_every_model_do_not_matter() {
    let shop = Shop::new("llama_nope");
    let path = shop.hf().join("config.json");
    let whole = fs::read(&path).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&whole).unwrap();
    let with = |more: serde_json::Value| {
        let mut config = config.clone();
        let fields = config.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        fs::write(&path, config.to_string()).unwrap();
    };
    with(serde_json::json!({
        "torchscript": false, "temperature": 1.0, "top_p": 0.9, "num_beams": 1, "repetition_penalty": 1.1,
        "pruned_heads": {}, "tie_encoder_decoder": false, "is_decoder": false, "task_specific_params": null,
        "bad_words_ids": null, "sep_token_id": null, "transformers.js_config": {}, "unsloth_version": "2025.1",
        "quantization_config": null,
    }));
    succeed(&shop.import());
    for (key, value) in [
        ("pruned_heads", serde_json::json!({"0": [1]})),
        ("is_decoder", true.into()),
        (
            "quantization_config",
            serde_json::json!({"load_in_4bit": true}),
        ),
    ] {
        with(serde_json::json!({key: value}));
        refuses(
            shop.folder.path(),
            &args![
                "import hf {} --out {}",
                shop.hf(),
                shop.folder.path().join("other")
            ],
            &[key],
        );
    }
}
