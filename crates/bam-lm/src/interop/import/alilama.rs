//! Alilama: small trained ALiBi models with a block of their own, and their byte-pair vocabulary.
//!
//! ```text
//! x = LN₁(x)     a = x + heads(x)     out = a + p₂(silu(p₁·LN₂(a)))     logits = out · embeddingsᵀ
//! ```
//!
//! Attention has no output projection, the residual around it starts behind the first norm, and there
//! is no norm before the head.

use super::{Vocabulary, not_as_expected};
use crate::Error;
use crate::model::checkpoint::{NamedTensors, read_tensors};
use crate::model::{
    Activation, Design, ModelConfig, NormKind, PriorScope, PriorStart, Residual, Transformer,
};
use bam_data::Tokenizer;
use burn::tensor::Device;
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;

/// Heads of every published model; no tensor tells them.
const HEADS: usize = 8;
/// And the length that they were trained at.
const TRAIN_LENGTH: usize = 128;

/// Reads a model from the tensors of its training program, as safetensors.
///
/// # Errors
/// If the file can't be read, or a tensor is missing, not finite, of another shape or unknown.
pub fn read_model(path: &Path, device: &Device) -> Result<Transformer, Error> {
    let mut file = Weights {
        tensors: read_tensors(path)?,
        path,
    };
    let [vocabulary, dim] = file.matrix_shape("embed.weight")?;
    if dim % HEADS != 0 {
        return Err(file.wrong(
            "embed.weight",
            format!("a width that is a multiple of {HEADS} heads"),
            dim.to_string(),
        ));
    }
    let [hidden, _] = file.matrix_shape("blocks.0.MLP.p1.weight")?;
    let mut tensors = NamedTensors::new();
    let mut layers = 0;
    while layers == 0 || file.has(&format!("blocks.{layers}.norm1.weight")) {
        file.block(layers, [dim, hidden], &mut tensors)?;
        layers += 1;
    }
    let embeddings = file.take("embed.weight", &[vocabulary, dim])?;
    tensors.insert("tok_embeddings.weight".into(), embeddings);
    file.finish()?;
    let config = ModelConfig {
        encoding: "alibi".parse()?,
        dim,
        layers,
        heads: HEADS,
        key_heads: HEADS,
        hidden,
        vocabulary,
        train_length: TRAIN_LENGTH,
        norm_epsilon: 1e-5,
        rotary_theta: 10_000.0,
        prior_scope: PriorScope::Global,
        prior_start: PriorStart::default(),
        ssmax_from: 0,
        design: Design {
            norm: NormKind::Layer,
            activation: Activation::Silu,
            gated: false,
            output_projection: false,
            attention_residual: Residual::Normed,
            final_norm: false,
            tied_head: true,
            ..Design::default()
        },
    };
    config.checked()?.with_tensors(tensors, path, device)
}

/// The tensors of a file that were not taken yet.
struct Weights<'a> {
    tensors: NamedTensors,
    path: &'a Path,
}

impl Weights<'_> {
    fn wrong(&self, tensor: &str, expected: impl Into<String>, got: impl Into<String>) -> Error {
        Error::Tensor {
            path: self.path.to_owned(),
            tensor: tensor.to_owned(),
            expected: expected.into(),
            got: got.into(),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn matrix_shape(&self, name: &str) -> Result<[usize; 2], Error> {
        let got = match self.tensors.get(name).map(|(shape, _)| shape.as_slice()) {
            Some(&[rows, columns]) if rows > 0 && columns > 0 => return Ok([rows, columns]),
            Some(shape) => format!("shape {shape:?}"),
            None => "no such tensor".into(),
        };
        Err(self.wrong(name, "a matrix", got))
    }

    fn take(&mut self, name: &str, expected: &[usize]) -> Result<(Vec<usize>, Vec<f32>), Error> {
        let Some((shape, values)) = self.tensors.remove(name) else {
            return Err(self.wrong(name, format!("shape {expected:?}"), "no such tensor"));
        };
        if shape != expected {
            let got = format!("shape {shape:?}");
            return Err(self.wrong(name, format!("shape {expected:?}"), got));
        }
        if let Some(index) = values.iter().position(|x| !x.is_finite()) {
            let got = format!("{} at index {index}", values[index]);
            return Err(self.wrong(name, "finite numbers", got));
        }
        Ok((shape, values))
    }

    fn block(
        &mut self,
        index: usize,
        [dim, hidden]: [usize; 2],
        tensors: &mut NamedTensors,
    ) -> Result<(), Error> {
        let name = |part: &str| format!("blocks.{index}.{part}");
        // Trained beside the others and never used by the program's forward pass.
        for part in ["MHSA", "MLP"] {
            self.tensors
                .remove(&name(&format!("{part}.preadditive.weight")));
        }
        for (theirs, ours, shape) in [
            ("norm1.weight", "attention_norm.weight", &[dim][..]),
            ("norm1.bias", "attention_norm.bias", &[dim]),
            ("norm2.weight", "ffn_norm.weight", &[dim]),
            ("norm2.bias", "ffn_norm.bias", &[dim]),
            ("MHSA.q.weight", "attention.wq.weight", &[dim, dim]),
            ("MHSA.k.weight", "attention.wk.weight", &[dim, dim]),
            ("MHSA.v.weight", "attention.wv.weight", &[dim, dim]),
            ("MLP.p1.weight", "feed_forward.w1.weight", &[hidden, dim]),
            ("MLP.p2.weight", "feed_forward.w2.weight", &[dim, hidden]),
        ] {
            let values = self.take(&name(theirs), shape)?;
            tensors.insert(format!("layers.{index}.{ours}"), values);
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Error> {
        match self.tensors.keys().min() {
            Some(name) => Err(self.wrong(name, "no such tensor in an Alilama model", "one")),
            None => Ok(()),
        }
    }
}

/// A longer token is a broken file: each merge may double the length of the one before.
const LONGEST_TOKEN: usize = 256;

/// The contents of a `minbpe` file.
struct MinBpe {
    /// Splits text into words, as a regular expression.
    pattern: String,
    /// The two tokens that each token from 256 on is made of.
    merges: Vec<[usize; 2]>,
    /// The bytes of every token.
    pieces: Vec<Vec<u8>>,
}

/// Reads a `minbpe` file: the 256 bytes are the first tokens, every line of the file's end merges
/// two tokens into the next one.
///
/// # Errors
/// If the file can't be read, is of another version, or merges what is no token yet.
pub fn read_vocabulary(path: &Path) -> Result<Vocabulary, Error> {
    let MinBpe { pieces, .. } = read_minbpe(path)?;
    Ok(Vocabulary { pieces })
}

/// Reads a `minbpe` file as a tokenizer, which also encodes: the same tokens for the same text.
///
/// # Errors
/// Those of [`read_vocabulary`]; two tokens of the same bytes, a pattern that is none.
pub fn read_tokenizer(path: &Path) -> Result<Tokenizer, Error> {
    let file = read_minbpe(path)?;
    let alphabet = byte_alphabet();
    let spelled: Vec<String> = (file.pieces.iter())
        .map(|piece| {
            piece
                .iter()
                .map(|byte| alphabet[usize::from(*byte)])
                .collect()
        })
        .collect();
    let mut vocabulary: HashMap<&str, usize> = HashMap::new();
    for (id, piece) in spelled.iter().enumerate() {
        if let Some(other) = vocabulary.insert(piece, id) {
            let got = format!("tokens {other} and {id} of the same bytes");
            return Err(not_as_expected(path, "every token once", got));
        }
    }
    let merges: Vec<[&str; 2]> = (file.merges.iter())
        .map(|pair| pair.map(|id| spelled[id].as_str()))
        .collect();
    let json = json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": { "Regex": file.pattern },
                    "behavior": "Isolated",
                    "invert": false,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": false,
                    "trim_offsets": false,
                    "use_regex": false,
                },
            ],
        },
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": false,
            "trim_offsets": false,
            "use_regex": false,
        },
        "model": { "type": "BPE", "vocab": vocabulary, "merges": merges },
    });
    Ok(Tokenizer::from_bytes(json.to_string().as_bytes())?)
}

/// The characters that stand for bytes in the vocabularies of byte-level BPE: printable ones for
/// themselves, the others in order from U+0100 on.
fn byte_alphabet() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte as u8),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    })
}

fn read_minbpe(path: &Path) -> Result<MinBpe, Error> {
    let text = bam_data::read_text(path).map_err(Error::io(path, "read it"))?;
    let mut lines = text.lines();
    let mut line =
        |expected: &str| (lines.next()).ok_or_else(|| not_as_expected(path, expected, "its end"));
    let version = line("a minbpe file")?;
    if version != "minbpe v1" {
        return Err(not_as_expected(path, "minbpe v1", version));
    }
    let pattern = line("the pattern that splits words")?.to_owned();
    let specials = line("the number of special tokens")?;
    if specials != "0" {
        return Err(not_as_expected(path, "no special tokens", specials));
    }
    let mut pieces: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
    let mut merges = Vec::new();
    for line in lines {
        let pair = line.split_once(' ').and_then(|(left, right)| {
            let id = |text: &str| text.parse().ok().filter(|id| *id < pieces.len());
            Some([id(left)?, id(right)?])
        });
        let merged = pair.map(|pair: [usize; 2]| (pair, pair.map(|id| &pieces[id][..]).concat()));
        match merged {
            Some((pair, piece)) if piece.len() <= LONGEST_TOKEN => {
                merges.push(pair);
                pieces.push(piece);
            }
            _ => {
                let expected = format!(
                    "two tokens below {}, together at most {LONGEST_TOKEN} bytes",
                    pieces.len()
                );
                return Err(not_as_expected(path, expected, line));
            }
        }
    }
    Ok(MinBpe {
        pattern,
        merges,
        pieces,
    })
}
