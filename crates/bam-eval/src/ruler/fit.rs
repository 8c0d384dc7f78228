//! The haystack that fits.

use super::sample::Sample;
use super::task::Task;
use crate::evaluation::Stop;
use bam_data::Tokenizer;
use bam_lm::Error;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// A prompt before its tokens are counted.
pub(super) struct Draft {
    pub input: String,
    pub answer_prefix: String,
    pub outputs: Vec<String>,
}

/// The task and length that samples are made for.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub tokenizer: &'a Tokenizer,
    pub task: Task,
    /// Tokens of a prompt and its answer, at most.
    pub length: usize,
    pub seed: u64,
    /// Whether to stop. What is made then is not used.
    pub stop: Stop<'a>,
}

/// Samples, or why there are none.
pub(super) type Made = Result<Vec<Sample>, String>;

/// The sample that only the haystack's size is found with.
const PROBE: usize = (1 << 24) - 1;

impl Frame<'_> {
    /// A sample's random numbers: the same for every model that has the tokenizer.
    pub fn random(&self, index: usize) -> ChaCha8Rng {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let task = self.task as u64;
        random.set_stream((task << 58) ^ ((self.length as u64) << 24) ^ index as u64);
        random
    }

    /// Tokens of a draft and of its longest answer.
    pub fn tokens(&self, draft: &Draft) -> Result<usize, Error> {
        Ok(self.count(&format!("{}{}", draft.input, draft.answer_prefix))? + self.task.budget())
    }

    pub fn count(&self, text: &str) -> Result<usize, Error> {
        Ok(self.tokenizer.encode(text)?.len())
    }

    /// The reason where not even the smallest haystack fits.
    pub fn too_short(&self, needed: usize) -> String {
        format!(
            "{} needs at least {needed} tokens, {} of them for the answer",
            self.task,
            self.task.budget()
        )
    }

    /// The largest size, from `smallest` on, whose tokens are at most `limit`, and those; the smallest one's
    /// tokens where there is none. Every unit of size has a token, so the search ends.
    pub fn largest(
        &self,
        smallest: usize,
        limit: usize,
        tokens: impl Fn(usize) -> Result<usize, Error>,
    ) -> Result<Result<(usize, usize), usize>, Error> {
        let tokens = |size| match (self.stop)() {
            true => Ok(usize::MAX),
            false => tokens(size),
        };
        let needed = tokens(smallest)?;
        if needed > limit {
            return Ok(Err(needed));
        }
        let mut fits = (smallest, needed);
        let mut too_large = limit.max(smallest) + 1;
        let mut step = smallest.max(1);
        while fits.0 + 1 < too_large {
            let mut size = fits.0 + (too_large - fits.0) / 2;
            // Doubling first: texts much longer than the limit would take long to count.
            if fits.0 + step < too_large {
                size = fits.0 + step;
                step *= 2;
            }
            match tokens(size)? {
                counted if counted <= limit => fits = (size, counted),
                _ => too_large = size,
            }
        }
        Ok(Ok(fits))
    }

    /// Some samples, each of about the largest size that fits. One that does not fit at all is left out.
    pub fn filled(
        &self,
        count: usize,
        smallest: usize,
        draft: impl Fn(usize, &mut ChaCha8Rng) -> Draft + Sync,
    ) -> Result<Made, Error> {
        let probe = |size| self.tokens(&draft(size, &mut self.random(PROBE)));
        let size = match self.largest(smallest, self.length, probe)? {
            Ok((size, _)) => size,
            Err(needed) => return Ok(Err(self.too_short(needed))),
        };
        let samples = (0..count).into_par_iter().map(|index| {
            let of_size = |size| draft(size, &mut self.random(index));
            self.fitted(index, size, smallest, of_size)
        });
        let samples: Vec<Option<Sample>> = samples.collect::<Result<_, _>>()?;
        let samples: Vec<Sample> = samples.into_iter().flatten().collect();
        Ok(match samples.is_empty() {
            true => Err(format!("no sample of {} fits", self.task)),
            false => Ok(samples),
        })
    }

    /// The sample of about the largest size that fits: a few tries from `size` on, each told by the tokens
    /// of the one before. Its words have other numbers of tokens than the probe's, so `size` may be far off.
    fn fitted(
        &self,
        index: usize,
        mut size: usize,
        smallest: usize,
        draft: impl Fn(usize) -> Draft,
    ) -> Result<Option<Sample>, Error> {
        const TRIES: usize = 8;
        let mut best = None;
        let mut too_large = usize::MAX;
        for attempt in 1..=TRIES {
            if (self.stop)() {
                return Ok(None);
            }
            let draft = draft(size);
            let length = self.tokens(&draft)?;
            // What as many tokens a unit come to.
            let wanted = size * self.length / length.max(1);
            match length <= self.length {
                true => best = Some((size, draft, length)),
                false => too_large = size,
            }
            let fits = best.as_ref().map(|(size, ..)| *size);
            let least = fits.map_or(smallest, |fits| fits + 1);
            if least >= too_large || fits.is_some_and(|fits| wanted <= fits) {
                break;
            }
            size = match (fits, TRIES - attempt) {
                (None, 1) => smallest,
                _ => wanted.clamp(least, too_large - 1),
            };
        }
        best.map(|(_, draft, length)| self.sample(index, draft, length))
            .transpose()
    }

    /// A draft that has `length` tokens as a sample.
    pub fn sample(&self, index: usize, draft: Draft, length: usize) -> Result<Sample, Error> {
        let of_needle = self.task.needles().is_some();
        let first = draft.outputs.first().filter(|_| of_needle);
        let place = first.and_then(|output| draft.input.find(output));
        let answer_position = match place {
            Some(place) => Some(self.count(&draft.input[..place])?),
            None => None,
        };
        Ok(Sample {
            index,
            input: draft.input,
            answer_prefix: draft.answer_prefix,
            outputs: draft.outputs,
            length,
            answer_position,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::tokenizer;
    use super::*;

    #[test]
    fn the_largest_size_is_found() {
        let frame = Frame {
            tokenizer: tokenizer(),
            task: Task::NiahSingle1,
            length: 0,
            seed: 0,
            stop: &|| false,
        };
        for (smallest, limit, per, expected) in [
            (1, 100, 1, Ok(100)),
            (5, 100, 7, Ok(14)),
            (5, 35, 7, Ok(5)),
            (5, 34, 7, Err(35)),
            (3, 1_000_003, 1, Ok(1_000_003)),
        ] {
            let found = frame.largest(smallest, limit, |size| Ok(size * per));
            let expected = expected.map(|size| (size, size * per));
            assert_eq!(found.unwrap(), expected, "{smallest} {limit} {per}");
        }
    }

    #[test]
    fn streams_differ() {
        use rand::Rng;
        let draw = |task, length, seed, index| {
            let frame = Frame {
                tokenizer: tokenizer(),
                task,
                length,
                seed,
                stop: &|| false,
            };
            frame.random(index).random::<u64>()
        };
        let base = draw(Task::Qa1, 512, 1, 0);
        assert_eq!(base, draw(Task::Qa1, 512, 1, 0));
        for other in [
            draw(Task::Qa2, 512, 1, 0),
            draw(Task::Qa1, 513, 1, 0),
            draw(Task::Qa1, 512, 2, 0),
            draw(Task::Qa1, 512, 1, 1),
        ] {
            assert_ne!(base, other);
        }
    }
}
