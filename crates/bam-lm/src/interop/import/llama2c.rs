//! `llama2.c`'s files: a header of seven numbers and all weights after it; a list of token texts.

use super::{Vocabulary, not_as_expected};
use crate::Error;
use crate::model::checkpoint::NamedTensors;
use crate::model::{Design, ModelConfig, PriorScope, PriorStart, Transformer};
use burn::tensor::Device;
use std::fs;
use std::path::Path;

const HEADER_BYTES: usize = 28;
/// Begin and end of a text; they stand for no text of their own.
const CONTROL_TOKENS: [usize; 2] = [1, 2];

/// Reads a model of the oldest format (no magic number, `f32`): rotary pairs with base 10000, RMS
/// norm with 1e-5, key heads shared by groups of query heads.
///
/// # Errors
/// If the file can't be read, its header makes no model, or it has another length than the header
/// says. The length is checked before anything is allocated for it.
pub fn read_model(path: &Path, device: &Device) -> Result<Transformer, Error> {
    let bytes = fs::read(path).map_err(Error::io(path, "read it"))?;
    let header = Header::parse(&bytes, path)?;
    let sections = header.sections();
    // Each size is at most 2²⁴, so no product here reaches 2¹²⁸.
    let numbers: u128 = sections.iter().map(Section::numbers).sum();
    let expected = HEADER_BYTES as u128 + 4 * numbers;
    if bytes.len() as u128 != expected {
        let expected = format!("{expected} bytes, as its header says ({header})");
        return Err(not_as_expected(
            path,
            expected,
            format!("{} bytes", bytes.len()),
        ));
    }
    let mut numbers = bytes[HEADER_BYTES..]
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes));
    let mut tensors = NamedTensors::new();
    for section in sections {
        for index in 0..section.count {
            let size = section.shape.iter().product();
            let values: Vec<f32> = numbers.by_ref().take(size).collect();
            if let Some(name) = section.name {
                tensors.insert(
                    name.replace('*', &index.to_string()),
                    (section.shape.clone(), values),
                );
            }
        }
    }
    header.config.with_tensors(tensors, path, device)
}

/// The head is the embeddings; a file says that it is not by a negative vocabulary.
struct Header {
    config: ModelConfig,
}

impl std::fmt::Display for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ModelConfig {
            dim,
            hidden,
            layers,
            heads,
            key_heads,
            vocabulary,
            train_length,
            ..
        } = &self.config;
        let head = if self.config.design.tied_head {
            "a tied"
        } else {
            "an untied"
        };
        write!(
            f,
            "width {dim}, feed-forward {hidden}, {layers} layers, {heads} heads, {key_heads} key \
             heads, {vocabulary} tokens with {head} head, length {train_length}"
        )
    }
}

impl Header {
    fn parse(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            let got = format!("{} bytes", bytes.len());
            return Err(not_as_expected(path, "a header of 28 bytes", got));
        };
        let mut fields = [0; 7];
        for (field, bytes) in fields.iter_mut().zip(header.as_chunks::<4>().0) {
            *field = i32::from_le_bytes(*bytes);
        }
        let vocabulary = fields[5];
        fields[5] = 0;
        if let Some(negative) = fields.iter().find(|field| **field < 0) {
            let expected = "a header of sizes, none but the vocabulary negative";
            return Err(not_as_expected(path, expected, negative.to_string()));
        }
        let [dim, hidden, layers, heads, key_heads, _, train_length] =
            fields.map(|field| field as usize);
        let config = ModelConfig {
            encoding: "rotary".parse()?,
            dim,
            layers,
            heads,
            key_heads,
            hidden,
            vocabulary: vocabulary.unsigned_abs() as usize,
            train_length,
            norm_epsilon: 1e-5,
            rotary_theta: 10_000.0,
            prior_scope: PriorScope::Global,
            prior_start: PriorStart::default(),
            ssmax_from: 0,
            design: Design {
                tied_head: vocabulary > 0,
                ..Design::default()
            },
        };
        let config = config.checked().map_err(|error| {
            not_as_expected(path, "sizes that fit each other", error.to_string())
        })?;
        Ok(Self { config })
    }

    /// The file's contents, in their order.
    fn sections(&self) -> Vec<Section> {
        let &ModelConfig {
            dim,
            hidden,
            layers,
            vocabulary,
            ..
        } = &self.config;
        let head_dim = self.config.head_dim();
        let key_width = self.config.key_heads * head_dim;
        let once = |name, shape: &[usize]| Section {
            name: Some(name),
            count: 1,
            shape: shape.to_vec(),
        };
        let per_layer = |name, shape: &[usize]| Section {
            count: layers,
            ..once(name, shape)
        };
        let mut sections = vec![
            once(EMBEDDINGS, &[vocabulary, dim]),
            per_layer("layers.*.attention_norm.weight", &[dim]),
            per_layer("layers.*.attention.wq.weight", &[dim, dim]),
            per_layer("layers.*.attention.wk.weight", &[key_width, dim]),
            per_layer("layers.*.attention.wv.weight", &[key_width, dim]),
            per_layer("layers.*.attention.wo.weight", &[dim, dim]),
            per_layer("layers.*.ffn_norm.weight", &[dim]),
            per_layer("layers.*.feed_forward.w1.weight", &[hidden, dim]),
            per_layer("layers.*.feed_forward.w2.weight", &[dim, hidden]),
            per_layer("layers.*.feed_forward.w3.weight", &[hidden, dim]),
            once("norm.weight", &[dim]),
            // Cosines and sines that llama2.c once read; it computes them now, and so do we.
            Section {
                name: None,
                count: 2,
                shape: vec![self.config.train_length, head_dim / 2],
            },
        ];
        if !self.config.design.tied_head {
            sections.push(once(HEAD, &[vocabulary, dim]));
        }
        sections
    }
}

const EMBEDDINGS: &str = "tok_embeddings.weight";
const HEAD: &str = "output.weight";

/// `count` tensors of one shape, one after the other.
struct Section {
    /// The checkpoint name, `*` for the layer; `None` for what is not read.
    name: Option<&'static str>,
    count: usize,
    shape: Vec<usize>,
}

impl Section {
    fn numbers(&self) -> u128 {
        let size: u128 = self.shape.iter().map(|axis| *axis as u128).product();
        size * self.count as u128
    }
}

/// Reads the texts of a model's `size` tokens: `[longest]`, then `[score, length, bytes]` a token.
///
/// # Errors
/// If the file can't be read, ends early, goes on after the last token, or a length lies.
pub fn read_vocabulary(path: &Path, size: usize) -> Result<Vocabulary, Error> {
    let bytes = fs::read(path).map_err(Error::io(path, "read it"))?;
    let mut rest = bytes.as_slice();
    let longest = next_number(&mut rest, path, "the length of the longest token")?;
    let mut pieces = Vec::new();
    for token in 0..size {
        let what = format!("{size} tokens");
        let _score = next_number(&mut rest, path, &what)?;
        let length = next_number(&mut rest, path, &what)?;
        let piece = usize::try_from(length)
            .ok()
            .filter(|_| length <= longest)
            .and_then(|length| rest.split_at_checked(length));
        let Some((piece, after)) = piece else {
            let expected = format!(
                "token {token} to have at most {longest} bytes, of {} that are left",
                rest.len()
            );
            return Err(not_as_expected(path, expected, length.to_string()));
        };
        rest = after;
        pieces.push(spelled(token, piece));
    }
    if !rest.is_empty() {
        let got = format!("{} more bytes", rest.len());
        return Err(not_as_expected(
            path,
            format!("an end after {size} tokens"),
            got,
        ));
    }
    Ok(Vocabulary { pieces })
}

fn next_number(rest: &mut &[u8], path: &Path, what: &str) -> Result<i32, Error> {
    let Some((number, after)) = rest.split_first_chunk::<4>() else {
        let got = format!("an end after {} bytes of a number", rest.len());
        return Err(not_as_expected(path, what, got));
    };
    *rest = after;
    Ok(i32::from_le_bytes(*number))
}

/// The bytes that a token stands for: `<0x0A>` is one.
fn spelled(token: usize, piece: &[u8]) -> Vec<u8> {
    if CONTROL_TOKENS.contains(&token) {
        return Vec::new();
    }
    let byte = std::str::from_utf8(piece)
        .ok()
        .and_then(|text| text.strip_prefix("<0x")?.strip_suffix('>'))
        .filter(|digits| digits.len() == 2)
        .and_then(|digits| u8::from_str_radix(digits, 16).ok());
    byte.map_or_else(|| piece.to_vec(), |byte| vec![byte])
}
