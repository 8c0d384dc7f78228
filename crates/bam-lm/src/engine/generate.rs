//! Generation: one token after the other from the cache.

use crate::Error;
use crate::model::{KvCache, Transformer};
use bam_attention::Skipping;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A way to draw the next token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f64,
    /// Only the `k` most probable tokens; `None` for all.
    pub top_k: Option<usize>,
    /// Only the most probable tokens that hold this much mass together.
    pub top_p: f64,
    /// Same seed, same text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// # Errors
    /// If a number is outside its range.
    pub fn checked(self) -> Result<Self, Error> {
        let wrong = |what, expected: &str, got: String| {
            Err(Error::Value {
                what,
                expected: expected.to_owned(),
                got,
            })
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return wrong(
                "temperature",
                "a number from 0 up",
                self.temperature.to_string(),
            );
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong(
                "top-p",
                "a number above 0 and at most 1",
                self.top_p.to_string(),
            );
        }
        if self.top_k == Some(0) {
            return wrong("top-k", "at least 1", "0".into());
        }
        Ok(self)
    }

    /// Draws the next token.
    ///
    /// # Panics
    /// Without logits.
    pub fn draw(&self, logits: &[f32], random: &mut impl Rng) -> i32 {
        if self.temperature == 0.0 {
            return argmax(logits) as i32;
        }
        let mut candidates: Vec<usize> = (0..logits.len()).collect();
        if self.top_k.is_some() || self.top_p < 1.0 {
            candidates.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        }
        candidates.truncate(self.top_k.unwrap_or(usize::MAX).max(1));
        let largest = logits.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
        let weights: Vec<f64> = candidates
            .iter()
            .map(|&token| (f64::from(logits[token] - largest) / self.temperature).exp())
            .collect();
        let total: f64 = weights.iter().sum();
        let mut kept = 0.0;
        let count = 1 + weights
            .iter()
            .take_while(|weight| {
                kept += **weight;
                kept < self.top_p * total
            })
            .count();
        let count = count.min(weights.len());
        let mut point = random.random::<f64>() * weights[..count].iter().sum::<f64>();
        for (&token, weight) in candidates[..count].iter().zip(&weights) {
            point -= weight;
            if point <= 0.0 {
                return token as i32;
            }
        }
        candidates[count - 1] as i32
    }
}

/// The index of the largest value: of equals the first; NaN never, unless there is nothing else.
#[must_use]
pub fn argmax<T: PartialOrd>(values: &[T]) -> usize {
    // NaN does not even compare with itself.
    let is_number = |index: &usize| values[*index].partial_cmp(&values[*index]).is_some();
    let larger = |best: usize, index: usize| match values[index] > values[best] {
        true => index,
        false => best,
    };
    let numbers = (0..values.len()).filter(is_number);
    numbers.reduce(larger).unwrap_or(0)
}

/// An iterator over generated tokens.
#[derive(Debug)]
pub struct Generator<'a> {
    model: &'a Transformer,
    cache: KvCache,
    logits: Vec<f32>,
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl<'a> Generator<'a> {
    /// Reads the prompt; up to `room` tokens can be generated after it.
    ///
    /// # Errors
    /// If the prompt is empty or holds ids outside the vocabulary.
    pub fn new(
        model: &'a Transformer,
        prompt: &[i32],
        room: usize,
        sampling: Sampling,
        skipping: Skipping,
    ) -> Result<Self, Error> {
        let cache = model.cache(1, prompt.len().saturating_add(room))?;
        Self::with_cache(model, prompt, cache.with_skipping(skipping), sampling)
    }

    /// Reads the prompt into the cache; tokens can be generated until it is full.
    ///
    /// # Errors
    /// If the prompt is empty, holds ids outside the vocabulary, or does not fit.
    pub fn with_cache(
        model: &'a Transformer,
        prompt: &[i32],
        mut cache: KvCache,
        sampling: Sampling,
    ) -> Result<Self, Error> {
        let sampling = sampling.checked()?;
        let logits = model.prefill_to_logits(prompt, &mut cache)?;
        let random = ChaCha8Rng::seed_from_u64(sampling.seed);
        Ok(Self {
            model,
            cache,
            logits,
            sampling,
            random,
        })
    }
}

impl Iterator for Generator<'_> {
    type Item = Result<i32, Error>;

    /// The next token; `None` where the room is used up.
    fn next(&mut self) -> Option<Self::Item> {
        if self.cache.length() >= self.cache.capacity() {
            return None;
        }
        let token = self.sampling.draw(&self.logits, &mut self.random);
        match self.model.prefill_to_logits(&[token], &mut self.cache) {
            Ok(logits) => {
                self.logits = logits;
                Some(Ok(token))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(sampling: Sampling) -> [usize; 4] {
        let logits = [1.0f32, 3.0, 2.0, -5.0];
        let mut random = ChaCha8Rng::seed_from_u64(sampling.seed);
        let mut counts = [0; 4];
        for _ in 0..4000 {
            counts[sampling.draw(&logits, &mut random) as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_softmax() {
        let counts = frequencies(Sampling::default());
        let weights = [1.0f64, 3.0, 2.0, -5.0].map(f64::exp);
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            assert!(
                (*count as f64 / 4000.0 - weight / total).abs() < 0.03,
                "{counts:?}"
            );
        }
        // Null control: greedy draws don't pass for it.
        assert_eq!(
            frequencies(Sampling {
                temperature: 0.0,
                ..Sampling::default()
            }),
            [0, 4000, 0, 0]
        );
    }

    #[test]
    fn the_first_of_equals_is_the_argmax_and_nan_never_is() {
        const NAN: f32 = f32::NAN;
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(argmax(&[NAN, 1.0, NAN, 2.0, 2.0]), 3);
        assert_eq!(argmax(&[f32::NEG_INFINITY, -1.0, NAN]), 1);
        assert_eq!(argmax(&[NAN, f32::NEG_INFINITY]), 1);
        assert_eq!((argmax(&[NAN, NAN]), argmax::<f32>(&[])), (0, 0));
        let greedy = Sampling {
            temperature: 0.0,
            ..Sampling::default()
        };
        let mut random = ChaCha8Rng::seed_from_u64(0);
        assert_eq!(greedy.draw(&[0.0, 2.0, 2.0], &mut random), 1);
        // Null control: the order by which `max_by` takes the last of equals does not pass for it.
        let last = [0.0f32, 2.0, 2.0];
        let impostor = (0..3).max_by(|&a, &b| last[a].total_cmp(&last[b]));
        assert_ne!(impostor, Some(argmax(&last)));
    }

    #[test]
    fn limits_limit() {
        let two = frequencies(Sampling {
            top_k: Some(2),
            ..Sampling::default()
        });
        assert!(two[0] == 0 && two[3] == 0 && two[2] > 0, "{two:?}");
        let half = frequencies(Sampling {
            top_p: 0.5,
            ..Sampling::default()
        });
        assert_eq!(half, [0, 4000, 0, 0]);
        let most = frequencies(Sampling {
            top_p: 0.8,
            ..Sampling::default()
        });
        assert!(most[1] > 0 && most[2] > 0 && most[0] == 0, "{most:?}");
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for sampling in [
            Sampling {
                temperature: f64::NAN,
                ..Sampling::default()
            },
            Sampling {
                top_p: 0.0,
                ..Sampling::default()
            },
            Sampling {
                top_k: Some(0),
                ..Sampling::default()
            },
        ] {
            assert!(sampling.checked().is_err(), "{sampling:?}");
        }
    }
}
