//! The sum type of all families, and mixtures of them: a mixture's components are priors again.

use serde::{Deserialize, Serialize};

use crate::error::{as_many, within};
use crate::positional_prior::saturated;
use crate::{
    Error, Gaussian, GeneralizedGaussian, KerpleLog, KerplePower, Laplace, Parameter,
    PositionalPrior, StudentT, T5Buckets, Table, Uniform,
};

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

impl GeneralizedGaussian {
    /// The trained form of the same posteriors as a prior that this family contains: uniform (shape
    /// 0), Laplace (1), Gaussian (2), or itself; `None` for another one. A uniform prior is one at any
    /// scale, and takes that of `flat_scale`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] if the scale that this takes is not in the range of `f64`, or `flat_scale` is
    /// not a finite number above 0.
    pub fn containing(prior: &Prior, flat_scale: f64) -> Result<Option<Self>, Error> {
        let (location, scale, shape) = match prior {
            Prior::Uniform(_) => (0.0, flat_scale, 0.0),
            Prior::Laplace(of) => (0.0, of.slope(), 1.0),
            Prior::Gaussian(of) => (of.location(), of.precision(), 2.0),
            Prior::GeneralizedGaussian(of) if of.epsilon() == Self::EPSILON => {
                (of.location(), of.scale(), of.shape())
            }
            _ => return Ok(None),
        };
        Self::new(location, scale, shape).map(Some)
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

/// One term of a [`Mixture`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// The weight `π_k`, from 0 to 1.
    pub weight: f64,
    /// The law that is weighted.
    pub prior: Prior,
}

/// `ln w(d) = ln Σ_k π_k · exp(ln w_k(d))` with weights `π_k ≥ 0` that sum to 1.
///
/// Components enter with their **unnormalised** log-weights. So a component without a density on
/// the line, such as a uniform slab, can take part, and the mixture means the same on every row:
/// the families with a mode weigh 1 there (up to `ε`), hence `π_k` is the share of a component at
/// its own mode, not its share of the mass. With the components normalised over a row instead,
/// the ratio of slab to peak would change with the length of the row.
///
/// Laplace plus a uniform slab decays like ALiBi near by and has a floor `ln π_slab` far away: a
/// head that is local but can still reach any key.
///
/// `Z = Σ π_k·Z_k`, if every component of positive weight has a normaliser.
///
/// ```
/// use bam_prior::{Component, Laplace, Mixture, PositionalPrior, Uniform};
///
/// let prior = Mixture::new(vec![
///     Component { weight: 0.99, prior: Laplace::new(0.5)?.into() },
///     Component { weight: 0.01, prior: Uniform.into() },
/// ])?;
/// assert_eq!(prior.ln_weight(0.0), 0.0);
/// assert!((prior.ln_weight(-1e6) - 0.01_f64.ln()).abs() < 1e-15);
/// # Ok::<(), bam_prior::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct Mixture {
    components: Vec<Component>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    components: Vec<Component>,
}

impl TryFrom<Fields> for Mixture {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self, Error> {
        Self::new(fields.components)
    }
}

impl Mixture {
    /// The largest distance of the sum of the weights from 1: the rounding of weights written with nine
    /// digits. The weights are used as they are, not rescaled.
    const SUM_TOLERANCE: f64 = 1e-9;

    /// The mixture of the given components.
    ///
    /// # Errors
    ///
    /// [`Error::Count`] without components; [`Error::Value`] unless every weight is from 0 to 1
    /// and they sum to 1 within 10⁻⁹.
    pub fn new(components: Vec<Component>) -> Result<Self, Error> {
        if components.is_empty() {
            return Err(Error::Count {
                what: "mixture components".into(),
                expected: "at least 1".into(),
                got: 0,
            });
        }
        for (k, component) in components.iter().enumerate() {
            let what = format!("mixture weight_{k}");
            within(what, "a number from 0 to 1", component.weight, |x| {
                (0.0..=1.0).contains(&x)
            })?;
        }
        let sum: f64 = components.iter().map(|component| component.weight).sum();
        within("mixture sum of weights", "1 within 1e-9", sum, |x| {
            (x - 1.0).abs() <= Self::SUM_TOLERANCE
        })?;
        Ok(Self { components })
    }

    /// The components.
    pub fn components(&self) -> &[Component] {
        &self.components
    }
}

impl PositionalPrior for Mixture {
    fn family(&self) -> &'static str {
        "mixture"
    }

    /// First the weights, `weight_0, weight_1, …`, then the parameters of each component,
    /// `component_0.slope, …`.
    fn parameters(&self) -> Vec<Parameter> {
        let indexed = || self.components.iter().enumerate();
        let weights = indexed().map(|(k, c)| Parameter::new(format!("weight_{k}"), c.weight));
        let inner = indexed().flat_map(|(k, component)| {
            let parameters = component.prior.parameters().into_iter();
            parameters.map(move |p| Parameter::new(format!("component_{k}.{}", p.name), p.value))
        });
        weights.chain(inner).collect()
    }

    fn with_parameters(&self, values: &[f64]) -> Result<Self, Error> {
        let values = as_many("mixture parameters", self.parameters().len(), values)?;
        let (weights, mut rest) = values.split_at(self.components.len());
        let mut components = Vec::with_capacity(weights.len());
        for (component, &weight) in self.components.iter().zip(weights) {
            let (own, others) = rest.split_at(component.prior.parameters().len());
            components.push(Component {
                weight,
                prior: component.prior.with_parameters(own)?,
            });
            rest = others;
        }
        Self::new(components)
    }

    fn ln_weight(&self, lag: f64) -> f64 {
        let terms = self
            .components
            .iter()
            .map(|c| (c.weight, c.prior.ln_weight(lag)));
        saturated(ln_weighted_sum_exp(terms))
    }

    /// With `l = ln w(d)` and `l_k = ln w_k(d)`: `exp(l_k − l)` for the weights, each as if it were
    /// free of the others (for weights from a softmax see [`crate::softmax_pullback`]), and
    /// `π_k·exp(l_k − l)` times the gradient of the component for its parameters.
    fn ln_weight_gradient(&self, lag: f64) -> Vec<f64> {
        let ln_weight = self.ln_weight(lag);
        let ratios: Vec<f64> = (self.components.iter())
            .map(|c| saturated((c.prior.ln_weight(lag) - ln_weight).exp()))
            .collect();
        let inner = self
            .components
            .iter()
            .zip(&ratios)
            .flat_map(|(component, ratio)| {
                let responsibility = component.weight * ratio;
                let gradient = component.prior.ln_weight_gradient(lag).into_iter();
                gradient.map(move |slope| responsibility * slope)
            });
        ratios.iter().copied().chain(inner).collect()
    }

    fn ln_normaliser(&self) -> Option<f64> {
        let present = self
            .components
            .iter()
            .filter(|component| component.weight > 0.0);
        let terms: Option<Vec<_>> = present
            .map(|c| Some((c.weight, c.prior.ln_normaliser()?)))
            .collect();
        Some(ln_weighted_sum_exp(terms?.into_iter()))
    }
}

/// `ln Σ π_k·exp(x_k)` for finite `x_k` and at least one `π_k > 0`, which alone take part.
///
/// One pass: the sum is kept relative to the largest `x_k` so far.
fn ln_weighted_sum_exp(terms: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (most, sum) = terms.filter(|&(weight, _)| weight > 0.0).fold(
        (f64::NEG_INFINITY, 0.0),
        |(most, sum), (weight, x)| {
            if x <= most {
                (most, sum + weight * (x - most).exp())
            } else {
                (x, sum * (most - x).exp() + weight)
            }
        },
    );
    most + sum.ln()
}
