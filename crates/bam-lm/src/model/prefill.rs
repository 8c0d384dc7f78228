//! Prefill: a sequence read in pieces, and the scores of its tokens.

use super::prior::host_values;
use super::{KvCache, TokenRows, Transformer};
use crate::Error;
use burn::tensor::Tensor;

/// Tokens that are read at once; bounds the memory of a long sequence beside its cache.
pub const CHUNK: usize = 1024;

/// A token's probability after those before it.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    /// `ln p(token | those before)`.
    pub ln_probability: f64,
    /// The most probable tokens in its place with their `ln p`, most probable first.
    pub top: Vec<(i32, f64)>,
}

impl TokenScore {
    /// Whether `token` was the most probable one.
    #[must_use]
    pub fn is_greedy(&self, token: i32) -> bool {
        self.top.first().is_some_and(|(best, _)| *best == token)
    }
}

impl Transformer {
    /// Reads `tokens` into the cache, chunk by chunk, and hands every chunk's logits of the last
    /// `tail` tokens to `sink`, with the index of the first of them.
    ///
    /// # Shapes
    /// - to `sink`: `[1, rows, vocabulary]`
    ///
    /// # Errors
    /// If there is no token, one is outside the vocabulary, or the cache has no room.
    pub fn prefill(
        &self,
        tokens: &[i32],
        cache: &mut KvCache,
        tail: usize,
        sink: impl FnMut(usize, Tensor<3>),
    ) -> Result<(), Error> {
        let read = self.prefill_unless(&|| false, tokens, cache, tail, sink)?;
        debug_assert!(read.is_some(), "nothing stops it");
        Ok(())
    }

    /// The same, but `stop` is asked before every chunk; `None` where it says so.
    ///
    /// # Errors
    /// Those of [`Transformer::prefill`].
    pub fn prefill_unless(
        &self,
        stop: &dyn Fn() -> bool,
        tokens: &[i32],
        cache: &mut KvCache,
        tail: usize,
        mut sink: impl FnMut(usize, Tensor<3>),
    ) -> Result<Option<()>, Error> {
        let vocabulary = self.config().vocabulary;
        // Checked as a whole, so that nothing is read of a sequence that has a wrong token.
        TokenRows::new(1, tokens.to_vec(), vocabulary)?;
        let first_read = tokens.len() - tail.min(tokens.len());
        for (number, chunk) in tokens.chunks(CHUNK).enumerate() {
            if stop() {
                return Ok(None);
            }
            let start = number * CHUNK;
            let read = first_read.saturating_sub(start).min(chunk.len())..chunk.len();
            let rows = TokenRows::new(1, chunk.to_vec(), vocabulary)?;
            if let Some(logits) = self.forward_cached(&rows, cache, read.clone())? {
                sink(start + read.start, logits);
            }
        }
        Ok(Some(()))
    }

    /// Reads `tokens` into the cache; the logits after the last one, `[vocabulary]`.
    ///
    /// # Errors
    /// Those of [`Transformer::prefill`].
    pub fn prefill_to_logits(
        &self,
        tokens: &[i32],
        cache: &mut KvCache,
    ) -> Result<Vec<f32>, Error> {
        let mut after = Vec::new();
        self.prefill(tokens, cache, 1, |_, logits| after = host_values(logits))?;
        Ok(after)
    }

    /// Reads `tokens` into the cache; the scores of those after the first, with the `top` most
    /// probable ones, from the token with index `from` on, and the logits after the last.
    ///
    /// # Errors
    /// Those of [`Transformer::prefill`].
    pub fn score(
        &self,
        tokens: &[i32],
        cache: &mut KvCache,
        from: usize,
        top: usize,
    ) -> Result<(Vec<TokenScore>, Vec<f32>), Error> {
        // Token t is predicted by the logits at t − 1.
        let from = from.max(1);
        let tail = (tokens.len() + 1).saturating_sub(from).max(1);
        let mut scores = Vec::new();
        let mut after = Vec::new();
        let vocabulary = self.config().vocabulary;
        self.prefill(tokens, cache, tail, |start, logits| {
            let logits = host_values(logits);
            for (row, logits) in logits.chunks_exact(vocabulary).enumerate() {
                match tokens.get(start + row + 1) {
                    Some(next) => scores.push(score_of(logits, *next, top)),
                    None => after = logits.to_vec(),
                }
            }
        })?;
        Ok((scores, after))
    }
}

/// The score of `token` under some logits.
#[must_use]
pub fn score_of(logits: &[f32], token: i32, top: usize) -> TokenScore {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
    let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
    let ln_sum = f64::from(largest) + sum.ln();
    let ln_p = |token: i32| f64::from(logits[token as usize]) - ln_sum;
    let mut best: Vec<i32> = Vec::with_capacity(top + 1);
    for id in 0..logits.len() as i32 {
        let larger = |other: &i32| logits[*other as usize] >= logits[id as usize];
        let place = best.iter().take_while(|other| larger(other)).count();
        if place < top {
            best.insert(place, id);
            best.truncate(top);
        }
    }
    TokenScore {
        ln_probability: ln_p(token),
        top: best.into_iter().map(|id| (id, ln_p(id))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::small;
    use burn::tensor::Device;

    #[test]
    fn scores_are_log_softmax() {
        let logits = [0.5f32, 2.0, -1.0, 2.0];
        let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        let score = score_of(&logits, 2, 3);
        assert!((score.ln_probability - (-1.0 - sum.ln())).abs() < 1e-12);
        // Of equals, the lower id comes first.
        let ids: Vec<i32> = score.top.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [1, 3, 0]);
        assert!(score.is_greedy(1) && !score.is_greedy(3));
    }

    #[test]
    fn scores_do_not_depend_on_where_reading_was_cut() {
        let device = Device::flex();
        device.seed(3);
        let model = small("bam+ssmax").init(&device);
        let tokens: Vec<i32> = (0..40).map(|i| i * 7 % 31).collect();
        let mut cache = model.cache(1, 40).unwrap();
        let (whole, after) = model.score(&tokens, &mut cache, 0, 2).unwrap();
        assert_eq!(whole.len(), 39);
        let mut cache = model.cache(1, 40).unwrap();
        model
            .prefill(&tokens[..25], &mut cache, 0, |_, _| ())
            .unwrap();
        let (part, after_part) = model.score(&tokens[25..], &mut cache, 0, 2).unwrap();
        assert_eq!(part.len(), 14);
        for (whole, part) in whole[25..].iter().zip(&part) {
            assert!((whole.ln_probability - part.ln_probability).abs() < 1e-4);
        }
        for (a, b) in after.iter().zip(&after_part) {
            assert!((a - b).abs() < 1e-4);
        }
        let mut cache = model.cache(1, 40).unwrap();
        let (tail, _) = model.score(&tokens, &mut cache, 30, 0).unwrap();
        assert_eq!(tail.len(), 10);
        assert!((tail[0].ln_probability - whole[29].ln_probability).abs() < 1e-12);
    }
}
