//! Results of a run as data.
//!
//! Every evaluation writes one [`Record`] as JSON; tables and plots are pure functions of records.
//! Nothing here computes: the numbers come from training, evaluation and inspection.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod evaluation;
pub mod history;
mod inspection;
mod interval;
pub mod testing;

pub use evaluation::*;
pub use inspection::*;
pub use interval::*;
use serde::{Deserialize, Serialize};

/// One evaluation or training run: what was asked, of which model, with which seed, and what came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record<M> {
    /// The model's name in tables and plots, for example `bam+ssmax`.
    pub name: String,
    /// RFC 3339 time at which the run ended.
    pub created: String,
    /// Version of this software, with the commit where it is known.
    pub commit: String,
    /// The seed of samples and of training.
    pub seed: u64,
    /// The model's `config.json`.
    pub model: serde_json::Value,
    /// Threads that the machine had for it.
    pub threads: usize,
    /// The device that computed; older records don't say it where it was the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Wall-clock seconds of the run.
    pub seconds: f64,
    /// The findings.
    pub metrics: M,
}

/// The effect of going on with the priors of a trained model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upcycle {
    /// The encoding before.
    pub before: String,
    /// The length that the model was trained at before.
    pub train_length: usize,
    /// Steps that were learned.
    pub steps: u64,
    /// Rows of a step.
    pub rows: usize,
    /// Tokens of a row.
    pub length: usize,
    /// Numbers of the model that could change.
    pub learned: usize,
    /// Numbers of the model.
    pub parameters: usize,
    /// The text that perplexity was measured on.
    pub document: String,
    /// Pieces of the text, each of the longest length.
    pub pieces: usize,
    /// The lengths, ascending.
    pub at: Vec<UpcycleLength>,
}

/// One length before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpcycleLength {
    /// Cross-entropies are means over the positions `from..length`, nats per token.
    pub from: usize,
    /// Tokens: the position after the last that the means are over.
    pub length: usize,
    /// Of the model as it was.
    pub before: f64,
    /// With the new priors and temperatures, before any step.
    pub start: f64,
    /// After the last step.
    pub after: f64,
    /// Passkeys found of those asked for at this length, before and after; `None` where the prompt
    /// does not fit or none was asked for.
    pub passkey: Option<[(usize, usize); 2]>,
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingStep {
    /// Steps done, this one included.
    pub step: u64,
    /// Tokens seen up to and including this step.
    pub tokens: u64,
    /// Mean nats per token over the step's batch.
    pub loss: f64,
    /// The learning rate of the step, before the rates by kind of parameter.
    pub learning_rate: f64,
    /// The norm of the whole gradient before clipping.
    pub gradient_norm: f64,
    /// Tokens a second of this step.
    pub tokens_per_second: f64,
    /// Mean nats per token on the validation rows, on the steps that measure it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_loss: Option<f64>,
    /// The same in bits per UTF-8 byte.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_bits_per_byte: Option<f64>,
}

/// All records of one model, as `report` reads them from a run's folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRecords {
    /// The lines of `metrics.jsonl`.
    pub training: Vec<TrainingStep>,
    /// `passkey.json`.
    pub passkey: Option<Record<Passkey>>,
    /// `perplexity.json`.
    pub perplexity: Option<Record<Perplexity>>,
    /// `heads.json`.
    pub heads: Option<Record<Heads>>,
    /// `synthetic.json`.
    pub synthetic: Option<Record<Synthetic>>,
    /// `ruler.json`.
    pub ruler: Option<Record<Ruler>>,
}

impl<M> Record<M> {
    /// The record without its numbers.
    #[must_use]
    pub fn provenance(&self) -> Record<()> {
        Record {
            name: self.name.clone(),
            created: self.created.clone(),
            commit: self.commit.clone(),
            seed: self.seed,
            model: self.model.clone(),
            threads: self.threads,
            device: self.device.clone(),
            seconds: self.seconds,
            metrics: (),
        }
    }
}

impl RunRecords {
    /// The kind and the provenance of every evaluation that there is a record of.
    #[must_use]
    pub fn evaluations(&self) -> Vec<(&'static str, Record<()>)> {
        let passkey = self.passkey.as_ref().map(Record::provenance);
        let perplexity = self.perplexity.as_ref().map(Record::provenance);
        let heads = self.heads.as_ref().map(Record::provenance);
        let synthetic = self.synthetic.as_ref().map(Record::provenance);
        let ruler = self.ruler.as_ref().map(Record::provenance);
        [
            ("passkey", passkey),
            ("perplexity", perplexity),
            ("heads", heads),
            ("synthetic", synthetic),
            ("ruler", ruler),
        ]
        .into_iter()
        .filter_map(|(kind, record)| Some((kind, record?)))
        .collect()
    }
}
