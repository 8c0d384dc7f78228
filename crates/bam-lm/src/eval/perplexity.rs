//! Cross-entropy by position: one long document read in one go.

use crate::Error;
use crate::data::Tokenizer;
use crate::model::Transformer;
use crate::record::{Perplexity, PerplexityWindow};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use std::ops::ControlFlow;

/// Reads the first `length` tokens of `text` and reports their cross-entropy in windows of `window`
/// consecutive positions. BOS and EOS are not scored; a BOS stands before the text where the
/// tokenizer has one.
///
/// # Errors
/// If the text has too few tokens, or the model fails.
pub fn perplexity(
    model: &Transformer,
    tokenizer: &Tokenizer,
    title: &str,
    text: &str,
    length: usize,
    window: usize,
    mut progress: impl FnMut(usize),
) -> Result<Perplexity, Error> {
    if window == 0 {
        return Err(Error::Value {
            what: "perplexity length",
            expected: "windows of at least 1".into(),
            got: format!("{length} in windows of 0"),
        });
    }
    let ids = tokens_of(tokenizer, text)?;
    let bytes_per_token = text.len() as f64 / ids.len().max(1) as f64;
    let nats = by_position(model, tokenizer, (title, &ids), length, 1, |read| {
        progress(read);
        ControlFlow::Continue(())
    })?
    .unwrap_or_default();
    let windows = nats
        .chunks(window)
        .enumerate()
        .map(|(number, nats)| PerplexityWindow {
            start: number * window,
            end: number * window + nats.len(),
            cross_entropy: nats.iter().sum::<f64>() / nats.len() as f64,
        })
        .collect();
    Ok(Perplexity {
        train_length: model.config().train_length,
        document: title.to_owned(),
        bytes_per_token,
        windows,
    })
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
    if ids.len() < 2 {
        return Err(Error::Value {
            what: "perplexity",
            expected: format!("at least 2 tokens in {title}"),
            got: ids.len().to_string(),
        });
    }
    if length < 2 || ids.len() < length || pieces == 0 {
        return Err(Error::Value {
            what: "perplexity length",
            expected: format!("from 2 to the {} tokens of {title}", ids.len()),
            got: length.to_string(),
        });
    }
    let bos = tokenizer.bos().map(|id| id as i32);
    let mut sums = Vec::new();
    let mut read = 0;
    let mut stopped = false;
    let count = pieces.min(ids.len() / length);
    for piece in ids.chunks_exact(length).take(count) {
        let tokens: Vec<i32> = bos.into_iter().chain(piece.iter().copied()).collect();
        // Position p of the logits predicts token p + 1; the last one's next token is not read.
        let inputs = &tokens[..tokens.len() - 1];
        let mut cache = model.cache(1, inputs.len())?;
        sums.resize(inputs.len(), 0.0);
        model.read(inputs, &mut cache, inputs.len(), |start, logits| {
            let nats = cross_entropies(logits, &tokens[start + 1..]);
            for (sum, nats) in sums[start..].iter_mut().zip(&nats) {
                *sum += f64::from(*nats);
            }
            read += nats.len();
            stopped |= progress(read).is_break();
        })?;
        if stopped {
            return Ok(None);
        }
    }
    Ok(Some(
        sums.into_iter().map(|sum| sum / count as f64).collect(),
    ))
}

/// `−ln p(next)` of every row.
fn cross_entropies(logits: Tensor<3>, next: &[i32]) -> Vec<f32> {
    let [_, rows, vocabulary] = logits.dims();
    let device = logits.device();
    let targets = TensorData::new(next[..rows].to_vec(), [rows, 1]);
    let targets = Tensor::<2, Int>::from_data(targets, &device);
    let ln_probabilities = log_softmax(logits.reshape([rows, vocabulary]), 1);
    crate::model::host_values(ln_probabilities.gather(1, targets).neg())
}
