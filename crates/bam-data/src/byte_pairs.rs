//! Byte pair encoding for whole corpora: words to ids, without offsets or the texts of tokens.
//!
//! The ids are the library's. What is not understood here, it does: [`BytePairs::of`] gives nothing then.
//! Most words come again and again, so each thread remembers those it met last, in a table of fixed size.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::{BuildHasherDefault, Hasher},
    sync::{Mutex, PoisonError},
};

use rayon::prelude::*;
use serde_json::{Value, json};

use super::pretokens::{GPT2, Neighbours, Words};

/// A tokenizer's merges, and the words that they happen in.
pub(super) struct BytePairs {
    words: Words,
    /// Whether digits are words of their own before there are any others.
    digits: bool,
    /// Put before a text, and in the place of spaces: SentencePiece's `▁`.
    space: Option<char>,
    /// Tokens that are found in texts before there are words; such a text is left to the library.
    added: Vec<String>,
    /// The tokens of single bytes.
    bytes: [u32; 256],
    /// The tokens of single characters, where bytes are only for those that have none.
    characters: Option<HashMap<char, u32>>,
    merges: Merges,
    /// Words that are tokens, whatever the merges say.
    whole: HashMap<Vec<u8>, u32>,
    scratch: Mutex<Vec<Scratch>>,
}

/// Pairs of tokens to the rank of their merge and the token that comes of it.
type Merges = HashMap<u64, (u32, u32), BuildHasherDefault<Mix>>;

/// Keys are pairs of ids from a file that was checked: a multiplication spreads them.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = (key ^ key >> 32)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(26);
    }
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl BytePairs {
    /// Reads the contents of a `tokenizer.json`; `None` where it asks for anything that is not done here.
    pub(super) fn of(contents: &Value) -> Option<Self> {
        let model = &contents["model"];
        let off =
            |key: &str| [Value::Null, json!(false), json!(""), json!(0.0)].contains(&model[key]);
        if model["type"] != "BPE"
            || !["dropout", "continuing_subword_prefix", "end_of_word_suffix"]
                .iter()
                .all(|key| off(key))
        {
            return None;
        }
        let vocabulary = model["vocab"].as_object()?;
        let number = |id: &Value| u32::try_from(id.as_u64()?).ok();
        // Each merge asks three times; the object compares texts all the way down a tree.
        let ids: HashMap<&str, u32> = vocabulary
            .iter()
            .filter_map(|(token, id)| Some((token.as_str(), number(id)?)))
            .collect();
        let id = |token: &str| ids.get(token).copied();
        let single = vocabulary.iter().filter_map(|(token, id)| {
            let mut chars = token.chars();
            let first = chars.next()?;
            chars.next().is_none().then_some((first, number(id)?))
        });
        let mut merges = Merges::default();
        let mut of_bytes = false;
        for (rank, merge) in (0..).zip(model["merges"].as_array()?) {
            let (left, right) = match merge {
                Value::String(both) => both.split_once(' ')?,
                _ => (merge[0].as_str()?, merge[1].as_str()?),
            };
            of_bytes |= [left, right].iter().any(|token| token.starts_with("<0x"));
            let merged = id(&format!("{left}{right}"))?;
            merges.insert(pair(id(left)?, id(right)?), (rank, merged));
        }
        let byte_level = byte_level(&contents["pre_tokenizer"]);
        let (words, digits, space, bytes, characters);
        if let Some(found) = byte_level.filter(|_| contents["normalizer"].is_null()) {
            (words, digits, space) = (Words::of(&found.0)?, found.1, None);
            bytes = all_bytes(single.filter_map(|(c, id)| Some((spelled_byte(c)?.into(), id))))?;
            characters = None;
        } else if off("ignore_merges") && model["byte_fallback"] == true && !of_bytes {
            space = Some(metaspace(contents)?);
            let neighbours = Neighbours::of(vocabulary.keys().map(String::as_str));
            (words, digits) = (Words::Strangers(neighbours), false);
            bytes = all_bytes(
                (0..256).filter_map(|byte| Some((byte, id(&format!("<0x{byte:02X}>"))?))),
            )?;
            characters = Some(single.collect());
        } else {
            return None;
        }
        let whole = vocabulary.iter().filter(|_| !off("ignore_merges"));
        let whole = whole.filter_map(|(token, id)| {
            let bytes: Option<Vec<u8>> = token.chars().map(spelled_byte).collect();
            Some((bytes?, number(id)?))
        });
        let added = contents["added_tokens"].as_array().into_iter().flatten();
        let added = added.filter(|token| token["special"] != true);
        let added = added.map(|token| token["content"].as_str().map(str::to_owned));
        Some(Self {
            words,
            digits,
            space,
            added: added.collect::<Option<_>>()?,
            bytes,
            characters,
            merges,
            whole: whole.collect(),
            scratch: Mutex::default(),
        })
    }

    /// The tokens of a text, or `None` where the library has to find them. A long text is cut where that
    /// changes nothing, and its parts are encoded on all threads.
    pub(super) fn encode(&self, text: &str) -> Option<Vec<u32>> {
        self.encode_in_parts(text, 1 << 18)
    }

    fn encode_in_parts(&self, text: &str, bytes: usize) -> Option<Vec<u32>> {
        if self.added.iter().any(|added| text.contains(added)) {
            return None;
        }
        let spaced = self.space.filter(|_| !text.is_empty()).map(|space| {
            let space = space.to_string();
            space.clone() + &text.replace(' ', &space)
        });
        let mut rest = spaced.as_deref().unwrap_or(text);
        let mut parts = Vec::new();
        while rest.len() > 2 * bytes
            && let Some(at) = self.words.cut(rest, bytes)
        {
            let (part, after) = rest.split_at(at);
            parts.push(part);
            rest = after;
        }
        if parts.is_empty() {
            return Some(self.part(rest));
        }
        parts.push(rest);
        let encoded: Vec<Vec<u32>> = parts.par_iter().map(|part| self.part(part)).collect();
        Some(encoded.concat())
    }

    fn part(&self, text: &str) -> Vec<u32> {
        let scratch = || self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = scratch().pop();
        let mut own = taken.unwrap_or_default();
        // Most tokens have more than three bytes.
        let mut out = Vec::with_capacity(text.len() / 3);
        let mut word = |word: &str| self.word(word, &mut own, &mut out);
        match self.digits {
            false => self.words.each(text, word),
            true => {
                for piece in text.split_inclusive(char::is_numeric) {
                    let last = piece.chars().next_back().filter(|c| c.is_numeric());
                    let (before, digit) =
                        piece.split_at(piece.len() - last.map_or(0, char::len_utf8));
                    self.words.each(before, &mut word);
                    self.words.each(digit, &mut word);
                }
            }
        }
        scratch().push(own);
        out
    }

    fn word(&self, word: &str, own: &mut Scratch, out: &mut Vec<u32>) {
        let (place, key) = match Known::key(word.as_bytes()) {
            Some(found) => found,
            None => return self.merge(word, own, out),
        };
        let known = &own.known[place];
        if known.key == key {
            return match known.count {
                1 => out.push(known.ids[0]),
                count => out.extend_from_slice(&known.ids[..count as usize]),
            };
        }
        let before = out.len();
        self.merge(word, own, out);
        let found = &out[before..];
        if let Some(ids) = own.known[place].ids.get_mut(..found.len()) {
            ids.copy_from_slice(found);
            own.known[place].key = key;
            own.known[place].count = found.len() as u32;
        }
    }

    /// Merges the pair of the lowest rank, the first of several, until there is none.
    fn merge(&self, word: &str, own: &mut Scratch, out: &mut Vec<u32>) {
        if let Some(&id) = self.whole.get(word.as_bytes()) {
            return out.push(id);
        }
        let Scratch { symbols, heap, .. } = own;
        symbols.clear();
        heap.clear();
        let mut push = |id: u32| {
            let at = symbols.len() as u32;
            symbols.push(Symbol {
                id,
                before: at.wrapping_sub(1),
                after: at + 1,
            });
        };
        match &self.characters {
            None => word
                .bytes()
                .for_each(|byte| push(self.bytes[usize::from(byte)])),
            Some(characters) => {
                for c in word.chars() {
                    match characters.get(&c) {
                        Some(&id) => push(id),
                        None => (c.encode_utf8(&mut [0; 4]).bytes())
                            .for_each(|byte| push(self.bytes[usize::from(byte)])),
                    }
                }
            }
        }
        let end = symbols.len() as u32;
        let merged = |left: u32, right: u32| self.merges.get(&pair(left, right)).copied();
        for at in 1..symbols.len() {
            if let Some((rank, id)) = merged(symbols[at - 1].id, symbols[at].id) {
                heap.push(Reverse((rank, at as u32 - 1, id)));
            }
        }
        while let Some(Reverse((rank, at, id))) = heap.pop() {
            let Symbol {
                id: left,
                before,
                after,
            } = symbols[at as usize];
            // What has been merged since is another pair, or none.
            if left == GONE
                || after == end
                || merged(left, symbols[after as usize].id) != Some((rank, id))
            {
                continue;
            }
            let next = symbols[after as usize].after;
            symbols[after as usize].id = GONE;
            symbols[at as usize] = Symbol {
                id,
                before,
                after: next,
            };
            if next != end {
                symbols[next as usize].before = at;
                if let Some((rank, made)) = merged(id, symbols[next as usize].id) {
                    heap.push(Reverse((rank, at, made)));
                }
            }
            if before != u32::MAX
                && let Some((rank, made)) = merged(symbols[before as usize].id, id)
            {
                heap.push(Reverse((rank, before, made)));
            }
        }
        out.extend(
            symbols
                .iter()
                .map(|symbol| symbol.id)
                .filter(|&id| id != GONE),
        );
    }
}

/// The expression of a pre-tokenizer that ends in bytes, and whether digits are set apart before it.
fn byte_level(pre_tokenizer: &Value) -> Option<(String, bool)> {
    let steps = match pre_tokenizer["type"].as_str()? {
        "Sequence" => pre_tokenizer["pretokenizers"].as_array()?.as_slice(),
        _ => std::slice::from_ref(pre_tokenizer),
    };
    let (last, first) = steps.split_last()?;
    if last["type"] != "ByteLevel" || last["add_prefix_space"] != false {
        return None;
    }
    // The library's default.
    let splits = last["use_regex"] != false;
    match first {
        [] if splits => Some((GPT2.to_owned(), false)),
        [digits] if splits && digits["type"] == "Digits" && digits["individual_digits"] == true => {
            Some((GPT2.to_owned(), true))
        }
        [split]
            if !splits
                && split["type"] == "Split"
                && split["behavior"] == "Isolated"
                && split["invert"] != true =>
        {
            Some((split["pattern"]["Regex"].as_str()?.to_owned(), false))
        }
        _ => None,
    }
}

/// SentencePiece's sign for a space, where the text is made of words by nothing else.
fn metaspace(contents: &Value) -> Option<char> {
    let steps = [
        json!({"type": "Prepend", "prepend": "▁"}),
        json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
    ];
    let same = contents["normalizer"] == json!({"type": "Sequence", "normalizers": steps});
    (same && contents["pre_tokenizer"].is_null()).then_some('▁')
}

fn all_bytes(spelled: impl Iterator<Item = (usize, u32)>) -> Option<[u32; 256]> {
    let mut bytes = [None; 256];
    spelled.for_each(|(byte, id)| bytes[byte] = Some(id));
    let bytes: Option<Vec<u32>> = bytes.into_iter().collect();
    bytes?.try_into().ok()
}

/// GPT-2's table: visible Latin-1 characters stand for themselves, and the other 68 bytes, in order, for
/// the characters from U+0100 on.
pub(super) fn spelled_byte(c: char) -> Option<u8> {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u8::try_from(c) {
        Ok(byte) => visible(byte).then_some(byte),
        Err(_) => {
            let index = (c as u32).checked_sub(0x100)? as usize;
            (0..=u8::MAX).filter(|&byte| !visible(byte)).nth(index)
        }
    }
}

/// The id of a symbol that is part of the one before it.
const GONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    before: u32,
    after: u32,
}

/// A thread's memory: the words that it met last, and room for a word's merges.
struct Scratch {
    known: Vec<Known>,
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<(u32, u32, u32)>>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            known: vec![Known::default(); 1 << Known::BITS],
            symbols: Vec::new(),
            heap: BinaryHeap::new(),
        }
    }
}

/// A short word and its few tokens: half a cache line. No word has the key 0.
#[derive(Clone, Copy, Default)]
struct Known {
    key: u128,
    ids: [u32; 3],
    count: u32,
}

impl Known {
    const BITS: u32 = 16;

    /// The place and the key of a word of at most 15 bytes; the last is their number.
    fn key(word: &[u8]) -> Option<(usize, u128)> {
        let mut bytes = [0; 16];
        bytes
            .get_mut(..15)?
            .get_mut(..word.len())?
            .copy_from_slice(word);
        bytes[15] = word.len() as u8;
        let key = u128::from_le_bytes(bytes);
        let mixed =
            (key as u64 ^ ((key >> 64) as u64).rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Some(((mixed >> (64 - Self::BITS)) as usize, key))
    }
}

#[cfg(test)]
mod tests;
