//! Attention under a positional prior, as **one operation** on [Burn](https://burn.dev) tensors.
//!
//! Additive attention scores are a product of probabilities: position is the **prior**, content the
//! **likelihood**, the attention row the **posterior** (Bayesian Attention Mechanism,
//! arXiv 2505.22842, Theorem 1):
//!
//! ```text
//! p(j | i) = exp( τ_i · ( q_i·k_j/√D + ln w_h(j − i) ) ) / evidence_i        out_i = Σ_j p(j | i) · v_j
//! ```
//!
//! Every stationary prior is *one number per head and lag*, so a [`LogPrior`] is a tensor
//! `[heads, lags]`: memory `O(H·N)`, never a `[query, key]` bias. [`attend`] is the only entry.
//! It is differentiable in `q`, `k`, `v`, the log-prior and the temperature.
//!
//! # Should I use this?
//!
//! Yes, if you want NoPE, ALiBi, a learned generalised Gaussian prior or any other log-weight by
//! lag in a Burn model, with exact gradients and long rows on a CPU. No, if a plain causal softmax
//! is enough for you: `burn::tensor::module::attention` has that.
//!
//! # Example
//!
//! ```
//! use bam_attention::log_prior::{Family, LagGrid, laplace::Laplace};
//! use bam_attention::{Implementation, Lags, LogPrior, Options, attend};
//! use burn::tensor::{Device, Distribution, Tensor};
//!
//! let device = Device::flex().autodiff();
//! let [batch, heads, length, dim] = [2, 4, 100, 16];
//! let input = || Tensor::<4>::random([batch, heads, length, dim], Distribution::Default, &device);
//! let (q, k, v) = (input().require_grad(), input(), input());
//!
//! // ALiBi's slopes as a learnable Laplace prior.
//! let slopes = bam_prior::alibi_slopes(heads)?;
//! let slopes: Vec<f32> = slopes.into_iter().map(|m| m as f32).collect();
//! let slopes = Tensor::<1>::from_floats(slopes.as_slice(), &device).reshape([heads, 1]);
//! let theta = slopes.log().require_grad();
//! let grid = LagGrid { heads, lags: Lags::causal(length), device: device.clone() };
//! let prior = LogPrior::new(Laplace.ln_weight(&[theta.clone()], &grid), grid.lags)?;
//!
//! let options = Options::causal(Implementation::Fused);
//! let out = attend(q.clone(), k, v, &prior, &options)?;
//! let gradients = out.sum().backward();
//! assert_eq!(theta.grad(&gradients).unwrap().dims(), [heads, 1]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod attend;
mod error;
mod fused;
mod key_norms;
pub mod log_prior;
mod options;
mod reference;
mod scalable_softmax;
mod temperature;
pub mod testing;

pub use attend::attend;
pub use bam_kernel::{
    Documents, HeadSkips, Instructions, KernelError, KeyNorms, LN_SMALLEST_WEIGHT, Lags, SkipLog,
    Skipping, TemperatureScope, Visibility,
};
pub use error::AttentionError;
pub use key_norms::extend_key_norms;
pub use log_prior::LogPrior;
pub use options::{Implementation, Options};
pub use scalable_softmax::scalable_softmax;
pub use temperature::Temperature;
