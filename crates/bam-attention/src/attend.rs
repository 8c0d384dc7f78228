//! The only public entry: shapes and options are checked here and nowhere below.

use crate::fused;
use crate::position::Positions;
use crate::{AttentionError, Documents, LogPrior, Temperature, Visibility, reference};
use burn::tensor::{DType, Tensor};
use std::sync::Arc;

/// How the operation is computed. All implementations mean the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
    /// Bayes' rule with every score in memory: any backend, any float type. The oracle.
    Reference,
    /// Streamed over tiles of keys with an online softmax: memory `O(N)`, parallel over heads and
    /// blocks of rows, gradients deterministic for any number of threads. `f32` on Burn's Flex.
    Fused,
}

/// Everything about a call besides its tensors.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to compute.
    pub implementation: Implementation,
    /// Which way rows may look.
    pub visibility: Visibility,
    /// Position of the first query among the keys: the tokens already in the cache.
    pub query_offset: usize,
    /// Hides keys at this distance and beyond.
    pub horizon: Option<usize>,
    /// Documents packed into a row, and padding.
    pub documents: Option<Arc<Documents>>,
    /// A factor on the logits of each row.
    pub temperature: Option<Temperature>,
}

impl Options {
    /// Causal attention from the first key on.
    #[must_use]
    pub fn causal(implementation: Implementation) -> Self {
        Self {
            implementation,
            visibility: Visibility::Causal,
            query_offset: 0,
            horizon: None,
            documents: None,
            temperature: None,
        }
    }

    /// Attention in both directions.
    #[must_use]
    pub fn full(implementation: Implementation) -> Self {
        Self {
            visibility: Visibility::Full,
            ..Self::causal(implementation)
        }
    }

    /// The queries follow `offset` keys that are in a cache.
    #[must_use]
    pub fn with_query_offset(self, offset: usize) -> Self {
        Self {
            query_offset: offset,
            ..self
        }
    }

    /// Keys at distance `horizon` and beyond are hidden.
    #[must_use]
    pub fn with_horizon(self, horizon: usize) -> Self {
        Self {
            horizon: Some(horizon),
            ..self
        }
    }

    /// Rows hold several documents, or padding.
    #[must_use]
    pub fn with_documents(self, documents: Arc<Documents>) -> Self {
        Self {
            documents: Some(documents),
            ..self
        }
    }

    /// Logits are multiplied per row.
    #[must_use]
    pub fn with_temperature(self, temperature: Temperature) -> Self {
        Self {
            temperature: Some(temperature),
            ..self
        }
    }

    pub(crate) fn positions(&self, queries: usize, keys: usize) -> Positions {
        Positions {
            queries,
            keys,
            offset: self.query_offset,
            visibility: self.visibility,
            horizon: self.horizon,
        }
    }
}

/// A call that was checked.
#[derive(Debug)]
pub(crate) struct Checked {
    pub positions: Positions,
    pub options: Options,
    /// Query heads that share one key head.
    pub group: usize,
    /// `1/√D`.
    pub content_scale: f64,
}

/// Attention as Bayes' rule: the posterior over keys is likelihood × prior / evidence, the output
/// its expectation of the values.
///
/// ```text
/// logit_hij = τ_hi · ( q_hi·k_hj/√D + ln w_h(j − i) )            (visible j; else −∞)
/// out_hi    = Σ_j exp(logit_hij) · v_hj / Σ_j exp(logit_hij)
/// ```
///
/// Rows that see no key give zeros, with zero gradients. Source: arXiv 2505.22842.
///
/// Inputs must be finite wherever there is a token. At [`Documents::PADDING`] they are not read.
/// A value that is not finite elsewhere reaches the rows that see it, and may reach rows that don't:
/// a hidden key is given the weight 0, and `0·NaN` is NaN.
///
/// # Shapes
/// - `q`: `[batch, query_heads, queries, dim]`
/// - `k`, `v`: `[batch, key_heads, keys, dim]`; `query_heads` a multiple of `key_heads`
/// - `prior`: `[query_heads, lags]`, at least every lag between a row and a key it sees
/// - result: `[batch, query_heads, queries, dim]`
///
/// # Errors
/// Shapes that don't fit, lags that are missing, and what the implementation does not support.
/// Nothing is ignored and nothing falls back silently.
pub fn attend(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    prior: &LogPrior,
    options: &Options,
) -> Result<Tensor<4>, AttentionError> {
    let call = check(&q, &k, &v, prior, options)?;
    match options.implementation {
        Implementation::Reference => Ok(reference::attend(q, k, v, prior, &call)),
        Implementation::Fused => fused::attend(q, k, v, prior, call),
    }
}

fn check(
    q: &Tensor<4>,
    k: &Tensor<4>,
    v: &Tensor<4>,
    prior: &LogPrior,
    options: &Options,
) -> Result<Checked, AttentionError> {
    let [batch, query_heads, queries, dim] = q.dims();
    let [_, key_heads, keys, _] = k.dims();
    for (what, size) in [
        ("batch", batch),
        ("query heads", query_heads),
        ("key heads", key_heads),
        ("queries", queries),
        ("keys", keys),
        ("head dimension", dim),
    ] {
        if size == 0 {
            return Err(AttentionError::Empty { what });
        }
    }
    expect_shape("k", k.dims(), [batch, key_heads, keys, dim])?;
    expect_shape("v", v.dims(), [batch, key_heads, keys, dim])?;
    if query_heads % key_heads != 0 {
        return Err(AttentionError::HeadGroups {
            query_heads,
            key_heads,
        });
    }
    let lags = prior.lags();
    expect_shape(
        "log-prior",
        prior.ln_weights().dims(),
        [query_heads, lags.count()],
    )?;

    let positions = options.positions(queries, keys);
    let (first, last) = positions.needed_lags();
    if first < lags.first() || last > lags.last() {
        return Err(AttentionError::Lags {
            first,
            last,
            got_first: lags.first(),
            got_last: lags.last(),
        });
    }
    if options.visibility == Visibility::Causal && options.query_offset + queries > keys {
        return Err(AttentionError::Shape {
            what: "keys of causal attention",
            expected: format!(
                "at least offset + queries = {}",
                options.query_offset + queries
            ),
            got: keys.to_string(),
        });
    }
    if let Some(documents) = &options.documents {
        let (b, i, j) = documents.dims();
        expect_shape(
            "documents (batch, queries, keys)",
            [b, i, j],
            [batch, queries, keys],
        )?;
    }
    let mut dtypes = vec![k.dtype(), v.dtype(), prior.ln_weights().dtype()];
    if let Some(temperature) = &options.temperature {
        let got = temperature.values.dims();
        let rows = if got[0] == 1 { 1 } else { batch };
        expect_shape("temperature", got, [rows, query_heads, queries])?;
        dtypes.push(temperature.values.dtype());
    }
    let expected: DType = q.dtype();
    if let Some(got) = dtypes.into_iter().find(|dtype| *dtype != expected) {
        return Err(AttentionError::Unsupported {
            implementation: "any",
            expected: "q, k, v, log-prior and temperature of one float type",
            got: format!("{expected:?} and {got:?}"),
        });
    }
    Ok(Checked {
        positions,
        options: options.clone(),
        group: query_heads / key_heads,
        content_scale: 1.0 / (dim as f64).sqrt(),
    })
}

fn expect_shape<const D: usize>(
    what: &'static str,
    got: [usize; D],
    expected: [usize; D],
) -> Result<(), AttentionError> {
    if got == expected {
        return Ok(());
    }
    Err(AttentionError::Shape {
        what,
        expected: format!("{expected:?}"),
        got: format!("{got:?}"),
    })
}
