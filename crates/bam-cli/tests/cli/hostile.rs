//! Files from elsewhere that mean no good: clear errors, bounded memory and time, nothing written.

use crate::fuzz::limited;
use crate::import::Shop;
use crate::program::{FAILED, args, fail, refuses, succeed};
use crate::tensors::{self, Tensors};
use safetensors::Dtype;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

#[test]
fn folders_that_lead_elsewhere_are_refused() {
    let shop = Shop::new("llama_grouped");
    const INDEX: &str = "model.safetensors.index.json";
    let shard = "model-00002-of-00005.safetensors";
    let moved = shop.folder.path().join("elsewhere.safetensors");
    fs::copy(shop.hf().join(shard), &moved).unwrap();
    let absolute = moved.to_str().unwrap();
    for elsewhere in [
        "../elsewhere.safetensors",
        absolute,
        "..",
        ".",
        "",
        "a/../../elsewhere.safetensors",
        "a\\b",
    ] {
        shop.with_json(
            INDEX,
            |index| {
                for place in index["weight_map"].as_object_mut().unwrap().values_mut() {
                    if *place == shard {
                        *place = elsewhere.into();
                    }
                }
            },
            &["names of files in the folder"],
        );
    }
    let path = shop.hf().join(shard);
    let whole = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    shop.refused(&[shard, "No such file"]);
    symlink(&moved, &path).unwrap();
    shop.refused(&[shard, "in the folder itself", "elsewhere.safetensors"]);
    fs::remove_file(&path).unwrap();
    symlink("/dev/zero", &path).unwrap();
    shop.refused(&[shard, "in the folder itself"]);
    fs::remove_file(&path).unwrap();
    fs::write(&path, &whole).unwrap();
    let tokenizer = shop.hf().join("tokenizer.json");
    symlink("/etc/passwd", &tokenizer).unwrap();
    shop.refused(&["tokenizer.json", "in the folder itself"]);
    fs::remove_file(&tokenizer).unwrap();
    // Links within are fine, and so is the hub's cache.
    let cache = shop.folder.path().join("cache");
    fs::create_dir_all(cache.join("snapshots")).unwrap();
    fs::create_dir_all(cache.join("blobs")).unwrap();
    let snapshot = cache.join("snapshots/abc");
    fs::rename(shop.hf(), &snapshot).unwrap();
    fs::rename(snapshot.join(shard), cache.join("blobs/0123")).unwrap();
    symlink("../../blobs/0123", snapshot.join(shard)).unwrap();
    succeed(&args!["import hf {} --out {}", snapshot, shop.out()]);
}

#[test]
fn indices_that_lie_are_refused() {
    let shop = Shop::new("llama_grouped");
    const INDEX: &str = "model.safetensors.index.json";
    let name = "model.layers.1.mlp.up_proj.weight";
    let map = |index: &mut serde_json::Value| index["weight_map"].as_object_mut().unwrap().clone();
    shop.with_json(
        INDEX,
        |index| {
            let mut shards = map(index);
            shards.remove(name);
            index["weight_map"] = shards.into();
        },
        &[name, "one of the index"],
    );
    shop.with_json(
        INDEX,
        |index| {
            let mut shards = map(index);
            let first = shards.values().next().unwrap().clone();
            shards.insert("model.more.weight".into(), first);
            index["weight_map"] = shards.into();
        },
        &["model.more.weight", "as the index says"],
    );
    shop.with_json(
        INDEX,
        |index| {
            let mut shards = map(index);
            shards.insert(name.into(), shards["lm_head.weight"].clone());
            index["weight_map"] = shards.into();
        },
        &[name],
    );
    shop.with_json(
        INDEX,
        |index| *index = serde_json::json!([]),
        &["an index of shards"],
    );
    let deep = "[".repeat(200_000);
    let whole = fs::read(shop.hf().join(INDEX)).unwrap();
    fs::write(shop.hf().join(INDEX), deep).unwrap();
    shop.refused(&["an index of shards"]);
    fs::write(shop.hf().join(INDEX), whole).unwrap();
    succeed(&shop.import());
    // What is there is not written over.
    let message = fail(FAILED, &shop.import());
    assert!(message.contains("expected a new folder"), "{message}");
}

#[test]
fn tensors_that_make_no_model_are_refused() {
    let shop = Shop::new("mpt_six_heads");
    let name = "transformer.blocks.1.attn.Wqkv.weight";
    let short = &name["transformer.".len()..];
    let get = |tensors: &Tensors| tensors[name].clone();
    shop.with_weights(|t| drop(t.remove(name)), &[short, "no such tensor"]);
    shop.with_weights(
        |t| t.get_mut(name).unwrap().shape.reverse(),
        &[short, "shape [36, 12]", "[12, 36]"],
    );
    shop.with_weights(
        |t| t.get_mut(name).unwrap().set_float(7, f32::NAN),
        &[short, "finite", "NaN at index 7"],
    );
    shop.with_weights(
        |t| t.get_mut(name).unwrap().set_float(7, f32::INFINITY),
        &[short, "finite", "inf"],
    );
    shop.with_weights(
        |t| t.get_mut(name).unwrap().dtype = Dtype::I32,
        &[short, "F32, F16, BF16 or F64", "I32"],
    );
    shop.with_weights(
        |t| drop(t.insert("transformer.wpe.weight".into(), get(t))),
        &["wpe.weight", "no such tensor in such a model"],
    );
    shop.with_weights(
        |t| drop(t.insert(short.into(), get(t))),
        &["each tensor once", "it twice"],
    );
    shop.with_weights(
        |t| {
            let mut head = t["transformer.wte.weight"].clone();
            head.set_float(0, 9.0);
            t.insert("lm_head.weight".into(), head);
        },
        &["lm_head.weight", "the values of wte.weight"],
    );
    let whole = fs::read(shop.weights()).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(shop.weights(), bytes).unwrap();
        shop.refused(&["model.safetensors", "expected a safetensors file"]);
    };
    for kept in [0, 4, 8, 100, whole.len() - 1] {
        refused(&whole[..kept]);
    }
    for header in [u64::MAX, 1 << 40, whole.len() as u64, 3] {
        refused(&[&header.to_le_bytes(), &whole[8..]].concat());
    }
    refused(&[whole.as_slice(), &[0]].concat());
    let liar = br#"{"a":{"dtype":"F32","shape":[18446744073709551615,4],"data_offsets":[0,16]}}"#;
    refused(&[&(liar.len() as u64).to_le_bytes()[..], liar, &[0; 16]].concat());
    let overlap = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    refused(&[&(overlap.len() as u64).to_le_bytes()[..], overlap, &[0; 4]].concat());
    fs::remove_file(shop.weights()).unwrap();
    shop.refused(&[
        "model.safetensors or model.safetensors.index.json",
        "neither",
    ]);
    fs::write(shop.hf().join("pytorch_model.bin"), "cos\nsystem\n").unwrap();
    shop.refused(&["pytorch_model.bin", "can run programs"]);
    // A head that is spelled out and tied is one.
    fs::write(shop.weights(), whole).unwrap();
    let mut tensors = tensors::read(&shop.weights());
    tensors.insert(
        "lm_head.weight".into(),
        tensors["transformer.wte.weight"].clone(),
    );
    tensors::write(&shop.weights(), &tensors);
    succeed(&shop.import());
}

#[test]
fn configurations_that_ask_for_more_are_refused() {
    use serde_json::json;
    for (case, key, value, named) in [
        (
            "llama_nope",
            "model_type",
            json!("gpt2"),
            "mpt, bloom or llama",
        ),
        ("llama_nope", "model_type", json!(7), "model_type"),
        (
            "llama_nope",
            "hidden_size",
            json!("big"),
            "expected hidden_size: a whole number, got \"big\"",
        ),
        ("llama_nope", "hidden_act", json!("gelu"), "silu"),
        ("llama_nope", "head_dim", json!(16), "head_dim"),
        (
            "llama_nope",
            "rope_scaling",
            json!({"type": "linear", "factor": 2.0}),
            "rope_scaling.type",
        ),
        (
            "llama_nope",
            "rope_parameters",
            json!({"rope_type": "yarn"}),
            "rope_parameters.rope_type",
        ),
        (
            "llama_nope",
            "rope_parameters",
            json!({"rope_type": "default", "factor": 2}),
            "rope_parameters.factor",
        ),
        (
            "llama_nope",
            "sliding_window",
            json!(4),
            "sliding_window: no such setting (it is not supported, and models differ by it), got 4",
        ),
        (
            "llama_nope",
            "quantization_config",
            json!({"bits": 4}),
            "quantization_config",
        ),
        (
            "llama_nope",
            "position_embedding_type",
            json!("learned"),
            "rope, nope or alibi",
        ),
        ("llama_nope", "attention_bias", json!(true), "q_proj.bias"),
        (
            "llama_nope",
            "num_key_value_heads",
            json!(3),
            "divisor of the 4 heads",
        ),
        ("llama_nope", "rms_norm_eps", json!(-1.0), "rms_norm_eps"),
        ("llama_nope", "vocab_size", json!(1u64 << 40), "vocab_size"),
        (
            "llama_nope",
            "num_hidden_layers",
            json!(1 << 24),
            "layers.2",
        ),
        (
            "llama_nope",
            "intermediate_size",
            json!(1 << 24),
            "shape [16777216, 8]",
        ),
        ("llama_nope", "hidden_size", json!("8"), "hidden_size"),
        ("mpt_six_heads", "no_bias", json!(false), "no_bias"),
        (
            "mpt_six_heads",
            "logit_scale",
            json!("inv_sqrt_d_model"),
            "logit_scale",
        ),
        ("mpt_six_heads", "norm_type", json!("rmsnorm"), "norm_type"),
        (
            "mpt_six_heads",
            "attn_config",
            json!({"alibi": false}),
            "attn_config.alibi",
        ),
        (
            "mpt_six_heads",
            "attn_config",
            json!({"qk_ln": true}),
            "attn_config.qk_ln",
        ),
        (
            "mpt_six_heads",
            "attn_config",
            json!({"rope": true}),
            "attn_config.rope",
        ),
        (
            "mpt_six_heads",
            "attn_config",
            json!({"alibi_bias_max": -8}),
            "attn_config.alibi_bias_max",
        ),
        (
            "mpt_six_heads",
            "attn_config",
            json!({"attn_type": "grouped_query_attention"}),
            "attn_config.attn_type",
        ),
        (
            "mpt_six_heads",
            "attn_config",
            json!({"clip_qkv": -1}),
            "design.clip_qkv",
        ),
        (
            "mpt_six_heads",
            "attn_config",
            json!({"more": 1}),
            "attn_config.more",
        ),
        ("mpt_six_heads", "attn_config", json!(3), "attn_config"),
        (
            "bloom_five_heads",
            "n_head",
            json!(3),
            "divisor of the width 10",
        ),
        ("bloom_five_heads", "alibi", json!(false), "alibi"),
    ] {
        let shop = Shop::new(case);
        shop.with_json(
            "config.json",
            |config| config[key] = value.clone(),
            &[named],
        );
    }
    let shop = Shop::new("llama_nope");
    let config = shop.hf().join("config.json");
    let whole = fs::read_to_string(&config).unwrap();
    for (text, named) in [
        ("{\"a\":".repeat(100_000), "a model configuration"),
        (" ".repeat(2 << 20), "at most 1048576 bytes"),
        ("{}".into(), "model_type"),
        ("\u{0}".into(), "a model configuration"),
    ] {
        fs::write(&config, text).unwrap();
        shop.refused(&["config.json", named]);
    }
    fs::write(&config, [0xFF, 0xFE]).unwrap();
    shop.refused(&["config.json", "a model configuration"]);
    // What is said not to matter does not.
    fs::write(&config, whole.replacen('{', "{\"sliding_window\": 4,", 1)).unwrap();
    shop.refused(&["sliding_window"]);
    let mut words = shop.import();
    words.extend(args!["--ignore-key sliding_window --train-length 77"]);
    succeed(&words);
    let written = fs::read_to_string(shop.out().join("config.json")).unwrap();
    assert!(written.contains("\"train_length\": 77"), "{written}");
    assert!(
        written.contains("\"position_embedding_type\": \"nope\""),
        "{written}"
    );
    fs::remove_dir_all(shop.out()).unwrap();
    let mut words = shop.import();
    words.extend(args!["--ignore-key sliding_window --position sinusoidal"]);
    refuses(shop.folder.path(), &words, &["rotary, nope, alibi"]);
}

#[test]
fn claims_take_no_memory() {
    let shop = Shop::new("llama_nope");
    let config = shop.hf().join("config.json");
    let mut claims: serde_json::Value =
        serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    for (key, value) in [
        ("hidden_size", 1 << 24),
        ("intermediate_size", 1 << 24),
        ("vocab_size", 1 << 24),
        ("num_hidden_layers", 1 << 24),
        ("head_dim", 1 << 22),
    ] {
        claims[key] = value.into();
    }
    fs::write(&config, claims.to_string()).unwrap();
    assert!(!limited(&shop.import()));
    assert!(!shop.out().exists());
    // Our own folders neither.
    let shop = Shop::new("llama_nope");
    succeed(&shop.import());
    let config = shop.out().join("config.json");
    let whole = fs::read_to_string(&config).unwrap();
    for (from, to) in [
        ("\"hidden_size\": 8", "\"hidden_size\": 16777216"),
        ("\"vocab_size\": 29", "\"vocab_size\": 16777216"),
        (
            "\"intermediate_size\": 20",
            "\"intermediate_size\": 16777216",
        ),
        (
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 16777216",
        ),
    ] {
        assert!(whole.contains(from), "{whole}");
        fs::write(&config, whole.replacen(from, to, 1)).unwrap();
        let message = fail(FAILED, &args!["inspect heads {}", shop.out()]);
        assert!(message.contains("tensor"), "{message}");
        assert!(!limited(&args!["inspect heads {}", shop.out()]));
    }
    fs::write(&config, whole).unwrap();
    assert!(limited(&args!["inspect heads {}", shop.out()]));
}

#[test]
fn hostile_tokenizers_are_refused() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/corpus/tokenizers");
    let shop = Shop::new("llama_nope");
    succeed(&shop.import());
    let model = shop.out();
    let (tokenizer, theirs) = (
        model.join("tokenizer.json"),
        shop.hf().join("tokenizer.json"),
    );
    // Null control: the same file without what is hostile in it works.
    let mut tame: serde_json::Value =
        serde_json::from_slice(&fs::read(corpus.join("nested-repeat.json")).unwrap()).unwrap();
    tame["pre_tokenizer"]["pattern"]["Regex"] = "a+|[^a]".into();
    let prompt = "a".repeat(60) + " b";
    let generate = args!["generate {} --prompt {} --tokens 1", model, prompt];
    fs::write(&tokenizer, tame.to_string()).unwrap();
    assert!(limited(&generate));
    let mut count = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let file = entry.unwrap().path();
        fs::copy(&file, &tokenizer).unwrap();
        fs::copy(&file, &theirs).unwrap();
        let again = shop.folder.path().join("again");
        for words in [&generate, &args!["import hf {} --out {}", shop.hf(), again]] {
            assert!(!limited(words), "{}", file.display());
            refuses(shop.folder.path(), words, &["tokenizer.json"]);
        }
        count += 1;
    }
    assert!(count >= 10, "{count}");
}
