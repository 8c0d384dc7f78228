//! The questions that every positional prior can answer.

use crate::{Error, Parameter};

/// A distribution over the lag `d = key position − query position`, up to a constant factor.
///
/// All logarithms are natural. Log-weights and gradients are finite for every finite lag: a
/// magnitude beyond the range of the float saturates at its largest finite value instead of
/// becoming infinite, so that a softmax over log-weights never meets `∞ − ∞`.
pub trait PositionalPrior {
    /// Name of the family in snake case, the same as its serde tag: `"generalized_gaussian"`.
    fn family(&self) -> &'static str;

    /// Names and constrained values of the parameters.
    fn parameters(&self) -> Vec<Parameter>;

    /// The same family with other parameter values, in the order of [`Self::parameters`].
    ///
    /// # Errors
    ///
    /// [`Error::Count`] if the number of values differs, otherwise the errors of the constructor.
    fn with_parameters(&self, values: &[f64]) -> Result<Self, Error>
    where
        Self: Sized;

    /// Unnormalised log-weight `ln w(d)` in nats.
    fn ln_weight(&self, lag: f64) -> f64;

    /// [`Self::ln_weight`] rounded once to `f32`.
    ///
    /// The law is evaluated in `f64` and the result is rounded, so the error is half a unit in
    /// the last place of `f32`. The lag stays `f64`: lags beyond 2²⁴ are exact.
    fn ln_weight_f32(&self, lag: f64) -> f32 {
        (self.ln_weight(lag) as f32).clamp(-f32::MAX, f32::MAX)
    }

    /// `∂ ln w(d) / ∂ parameter`, in the order of [`Self::parameters`], constrained values.
    ///
    /// At a kink (the location of a law with a cusp) the entry is 0, a valid subgradient.
    fn ln_weight_gradient(&self, lag: f64) -> Vec<f64>;

    /// `ln Z = ln ∫ w(d) dd` over the real line, or `None` where the integral diverges.
    ///
    /// `None` as well where `ln Z` lies outside of the range of `f64`.
    fn ln_normaliser(&self) -> Option<f64>;

    /// Log-density `ln w(d) − ln Z` over the real line, or `None` where there is no density.
    fn ln_pdf(&self, lag: f64) -> Option<f64> {
        self.ln_normaliser().map(|ln_z| self.ln_weight(lag) - ln_z)
    }
}

/// `x`, or the largest finite number of its sign where `x` is infinite.
pub(crate) fn saturated(x: f64) -> f64 {
    x.clamp(-f64::MAX, f64::MAX)
}
