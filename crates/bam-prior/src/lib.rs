//! Positional priors of Bayesian attention as probability distributions over the lag.
//!
//! An additive attention score `f(q, k) + g(lag)` is a product of probabilities: content is the
//! likelihood, position is the **prior**, the attention row is the posterior. This crate is the
//! mathematics of that prior in scalar `f64`: what each family weighs, how its parameters move
//! it, how its mass lies on a row of keys. It knows no tensors; it is the oracle that tensor code
//! is compared with, and the source of the numbers that an inspection reports.
//!
//! ```
//! use bam_prior::{Class, GeneralizedGaussian, PositionalPrior, Prior, RowSummary, alibi_slopes};
//!
//! # fn main() -> Result<(), bam_prior::Error> {
//! let slope = alibi_slopes(8)?[0]; // 1/2, the steepest of eight heads
//! let prior = Prior::from(GeneralizedGaussian::new(0.0, slope, 1.0)?); // shape 1: ALiBi
//! assert!((prior.ln_weight(-6.0) + 3.0).abs() < 1e-4);
//! let row = RowSummary::new(&prior, 64_000)?;
//! assert_eq!(row.quantile(0.99)?, 9); // 99 % of the prior mass lies on ten keys
//! assert_eq!(row.class(), Class::Local);
//! # Ok(())
//! # }
//! ```
//!
//! # Conventions
//!
//! * **Lag** `d = key position − query position`, in tokens: causal attention sees `d ≤ 0`.
//!   **Distance** is `|d|`. Lags are finite; a lag that is not gives an unspecified value.
//! * **Log space is primary.** [`PositionalPrior::ln_weight`] is the unnormalised log-weight, in
//!   nats. A constant per row cancels in the softmax, so this is all that attention needs.
//! * **Normalisation** is over the real line, where the integral exists: see
//!   [`PositionalPrior::ln_pdf`]. On a finite row every family is a distribution: [`RowSummary`].
//! * **A value that exists is valid.** Constructors and deserialisation return [`Error`] for
//!   parameters outside the family's domain.
//!
//! # Families
//!
//! | Family | `ln w(d)` | Finite on the line |
//! |---|---|---|
//! | [`Uniform`] (NoPE) | `0` | no |
//! | [`Laplace`] (ALiBi) | `−m·│d│` | yes |
//! | [`Gaussian`] | `−(d−μ)² / (2σ²)` | yes |
//! | [`GeneralizedGaussian`] (BAM) | `−a·(│d−μ│+ε)^β` | for `β > 0` |
//! | [`KerpleLog`] | `−r₁·ln(1 + r₂·│d│)` | for `r₁ > 1` |
//! | [`KerplePower`] | `−r₁·│d│^r₂` | yes |
//! | [`StudentT`] | `−(ν+1)/2 · ln(1 + ((d−μ)/σ)²/ν)` | yes |
//! | [`T5Buckets`] | a number per bucket of distances | no |
//! | [`Table`] | a number per distance, the last one extends | no |
//! | [`Mixture`] | `ln Σ π_k·w_k(d)` | if every component is |
//!
//! # Learned parameters
//!
//! A head that learns its prior stores unconstrained numbers. [`Family`] is their one home: names in
//! checkpoints, starting values, the [`Link`] of each to its value, and both ways between what is
//! stored and a [`Prior`].

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod error;
mod family;
mod gamma;
mod gaussian;
mod generalized_gaussian;
mod horizon;
mod kerple_log;
mod kerple_power;
mod laplace;
mod parameter;
mod positional_prior;
mod prior;
mod slopes;
mod student_t;
mod summary;
mod t5_buckets;
mod table;
mod uniform;

pub use error::Error;
pub use family::{Family, ParameterSpec, Role, StoredPrior};
pub use gaussian::Gaussian;
pub use generalized_gaussian::GeneralizedGaussian;
pub use horizon::{LogitBound, Sharpening};
pub use kerple_log::KerpleLog;
pub use kerple_power::KerplePower;
pub use laplace::Laplace;
pub use parameter::{Link, Parameter, softmax, softmax_inverse, softmax_pullback};
pub use positional_prior::PositionalPrior;
pub use prior::{Component, Mixture, Prior};
pub use slopes::alibi_slopes;
pub use student_t::StudentT;
pub use summary::{Class, MassLags, RowSummary};
pub use t5_buckets::{Direction, T5Buckets};
pub use table::Table;
pub use uniform::Uniform;
