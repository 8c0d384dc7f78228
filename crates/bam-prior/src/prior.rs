//! The questions that every positional prior can answer, and the sum type of all families.

use serde::{Deserialize, Serialize};

use crate::{
    Error, Gaussian, GeneralizedGaussian, KerpleLog, KerplePower, Laplace, Mixture, Parameter,
    StudentT, T5Buckets, Table, Uniform,
};

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

/// A positional prior of any family.
///
/// Serialised with the family as tag, `{"family": "laplace", "slope": 0.5}`; deserialisation
/// checks everything that the constructors check and rejects unknown fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "snake_case")]
pub enum Prior {
    /// Every visible key weighs the same.
    Uniform(Uniform),
    /// Linear decay, ALiBi.
    Laplace(Laplace),
    /// Quadratic decay around a location.
    Gaussian(Gaussian),
    /// Location, scale and shape, the learned prior of BAM.
    GeneralizedGaussian(GeneralizedGaussian),
    /// Logarithmic decay.
    KerpleLog(KerpleLog),
    /// Decay by a power of at most two.
    KerplePower(KerplePower),
    /// Heavy-tailed decay around a location.
    StudentT(StudentT),
    /// A log-weight per T5 bucket of relative positions.
    T5Buckets(T5Buckets),
    /// A log-weight per distance.
    Table(Table),
    /// A weighted sum of other priors.
    Mixture(Mixture),
}

impl Prior {
    fn law(&self) -> &dyn PositionalPrior {
        match self {
            Self::Uniform(law) => law,
            Self::Laplace(law) => law,
            Self::Gaussian(law) => law,
            Self::GeneralizedGaussian(law) => law,
            Self::KerpleLog(law) => law,
            Self::KerplePower(law) => law,
            Self::StudentT(law) => law,
            Self::T5Buckets(law) => law,
            Self::Table(law) => law,
            Self::Mixture(law) => law,
        }
    }
}

impl PositionalPrior for Prior {
    fn family(&self) -> &'static str {
        self.law().family()
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.law().parameters()
    }

    fn with_parameters(&self, values: &[f64]) -> Result<Self, Error> {
        Ok(match self {
            Self::Uniform(law) => law.with_parameters(values)?.into(),
            Self::Laplace(law) => law.with_parameters(values)?.into(),
            Self::Gaussian(law) => law.with_parameters(values)?.into(),
            Self::GeneralizedGaussian(law) => law.with_parameters(values)?.into(),
            Self::KerpleLog(law) => law.with_parameters(values)?.into(),
            Self::KerplePower(law) => law.with_parameters(values)?.into(),
            Self::StudentT(law) => law.with_parameters(values)?.into(),
            Self::T5Buckets(law) => law.with_parameters(values)?.into(),
            Self::Table(law) => law.with_parameters(values)?.into(),
            Self::Mixture(law) => law.with_parameters(values)?.into(),
        })
    }

    fn ln_weight(&self, lag: f64) -> f64 {
        self.law().ln_weight(lag)
    }

    fn ln_weight_gradient(&self, lag: f64) -> Vec<f64> {
        self.law().ln_weight_gradient(lag)
    }

    fn ln_normaliser(&self) -> Option<f64> {
        self.law().ln_normaliser()
    }
}

macro_rules! prior_from_family {
    ($($family:ident),+) => {$(
        impl From<$family> for Prior {
            fn from(law: $family) -> Self {
                Self::$family(law)
            }
        }
    )+};
}

prior_from_family!(
    Uniform,
    Laplace,
    Gaussian,
    GeneralizedGaussian,
    KerpleLog,
    KerplePower,
    StudentT,
    T5Buckets,
    Table,
    Mixture
);

/// `x`, or the largest finite number of its sign where `x` is infinite.
pub(crate) fn saturated(x: f64) -> f64 {
    x.clamp(-f64::MAX, f64::MAX)
}
