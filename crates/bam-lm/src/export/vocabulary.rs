//! A `tokenizer.json` as llama.cpp's vocabulary: only where both cut every text alike.
//!
//! llama.cpp knows ways of splitting words by name, so a tokenizer is recognised by what it is made
//! of, not by a file's claim. Source: `src/llama-vocab.cpp` of llama.cpp.

use super::gguf::{Entry, Gguf};
use super::llama_cpp::refused;
use crate::Error;
use crate::data::Tokenizer;
use serde_json::{Value, json};

/// What a token is, as llama.cpp counts kinds.
#[derive(Clone, Copy)]
enum TokenKind {
    Normal = 1,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
}

/// Says a tokenizer's tokens, merges and special tokens, with as many tokens as the model has.
///
/// # Errors
/// If llama.cpp would cut texts otherwise, or not at all.
pub fn describe(file: &mut Gguf, tokenizer: &Tokenizer, size: usize) -> Result<(), Error> {
    let json: Value = serde_json::from_str(tokenizer.json()).expect("it was read before");
    let splitting = splitting(&json)?;
    let merges = merges(&json["model"]["merges"])?;
    let mut kinds = vec![TokenKind::Unused; size];
    let mut tokens: Vec<String> = (0..size).map(|id| format!("[UNUSED{id}]")).collect();
    let special = |added: &Value| match added["special"].as_bool() {
        Some(true) => TokenKind::Control,
        _ => TokenKind::UserDefined,
    };
    let vocabulary = json["model"]["vocab"].as_object().into_iter().flatten();
    let vocabulary = vocabulary.map(|(token, id)| (id, token.as_str(), TokenKind::Normal));
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let added = added.map(|of| (&of["id"], of["content"].as_str().unwrap_or(""), special(of)));
    for (id, token, kind) in vocabulary.chain(added) {
        let place = id.as_u64().and_then(|id| usize::try_from(id).ok());
        let place = place.filter(|place| *place < size);
        let place = place.ok_or_else(|| {
            refused(
                &format!("ids below the model's {size}"),
                format!("{id} for the token {token:?}"),
            )
        })?;
        (tokens[place], kinds[place]) = (token.to_owned(), kind);
    }
    file.entry("tokenizer.ggml.model", Entry::Text("gpt2".into()));
    file.entry("tokenizer.ggml.pre", Entry::Text(splitting.into()));
    file.entry("tokenizer.ggml.tokens", Entry::Texts(tokens));
    let kinds = kinds.into_iter().map(|kind| kind as i32);
    file.entry("tokenizer.ggml.token_type", Entry::I32s(kinds.collect()));
    file.entry("tokenizer.ggml.merges", Entry::Texts(merges));
    for (name, id) in [("bos", tokenizer.bos()), ("eos", tokenizer.eos())] {
        if let Some(id) = id {
            file.entry(format!("tokenizer.ggml.{name}_token_id"), Entry::U32(id));
        }
    }
    // As `bam generate` and `bam serve` begin a text.
    let begins = Entry::Bool(tokenizer.bos().is_some());
    file.entry("tokenizer.ggml.add_bos_token", begins);
    file.entry("tokenizer.ggml.add_eos_token", Entry::Bool(false));
    Ok(())
}

/// llama.cpp's name for how the tokenizer splits text before it merges.
fn splitting(json: &Value) -> Result<&'static str, Error> {
    let no = |what: &str, got: &Value| Err(refused(what, got.to_string()));
    let model = &json["model"];
    // Files of older versions do not name BPE.
    let bpe = model["type"].as_str().is_none_or(|name| name == "BPE") && model["merges"].is_array();
    if !bpe {
        return no("a byte-level BPE tokenizer", &model["type"]);
    }
    for (field, without) in [
        ("byte_fallback", json!(false)),
        ("continuing_subword_prefix", json!("")),
        ("end_of_word_suffix", json!("")),
        ("unk_token", Value::Null),
    ] {
        let value = &model[field];
        if !value.is_null() && *value != without {
            return no(
                &format!("a byte-level BPE tokenizer without {field}"),
                value,
            );
        }
    }
    if !json["normalizer"].is_null() {
        return no("a tokenizer without a normalizer", &json["normalizer"]);
    }
    let whole_words = model["ignore_merges"].as_bool().unwrap_or(false);
    let parts = match json["pre_tokenizer"]["pretokenizers"].as_array() {
        Some(parts) => parts.iter().collect(),
        None => vec![&json["pre_tokenizer"]],
    };
    let name = match parts[..] {
        [bytes] if is_byte_level(bytes, true) => Some("gpt-2"),
        [digits, bytes] if is_single_digits(digits) && is_byte_level(bytes, true) => Some("smollm"),
        [split, bytes] if is_llama3(split) && is_byte_level(bytes, false) => {
            return match whole_words {
                true => Ok("llama-bpe"),
                false => no("ignore_merges, as Llama 3 has", &model["ignore_merges"]),
            };
        }
        _ => None,
    };
    match name {
        None => no(
            "words split as GPT-2, with or without single digits, or as Llama 3",
            &json["pre_tokenizer"],
        ),
        Some(_) if whole_words => no("no ignore_merges", &model["ignore_merges"]),
        Some(name) => Ok(name),
    }
}

fn is_byte_level(of: &Value, splits: bool) -> bool {
    of["type"] == "ByteLevel"
        && of["add_prefix_space"] == false
        && of["use_regex"].as_bool().unwrap_or(true) == splits
}

fn is_single_digits(of: &Value) -> bool {
    of["type"] == "Digits" && of["individual_digits"] == true
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn is_llama3(of: &Value) -> bool {
    of["type"] == "Split"
        && of["pattern"]["Regex"] == LLAMA3
        && of["behavior"] == "Isolated"
        && of["invert"] == false
}

/// Merges as pairs with a space between them; in byte-level vocabularies no token has one.
fn merges(of: &Value) -> Result<Vec<String>, Error> {
    let pairs = of.as_array().into_iter().flatten();
    let pairs = pairs.map(|pair| match pair {
        Value::String(pair) => Ok(pair.clone()),
        Value::Array(two) => match two.as_slice() {
            [Value::String(left), Value::String(right)] => Ok(format!("{left} {right}")),
            _ => Err(refused("merges of two tokens", pair.to_string())),
        },
        _ => Err(refused("merges of two tokens", pair.to_string())),
    });
    pairs.collect()
}
