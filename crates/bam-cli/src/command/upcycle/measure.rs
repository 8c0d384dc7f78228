//! Perplexity by position and passkeys, the same for every model of a run.

use super::plan::Plan;
use crate::command::eval::models::watched;
use crate::console::{self, Progress};
use crate::runs;
use anyhow::ensure;
use bam_attention::Skipping;
use bam_data::Tokenizer;
use bam_eval::evaluation::Subject;
use bam_eval::passkey::{Depths, LengthPlan, PasskeyEvaluation, PasskeyPlan, fits};
use bam_eval::perplexity::{by_position, tokens_of};
use bam_lm::model::Transformer;
use bam_record::Passkey;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Depths that keys stand at.
const DEPTHS: usize = 5;

pub struct Measuring<'a> {
    plan: &'a Plan,
    tokenizer: &'a Tokenizer,
    /// Of the held-out text.
    ids: Vec<i32>,
    /// At the lengths that prompts fit into.
    passkey: PasskeyPlan,
}

/// Measurements of one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Nats per token by position.
    pub nats: Vec<f64>,
    pub passkey: Option<Passkey>,
}

impl Measured {
    /// Passkeys found and asked for at a length.
    pub fn found(&self, length: usize) -> Option<(usize, usize)> {
        let cells = self.passkey.iter().flat_map(|passkey| &passkey.cells);
        let of_length = cells.filter(|cell| cell.length == length);
        let counts = of_length.map(|cell| (cell.correct, cell.samples));
        counts.reduce(|a, b| (a.0 + b.0, a.1 + b.1))
    }
}

impl<'a> Measuring<'a> {
    pub fn new(text: &Path, plan: &'a Plan, tokenizer: &'a Tokenizer) -> anyhow::Result<Self> {
        Self::of_text(&runs::read_text(text)?, plan, tokenizer)
    }

    pub fn of_text(text: &str, plan: &'a Plan, tokenizer: &'a Tokenizer) -> anyhow::Result<Self> {
        let ids = tokens_of(tokenizer, text)?;
        let longest = plan.lengths.last().copied().unwrap_or_default();
        ensure!(
            ids.len() >= 2,
            "{}: expected at least 2 tokens to measure perplexity on, got {}",
            plan.document,
            ids.len()
        );
        ensure!(
            longest >= 2 && ids.len() >= longest,
            "--lengths: expected at most the {} tokens of {}, and at least 2, got {longest}",
            ids.len(),
            plan.document
        );
        Ok(Self {
            plan,
            tokenizer,
            ids,
            passkey: passkey_plan(plan, tokenizer)?,
        })
    }

    /// Pieces that perplexity is the mean of.
    pub fn pieces(&self) -> usize {
        self.plan.pieces.min(self.ids.len() / self.longest())
    }

    fn longest(&self) -> usize {
        self.plan.lengths.last().copied().unwrap_or(2)
    }

    /// Everything of one model; `None` where it was interrupted.
    pub fn all(&self, model: &Transformer, when: &str) -> anyhow::Result<Option<Measured>> {
        let Some(nats) = self.cross_entropies(model, when)? else {
            return Ok(None);
        };
        let asks = self.plan.samples > 0 && !self.passkey.lengths.is_empty();
        let passkey = match asks {
            false => None,
            true => match self.passkeys(model, when)? {
                None => return Ok(None),
                found => found,
            },
        };
        Ok(Some(Measured { nats, passkey }))
    }

    /// Nats per token by position; `None` where it was interrupted.
    pub fn cross_entropies(
        &self,
        model: &Transformer,
        when: &str,
    ) -> anyhow::Result<Option<Vec<f64>>> {
        let total = (self.pieces() * self.longest()) as u64;
        let progress = Progress::new(total, &format!("read, {when}"));
        let text = (self.plan.document.as_str(), self.ids.as_slice());
        let length = self.longest();
        let nats = by_position(
            model,
            self.tokenizer,
            text,
            length,
            self.plan.pieces,
            |read| {
                progress.at(read as u64, "");
                console::unless_interrupted()
            },
        )?;
        progress.finish();
        Ok(nats)
    }

    fn passkeys(&self, model: &Transformer, when: &str) -> anyhow::Result<Option<Passkey>> {
        let subject = Subject {
            model,
            tokenizer: self.tokenizer,
        };
        let evaluation = PasskeyEvaluation::new(subject, &self.passkey)?;
        let title = format!("passkeys, {when}");
        let found = watched(&title, &evaluation, None, |_, _| Ok(()))?;
        Ok(found.map(|(passkey, _)| passkey))
    }
}

fn passkey_plan(plan: &Plan, tokenizer: &Tokenizer) -> anyhow::Result<PasskeyPlan> {
    let mut passkey = PasskeyPlan {
        lengths: Vec::new(),
        given_digits: 1,
        greedy: false,
        patience: None,
        stopping: None,
        seed: plan.seed,
        skipping: Skipping::Exact,
        certified_cache: None,
    };
    for &length in &plan.lengths {
        let at = LengthPlan {
            length,
            samples: plan.samples,
            depths: Depths::Equidistant(DEPTHS),
            after: None,
        };
        if fits(tokenizer, &passkey, &at)? {
            passkey.lengths.push(at);
        }
    }
    Ok(passkey)
}
