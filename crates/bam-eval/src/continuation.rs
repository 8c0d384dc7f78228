//! What a model says next: greedy answers to many prompts.
//!
//! As lm-eval's `generate_until` without stop strings: the most probable token each time, of equals the
//! one with the lower id, until the token that ends documents or the budget.

use crate::watch::{Watch, digest};
use bam_attention::Skipping;
use bam_data::Tokenizer;
use bam_lm::Error;
use bam_lm::model::{CHUNK, CachePriors, KvCache, Transformer, host_values};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// A model that answers.
#[derive(Clone, Copy, Debug)]
pub struct Answerer<'a> {
    /// The model.
    pub model: &'a Transformer,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Whether every prompt begins with the token that begins documents.
    pub begin: bool,
    /// Tokens of an answer, at most.
    pub budget: usize,
    /// Which keys may be left unread.
    pub skipping: Skipping,
}

/// What was answered to a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Its text, without the token that ends documents.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the last one included.
    pub tokens: usize,
}

/// Rows longer than this are read one at a time: the operation has work for all threads then, and one
/// cache is in memory instead of one a thread.
const LONG: usize = 8 * CHUNK;

impl Answerer<'_> {
    /// The answers to some prompts, in their order. `None` where the watch says stop.
    ///
    /// # Errors
    /// If a prompt has no tokens, or the model fails.
    pub fn answers(
        &self,
        prompts: &[&str],
        watch: Watch<Answer>,
    ) -> Result<Option<Vec<Answer>>, Error> {
        let rows: Vec<Vec<i32>> = prompts
            .iter()
            .map(|prompt| self.tokens(prompt))
            .collect::<Result<_, _>>()?;
        let Some(longest) = rows.iter().map(Vec::len).max() else {
            return Ok(Some(Vec::new()));
        };
        let priors = self.model.priors(longest + self.budget)?;
        let answer = |(prompt, row): (&&str, &Vec<i32>)| {
            let asked = format!("{} tokens after {}", self.budget, digest([*prompt]));
            watch.finding(&asked, || self.answer(row, &priors, watch.stop))
        };
        match longest > LONG {
            true => prompts.iter().zip(&rows).map(answer).collect(),
            false => prompts.par_iter().zip(&rows).map(answer).collect(),
        }
    }

    /// A prompt's tokens.
    fn tokens(&self, prompt: &str) -> Result<Vec<i32>, Error> {
        let tokenizer = self.tokenizer;
        let ids = tokenizer.encode(prompt)?;
        let beginning = tokenizer.bos().or(tokenizer.eos());
        let beginning = beginning.filter(|_| self.begin || ids.is_empty());
        let row = beginning.into_iter().chain(ids);
        Ok(row.map(|id| id as i32).collect())
    }

    fn answer(
        &self,
        prompt: &[i32],
        priors: &CachePriors,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Answer>, Error> {
        let room = prompt.len() + self.budget;
        let cache = self.model.cache_with(1, room, priors, None)?;
        let mut cache = cache.with_skipping(self.skipping);
        let Some(mut logits) = self.read(prompt, &mut cache, stop)? else {
            return Ok(None);
        };
        let end = self.tokenizer.eos();
        let (mut said, mut tokens) = (Vec::new(), 0);
        while tokens < self.budget {
            let token = most_probable(&logits);
            tokens += 1;
            if Some(token) == end {
                break;
            }
            said.push(token);
            if tokens < self.budget {
                let next = [token as i32];
                match self.read(&next, &mut cache, stop)? {
                    Some(after) => logits = after,
                    None => return Ok(None),
                }
            }
        }
        // A model may have ids that its tokenizer does not know.
        let known = self.tokenizer.vocabulary_size() as u32;
        said.retain(|token| *token < known);
        Ok(Some(Answer {
            text: self.tokenizer.decode(&said)?,
            prompt_tokens: prompt.len(),
            tokens,
        }))
    }

    /// Reads on, piece by piece; the logits after the last token.
    fn read(
        &self,
        tokens: &[i32],
        cache: &mut KvCache,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f32>>, Error> {
        let mut after = Vec::new();
        let read = self
            .model
            .prefill_unless(stop, tokens, cache, 1, |_, logits| {
                after = host_values(logits);
            })?;
        Ok(read.map(|()| after))
    }
}

fn most_probable(logits: &[f32]) -> u32 {
    let larger = |best: usize, token: usize| match logits[token] > logits[best] {
        true => token,
        false => best,
    };
    (1..logits.len()).fold(0, larger) as u32
}
