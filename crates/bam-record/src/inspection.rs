//! Findings of inspections.

use serde::{Deserialize, Serialize};

/// Every head's prior over distance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heads {
    /// Keys in the finite row over which mass lags and entropy were taken.
    pub row_keys: usize,
    /// In the order of layers and heads.
    pub heads: Vec<Head>,
    /// Priors and posteriors on a text, where one was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

/// One head's prior.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The layer, from 0.
    pub layer: usize,
    /// The head, from 0.
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
    /// Entropy over the row, nats.
    pub entropy: f64,
    /// (distance, log-weight relative to the largest over the row), distances ascending.
    pub curve: Vec<(f64, f64)>,
}

/// The differences of two models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The encodings of both.
    pub encodings: [String; 2],
    /// Keys in the finite row over which mass lags and entropy were taken.
    pub row_keys: usize,
    /// Heads that are not the same in both.
    pub heads: Vec<HeadDifference>,
    /// Tensors besides those of the priors.
    pub other_tensors: usize,
    /// Those of them that are not the same in both.
    pub tensors: Vec<TensorDifference>,
}

/// One head in two models, both without their curves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadDifference {
    /// In the first model.
    pub before: Head,
    /// In the second.
    pub after: Head,
}

/// A tensor that is not the same in two models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorDifference {
    /// The name in `model.safetensors`.
    pub name: String,
    /// The largest difference of two entries; `None` where one of the models has another shape or
    /// no such tensor.
    pub largest: Option<f64>,
}

/// The heads' priors and posteriors on a text, means over some of its rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The text's name.
    pub text: String,
    /// Tokens that were read of it.
    pub length: usize,
    /// Rows that the means are over.
    pub rows: usize,
    /// In the order of layers and heads.
    pub heads: Vec<MeasuredHead>,
}

/// One head on a text. A row's prior has the row's temperature, where the temperature is on the
/// prior, and sums to 1 over the keys that the row sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredHead {
    /// The layer, from 0.
    pub layer: usize,
    /// The head, from 0.
    pub head: usize,
    /// Smallest distances that hold 50, 90 and 99 % of the prior's mass.
    pub prior_mass_lags: [f64; 3],
    /// The same of the posterior's.
    pub posterior_mass_lags: [f64; 3],
    /// Mean distance under the posterior, tokens.
    pub mean_distance: f64,
    /// Entropy of the posterior, nats.
    pub entropy: f64,
    /// `KL(posterior ‖ prior)`, nats: what the content says beyond the position.
    pub divergence: f64,
    /// `ln Σ prior × likelihood`, nats.
    pub ln_evidence: f64,
    /// (distance, prior mass, posterior mass) up to the distance, distances ascending.
    pub masses: Vec<(f64, f64, f64)>,
}

/// One head's posterior of one row: Bayes' rule, key by key.
///
/// `posterior = exp(ln_prior + temperature·content − ln_evidence)`, entry by entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowPosterior {
    /// The layer, from 0.
    pub layer: usize,
    /// The head, from 0.
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
    /// The attention, which sums to 1 over these keys.
    pub posterior: Vec<f32>,
    /// `ln Σ prior × likelihood`, nats.
    pub ln_evidence: f64,
}

/// A text token by token, with the posterior of each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The text's name.
    pub text: String,
    /// Keys at this distance or nearer are near.
    pub near: usize,
    /// (layer, head), in the order of every token's glances.
    pub heads: Vec<(usize, usize)>,
    /// One a token of the text.
    pub tokens: Vec<ReadToken>,
}

/// One token of a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadToken {
    /// The id.
    pub token: i32,
    /// Its part of the text; a character of several tokens belongs to the last of them.
    pub text: String,
    /// The mean over heads.
    pub mean: Glance,
    /// One a head, in the order of `heads` of the reading.
    pub heads: Vec<Glance>,
}

/// A row's posterior in three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Glance {
    /// `ln Σ prior × likelihood`, nats.
    pub ln_evidence: f64,
    /// Mean distance under the posterior, tokens.
    pub mean_distance: f64,
    /// The posterior's mass on near keys.
    pub near_mass: f64,
}

/// Long rows, as the parameters alone bound them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Context {
    /// Keys of the longest row.
    pub length: usize,
    /// Tokens that the model was trained at.
    pub train_length: usize,
    /// The share of a row's posterior that does not count.
    pub epsilon: f64,
    /// In the order of layers and heads.
    pub heads: Vec<ContextHead>,
    /// (distance, heads that some text may give more than epsilon beyond it), for powers of two.
    pub beyond: Vec<(usize, usize)>,
    /// The distance beyond which no head can look.
    pub reach: usize,
    /// Bytes of the keys and values of a row of that length.
    pub cache_bytes: u64,
    /// Those within the certified horizons.
    pub certified_cache_bytes: u64,
}

/// The horizon of one head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextHead {
    /// The layer, from 0.
    pub layer: usize,
    /// The head, from 0.
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

/// Whether the numbers of a model's heads hold, found before it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkup {
    /// Keys of the longest row.
    pub length: usize,
    /// The distance between neighbouring numbers at that lag, in `f32` and in `bf16`.
    pub lag_steps: [f64; 2],
    /// Tensors with values that are no finite numbers, in words.
    pub broken: Vec<String>,
    /// In the order of layers and heads.
    pub heads: Vec<HeadCheckup>,
}

/// One head's numbers on a row of that length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadCheckup {
    /// The layer, from 0.
    pub layer: usize,
    /// The head, from 0.
    pub head: usize,
    /// `ok`, `warning` or `error`.
    pub verdict: String,
    /// The reasons why it is not `ok`, in words.
    pub reasons: Vec<String>,
    /// Smallest and largest log-weight, temperature included where it is on the prior.
    pub ln_weights: [f64; 2],
    /// No text makes a logit larger in size.
    pub logit_bound: f64,
    /// From this distance on the prior's weights, relative to the largest, are 0 in `f32`.
    pub zero_from: Option<usize>,
    /// The distance between neighbouring logits of keys that matter in `f32`, nats.
    pub f32_step: f64,
    /// The same of their log-weights in `bf16`, nats.
    pub bf16_step: f64,
}
