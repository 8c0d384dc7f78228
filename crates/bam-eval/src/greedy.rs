//! Greedy answers to many prompts.
//!
//! As lm-eval's `generate_until` without stop strings: the most probable token each time, of equals the
//! one with the lower id, until a token that ends an answer or the budget.

use crate::evaluation::{Found, Subject};
use crate::journal::digest;
use bam_attention::Skipping;
use bam_lm::Error;
use bam_lm::engine::generate::argmax;
use bam_lm::model::{CHUNK, CachePriors, KvCache, host_values};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A model that answers greedily.
#[derive(Clone, Copy, Debug)]
pub struct GreedyGenerator<'a> {
    /// The model.
    pub subject: Subject<'a>,
    /// Whether every prompt begins with the token that begins documents.
    pub begin: bool,
    /// Keys that may be left unread.
    pub skipping: Skipping,
}

/// Prompts as tokens, with the priors that all of them share.
#[derive(Debug)]
pub struct PromptRows {
    rows: Vec<Vec<i32>>,
    priors: CachePriors,
    /// Tokens of an answer, at most.
    budget: usize,
}

/// An answer to a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Its text, without the token that ends it.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the last one included.
    pub tokens: usize,
}

/// Rows longer than this are read one at a time.
const LONG: usize = 8 * CHUNK;

impl PromptRows {
    /// Whether many are answered at once: none is so long that it has work for all threads.
    pub(crate) fn at_once(&self) -> bool {
        self.rows.iter().all(|row| row.len() <= LONG)
    }
}

/// The name of a prompt with an answer of at most `budget` tokens.
pub(crate) fn name(prompt: &str, budget: usize) -> String {
    format!("{budget} tokens after {}", digest([prompt]))
}

impl GreedyGenerator<'_> {
    /// All that decides an answer besides model, tokenizer, prompt and budget.
    pub(crate) fn settings(&self) -> Value {
        json!({"begin": self.begin, "skip": self.skipping.to_string()})
    }

    /// Makes ready to answer some prompts with at most `budget` tokens each.
    ///
    /// # Errors
    /// If a prompt can't be encoded, or the model fails.
    pub fn prepare(
        &self,
        prompts: impl IntoIterator<Item = impl AsRef<str>>,
        budget: usize,
    ) -> Result<PromptRows, Error> {
        let rows = prompts.into_iter();
        let rows = rows.map(|prompt| self.tokens(prompt.as_ref()));
        let rows: Vec<Vec<i32>> = rows.collect::<Result<_, _>>()?;
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        let priors = self.subject.model.priors(longest + budget)?;
        Ok(PromptRows {
            rows,
            priors,
            budget,
        })
    }

    /// A prompt's tokens.
    fn tokens(&self, prompt: &str) -> Result<Vec<i32>, Error> {
        let tokenizer = self.subject.tokenizer;
        let ids = tokenizer.encode(prompt)?;
        let beginning = tokenizer.nothing();
        let beginning = beginning.filter(|_| self.begin || ids.is_empty());
        let row = beginning.into_iter().chain(ids);
        Ok(row.map(|id| id as i32).collect())
    }

    /// The answer to one of the prompts.
    ///
    /// # Errors
    /// If it has no tokens, or the model fails.
    pub fn answer(
        &self,
        prompts: &PromptRows,
        number: usize,
        stop: &dyn Fn() -> bool,
    ) -> Found<Answer> {
        let (prompt, budget) = (&prompts.rows[number], prompts.budget);
        let room = prompt.len() + budget;
        let cache = self
            .subject
            .model
            .cache_with(1, room, &prompts.priors, None)?;
        let mut cache = cache.with_skipping(self.skipping);
        let Some(mut logits) = self.read(prompt, &mut cache, stop)? else {
            return Ok(None);
        };
        let (mut said, mut tokens) = (Vec::new(), 0);
        while tokens < budget {
            let token = argmax(&logits) as u32;
            tokens += 1;
            if self.subject.tokenizer.is_end(token) {
                break;
            }
            said.push(token);
            if tokens < budget {
                let next = [token as i32];
                match self.read(&next, &mut cache, stop)? {
                    Some(after) => logits = after,
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(Answer {
            text: self.subject.tokenizer.decode(&said)?,
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
    ) -> Found<Vec<f32>> {
        let mut after = Vec::new();
        let read = self
            .subject
            .model
            .prefill_unless(stop, tokens, cache, 1, |_, logits| {
                after = host_values(logits);
            })?;
        Ok(read.map(|()| after))
    }
}
