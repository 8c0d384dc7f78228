//! Models and token files that are not what they say.

use crate::program::{args, succeed};
use crate::reference::copy_of;
use crate::tensors::{self, Tensor, Tensors};
use crate::workshop::Workshop;
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::path::Path;

/// Spoils a model's weights one way after the other.
#[test]
fn weights() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let path = model.join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let inspect = args!["inspect heads {}", model];
    let refused = |bytes: &[u8], named: &[&str]| {
        std::fs::write(&path, bytes).unwrap();
        shop.refuses(&inspect, named);
    };
    for kept in [0, 4, 8, 100, whole.len() - 1] {
        refused(
            &whole[..kept],
            &["model.safetensors", "expected a safetensors file"],
        );
    }
    for header in [u64::MAX, 1 << 40, whole.len() as u64, 3] {
        let lying = [&header.to_le_bytes(), &whole[8..]].concat();
        refused(
            &lying,
            &["model.safetensors", "expected a safetensors file"],
        );
    }
    std::fs::write(&path, &whole).unwrap();
    let right = tensors::read(&path);
    let name = right
        .keys()
        .find(|name| matches!(right[*name].shape[..], [rows, columns] if rows != columns))
        .unwrap();
    let refused = |spoil: &dyn Fn(&mut Tensors), named: &[&str]| {
        let mut spoiled = right.clone();
        spoil(&mut spoiled);
        tensors::write(&path, &spoiled);
        shop.refuses(
            &inspect,
            &[&["model.safetensors", "expected"], named].concat(),
        );
    };
    let weight = |tensors: &mut Tensors, value| tensors.get_mut(name).unwrap().set_float(3, value);
    refused(
        &|t| weight(t, f32::NAN),
        &[name, "finite numbers", "NaN at index 3"],
    );
    refused(
        &|t| weight(t, f32::INFINITY),
        &[name, "finite numbers", "inf"],
    );
    refused(&|t| drop(t.remove(name)), &[name, "no such tensor"]);
    refused(
        &|t| t.get_mut(name).unwrap().shape.reverse(),
        &[name, "shape"],
    );
    let more = |name: &str| Tensor {
        shape: vec![1],
        bytes: vec![0; 4],
        ..right[name].clone()
    };
    refused(
        &|t| drop(t.insert("more".into(), more(name))),
        &["more", "no such tensor"],
    );
    // Whole numbers, as quantisations leave them, are no weights.
    for (whole_number, said) in [(Dtype::I32, "I32"), (Dtype::I64, "I64"), (Dtype::I8, "I8")] {
        let gains = &right["norm.weight"];
        let bytes = gains.bytes.len() / 4 * whole_number.bitsize() / 8;
        let cast = Tensor {
            dtype: whole_number,
            bytes: vec![1; bytes],
            ..gains.clone()
        };
        refused(
            &|t| drop(t.insert("norm.weight".into(), cast.clone())),
            &["norm.weight", "F32, F16, BF16 or F64", said],
        );
    }
    std::fs::write(&path, &whole).unwrap();
    succeed(&inspect);
    std::fs::remove_file(&path).unwrap();
    shop.refuses(
        &inspect,
        &["model.safetensors or", "index.json, got neither"],
    );
}

/// Shards, as `save_pretrained` writes them, are one model for every command that reads weights.
#[test]
fn shards() {
    const WHOLE: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    let shop = Workshop::new();
    let (model, whole) = (shop.trained_model(), shop.path("whole"));
    succeed(&args!["export hf {} --out {}", model, whole]);
    let right = tensors::read(&model.join(WHOLE));
    let shard = |part: usize| format!("model-{part:05}-of-00002.safetensors");
    let map: BTreeMap<&String, String> = right.keys().zip((1..=2).cycle().map(shard)).collect();
    for part in 1..=2 {
        let of = right.iter().filter(|(name, _)| map[name] == shard(part));
        let of = of.map(|(name, tensor)| (name.clone(), tensor.clone()));
        tensors::write(&model.join(shard(part)), &of.collect());
    }
    let index = |map: &BTreeMap<&String, String>| {
        let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
        std::fs::write(model.join(INDEX), index.to_string()).unwrap();
    };
    index(&map);
    std::fs::remove_file(model.join(WHOLE)).unwrap();
    let generate = |model: &Path| {
        let words = args!["generate {} --prompt {} --tokens 9", model, "the"];
        succeed(&[words, args!["--temperature 0"]].concat())
    };
    assert_eq!(generate(&model), generate(&whole));
    succeed(&args!["doctor {}", model]);
    succeed(&args!["inspect heads {}", model]);
    let (again, edited) = (shop.path("again"), shop.path("edited"));
    succeed(&args!["export hf {} --out {}", model, again]);
    assert_eq!(tensors::read(&again.join(WHOLE)), right);
    let edit = args![
        "prior edit {} --head 0.0 --scale x2 --out {}",
        model,
        edited
    ];
    succeed(&edit);

    let inspect = args!["inspect heads {}", model];
    let (name, elsewhere) = (right.keys().next().unwrap(), "../elsewhere.safetensors");
    for place in [elsewhere, "/etc/passwd", "..", ""] {
        let mut lying = map.clone();
        lying.insert(name, place.into());
        index(&lying);
        shop.refuses(&inspect, &[INDEX, "names of files in the folder", place]);
    }
    let mut lying = map.clone();
    lying.insert(name, shard(2));
    index(&lying);
    shop.refuses(&inspect, &[name, "one of the index"]);
    let more = "more".to_owned();
    let mut lying = map.clone();
    lying.insert(&more, shard(2));
    index(&lying);
    shop.refuses(&inspect, &["more", "as the index says"]);
    index(&map);
    let moved = shop.path("moved");
    std::fs::rename(model.join(shard(2)), &moved).unwrap();
    shop.refuses(&inspect, &[&shard(2), "No such file"]);
    std::fs::rename(&moved, model.join(shard(2))).unwrap();

    // Shards that another model takes the place of are gone: programs that read all files would mix the two.
    succeed(&args![
        "prior edit {} --head 0.0 --scale x2 --in-place",
        model
    ]);
    assert_eq!(
        tensors::read(&model.join(WHOLE)),
        tensors::read(&edited.join(WHOLE))
    );
    assert!(!model.join(INDEX).exists() && !model.join(shard(1)).exists());
}

#[test]
fn configurations() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let path = model.join("config.json");
    let right = std::fs::read_to_string(&path).unwrap();
    for (from, to, named) in [
        (
            "\"model_type\": \"bam\"",
            "\"model_type\": \"llama\"",
            &["model_type", "bam", "llama"][..],
        ),
        (
            "\"num_hidden_layers\": 1",
            "\"num_hidden_layers\": 0",
            &["layers", "got 0"],
        ),
        (
            "\"num_hidden_layers\": 1",
            "\"num_hidden_layers\": 2",
            &["layers.1", "no such tensor"],
        ),
        (
            "\"num_attention_heads\": 2",
            "\"num_attention_heads\": 3",
            &["heads", "divisor", "got 3"],
        ),
        (
            "\"hidden_size\": 16",
            "\"hidden_size\": 99999999999",
            &["hidden_size", "99999999999"],
        ),
        ("\"bam+ssmax\"", "\"nonsense\"", &["nonsense"]),
        (
            "{",
            "",
            &["config.json", "expected a bam model configuration"],
        ),
    ] {
        assert!(right.contains(from), "{from}: {right}");
        std::fs::write(&path, right.replacen(from, to, 1)).unwrap();
        shop.refuses(&args!["inspect heads {}", model], named);
    }
}

#[test]
fn tokens_of_logits() {
    let shop = Workshop::new();
    let case = copy_of("bam_layer");
    let (model, tokens) = (shop.path("model"), shop.path("tokens.safetensors"));
    succeed(&args!["import reference {} {}", case.path(), model]);
    let words = args![
        "logits {} --tokens {} --out {}",
        model,
        tokens,
        shop.path("logits.safetensors")
    ];
    let ids = |ids: &[i64]| Tensor::of_ids(&[1, ids.len()], ids.iter().copied());
    let floats = |floats: [f32; 2]| Tensor {
        dtype: safetensors::Dtype::F32,
        shape: vec![1, 2],
        bytes: floats.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    let with = |entries: &[(&str, Tensor)], named: &[&str]| {
        let entries = entries
            .iter()
            .map(|(name, of)| ((*name).to_owned(), of.clone()));
        tensors::write(&tokens, &entries.collect());
        shop.refuses(&words, named);
    };
    with(
        &[("tokens", ids(&[1, 61]))],
        &["token 1", "0 to 60", "got 61"],
    );
    with(&[("tokens", ids(&[-1, 2]))], &["token 0", "got -1"]);
    with(
        &[("tokens", ids(&[1, i64::MAX]))],
        &["tokens", "whole numbers within"],
    );
    with(
        &[("tokens", floats([0.0, 2.5]))],
        &["tokens", "whole numbers", "2.5"],
    );
    with(
        &[("tokens", floats([f32::NAN, 2.0]))],
        &["tokens", "whole numbers", "NaN"],
    );
    with(&[("token", ids(&[1]))], &["tokens", "none of that name"]);
    with(
        &[("tokens", Tensor::of_ids(&[2], [1, 2]))],
        &["tokens", "2 dimensions", "[2]"],
    );
    with(
        &[("tokens", Tensor::of_ids(&[0, 2], []))],
        &["tokens", "none empty"],
    );
    with(
        &[("tokens", ids(&[1, 2])), ("document_ids", ids(&[0]))],
        &["document_ids", "[1, 2]", "[1, 1]"],
    );
    with(
        &[
            ("tokens", ids(&[1, 2])),
            ("document_ids", ids(&[1 << 40, 0])),
        ],
        &["document_ids", "whole numbers within"],
    );
}
