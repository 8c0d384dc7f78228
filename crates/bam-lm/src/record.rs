//! What a run leaves behind: results as data.
//!
//! Every evaluation writes one [`Record`] as JSON; tables and plots are pure functions of records.
//! Nothing here computes: the numbers come from `train`, `eval` and `inspect`.

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
    pub seed: u64,
    /// The model's `config.json`.
    pub model: serde_json::Value,
    pub threads: usize,
    /// Wall-clock seconds of the run.
    pub seconds: f64,
    pub metrics: M,
}

/// Passkey retrieval over a grid of lengths and depths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Passkey {
    pub train_length: usize,
    /// Digits of the key that must all be right.
    pub scored_digits: usize,
    /// Leading digits given in the prompt, not scored.
    pub given_digits: usize,
    /// One cell per (length, depth), lengths ascending.
    pub cells: Vec<PasskeyCell>,
    /// Lengths that were asked for and not run, each with the reason.
    pub not_run: Vec<NotRun>,
    /// Which keys were allowed to be left unread: `off`, `exact`, or `certified` with an epsilon.
    #[serde(default)]
    pub skipping: String,
    /// What was left unread, head by head.
    #[serde(default)]
    pub heads: Vec<SkippedHead>,
}

/// What skipping left unread of one head, over all samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SkippedHead {
    pub layer: usize,
    pub head: usize,
    /// The prior's class over the longest row.
    pub class: String,
    /// Tiles of keys that blocks of rows may see.
    pub visible_tiles: u64,
    pub skipped_tiles: u64,
    /// The largest share of a row's posterior that they can have held.
    pub dropped_mass: f64,
}

/// The samples of one (length, depth).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PasskeyCell {
    /// Tokens of the prompt and the key together, at most; a prompt is the longest that fits.
    pub length: usize,
    /// Where the information stands: 0 at the beginning, 1 just before the question.
    pub depth: f64,
    pub samples: usize,
    /// Samples in which every scored digit is the argmax.
    pub correct: usize,
    /// Digits that were the argmax, of `samples × scored_digits`.
    pub correct_digits: usize,
    pub seconds: f64,
}

/// A length left out, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NotRun {
    pub length: usize,
    pub reason: String,
}

/// Cross-entropy by position over whole long documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    pub train_length: usize,
    /// Title of the held-out document.
    pub document: String,
    /// UTF-8 bytes per token of the document, to turn nats per token into bits per byte.
    pub bytes_per_token: f64,
    /// Consecutive windows of positions, ascending.
    pub windows: Vec<PerplexityWindow>,
}

/// Mean cross-entropy of the tokens at positions `start..end`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerplexityWindow {
    pub start: usize,
    pub end: usize,
    /// Nats per token; perplexity is its exponential.
    pub cross_entropy: f64,
}

/// Log-likelihood of given continuations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loglikelihood {
    pub train_length: usize,
    /// Requests without their question, which were not used.
    pub unconditional: usize,
    pub tasks: Vec<LoglikelihoodScore>,
}

/// One task's score. Means come with their standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoglikelihoodScore {
    pub task: String,
    pub questions: usize,
    /// Share of the questions whose right continuation is the most probable; of a single one, the
    /// share that is greedy.
    pub accuracy: (f64, f64),
    /// The same with `ln p` per character; of several continuations only.
    pub accuracy_per_character: Option<(f64, f64)>,
    /// `exp(−mean ln p)` of whole continuations; of single ones only.
    pub perplexity: Option<f64>,
    /// Of the right continuations.
    pub bits_per_byte: f64,
}

/// What each head believes about distance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heads {
    /// Keys in the finite row over which mass lags and entropy were taken.
    pub row_keys: usize,
    pub heads: Vec<Head>,
}

/// One head's prior.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    pub layer: usize,
    pub head: usize,
    /// Name of the prior's family, for example `generalized_gaussian`.
    pub family: String,
    /// The family's parameters by name, constrained values.
    pub parameters: Vec<(String, f64)>,
    /// Scale of scalable softmax, where it is on.
    pub ssmax_scale: Option<f64>,
    /// `local`, `flat` or `anti_local`.
    pub class: String,
    /// Smallest distances that hold 50, 90 and 99 % of the prior's mass over the row.
    pub mass_lags: [f64; 3],
    /// Nats, over the row.
    pub entropy: f64,
    /// (distance, log-weight relative to the largest over the row), distances ascending.
    pub curve: Vec<(f64, f64)>,
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingStep {
    pub step: u64,
    /// Tokens seen up to and including this step.
    pub tokens: u64,
    /// Mean nats per token over the step's batch.
    pub loss: f64,
    pub learning_rate: f64,
    pub gradient_norm: f64,
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
    pub training: Vec<TrainingStep>,
    pub passkey: Option<Record<Passkey>>,
    pub perplexity: Option<Record<Perplexity>>,
    pub heads: Option<Record<Heads>>,
}

/// Wilson's score interval for a proportion at 95 %: `(low, high)`, `(0, 1)` without samples.
///
/// With `p = correct / samples`, `n = samples` and `z = 1.96`:
/// `(p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)` (Wilson 1927).
#[must_use]
pub fn wilson_interval(correct: usize, samples: usize) -> (f64, f64) {
    if samples == 0 {
        return (0.0, 1.0);
    }
    const Z: f64 = 1.959_963_984_540_054;
    let n = samples as f64;
    let p = correct as f64 / n;
    let centre = p + Z * Z / (2.0 * n);
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (
        ((centre - spread) / scale).max(0.0),
        ((centre + spread) / scale).min(1.0),
    )
}
