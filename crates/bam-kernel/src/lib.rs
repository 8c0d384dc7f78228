//! Attention under a positional prior, as **one operation on slices** of `f32` or `bf16`. Knows no tensor
//! library.
//!
//! Position is the prior, content the likelihood, the attention row the posterior (Bayesian Attention
//! Mechanism, arXiv 2505.22842, Theorem 1):
//!
//! ```text
//! p(j | i) = exp( τ_i · ( q_i·k_j/√D + ln w_h(j − i) ) + u_hj ) / evidence_i        out_i = Σ_j p(j | i) · v_j
//! ```
//!
//! The prior is *one number per head and lag*, and where wanted one per key; a `[query, key]` bias never exists. Scores are streamed
//! over tiles of keys: memory is linear in the length, forward and back. There are gradients of `q`, `k`,
//! `v`, of every log-weight, of the temperature and of the prior over keys. All results are the same bits for any number of
//! threads (the current [rayon] pool's).
//!
//! # Should I use this?
//!
//! Yes, to give a framework attention on a CPU under ALiBi, a learned prior or any other log-weight by
//! lag or by key (a forget gate), with exact gradients and long rows. With [Burn](https://burn.dev), take `bam-attention`, which
//! does that already. No, on a GPU, or with a bias that is no sum of one by lag and one by key.
//!
//! # Example
//!
//! ```
//! use bam_kernel::{Call, Lags, LogWeights, Operands, Plan, Rows};
//!
//! let [batch, heads, length, dim] = [1, 2, 5, 4];
//! let shape = [batch, heads, length, dim];
//! let numbers: Vec<f32> = (0..shape.iter().product()).map(|i| (i as f32).sin()).collect();
//! let (q, k, v) = (&numbers, &numbers, &numbers);
//! // ALiBi with slopes 1/2 and 1/4.
//! let lags = Lags::causal(length);
//! let slopes = [0.5, 0.25];
//! let ln_weights: Vec<f32> = slopes
//!     .iter()
//!     .flat_map(|slope| lags.iter().map(move |lag| slope * lag as f32))
//!     .collect();
//!
//! let operands = Operands {
//!     q: Rows::new(q, shape)?,
//!     k: Rows::new(k, shape)?,
//!     v: Rows::new(v, shape)?,
//!     ln_weights: LogWeights::new(&ln_weights, heads, lags)?,
//!     temperature: None,
//!     key_prior: None,
//! };
//! let plan = Plan::new(Call::causal(), operands.shapes())?;
//! let posterior = plan.forward(&operands)?;
//! assert_eq!(posterior.out[..dim], v[..dim]); // The first row sees itself alone.
//!
//! let ones = vec![1.0f32; numbers.len()];
//! let of_sum = plan.backward(
//!     &operands,
//!     &posterior.out,
//!     &posterior.ln_evidence,
//!     &Rows::new(&ones, shape)?,
//! )?;
//! assert_eq!(of_sum.ln_weights.len(), heads * lags.count());
//! # Ok::<(), bam_kernel::KernelError>(())
//! ```
//!
//! # Shapes, layout, units
//!
//! | | shape | in memory |
//! |---|---|---|
//! | `q` | `[batch, query heads, queries, dim]` | [`Rows`]: any strides, `dim` contiguous; `f32` or `bf16` |
//! | `k`, `v` | `[batch, key heads, keys, dim]`; query heads a multiple of the key heads | the same |
//! | log-weights | `[query heads, lags]`, at least every lag between a row and a key it sees | contiguous `f32` |
//! | temperature | `[batch or 1, query heads, queries]` | contiguous `f32` |
//! | prior over keys | `[batch, query heads or key heads, keys]` | [`KeyPrior`]: contiguous `f32`, or pairs of them |
//! | output, gradients | those of `q` and of the operands | contiguous `f32`, or [`RowsMut`]: any strides, `dim` contiguous |
//!
//! A **lag** is key position − query position, in tokens; query row `i` stands at `offset + i`. Log-weights
//! and logits are natural logarithms. A weight below `e^`[`LN_SMALLEST_WEIGHT`] of its row's heaviest is
//! exactly 0. Rows that see no key give zeros, with zero gradients.
//!
//! # Errors
//!
//! Everything is checked where it is made and once: a slice against its own shape in [`Rows::new`] and its
//! like, shapes against each other in [`Plan::new`]. [`KernelError`] says what does not fit, what was
//! expected and what was given. What can't be done is refused, never ignored.
//!
//! Numbers must be finite wherever there is a token; at [`Documents::PADDING`] they are not read.
#![warn(missing_docs)]

mod by_key;
mod certificate;
mod documents;
mod error;
mod exponential;
mod instructions;
mod key_norms;
mod key_prior;
pub mod layers;
mod operands;
mod passes;
mod plan;
mod position;
mod prior_ranges;
mod results;
mod rounding;
mod skipping;
pub mod testing;

pub use documents::{Documents, visible_counts};
pub use error::KernelError;
pub use exponential::LN_SMALLEST_WEIGHT;
pub use half::bf16;
pub use instructions::Instructions;
pub use key_norms::KeyNorms;
pub use key_prior::{KeyPrior, KeyPriorScope};
pub use operands::{LogWeights, Operands, Rows, Shapes, Temperature, TemperatureScope, Values};
pub use passes::{Gradients, GradientsMut, Posterior};
pub use plan::{Call, Plan};
pub use position::{Lags, Positions, Visibility};
pub use prior_ranges::PriorRanges;
pub use results::RowsMut;
pub use skipping::{HeadSkips, SkipLog, Skipping};
