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

/// RULER: thirteen tasks over lengths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ruler {
    pub train_length: usize,
    /// What the tasks that hide needles in essays hide them in.
    pub essays: String,
    /// Files that the samples were read from, where they were not made.
    pub samples_from: Vec<String>,
    /// Whether prompts begin with the token that begins documents.
    pub begin: bool,
    /// Which keys were allowed to be left unread.
    pub skipping: String,
    /// One cell per (task, length).
    pub cells: Vec<RulerCell>,
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
    pub seconds: f64,
    pub answers: Vec<RulerAnswer>,
}

/// What was answered to one sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RulerAnswer {
    pub index: usize,
    /// Tokens of the prompt.
    pub tokens: usize,
    /// What was looked for.
    pub outputs: Vec<String>,
    pub answer: String,
    /// From 0 to 1.
    pub score: f64,
}

/// BABILong: questions about facts that are scattered in a long text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Babilong {
    pub train_length: usize,
    /// The text that the facts are scattered in.
    pub haystack: String,
    /// Whether prompts begin with the token that begins documents.
    pub begin: bool,
    /// Which keys were allowed to be left unread.
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
    pub seconds: f64,
    pub answers: Vec<BabilongAnswer>,
}

/// What was answered to one question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BabilongAnswer {
    pub question: String,
    pub target: String,
    pub answer: String,
    pub correct: bool,
    /// Tokens of the prompt.
    pub tokens: usize,
}

/// What each head believes about distance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heads {
    /// Keys in the finite row over which mass lags and entropy were taken.
    pub row_keys: usize,
    pub heads: Vec<Head>,
    /// What they made of a text, where one was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
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

/// The heads' priors and posteriors on a text, means over some of its rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The text's name.
    pub text: String,
    /// Tokens that were read of it.
    pub length: usize,
    pub rows: usize,
    /// In the order of layers and heads.
    pub heads: Vec<MeasuredHead>,
}

/// One head on a text. A row's prior has the row's temperature, where the temperature is on the
/// prior, and sums to 1 over the keys that the row sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredHead {
    pub layer: usize,
    pub head: usize,
    /// Smallest distances that hold 50, 90 and 99 % of the prior's mass.
    pub prior_mass_lags: [f64; 3],
    /// The same of the posterior's.
    pub posterior_mass_lags: [f64; 3],
    /// Mean distance under the posterior.
    pub mean_distance: f64,
    /// Of the posterior, nats.
    pub entropy: f64,
    /// `KL(posterior ‖ prior)`, nats: what the content says beyond the position.
    pub divergence: f64,
    /// `ln Σ prior × likelihood`.
    pub ln_evidence: f64,
    /// (distance, prior mass, posterior mass) up to the distance, distances ascending.
    pub masses: Vec<(f64, f64, f64)>,
}

/// What one head makes of one row: Bayes' rule, key by key.
///
/// `posterior = exp(ln_prior + temperature·content − ln_evidence)`, entry by entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Belief {
    pub layer: usize,
    pub head: usize,
    /// Position of the row's token.
    pub row: usize,
    /// Position of the first key; the last one is the row's own token.
    pub first_key: usize,
    /// With the temperature where it is on the prior; normalised over these keys.
    pub ln_prior: Vec<f32>,
    /// `q·k/√D`, the log-likelihood before the temperature.
    pub content: Vec<f32>,
    /// That of the row; 1 without scalable softmax.
    pub temperature: f64,
    pub posterior: Vec<f32>,
    /// `ln Σ prior × likelihood`.
    pub ln_evidence: f64,
}

/// A text token by token: where heads looked from each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The text's name.
    pub text: String,
    /// Keys at this distance or nearer are near.
    pub near: usize,
    /// (layer, head), in the order of every token's glances.
    pub heads: Vec<(usize, usize)>,
    pub tokens: Vec<ReadToken>,
}

/// One token of a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadToken {
    pub token: i32,
    /// Its part of the text; a character of several tokens belongs to the last of them.
    pub text: String,
    /// The mean over heads.
    pub mean: Glance,
    pub heads: Vec<Glance>,
}

/// A row's posterior in three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Glance {
    /// `ln Σ prior × likelihood`.
    pub ln_evidence: f64,
    /// Mean distance under the posterior.
    pub mean_distance: f64,
    /// The posterior's mass on near keys.
    pub near_mass: f64,
}

/// What can be said of long rows before one is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Context {
    /// Keys of the longest row.
    pub length: usize,
    pub train_length: usize,
    /// The share of a row's posterior that does not count.
    pub epsilon: f64,
    pub heads: Vec<ContextHead>,
    /// (distance, heads that some text may give more than epsilon beyond it), for powers of two.
    pub beyond: Vec<(usize, usize)>,
    /// The distance beyond which no head can look.
    pub reach: usize,
    /// Keys and values of a row of that length.
    pub cache_bytes: u64,
    /// Those within the certified horizons.
    pub certified_cache_bytes: u64,
}

/// How far one head can look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextHead {
    pub layer: usize,
    pub head: usize,
    /// The prior's class over the row: `local`, `flat` or `anti_local`.
    pub class: String,
    /// No text makes `q·k/√D` larger in size.
    pub content_bound: f64,
    /// The distance beyond which the prior alone holds at most epsilon in every row; `None` where
    /// there is none short of the row.
    pub prior_horizon: Option<usize>,
    /// The same of the posterior, whatever the text.
    pub horizon: Option<usize>,
    /// Nearest keys that suffice.
    pub keys: usize,
}

/// What numbers make of a model's heads, found before it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkup {
    /// Keys of the longest row.
    pub length: usize,
    /// How far apart numbers are at that lag, in `f32` and in `bf16`.
    pub lag_steps: [f64; 2],
    /// Tensors with values that are no finite numbers, in words.
    pub broken: Vec<String>,
    pub heads: Vec<HeadCheckup>,
}

/// One head's numbers on a row of that length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadCheckup {
    pub layer: usize,
    pub head: usize,
    /// `ok`, `warning` or `error`.
    pub verdict: String,
    /// Why it is not `ok`.
    pub reasons: Vec<String>,
    /// Smallest and largest log-weight, temperature included where it is on the prior.
    pub ln_weights: [f64; 2],
    /// No text makes a logit larger in size.
    pub logit_bound: f64,
    /// From this distance on the prior's weights, relative to the largest, are 0 in `f32`.
    pub zero_from: Option<usize>,
    /// How far apart logits of keys that matter are in `f32`.
    pub f32_step: f64,
    /// How far apart log-weights of keys that matter would be in `bf16`.
    pub bf16_step: f64,
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
