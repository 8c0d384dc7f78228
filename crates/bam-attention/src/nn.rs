//! Modules for Burn: attention whose heads have priors, and the priors alone.
//!
//! `…Config::…` → `.init(&device)` → a [`Module`](burn::module::Module): it learns, is saved as a record,
//! moves between devices as any other. A configuration that does not fit is an error of `init`, and
//! inputs that do not fit are errors of `forward`; neither panics.
//!
//! ```
//! use bam_attention::nn::{BayesianAttentionConfig, Family, Mask, PositionalPriorConfig};
//! use burn::tensor::{Bool, Device, Distribution, Tensor};
//!
//! let device = Device::flex();
//! // BAM's learned prior in six heads, two more with ALiBi's fixed slopes; both directions.
//! let prior = PositionalPriorConfig::learned(Family::GeneralizedGaussian, 6)
//!     .and(PositionalPriorConfig::alibi(2));
//! let encoder = BayesianAttentionConfig::new(64, prior).with_causal(false).init(&device)?;
//! let x = Tensor::<3>::random([2, 10, 64], Distribution::Default, &device);
//! let padding = Tensor::<2, Bool>::full([2, 10], false, &device);
//! let y = encoder.forward(x, Some(&Mask::padding(padding)?))?;
//! assert_eq!(y.dims(), [2, 10, 64]);
//! # Ok::<(), bam_attention::AttentionError>(())
//! ```
//!
//! | | Equation |
//! |---|---|
//! | [`PositionalPrior`] | `ln w_h(d)` for every head `h` and lag `d`, by the laws of [`Family`] |
//! | [`BayesianAttention`] | `W_o·concat_h Σ_j p_h(j │ i)·v_hj`, `p_h(j │ i) ∝ exp(τ_hi·(q_hi·k_hj/√D + ln w_h(j − i)))` |
//!
//! There is no dropout on the posterior: the fused implementation never holds its weights, and one that
//! drops other keys in its two passes, or another share on each number of threads, would not be
//! dropout. [`burn::nn::Dropout`] on the output is as in other modules.

mod attention;
mod kv_cache;
mod linear;
mod mask;
mod prior;

pub use attention::{Attended, BayesianAttention, BayesianAttentionConfig, Projected};
pub use bam_prior::{Family, Prior, Role};
pub use kv_cache::{HeadGroupCache, KvCache};
pub use linear::{linear, multiplied};
pub use mask::Mask;
pub use prior::{PositionalPrior, PositionalPriorConfig, PriorGroup, PriorGroupConfig};
