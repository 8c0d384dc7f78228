//! Cross-entropy by position: one long document read in one go.

use crate::Error;
use crate::data::Tokenizer;
use crate::model::Transformer;
use crate::record::{Perplexity, PerplexityWindow};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};

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
    let ids: Vec<i32> = tokenizer
        .encode(text)?
        .into_iter()
        .map(|id| id as i32)
        .collect();
    if window == 0 || length < 2 || ids.len() < length {
        return Err(Error::Value {
            what: "perplexity length",
            expected: format!(
                "from 2 to the {} tokens of {title}, in windows of at least 1",
                ids.len()
            ),
            got: format!("{length} in windows of {window}"),
        });
    }
    let bytes_per_token = text.len() as f64 / ids.len() as f64;
    let scored = &ids[..length];
    let bos = tokenizer.bos().map(|id| id as i32);
    let tokens: Vec<i32> = bos.into_iter().chain(scored.iter().copied()).collect();
    // Position p of the logits predicts token p + 1; the last one's next token is not read.
    let inputs = &tokens[..tokens.len() - 1];
    let mut cache = model.cache(1, inputs.len())?;
    let mut nats: Vec<f32> = Vec::with_capacity(inputs.len());
    model.read(inputs, &mut cache, inputs.len(), |start, logits| {
        nats.extend(cross_entropies(logits, &tokens[start + 1..]));
        progress(nats.len());
    })?;
    let windows = nats
        .chunks(window)
        .enumerate()
        .map(|(number, nats)| PerplexityWindow {
            start: number * window,
            end: number * window + nats.len(),
            cross_entropy: nats.iter().map(|x| f64::from(*x)).sum::<f64>() / nats.len() as f64,
        })
        .collect();
    Ok(Perplexity {
        train_length: model.config().train_length,
        document: title.to_owned(),
        bytes_per_token,
        windows,
    })
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
