//! Attention under a positional prior, as **one operation** on [Burn](https://burn.dev) tensors.
//!
//! Additive attention scores are a product of probabilities: position is the **prior**, content the
//! **likelihood**, the attention row the **posterior** (Bayesian Attention Mechanism,
//! arXiv 2505.22842, Theorem 1):
//!
//! ```text
//! p(j | i) = exp( τ_i · ( q_i·k_j/√D + ln w_h(j − i) ) + u_hj ) / evidence_i        out_i = Σ_j p(j | i) · v_j
//! ```
//!
//! Every stationary prior is *one number per head and lag*, so a [`LogPrior`] is a tensor
//! `[heads, lags]`: memory `O(H·N)`, never a `[query, key]` bias. A [`KeyPrior`], one number per key, says how much each
//! counts, as a forget gate does. [`attend`] is the only way in.
//! It is differentiable in `q`, `k`, `v`, both priors and the temperature.
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
//! use bam_attention::nn::{BayesianAttentionConfig, Family, PositionalPriorConfig};
//! use burn::tensor::{Device, Distribution, Tensor};
//!
//! let device = Device::flex().autodiff();
//! let alibi = PositionalPriorConfig::learned(Family::Laplace, 4); // slopes that learn
//! let attention = BayesianAttentionConfig::new(64, alibi).init(&device)?;
//! let x = Tensor::<3>::random([2, 100, 64], Distribution::Default, &device);
//! let gradients = attention.forward(x, None)?.sum().backward();
//! let slopes = &attention.prior.groups[0].theta[0];
//! assert_eq!(slopes.val().grad(&gradients).unwrap().dims(), [4, 1]);
//! # Ok::<(), bam_attention::AttentionError>(())
//! ```
//!
//! Beneath the modules of [`nn`] is one function, [`attend`], for queries, keys and values by head.
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod attend;
pub mod device;
mod error;
mod fused;
mod key_norms;
mod key_prior;
pub mod log_prior;
pub mod nn;
mod options;
mod reference;
mod scalable_softmax;
mod temperature;
pub mod testing;

pub use attend::attend;
pub use bam_kernel::{
    Documents, HeadSkips, Instructions, KernelError, KeyPriorScope, LN_SMALLEST_WEIGHT, Lags,
    SkipLog, Skipping, TemperatureScope, Visibility,
};
pub use error::AttentionError;
#[cfg(feature = "cuda-check")]
#[doc(hidden)]
pub use fused::cuda_sources;
pub use key_norms::KeyNorms;
pub use key_prior::KeyPrior;
pub use log_prior::LogPrior;
pub use options::{Implementation, Options};
pub use scalable_softmax::scalable_softmax;
pub use temperature::Temperature;
