//! Cross-entropy by position: one long document read in one go.

use crate::watch::{Watch, digest, exact};
use bam_data::Tokenizer;
use bam_lm::Error;
use bam_lm::model::{KvCache, Transformer};
use bam_record::{CertifiedCache, Perplexity, PerplexityWindow};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::ops::{ControlFlow, Range};

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PerplexityPlan<'a> {
    /// The document's name.
    pub title: &'a str,
    /// The document.
    pub text: &'a str,
    /// Its first so many tokens; all if not given.
    pub length: Option<usize>,
    /// Consecutive positions that are one figure.
    pub window: usize,
    /// The cache keeps of every head only what its certified horizon can reach, with at most this share of
    /// a row's posterior in what it forgets.
    pub certified_cache: Option<f64>,
}

/// A window that was read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowRead {
    /// Where it begins.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// Nats per token.
    #[serde(with = "exact")]
    pub cross_entropy: f64,
}

/// Reads the first tokens of a text and reports their cross-entropy in windows of consecutive positions.
/// BOS and EOS are not scored; a BOS stands before the text where the tokenizer has one. `progress` is told
/// how many tokens were read, of how many.
///
/// `None` where the watch says stop. What it knows is of use where it knows all windows: a document is
/// read from its beginning.
///
/// # Errors
/// If the text has too few tokens, or the model fails.
pub fn perplexity(
    model: &Transformer,
    tokenizer: &Tokenizer,
    plan: &PerplexityPlan,
    progress: impl Fn(usize, usize),
    watch: Watch<WindowRead>,
) -> Result<Option<Perplexity>, Error> {
    let ids = tokens_of(tokenizer, plan.text)?;
    let length = plan.length.unwrap_or(ids.len());
    if plan.window == 0 {
        return Err(Error::Value {
            what: "perplexity length",
            expected: "windows of at least 1".into(),
            got: format!("{length} in windows of 0"),
        });
    }
    check_length(plan.title, &ids, length)?;
    let row = Row::new(tokenizer, &ids[..length]);
    let (mut cache, mut certified_cache) = (None, None);
    if let Some(epsilon) = plan.certified_cache {
        let horizons = model.horizons(row.inputs().len(), epsilon)?;
        certified_cache = Some(CertifiedCache {
            epsilon,
            kept: vec![model.config().kept_keys(row.inputs().len(), &horizons)],
        });
        cache = Some(model.certified_cache(1, row.inputs().len(), &horizons)?);
    }
    let document = digest([plan.text]);
    let ends = (0..row.inputs().len()).step_by(plan.window);
    let windows = ends.map(|start| start..(start + plan.window).min(row.inputs().len()));
    let asked = |at: &Range<usize>| format!("tokens {} to {} of {document}", at.start, at.end);
    // The last one first: without it the others are no help.
    let known = windows.clone().rev().map(|at| (watch.known)(&asked(&at)));
    let known: Option<Vec<WindowRead>> = known.collect();
    let mut read = known.unwrap_or_default();
    read.reverse();
    if read.is_empty() {
        let cache = match cache {
            Some(cache) => cache,
            None => model.cache(1, row.inputs().len())?,
        };
        let mut nats: Vec<f64> = Vec::new();
        let mut windows = windows.peekable();
        let all = row.read(model, cache, watch.stop, |_, more| {
            nats.extend(more.iter().map(|x| f64::from(*x)));
            while let Some(at) = windows.next_if(|at| at.end <= nats.len()) {
                let window = WindowRead {
                    start: at.start,
                    end: at.end,
                    cross_entropy: nats[at.clone()].iter().sum::<f64>() / at.len() as f64,
                };
                (watch.found)(&asked(&at), &window);
                read.push(window);
            }
            progress(nats.len(), row.inputs().len());
        })?;
        if all.is_none() {
            return Ok(None);
        }
    }
    let windows = read.into_iter().map(|window| PerplexityWindow {
        start: window.start,
        end: window.end,
        cross_entropy: window.cross_entropy,
    });
    Ok(Some(Perplexity {
        train_length: model.config().train_length,
        document: plan.title.to_owned(),
        bytes_per_token: plan.text.len() as f64 / ids.len().max(1) as f64,
        windows: windows.collect(),
        certified_cache,
    }))
}

/// The tokens of a text.
///
/// # Errors
/// If the tokenizer can't encode it.
pub fn tokens_of(tokenizer: &Tokenizer, text: &str) -> Result<Vec<i32>, Error> {
    let ids = tokenizer.encode(text)?.into_iter();
    Ok(ids.map(|id| id as i32).collect())
}

/// Cross-entropy at every position below `length`, the mean over the first `pieces` whole pieces of that
/// many tokens, each read by itself after the tokenizer's BOS, if it has one. `None` where `progress`,
/// which is told how many tokens were read, broke off.
///
/// # Errors
/// If there is not one whole piece of at least 2 tokens, or the model fails.
pub fn by_position(
    model: &Transformer,
    tokenizer: &Tokenizer,
    (title, ids): (&str, &[i32]),
    length: usize,
    pieces: usize,
    mut progress: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<Option<Vec<f64>>, Error> {
    check_length(title, ids, length)?;
    let count = pieces.min(ids.len() / length);
    if count == 0 {
        return Err(Error::Value {
            what: "pieces",
            expected: "at least 1".into(),
            got: "0".into(),
        });
    }
    let mut sums = Vec::new();
    let mut read = 0;
    let stopped = Cell::new(false);
    for piece in ids.chunks_exact(length).take(count) {
        let row = Row::new(tokenizer, piece);
        let cache = model.cache(1, row.inputs().len())?;
        sums.resize(row.inputs().len(), 0.0);
        let all = row.read(model, cache, &|| stopped.get(), |start, nats| {
            for (sum, nats) in sums[start..].iter_mut().zip(nats) {
                *sum += f64::from(*nats);
            }
            read += nats.len();
            stopped.set(progress(read).is_break());
        })?;
        if all.is_none() || stopped.get() {
            return Ok(None);
        }
    }
    Ok(Some(
        sums.into_iter().map(|sum| sum / count as f64).collect(),
    ))
}

fn check_length(title: &str, ids: &[i32], length: usize) -> Result<(), Error> {
    if ids.len() < 2 {
        return Err(Error::Value {
            what: "perplexity",
            expected: format!("at least 2 tokens in {title}"),
            got: ids.len().to_string(),
        });
    }
    match (2..=ids.len()).contains(&length) {
        true => Ok(()),
        false => Err(Error::Value {
            what: "perplexity length",
            expected: format!("from 2 to the {} tokens of {title}", ids.len()),
            got: length.to_string(),
        }),
    }
}

/// Tokens to be read in one go, after the tokenizer's BOS, if it has one.
struct Row(Vec<i32>);

impl Row {
    fn new(tokenizer: &Tokenizer, ids: &[i32]) -> Self {
        let bos = tokenizer.bos().map(|id| id as i32);
        Self(bos.into_iter().chain(ids.iter().copied()).collect())
    }

    /// What is read: position p of the logits predicts token p + 1, and the last one's next token is not
    /// there.
    fn inputs(&self) -> &[i32] {
        &self.0[..self.0.len() - 1]
    }

    /// Hands on `−ln p` of the tokens after the first, chunk by chunk, with the index of a chunk's first.
    /// `None` where `stop` says so.
    fn read(
        &self,
        model: &Transformer,
        mut cache: KvCache,
        stop: &dyn Fn() -> bool,
        mut sink: impl FnMut(usize, &[f32]),
    ) -> Result<Option<()>, Error> {
        let inputs = self.inputs();
        model.prefill_unless(stop, inputs, &mut cache, inputs.len(), |start, logits| {
            sink(start, &cross_entropies(logits, &self.0[start + 1..]));
        })
    }
}

/// `−ln p(next)` of every row.
fn cross_entropies(logits: Tensor<3>, next: &[i32]) -> Vec<f32> {
    let [_, rows, vocabulary] = logits.dims();
    let device = logits.device();
    let targets = TensorData::new(next[..rows].to_vec(), [rows, 1]);
    let targets = Tensor::<2, Int>::from_data(targets, &device);
    let ln_probabilities = log_softmax(logits.reshape([rows, vocabulary]), 1);
    bam_lm::model::host_values(ln_probabilities.gather(1, targets).neg())
}
