//! The only public entry: shapes and options are checked here and nowhere below.

use crate::call::Call;
use crate::position::Positions;
use crate::skipping::{KeyNorms, SkipLog};
use crate::{
    AttentionError, Documents, Instructions, LogPrior, Skipping, Temperature, Visibility, fused,
    reference,
};
use burn::tensor::{DType, Tensor};
use std::sync::Arc;

/// How the operation is computed. All implementations mean the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
    /// Bayes' rule with every score in memory: any backend, any float type. The oracle.
    Reference,
    /// Streamed over tiles of keys with an online softmax: memory `O(N)`, parallel, the same bits for
    /// any number of threads. On Burn's Flex; `q`, `k` and `v` in `f32` or `bf16`, sums in `f32`.
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
    /// Which keys may be left unread; [`Skipping::Off`] for the reference, which reads them all.
    pub skipping: Skipping,
    /// Norms of the keys that are known already, for skipping.
    pub key_norms: Option<Arc<KeyNorms>>,
    /// Where to write what was skipped.
    pub skip_log: Option<Arc<SkipLog>>,
    /// The processor's instructions that the fused implementation uses.
    pub instructions: Instructions,
}

impl Options {
    /// Causal attention from the first key on. The fused implementation skips what can't change a bit.
    #[must_use]
    pub fn causal(implementation: Implementation) -> Self {
        Self {
            implementation,
            visibility: Visibility::Causal,
            query_offset: 0,
            horizon: None,
            documents: None,
            temperature: None,
            skipping: match implementation {
                Implementation::Reference => Skipping::Off,
                Implementation::Fused => Skipping::Exact,
            },
            key_norms: None,
            skip_log: None,
            instructions: Instructions::detect(),
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

    /// Keys that can't matter may be left unread.
    #[must_use]
    pub fn with_skipping(self, skipping: Skipping) -> Self {
        Self { skipping, ..self }
    }

    /// The norms of the keys are known.
    #[must_use]
    pub fn with_key_norms(self, norms: Arc<KeyNorms>) -> Self {
        Self {
            key_norms: Some(norms),
            ..self
        }
    }

    /// What is skipped is written to `log`.
    #[must_use]
    pub fn with_skip_log(self, log: Arc<SkipLog>) -> Self {
        Self {
            skip_log: Some(log),
            ..self
        }
    }

    /// The fused implementation uses these instructions.
    #[must_use]
    pub fn with_instructions(self, instructions: Instructions) -> Self {
        Self {
            instructions,
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

/// Attention as Bayes' rule: the posterior over keys is likelihood × prior / evidence, the output
/// its expectation of the values.
///
/// ```text
/// logit_hij = τ_hi · ( q_hi·k_hj/√D + ln w_h(j − i) )            (visible j; else −∞)
/// out_hi    = Σ_j exp(logit_hij) · v_hj / Σ_j exp(logit_hij)
/// ```
///
/// The tensors have one float type. The fused implementation takes `q`, `k` and `v` in `bf16` too, with
/// log-prior and temperature in `f32`; it sums in `f32` and gives `bf16`.
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
        Implementation::Reference => {
            let temperature = options.temperature.as_ref();
            Ok(reference::attend(q, k, v, prior, temperature, &call))
        }
        Implementation::Fused => fused::attend(q, k, v, prior, options.temperature.as_ref(), call),
    }
}

fn check(
    q: &Tensor<4>,
    k: &Tensor<4>,
    v: &Tensor<4>,
    prior: &LogPrior,
    options: &Options,
) -> Result<Call, AttentionError> {
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
    if let Some(temperature) = &options.temperature {
        let got = temperature.values.dims();
        let rows = if got[0] == 1 { 1 } else { batch };
        expect_shape("temperature", got, [rows, query_heads, queries])?;
    }
    check_types(q, [k, v], prior, options)?;
    options.skipping.check()?;
    let skips = options.skipping != Skipping::Off;
    let about_skipping = skips || options.key_norms.is_some() || options.skip_log.is_some();
    if options.implementation == Implementation::Reference && about_skipping {
        return Err(AttentionError::Unsupported {
            implementation: "reference",
            expected: "no skipping, key norms or skip log",
            got: format!("{:?}", options.skipping),
        });
    }
    if let Some(norms) = &options.key_norms {
        norms.check(batch, key_heads, keys)?;
    }
    Ok(Call {
        positions,
        documents: options.documents.clone(),
        group: query_heads / key_heads,
        content_scale: 1.0 / (dim as f64).sqrt(),
        temperature_scope: options.temperature.as_ref().map(|of| of.scope),
        skipping: options.skipping,
        key_norms: options.key_norms.clone(),
        skip_log: options.skip_log.clone(),
        instructions: options.instructions,
    })
}

/// One float type for all; only the fused implementation takes `bf16` beside a prior in `f32`, which
/// needs the digits: in `bf16` lags of 257 and 258 are the same.
fn check_types(
    q: &Tensor<4>,
    others: [&Tensor<4>; 2],
    prior: &LogPrior,
    options: &Options,
) -> Result<(), AttentionError> {
    let of_rows = match (options.implementation, q.dtype()) {
        (Implementation::Fused, DType::BF16) => DType::F32,
        (_, dtype) => dtype,
    };
    let temperature = options.temperature.as_ref();
    let unfit = others
        .into_iter()
        .map(|tensor| (tensor.dtype(), q.dtype()))
        .chain([(prior.ln_weights().dtype(), of_rows)])
        .chain(temperature.map(|of| (of.values.dtype(), of_rows)))
        .find(|(got, expected)| got != expected);
    match unfit {
        None => Ok(()),
        Some((got, _)) => Err(AttentionError::Unsupported {
            implementation: "any",
            expected: "q, k, v, log-prior and temperature of one float type",
            got: format!("{:?} and {got:?}", q.dtype()),
        }),
    }
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
