//! `bam export`: folders for transformers, files for llama.cpp.

mod gguf;

use crate::program::{args, succeed};
use crate::tensors::{self, Tensor};
use crate::workshop::Workshop;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn logits(shop: &Workshop, model: &Path) -> Vec<f32> {
    let (tokens, out) = (
        shop.path("tokens.safetensors"),
        shop.path("logits.safetensors"),
    );
    let ids = Tensor::of_ids(&[1, 70], (0..70).map(|id| id * 37 % 300));
    tensors::write(&tokens, &BTreeMap::from([("tokens".into(), ids)]));
    succeed(&args!["logits {} --tokens {} --out {}", model, tokens, out]);
    tensors::read(&out)["logits"].floats()
}

#[test]
fn a_folder_for_transformers_is_a_model_of_ours() {
    let shop = Workshop::new();
    let (model, out) = (shop.trained_model(), shop.path("exported"));
    std::fs::write(model.join("chat_template.jinja"), "{{ messages }}").unwrap();
    succeed(&args!["export hf {} --out {}", model, out]);
    for name in [
        "sight_bam.py",
        "modeling_bam.py",
        "configuration_bam.py",
        "tokenizer.json",
        "chat_template.jinja",
    ] {
        assert!(out.join(name).is_file(), "{name}");
    }
    assert!(!out.join("metrics.jsonl").exists());
    let config = read_json(&out.join("config.json"));
    assert_eq!(
        config["auto_map"]["AutoModelForCausalLM"],
        "modeling_bam.BamForCausalLM"
    );
    assert_eq!([&config["bos_token_id"], &config["eos_token_id"]], [0, 1]);
    let specials = read_json(&out.join("special_tokens_map.json"));
    assert_eq!(
        [&specials["bos_token"], &specials["eos_token"]],
        ["<s>", "</s>"]
    );
    let tokenizer = read_json(&out.join("tokenizer_config.json"));
    assert_eq!(tokenizer["tokenizer_class"], "PreTrainedTokenizerFast");
    let inputs = serde_json::json!(["input_ids", "attention_mask"]);
    assert_eq!(tokenizer["model_input_names"], inputs);
    assert_eq!(config["max_position_embeddings"], 1 << 24);
    // Fine-tuning hides labels of padding, so padding is no end.
    let generation = read_json(&out.join("generation_config.json"));
    assert_eq!(
        [&generation["pad_token_id"], &config["pad_token_id"]],
        [0, 0]
    );
    assert_eq!(
        [&tokenizer["pad_token"], &specials["pad_token"]],
        ["<s>", "<s>"]
    );
    assert_eq!(logits(&shop, &out), logits(&shop, &model));

    // What is edited afterwards is still one, with our part changed only.
    succeed(&args![
        "prior edit {} --head 0.0 --scale x9 --in-place",
        out
    ]);
    let edited = read_json(&out.join("config.json"));
    assert_eq!(edited["auto_map"], config["auto_map"]);
    assert_eq!(edited["history"][0]["what"], "prior edit");
    assert_ne!(logits(&shop, &out), logits(&shop, &model));
    let again = shop.path("again");
    succeed(&args!["export hf {} --out {}", out, again]);
    assert_eq!(read_json(&again.join("config.json")), edited);
    shop.refuses(
        &args!["export hf {} --out {}", model, out],
        &["expected a new folder"],
    );
    shop.refuses(
        &args!["export hf {} --out {}", shop.path("none"), shop.path("x")],
        &["config.json"],
    );
}

/// A tokenizer gives what the model takes and knows, whatever the files say that a model came with.
#[test]
fn settings_of_other_models_become_ours() {
    let shop = Workshop::new();
    let (model, own) = (shop.trained_model(), shop.path("own"));
    let export = |settings: Value, out: &str| {
        let dir = shop.path(out);
        std::fs::write(model.join("tokenizer_config.json"), settings.to_string()).unwrap();
        succeed(&args!["export hf {} --out {}", model, dir]);
        let read = |name: &str| read_json(&dir.join(name));
        (
            read("tokenizer_config.json"),
            read("generation_config.json"),
        )
    };
    let (tokenizer, generation) = export(
        json!({
            "tokenizer_class": "GPTNeoXTokenizerFast", "auto_map": {"AutoTokenizer": ["own.Own", null]},
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "pad_token": "</s>", "eos_token": "</s>", "chat_template": "{{ messages }}",
            "clean_up_tokenization_spaces": true,
        }),
        "own",
    );
    let inputs = json!(["input_ids", "attention_mask"]);
    assert_eq!(tokenizer["model_input_names"], inputs);
    assert_eq!(tokenizer["tokenizer_class"], "PreTrainedTokenizerFast");
    assert_eq!(tokenizer["auto_map"], Value::Null);
    assert_eq!(tokenizer["chat_template"], "{{ messages }}");
    assert_eq!(tokenizer["clean_up_tokenization_spaces"], true);
    assert_eq!(tokenizer["pad_token"], "<s>");
    assert_eq!(
        [&generation["pad_token_id"], &generation["eos_token_id"]],
        [0, 1]
    );
    // A tokenizer in Python adds tokens that its vocabulary has not; the model has no rows for them.
    let said = json!({
        "eos_token": "<nope>", "pad_token": {"content": "<padding>"}, "additional_special_tokens": ["<s>", "<more>"],
        "added_tokens_decoder": {"1": {"content": "</s>"}, "9999": {"content": "<far>"}},
    });
    let (strange, generation) = export(said, "strange");
    assert_eq!(
        [&strange["eos_token"], &strange["pad_token"]],
        ["</s>", "<s>"]
    );
    assert_eq!(strange["additional_special_tokens"], json!(["<s>"]));
    assert_eq!(
        strange["added_tokens_decoder"],
        json!({"1": {"content": "</s>"}})
    );
    assert_eq!(generation["eos_token_id"], 1);
    // What is exported once more says the same.
    succeed(&args!["export hf {} --out {}", own, shop.path("again")]);
    let again = read_json(&shop.path("again").join("tokenizer_config.json"));
    assert_eq!(again, tokenizer);
    // Where the end is the only token with a role, the tokenizer has no padding, which collators refuse to be without.
    let (tokenizer, generation) = export(json!({"bos_token": null}), "end");
    assert_eq!(tokenizer["pad_token"], Value::Null);
    assert_eq!(generation["pad_token_id"], 1);
    // A token that a model pads with, or that is named after it, comes before a beginning.
    let path = model.join("tokenizer.json");
    let added = std::fs::read_to_string(&path).unwrap();
    let mut added: Value = serde_json::from_str(&added).unwrap();
    let mut padding = added["added_tokens"][1].clone();
    let spelling = added["model"]["vocab"].as_object().unwrap().iter();
    let (last, id) = spelling.max_by_key(|(_, id)| id.as_u64()).unwrap();
    let (last, id) = (last.clone(), id.clone());
    padding["id"] = id.clone();
    padding["content"] = last.as_str().into();
    added["added_tokens"].as_array_mut().unwrap().push(padding);
    std::fs::write(&path, added.to_string()).unwrap();
    let (tokenizer, generation) = export(json!({"pad_token": last}), "padded");
    assert_eq!(
        (&tokenizer["pad_token"], &generation["pad_token_id"]),
        (&last.into(), &id)
    );
}

/// The promises that Candle's loader and others go by: names, one type, no gaps, the metadata of PyTorch.
#[test]
fn weights_can_be_read_by_anyone() {
    let shop = Workshop::new();
    let (model, out) = (shop.trained_model(), shop.path("exported"));
    succeed(&args!["export hf {} --out {}", model, out]);
    let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    assert_eq!(metadata.get("format").map(String::as_str), Some("pt"));
    let mut ends: Vec<(usize, usize)> = Vec::new();
    for (name, info) in header.tensors() {
        assert_eq!(info.dtype, safetensors::Dtype::F32, "{name}");
        ends.push(info.data_offsets);
    }
    ends.sort_unstable();
    assert_eq!(ends[0].0, 0);
    assert!(ends.windows(2).all(|pair| pair[0].1 == pair[1].0));
    let names: Vec<String> = header.tensors().into_keys().collect();
    assert!(
        names.contains(&"layers.0.attention.wq.weight".to_owned()),
        "{names:?}"
    );
}

/// Skipped unless `BAM_PYTHON` names a Python with torch and transformers; takes a minute.
#[test]
fn transformers_compute_the_same_logits() {
    let Ok(python) = std::env::var("BAM_PYTHON") else {
        println!("skipped: BAM_PYTHON names no Python with torch and transformers");
        return;
    };
    let shop = Workshop::new();
    let model = shop.trained_model();
    let script =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients/transformers_client.py");
    let output = Command::new(&python)
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_bam"))
        .arg(&model)
        .arg("quick")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("HF_HOME", shop.path("hub"))
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    println!("{said}");
}
