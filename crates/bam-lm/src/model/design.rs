//! The design of a model besides its sizes: norms, feed-forward layers, biases, where residuals start.

use crate::Error;
use crate::settings::is_positive_f32;
use serde::{Deserialize, Serialize};

/// The make of blocks. The default is LLaMA's: RMS norm, SwiGLU, no biases, a head of its own.
///
/// ```text
/// x ← embedding_norm(embeddings)
/// n = norm₁(x)    x ← r₁ + W_o·heads(n)      r₁ = x, or n with `attention_residual = "normed"`
/// n = norm₂(x)    x ← r₂ + feed_forward(n)   r₂ likewise
/// logits = head(final_norm(x))
/// ```
///
/// In `config.json` it is the object `design`, absent where it is the default; in a recipe
/// `model.design`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Design {
    /// The norm, everywhere.
    pub norm: NormKind,
    /// The function between the matrices of a feed-forward layer.
    pub activation: Activation,
    /// Whether a third matrix multiplies it: `w2(σ(w1 x) ⊙ w3 x)` instead of `w2(σ(w1 x))`.
    pub gated: bool,
    /// Biases on the projections to queries, keys and values, and from the heads.
    pub attention_bias: bool,
    /// Biases on the matrices of the feed-forward layers.
    pub feed_forward_bias: bool,
    /// Whether a matrix follows the heads.
    pub output_projection: bool,
    /// Queries, keys and values are clamped to this size, entry by entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_qkv: Option<f64>,
    /// The start of the residual around attention.
    pub attention_residual: Residual,
    /// The start of the residual around the feed-forward layer.
    pub feed_forward_residual: Residual,
    /// A norm after the embeddings.
    pub embedding_norm: bool,
    /// A norm before the head.
    pub final_norm: bool,
    /// Whether the head is the embeddings.
    pub tied_head: bool,
}

impl Default for Design {
    fn default() -> Self {
        Self {
            norm: NormKind::Rms,
            activation: Activation::Silu,
            gated: true,
            attention_bias: false,
            feed_forward_bias: false,
            output_projection: true,
            clip_qkv: None,
            attention_residual: Residual::Stream,
            feed_forward_residual: Residual::Stream,
            embedding_norm: false,
            final_norm: true,
            tied_head: false,
        }
    }
}

/// A kind of norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `γ ⊙ x / √(mean x² + ε)`.
    Rms,
    /// `γ ⊙ (x − mean x) / √(var x + ε) + β`.
    Layer,
    /// The same without `β`.
    LayerWithoutBias,
}

/// A function between two matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x·sigmoid(x)`.
    Silu,
    /// `x·Φ(x)`, Gauss's distribution function.
    Gelu,
    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715 x³)))`.
    GeluTanh,
}

/// The start of a residual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Residual {
    /// Before the norm.
    Stream,
    /// Behind the norm.
    Normed,
}

impl Design {
    pub(crate) fn checked(self) -> Result<Self, Error> {
        match self.clip_qkv {
            Some(limit) if !is_positive_f32(limit) => Err(Error::Value {
                what: "design.clip_qkv",
                expected: "a number above 0 that f32 holds".into(),
                got: limit.to_string(),
            }),
            _ => Ok(self),
        }
    }
}
