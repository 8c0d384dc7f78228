//! Findings of evaluations.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Passkey retrieval over a grid of lengths and depths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Passkey {
    /// Tokens that the model was trained at.
    pub train_length: usize,
    /// Digits of the key that must all be right.
    pub scored_digits: usize,
    /// Leading digits given in the prompt, not scored.
    pub given_digits: usize,
    /// One cell per (length, depth), lengths ascending.
    pub cells: Vec<PasskeyCell>,
    /// Lengths that were asked for and not run, each with the reason.
    pub not_run: Vec<NotRun>,
    /// Lengths at which a sequential test ended the samples early.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decided: Vec<Decided>,
    /// The keys that may be left unread: `off`, `exact`, or `certified` with an epsilon.
    #[serde(default)]
    pub skipping: String,
    /// Keys left unread, head by head.
    #[serde(default)]
    pub heads: Vec<SkippedHead>,
    /// Keys that caches kept, where they were allowed to forget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certified_cache: Option<CertifiedCache>,
}

/// Caches that kept of every head only what its certified horizon can reach.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CertifiedCache {
    /// The share that forgotten keys held at most of any row's posterior in any head.
    pub epsilon: f64,
    /// By length.
    pub kept: Vec<KeptKeys>,
}

/// Keys of all layers and key heads, so of a cache; there are as many values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptKeys {
    /// Tokens of a row.
    pub length: usize,
    /// Those that were kept of it, at most.
    pub kept: usize,
    /// Those that a cache without horizons keeps.
    pub all: usize,
}

/// Tiles of one head that skipping left unread, over all samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SkippedHead {
    /// The layer, from 0.
    pub layer: usize,
    /// The head, from 0.
    pub head: usize,
    /// The prior's class over the longest row.
    pub class: String,
    /// Tiles of keys that blocks of rows may see.
    pub visible_tiles: u64,
    /// Those of them that were left unread.
    pub skipped_tiles: u64,
    /// The largest share of a row's posterior that they can have held.
    pub dropped_mass: f64,
}

/// The samples of one (length, depth).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PasskeyCell {
    /// Tokens of the prompt and the key together, at most; a prompt is the longest that fits.
    pub length: usize,
    /// The place of the information: 0 at the beginning, 1 just before the question.
    pub depth: f64,
    /// Samples that were asked.
    pub samples: usize,
    /// Samples in which every scored digit is the argmax.
    pub correct: usize,
    /// Digits that were the argmax, of `samples × scored_digits`.
    pub correct_digits: usize,
    /// Wall-clock seconds of them all.
    pub seconds: f64,
}

/// Samples that a sequential test ended early: their accuracy's [confidence sequence](crate::confidence_sequence) held
/// none of the shares that were to be told apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// Tokens of the prompt and the key together, at most.
    pub length: usize,
    /// Samples that were asked.
    pub samples: usize,
    /// Samples that would have been.
    pub planned: usize,
}

/// A length left out, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NotRun {
    /// Tokens of the prompt and the key together, at most.
    pub length: usize,
    /// The reason in words.
    pub reason: String,
}

/// Tasks of exact difficulty over a grid of lengths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Synthetic {
    /// Tokens that the model was trained at.
    pub train_length: usize,
    /// The keys that may be left unread: `off`, `exact`, or `certified` with an epsilon.
    pub skipping: String,
    /// One cell per (task, length), tasks in the order they were asked, lengths ascending.
    pub cells: Vec<SyntheticCell>,
    /// Cells that were asked for and not run.
    pub not_run: Vec<SyntheticNotRun>,
}

/// The samples of one (task, length).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyntheticCell {
    /// The task's name.
    pub task: String,
    /// Tokens of a sample, answers included.
    pub length: usize,
    /// Samples that were asked.
    pub samples: usize,
    /// Samples in which every answer is the argmax.
    pub correct: usize,
    /// Answers of all samples.
    pub answers: usize,
    /// Answers that were the argmax.
    pub correct_answers: usize,
    /// Wall-clock seconds of them all.
    pub seconds: f64,
    /// Samples that would have been asked, where a sequential test ended them early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<usize>,
}

/// A cell left out, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyntheticNotRun {
    /// The task's name.
    pub task: String,
    /// Tokens of a sample.
    pub length: usize,
    /// The reason in words.
    pub reason: String,
}

/// Cross-entropy by position over whole long documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// Tokens that the model was trained at.
    pub train_length: usize,
    /// Title of the held-out document.
    pub document: String,
    /// SHA-256 of its text, in hexadecimal: two documents may have one title. Older records don't say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document_sha256: Option<String>,
    /// UTF-8 bytes per token of the document, to turn nats per token into bits per byte.
    pub bytes_per_token: f64,
    /// Consecutive windows of positions, ascending.
    pub windows: Vec<PerplexityWindow>,
    /// Keys that the cache kept, where it was allowed to forget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certified_cache: Option<CertifiedCache>,
}

/// Mean cross-entropy of the tokens at positions `start..end`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerplexityWindow {
    /// The first position, from 0.
    pub start: usize,
    /// The position after the last.
    pub end: usize,
    /// Nats per token; perplexity is its exponential.
    pub cross_entropy: f64,
}

/// Log-likelihood of given continuations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loglikelihood {
    /// Tokens that the model was trained at.
    pub train_length: usize,
    /// Requests without their question, which were not used.
    pub unconditional: usize,
    /// One score a task.
    pub tasks: Vec<LoglikelihoodScore>,
}

/// One task's score. Means come with their standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoglikelihoodScore {
    /// The name of the task in the requests.
    pub task: String,
    /// Questions that were asked.
    pub questions: usize,
    /// Share of the questions whose right continuation is the most probable; of a single one, the
    /// share that is greedy.
    pub accuracy: (f64, f64),
    /// The same with `ln p` per character; of several continuations only.
    pub accuracy_per_character: Option<(f64, f64)>,
    /// `exp(−mean ln p)` of whole continuations; of single ones only.
    pub perplexity: Option<f64>,
    /// Bits per UTF-8 byte of the right continuations.
    pub bits_per_byte: f64,
}

/// RULER: thirteen tasks over lengths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ruler {
    /// Tokens that the model was trained at.
    pub train_length: usize,
    /// The essays that needles are hidden in, in words.
    pub essays: String,
    /// Files that the samples were read from, where they were not made.
    pub samples_from: Vec<String>,
    /// Whether prompts begin with the token that begins documents.
    pub begin: bool,
    /// The keys that may be left unread: `off`, `exact`, or `certified` with an epsilon.
    pub skipping: String,
    /// One cell per (task, length).
    pub cells: Vec<RulerCell>,
}

impl Ruler {
    /// The cells of each length in turn.
    #[must_use]
    pub fn by_length(&self) -> Vec<Vec<&RulerCell>> {
        let mut lengths = BTreeMap::<usize, Vec<&RulerCell>>::new();
        for cell in &self.cells {
            lengths.entry(cell.length).or_default().push(cell);
        }
        lengths.into_values().collect()
    }
}

/// The samples of one (task, length).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RulerCell {
    /// RULER's name.
    pub task: String,
    /// Tokens of a prompt and its answer, at most.
    pub length: usize,
    /// Mean score from 0 to 1, and its standard error; `None` without samples.
    pub score: Option<(f64, f64)>,
    /// Answers without a printable character.
    pub nulls: usize,
    /// Why there are no samples.
    pub not_run: Option<String>,
    /// Wall-clock seconds of all answers.
    pub seconds: f64,
    /// One answer a sample, in the order of the samples.
    pub answers: Vec<RulerAnswer>,
}

/// The answer to one sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RulerAnswer {
    /// The number of the sample, from 0.
    pub index: usize,
    /// Tokens of the prompt.
    pub tokens: usize,
    /// The references that were looked for.
    pub outputs: Vec<String>,
    /// The text that the model wrote.
    pub answer: String,
    /// The score, from 0 to 1.
    pub score: f64,
}

/// BABILong: questions about facts that are scattered in a long text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Babilong {
    /// Tokens that the model was trained at.
    pub train_length: usize,
    /// The text that the facts are scattered in.
    pub haystack: String,
    /// Whether prompts begin with the token that begins documents.
    pub begin: bool,
    /// The keys that may be left unread: `off`, `exact`, or `certified` with an epsilon.
    pub skipping: String,
    /// One cell per (task, length).
    pub cells: Vec<BabilongCell>,
}

/// The questions of one (task, length).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BabilongCell {
    /// `qa1` to `qa20`.
    pub task: String,
    /// The length as it was asked for: `0k`, `1k`.
    pub label: String,
    /// Tokens of a prompt and its answer, at most; `None` where there is nothing but facts.
    pub length: Option<usize>,
    /// Answers that are right.
    pub correct: usize,
    /// Why there are no questions.
    pub not_run: Option<String>,
    /// Wall-clock seconds of all answers.
    pub seconds: f64,
    /// One answer a sample, in the order of the samples.
    pub answers: Vec<BabilongAnswer>,
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BabilongAnswer {
    /// The question.
    pub question: String,
    /// The label that is right.
    pub target: String,
    /// The text that the model wrote.
    pub answer: String,
    /// Whether it is right.
    pub correct: bool,
    /// Tokens of the prompt.
    pub tokens: usize,
}
