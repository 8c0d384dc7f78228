//! A `tokenizer.json` as llama.cpp's vocabulary: only where both cut every text alike.
//!
//! llama.cpp knows ways of splitting words by name, so a tokenizer is recognised by what it is made
//! of, not by a file's claim. Source: `src/llama-vocab.cpp` of llama.cpp.

use super::gguf::{Entry, Gguf, refused};
use crate::Error;
use bam_data::Tokenizer;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};

/// The kind of a token, as llama.cpp counts kinds.
#[derive(Clone, Copy)]
enum TokenKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// Says a tokenizer's tokens, how they are made, and special tokens, with as many tokens as the model
/// has.
///
/// # Errors
/// If llama.cpp would cut texts otherwise, or not at all.
pub fn describe(file: &mut Gguf, tokenizer: &Tokenizer, size: usize) -> Result<(), Error> {
    let json: Value = serde_json::from_str(tokenizer.json()).expect("it was read before");
    let sentences = json["model"]["byte_fallback"] == true;
    let tokens = Tokens::of(&json, size, sentences)?;
    let mut text = |key: &str, value: &str| file.entry(key, Entry::Text(value.to_owned()));
    if sentences {
        let begins = sentence_begins_with_space(&json)?;
        text("tokenizer.ggml.model", "llama");
        text("tokenizer.ggml.pre", "default");
        file.entry("tokenizer.ggml.add_space_prefix", Entry::Bool(begins));
        let scores = sentence_scores(&json["model"], &tokens)?;
        file.entry("tokenizer.ggml.scores", Entry::F32s(scores));
    } else {
        text("tokenizer.ggml.model", "gpt2");
        text("tokenizer.ggml.pre", splitting(&json)?);
        let merges = merges(&json["model"]["merges"])?;
        let merges = merges
            .into_iter()
            .map(|[left, right]| format!("{left} {right}"));
        file.entry("tokenizer.ggml.merges", Entry::Texts(merges.collect()));
    }
    let kinds = tokens.kinds.iter().map(|kind| *kind as i32);
    file.entry("tokenizer.ggml.token_type", Entry::I32s(kinds.collect()));
    file.entry("tokenizer.ggml.tokens", Entry::Texts(tokens.texts));
    let special = tokenizer.special();
    let mut ends = special.ends.iter().copied();
    // Of ends it has that of a text, of a turn and of a message.
    for (name, id) in [
        ("bos", special.bos),
        ("padding", special.pad),
        ("eos", ends.next()),
        ("eot", ends.next()),
        ("eom", ends.next()),
    ] {
        if let Some(id) = id {
            file.entry(format!("tokenizer.ggml.{name}_token_id"), Entry::U32(id));
        }
    }
    if ends.next().is_some() {
        let expected = "at most three tokens that end an answer";
        return Err(refused(expected, format!("{:?}", special.ends)));
    }
    // As `bam generate` and `bam serve` begin a text.
    let begins = Entry::Bool(tokenizer.bos().is_some());
    file.entry("tokenizer.ggml.add_bos_token", begins);
    file.entry("tokenizer.ggml.add_eos_token", Entry::Bool(false));
    Ok(())
}

/// Texts and kinds by id; ids that the tokenizer does not have are unused.
struct Tokens {
    texts: Vec<String>,
    kinds: Vec<TokenKind>,
}

impl Tokens {
    fn of(json: &Value, size: usize, sentences: bool) -> Result<Self, Error> {
        let mut all = Self {
            texts: (0..size).map(|id| format!("[UNUSED{id}]")).collect(),
            kinds: vec![TokenKind::Unused; size],
        };
        let unknown = json["model"]["unk_token"].as_str();
        let ordinary = |token: &str| match sentences {
            true if is_byte(token) => TokenKind::Byte,
            true if Some(token) == unknown => TokenKind::Unknown,
            _ => TokenKind::Normal,
        };
        let special = |added: &Value| match added["special"].as_bool() {
            _ if sentences && added["content"].as_str() == unknown => TokenKind::Unknown,
            Some(true) => TokenKind::Control,
            _ => TokenKind::UserDefined,
        };
        let vocabulary = json["model"]["vocab"].as_object().into_iter().flatten();
        let vocabulary = vocabulary.map(|(token, id)| (id, token.as_str(), ordinary(token)));
        let added = json["added_tokens"].as_array().into_iter().flatten();
        let added = added.map(|of| (&of["id"], of["content"].as_str().unwrap_or(""), special(of)));
        for (id, token, kind) in vocabulary.chain(added) {
            let place = id.as_u64().and_then(|id| usize::try_from(id).ok());
            let place = place.filter(|place| *place < size).ok_or_else(|| {
                refused(
                    &format!("ids below the model's {size}"),
                    format!("{id} for the token {token:?}"),
                )
            })?;
            (all.texts[place], all.kinds[place]) = (token.to_owned(), kind);
        }
        Ok(all)
    }
}

/// `<0x0A>`: a byte that has no token of its own.
fn is_byte(token: &str) -> bool {
    let digits = token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// A space as SentencePiece writes it.
const SPACE: &str = "▁";

/// Whether a space is put before a text, of a tokenizer that writes spaces as SentencePiece does and
/// merges across words.
fn sentence_begins_with_space(json: &Value) -> Result<bool, Error> {
    let writes = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let begins = json!({"type": "Prepend", "prepend": SPACE});
    let normalizers = match json["normalizer"]["normalizers"].as_array() {
        Some(several) => several.iter().collect(),
        None => vec![&json["normalizer"]],
    };
    let metaspace = &json["pre_tokenizer"];
    match (&normalizers[..], metaspace) {
        ([first, second], Value::Null) if **first == begins && **second == writes => Ok(true),
        ([only], Value::Null) if **only == writes => Ok(false),
        ([Value::Null], _)
            if metaspace["type"] == "Metaspace"
                && metaspace["replacement"] == SPACE
                && metaspace["split"] == false =>
        {
            Ok(metaspace["prepend_scheme"] != "never")
        }
        _ => Err(refused(
            "spaces written as SentencePiece writes them, and no words split off",
            format!("{} and {metaspace}", json["normalizer"]),
        )),
    }
}

/// Scores by which SentencePiece's way of merging, the neighbours that make the token of the largest
/// score first, does what the merges say: each token's are together in their order, and none is
/// missing.
fn sentence_scores(model: &Value, tokens: &Tokens) -> Result<Vec<f32>, Error> {
    let of_text: HashMap<&str, usize> = tokens.texts.iter().map(String::as_str).zip(0..).collect();
    let mut scores = vec![0.0; tokens.texts.len()];
    let mut listed = HashSet::new();
    let mut last = None;
    let merges = merges(&model["merges"])?;
    for [left, right] in &merges {
        let merged = format!("{left}{right}");
        let id = of_text.get(merged.as_str()).copied();
        let id = id.ok_or_else(|| refused("merges that make tokens", merged.clone()))?;
        if last != Some(id) {
            if scores[id] != 0.0 {
                let expected = "merges of a token next to each other";
                return Err(refused(expected, format!("{merged:?} again, later")));
            }
            scores[id] = -(listed.len() as f32) - 1.0;
            last = Some(id);
        }
        listed.insert((left.as_str(), right.as_str()));
    }
    let normal = |text: &str| {
        let id = of_text.get(text);
        id.is_some_and(|id| matches!(tokens.kinds[*id], TokenKind::Normal))
    };
    // Special tokens too: two ordinary ones must not make one.
    for text in &tokens.texts {
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if normal(left) && normal(right) && !listed.contains(&(left, right)) {
                return Err(refused(
                    "a merge of every two tokens that make a third, as SentencePiece has",
                    format!("none of {left:?} and {right:?}"),
                ));
            }
        }
    }
    Ok(scores)
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

/// Pairs of tokens; older files write them with a space between.
fn merges(of: &Value) -> Result<Vec<[String; 2]>, Error> {
    let pairs = of.as_array().into_iter().flatten();
    let pairs = pairs.map(|pair| {
        let two: Vec<&str> = match pair {
            Value::String(pair) => pair.split(' ').collect(),
            other => {
                let two = other.as_array().into_iter().flatten();
                two.filter_map(Value::as_str).collect()
            }
        };
        let two = <[&str; 2]>::try_from(two);
        let two = two.map_err(|_| refused("merges of two tokens", pair.to_string()))?;
        Ok(two.map(str::to_owned))
    });
    pairs.collect()
}
