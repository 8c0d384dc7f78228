//! GGUF files, read back by a reader of their own.

use super::{args, succeed, tensors};
use crate::workshop::{VOCABULARY, Workshop};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A GGUF file, version 3, as its specification says.
struct File {
    metadata: BTreeMap<String, Value>,
    /// Sizes with the innermost first, and values.
    tensors: BTreeMap<String, (Vec<u64>, Vec<f32>)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Whole(i64),
    Float(f32),
    Bool(bool),
    Text(String),
    List(Vec<Value>),
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.bytes[self.at - N..self.at].try_into().unwrap()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn text(&mut self) -> String {
        let length = self.u64() as usize;
        self.at += length;
        String::from_utf8(self.bytes[self.at - length..self.at].to_vec()).unwrap()
    }

    fn value(&mut self, kind: u32) -> Value {
        match kind {
            4 => Value::Whole(self.u32().into()),
            5 => Value::Whole(i32::from_le_bytes(self.take()).into()),
            6 => Value::Float(f32::from_le_bytes(self.take())),
            7 => Value::Bool(self.take::<1>()[0] == 1),
            8 => Value::Text(self.text()),
            9 => {
                let (of, count) = (self.u32(), self.u64());
                Value::List((0..count).map(|_| self.value(of)).collect())
            }
            _ => panic!("type {kind}"),
        }
    }
}

fn read(path: &Path) -> File {
    let bytes = std::fs::read(path).unwrap();
    let mut reader = Reader {
        bytes: &bytes,
        at: 0,
    };
    assert_eq!(&reader.take::<4>(), b"GGUF");
    assert_eq!(reader.u32(), 3);
    let (tensors, entries) = (reader.u64(), reader.u64());
    let metadata = (0..entries).map(|_| {
        let (key, kind) = (reader.text(), reader.u32());
        (key, reader.value(kind))
    });
    let metadata: BTreeMap<_, _> = metadata.collect();
    assert_eq!(metadata.len(), entries as usize, "a key comes twice");
    let infos: Vec<_> = (0..tensors)
        .map(|_| {
            let name = reader.text();
            let dimensions = reader.u32();
            let sizes: Vec<u64> = (0..dimensions).map(|_| reader.u64()).collect();
            assert_eq!(reader.u32(), 0, "{name} is no f32");
            (name, sizes, reader.u64() as usize)
        })
        .collect();
    let data = reader.at.next_multiple_of(32);
    let mut end = data;
    let tensors = infos.into_iter().map(|(name, sizes, offset)| {
        assert!(offset.is_multiple_of(32));
        let count = sizes.iter().product::<u64>() as usize;
        assert_eq!(data + offset, end.next_multiple_of(32), "{name}");
        end = data + offset + 4 * count;
        let values = bytes[data + offset..end].as_chunks::<4>().0;
        let values = values
            .iter()
            .map(|four| f32::from_le_bytes(*four))
            .collect();
        (name, (sizes, values))
    });
    let tensors = tensors.collect();
    assert_eq!(bytes.len(), end.next_multiple_of(32));
    File { metadata, tensors }
}

fn model(shop: &Workshop, encoding: &str) -> PathBuf {
    // A pattern of two layers wants both.
    let layers = 1 + usize::from(encoding.contains(',') && !encoding.contains(':'));
    let layers = format!("model.layers={layers}");
    let encoding = format!("model.encoding={encoding:?}");
    succeed(&shop.train("model", &["train.steps=2", &layers, &encoding]));
    shop.path("model")
}

fn export(shop: &Workshop, model: &Path) -> File {
    let out = shop.path("model.gguf");
    succeed(&args!["export gguf {} --replace --out {}", model, out]);
    read(&out)
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn alibi_is_refact() {
    let shop = Workshop::new();
    let model = model(&shop, "alibi");
    let file = export(&shop, &model);
    // A file that is there stays, unless it may go.
    let again = args!["export gguf {} --out {}", model, shop.path("model.gguf")];
    shop.refuses(&again, &["model.gguf", "--replace"]);
    succeed(&[again, args!["--replace"]].concat());
    for (key, value) in [
        ("general.architecture", text("refact")),
        ("general.name", text("model")),
        ("general.file_type", Value::Whole(0)),
        ("refact.context_length", Value::Whole(32)),
        ("refact.embedding_length", Value::Whole(16)),
        ("refact.block_count", Value::Whole(1)),
        ("refact.attention.head_count", Value::Whole(2)),
        ("refact.attention.head_count_kv", Value::Whole(2)),
        ("refact.attention.max_alibi_bias", Value::Float(8.0)),
        (
            "refact.attention.layer_norm_rms_epsilon",
            Value::Float(1e-5),
        ),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.bos_token_id", Value::Whole(0)),
        ("tokenizer.ggml.eos_token_id", Value::Whole(1)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
    ] {
        assert_eq!(file.metadata.get(key), Some(&value), "{key}");
    }
    let list = |key: &str| match &file.metadata[key] {
        Value::List(values) => values.clone(),
        other => panic!("{key}: {other:?}"),
    };
    let tokens = list("tokenizer.ggml.tokens");
    assert_eq!(tokens.len(), VOCABULARY);
    assert_eq!(tokens[..2], [text("<s>"), text("</s>")]);
    let kinds = list("tokenizer.ggml.token_type");
    assert_eq!(
        kinds[..3],
        [Value::Whole(3), Value::Whole(3), Value::Whole(1)]
    );
    // Bytes, special tokens, and a merge for each other token.
    assert_eq!(list("tokenizer.ggml.merges").len(), VOCABULARY - 256 - 2);

    let ours = tensors::read(&model.join("model.safetensors"));
    assert_eq!(file.tensors.len(), ours.len());
    for (name, theirs) in [
        ("tok_embeddings.weight", "token_embd.weight"),
        ("norm.weight", "output_norm.weight"),
        ("output.weight", "output.weight"),
        ("layers.0.attention.wo.weight", "blk.0.attn_output.weight"),
        ("layers.0.feed_forward.w1.weight", "blk.0.ffn_gate.weight"),
        ("layers.0.feed_forward.w2.weight", "blk.0.ffn_down.weight"),
    ] {
        let (sizes, values) = &file.tensors[theirs];
        let mut shape: Vec<u64> = ours[name].shape.iter().map(|size| *size as u64).collect();
        shape.reverse();
        assert_eq!((sizes, values), (&shape, &ours[name].floats()), "{name}");
    }
}

#[test]
fn rotary_is_llama_and_alibi_by_another_name_is_alibi() {
    let shop = Workshop::new();
    let rotary = export(&shop, &model(&shop, "rotary"));
    assert_eq!(rotary.metadata["general.architecture"], text("llama"));
    assert_eq!(rotary.metadata["llama.rope.freq_base"], Value::Float(1e4));
    assert_eq!(
        rotary.metadata["llama.rope.dimension_count"],
        Value::Whole(8)
    );
    std::fs::remove_dir_all(shop.path("model")).unwrap();
    // Slopes that were learned and then put back.
    let laplace = model(&shop, "laplace");
    let out = shop.path("x.gguf");
    let words = args!["export gguf {} --out {}", laplace, out];
    shop.refuses(&words, &["GGUF", "head 0.0", "laplace"]);
    succeed(&args![
        "prior edit {} --head all --family alibi --in-place",
        laplace
    ]);
    let back = export(&shop, &laplace);
    assert_eq!(back.metadata["general.architecture"], text("refact"));
}

#[test]
fn what_gguf_can_not_say_is_refused() {
    let shop = Workshop::new();
    let out = shop.path("x.gguf");
    for (encoding, named) in [
        (
            "bam",
            &["head 0.0", "generalized_gaussian", "bam export hf"][..],
        ),
        ("alibi+ssmax", &["scalable softmax", "alibi+ssmax"]),
        ("sinusoidal", &["ALiBi", "got sinusoidal"]),
        ("rotary_local", &["got rotary_local"]),
        (
            "rotary,alibi",
            &["one encoding for all layers", "got rotary,alibi"],
        ),
        ("nope", &["head 0.0", "uniform"]),
    ] {
        let model = model(&shop, encoding);
        shop.refuses(&args!["export gguf {} --out {}", model, out], named);
        std::fs::remove_dir_all(&model).unwrap();
    }
    // Tokenizers.
    let model = model(&shop, "alibi");
    let path = model.join("tokenizer.json");
    let right = std::fs::read_to_string(&path).unwrap();
    let with = |field: &str, value: serde_json::Value, named: &[&str]| {
        let mut json: serde_json::Value = serde_json::from_str(&right).unwrap();
        *json.pointer_mut(field).unwrap() = value;
        std::fs::write(&path, json.to_string()).unwrap();
        shop.refuses(&args!["export gguf {} --out {}", model, out], named);
    };
    with(
        "/normalizer",
        serde_json::json!({"type": "NFC"}),
        &["normalizer", "NFC"],
    );
    with(
        "/pre_tokenizer",
        serde_json::json!({"type": "Whitespace"}),
        &["words split as GPT-2", "Whitespace"],
    );
    with("/model/ignore_merges", true.into(), &["ignore_merges"]);
    std::fs::remove_file(&path).unwrap();
    shop.refuses(
        &args!["export gguf {} --out {}", model, out],
        &["tokenizer.json"],
    );
}

/// A tokenizer as SentencePiece's are written, of a few words.
fn sentence_pieces(merges: &[[&str; 2]]) -> String {
    let specials = ["<unk>", "<s>", "</s>"];
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    let words = ["▁", "t", "h", "e", "th", "he", "the", "▁the"];
    let tokens = specials.map(String::from).into_iter().chain(bytes);
    let tokens = tokens.chain(words.map(String::from)).enumerate();
    let vocabulary: BTreeMap<String, usize> = tokens.map(|(id, token)| (token, id)).collect();
    let added = specials.iter().enumerate().map(|(id, token)| {
        serde_json::json!({
            "id": id, "content": token, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false
        })
    });
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        ]},
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocabulary, "merges": merges
        }
    })
    .to_string()
}

#[test]
fn sentence_pieces_are_said_by_scores() {
    let shop = Workshop::new();
    let model = model(&shop, "alibi");
    let write = |merges: &[[&str; 2]]| {
        std::fs::write(model.join("tokenizer.json"), sentence_pieces(merges)).unwrap();
    };
    let [t_h, h_e, th_e, t_he, the] = [
        ["t", "h"],
        ["h", "e"],
        ["th", "e"],
        ["t", "he"],
        ["▁", "the"],
    ];
    write(&[t_h, h_e, th_e, t_he, the]);
    let file = export(&shop, &model);
    assert_eq!(file.metadata["tokenizer.ggml.model"], text("llama"));
    assert_eq!(
        file.metadata["tokenizer.ggml.add_space_prefix"],
        Value::Bool(true)
    );
    let list = |key: &str| match &file.metadata[key] {
        Value::List(values) => values.clone(),
        other => panic!("{key}: {other:?}"),
    };
    let kinds = list("tokenizer.ggml.token_type");
    let first = [2, 3, 3, 6].map(Value::Whole);
    assert_eq!((kinds.len(), &kinds[..4]), (VOCABULARY, &first[..]));
    assert_eq!(kinds[VOCABULARY - 1], Value::Whole(5));
    // The larger one first: th, he, the, ▁the.
    let scores: Vec<f32> = list("tokenizer.ggml.scores")[263..267]
        .iter()
        .map(|score| match score {
            Value::Float(score) => *score,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(
        scores.is_sorted_by(|a, b| a > b) && scores[0] < 0.0,
        "{scores:?}"
    );
    // What scores can't say.
    let words = args!["export gguf {} --out {}", model, shop.path("x.gguf")];
    write(&[t_h, h_e, th_e, the]);
    shop.refuses(&words, &["a merge of every two tokens", "\"t\" and \"he\""]);
    write(&[t_h, th_e, h_e, t_he, the]);
    shop.refuses(&words, &["next to each other", "the"]);
}
