//! The only public entry: what the tensors hold is checked here, what their shapes are in [`Plan::new`],
//! and nowhere below.

use crate::error::AttentionError;
use crate::fused::{self, Context};
use crate::key_prior::KeyPrior;
use crate::log_prior::LogPrior;
use crate::options::{Implementation, Options};
use crate::reference;
use bam_kernel::{KernelError, Plan, Shapes, Skipping};
use burn::tensor::{DType, Tensor};
use std::sync::Arc;

/// Attention as Bayes' rule: the posterior over keys is likelihood × prior / evidence, the output
/// its expectation of the values.
///
/// ```text
/// logit_hij = τ_hi · ( q_hi·k_hj/√D + ln w_h(j − i) ) + u_hj     (visible j; else −∞)
/// out_hi    = Σ_j exp(logit_hij) · v_hj / Σ_j exp(logit_hij)
/// ```
///
/// The tensors have one float type. The fused implementation takes `q`, `k` and `v` in `bf16` too, and in
/// `f16` on a GPU, with priors and temperature in `f32`; it sums in `f32` and gives their type.
///
/// Rows that see no key give zeros, with zero gradients. Source: arXiv 2505.22842.
///
/// Inputs must be finite wherever there is a token. At [`Documents::PADDING`](bam_kernel::Documents::PADDING) they are not read.
/// A value that is not finite elsewhere reaches the rows that see it, and may reach rows that don't:
/// a hidden key is given the weight 0, and `0·NaN` is NaN.
///
/// # Shapes
/// - `q`: `[batch, query_heads, queries, dim]`
/// - `k`, `v`: `[batch, key_heads, keys, dim]`; `query_heads` a multiple of `key_heads`
/// - `prior`: `[query_heads, lags]`, at least every lag between a row and a key it sees
/// - `options.key_prior`, `u`: `[batch, query_heads or key_heads, keys]`
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
    let temperature = options.temperature.as_ref();
    let key_prior = options.key_prior.as_ref();
    #[cfg_attr(
        not(feature = "cube"),
        expect(unused_mut, reason = "a GPU keeps norms itself")
    )]
    let mut call = options.call();
    #[cfg(feature = "cube")]
    if let (Some(norms), true) = (&options.key_norms, fused::on_gpu(&k).is_some()) {
        norms.check_on_device(k.dims())?;
        call.key_norms = None;
    }
    let plan = Plan::new(
        call,
        Shapes {
            q: q.dims(),
            k: k.dims(),
            v: v.dims(),
            prior_heads: prior.ln_weights().dims()[0],
            lags: *prior.lags(),
            temperature: temperature.map(|of| of.values.dims()),
            key_prior: key_prior.map(|of| of.values.dims()),
        },
    )?;
    check_remainders(key_prior)?;
    check_types(&q, [&k, &v], prior, options)?;
    check_devices(&q, [&k, &v], prior, options)?;
    match options.implementation {
        Implementation::Reference => {
            refuse_skipping(options)?;
            Ok(reference::attend(
                q,
                k,
                v,
                prior,
                temperature,
                key_prior,
                &plan,
            ))
        }
        Implementation::Fused => {
            let context = Context {
                plan: Arc::new(plan),
                temperature: temperature.map(|of| of.scope),
                key_prior: key_prior.map(|of| of.scope),
                prior: prior.state(),
                #[cfg(feature = "cube")]
                key_norms: options
                    .key_norms
                    .as_ref()
                    .and_then(|of| of.on_device().cloned()),
            };
            let temperature = temperature.map(|of| of.values.clone());
            let key_prior = key_prior.map(KeyPrior::pairs);
            let ln_weights = prior.ln_weights().clone();
            fused::attend([q, k, v], ln_weights, temperature, key_prior, context)
        }
    }
}

/// # Errors
/// If there are remainders of other numbers.
fn check_remainders(key_prior: Option<&KeyPrior>) -> Result<(), AttentionError> {
    let parts = key_prior.and_then(|of| Some((of.values.dims(), of.remainders.as_ref()?.dims())));
    match parts {
        Some((expected, got)) if got != expected => Err(KernelError::Shape {
            what: "remainders of the prior over keys",
            expected: format!("{expected:?}"),
            got: format!("{got:?}"),
        }
        .into()),
        _ => Ok(()),
    }
}

/// Tensors of a call per row or key, which have the float type of log-weights.
fn of_rows_and_keys(options: &Options) -> impl Iterator<Item = &Tensor<3>> {
    let temperature = options.temperature.iter().map(|of| &of.values);
    let key_prior = options.key_prior.iter();
    temperature.chain(key_prior.flat_map(|of| std::iter::once(&of.values).chain(&of.remainders)))
}

/// The reference reads every key.
fn refuse_skipping(options: &Options) -> Result<(), AttentionError> {
    let skips = options.skipping != Skipping::Off;
    match skips || options.key_norms.is_some() || options.skip_log.is_some() {
        false => Ok(()),
        true => Err(AttentionError::Unsupported {
            implementation: "reference",
            expected: "no skipping, key norms or skip log",
            got: format!("{:?}", options.skipping),
        }),
    }
}

/// # Errors
/// If not all tensors are where `q` is.
fn check_devices(
    q: &Tensor<4>,
    others: [&Tensor<4>; 2],
    prior: &LogPrior,
    options: &Options,
) -> Result<(), AttentionError> {
    let device = q.device();
    let elsewhere = others
        .into_iter()
        .map(Tensor::device)
        .chain([prior.ln_weights().device()])
        .chain(of_rows_and_keys(options).map(Tensor::device))
        .find(|other| *other != device);
    match elsewhere {
        None => Ok(()),
        Some(other) => Err(AttentionError::Value {
            what: "device of k, v, priors and temperature",
            expected: format!("that of q, {device:?}"),
            got: format!("{other:?}"),
        }),
    }
}

/// One float type for all; only the fused implementation takes `bf16` or `f16` beside a prior in `f32`, which
/// needs the digits: in `bf16` lags of 257 and 258 are the same.
fn check_types(
    q: &Tensor<4>,
    others: [&Tensor<4>; 2],
    prior: &LogPrior,
    options: &Options,
) -> Result<(), AttentionError> {
    let of_rows = match (options.implementation, q.dtype()) {
        (Implementation::Fused, DType::BF16 | DType::F16) => DType::F32,
        (_, dtype) => dtype,
    };
    let unfit = others
        .into_iter()
        .map(|tensor| (tensor.dtype(), q.dtype()))
        .chain([(prior.ln_weights().dtype(), of_rows)])
        .chain(of_rows_and_keys(options).map(|of| (of.dtype(), of_rows)))
        .find(|(got, expected)| got != expected);
    match unfit {
        None => Ok(()),
        Some((got, _)) => Err(AttentionError::Unsupported {
            implementation: "any",
            expected: "q, k, v, priors and temperature of one float type",
            got: format!("{:?} and {got:?}", q.dtype()),
        }),
    }
}
