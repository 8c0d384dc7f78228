//! Parameters, and the maps between their constrained and unconstrained values.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::error::{finite, positive, within};

/// A named parameter of a prior, with its constrained value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// The name within the family: `"shape"`, `"component_0.slope"`.
    pub name: Cow<'static, str>,
    /// The value, in the domain of the family.
    pub value: f64,
}

impl Parameter {
    /// A parameter of the given name and value.
    pub fn new(name: impl Into<Cow<'static, str>>, value: f64) -> Self {
        Self {
            name: name.into(),
            value,
        }
    }
}

/// A smooth increasing map `x = f(θ)` from the real line onto the domain of a parameter: an
/// optimiser moves `θ` freely, the law sees `x`.
///
/// | Link | `f(θ)` | Domain | Parameters |
/// |---|---|---|---|
/// | [`Identity`](Self::Identity) | `θ` | the line | shape, entries of tables |
/// | [`Exponential`](Self::Exponential) | `exp θ` | above 0 | scale, slope, deviation, degrees |
/// | [`TwoSinh`](Self::TwoSinh) | `2·sinh θ` | the line | location |
/// | [`Softplus`](Self::Softplus) | `ln(1 + exp θ)` | above 0 | an alternative to the exponential |
/// | [`Logistic`](Self::Logistic) | `1/(1 + exp(−θ))` | 0 to 1 | the weight of one of two components |
/// | [`TwoLogistic`](Self::TwoLogistic) | `2/(1 + exp(−θ))` | 0 to 2 | exponent of KERPLE-power |
///
/// Scale, location and shape are those of the trained reference form. The weights of several
/// components go together, by [`softmax`]. Open ends of a domain are reached only by rounding.
///
/// ```
/// use bam_prior::Link;
///
/// let theta = Link::TwoSinh.unconstrain(-300.0)?;
/// assert!((Link::TwoSinh.constrain(theta) + 300.0).abs() < 1e-9);
/// # Ok::<(), bam_prior::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// `x = θ`.
    Identity,
    /// `x = exp θ`.
    Exponential,
    /// `x = 2·sinh θ`: linear near 0, exponential far away, so that a location can be learned
    /// both within a phrase and over thousands of tokens.
    TwoSinh,
    /// `x = ln(1 + exp θ)`.
    Softplus,
    /// `x = 1/(1 + exp(−θ))`.
    Logistic,
    /// `x = 2/(1 + exp(−θ))`.
    TwoLogistic,
}

impl Link {
    /// The constrained value `x = f(θ)`.
    pub fn constrain(self, theta: f64) -> f64 {
        match self {
            Self::Identity => theta,
            Self::Exponential => theta.exp(),
            Self::TwoSinh => 2.0 * theta.sinh(),
            Self::Softplus => theta.max(0.0) + (-theta.abs()).exp().ln_1p(),
            Self::Logistic => logistic(theta),
            Self::TwoLogistic => 2.0 * logistic(theta),
        }
    }

    /// The unconstrained value `θ = f⁻¹(x)`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] if `x` lies outside of the open domain.
    pub fn unconstrain(self, x: f64) -> Result<f64, Error> {
        const WHAT: &str = "constrained value";
        let logit = |x: f64, upper: f64| (x / (upper - x)).ln();
        Ok(match self {
            Self::Identity => finite(WHAT, x)?,
            Self::Exponential => positive(WHAT, x)?.ln(),
            Self::TwoSinh => (0.5 * finite(WHAT, x)?).asinh(),
            Self::Softplus => {
                let x = positive(WHAT, x)?;
                x + (-(-x).exp_m1()).ln()
            }
            Self::Logistic => logit(
                within(WHAT, "a number between 0 and 1", x, |x| x > 0.0 && x < 1.0)?,
                1.0,
            ),
            Self::TwoLogistic => logit(
                within(WHAT, "a number between 0 and 2", x, |x| x > 0.0 && x < 2.0)?,
                2.0,
            ),
        })
    }

    /// The derivative `dx/dθ = f′(θ)`: a gradient in `x` times this is the gradient in `θ`.
    pub fn derivative(self, theta: f64) -> f64 {
        match self {
            Self::Identity => 1.0,
            Self::Exponential => theta.exp(),
            Self::TwoSinh => 2.0 * theta.cosh(),
            Self::Softplus => logistic(theta),
            Self::Logistic => logistic(theta) * logistic(-theta),
            Self::TwoLogistic => 2.0 * logistic(theta) * logistic(-theta),
        }
    }
}

fn logistic(theta: f64) -> f64 {
    // exp of a number of at most 0 never overflows, and the small side keeps all of its digits.
    let e = (-theta.abs()).exp();
    if theta < 0.0 {
        e / (1.0 + e)
    } else {
        1.0 / (1.0 + e)
    }
}

/// `π_k = exp θ_k / Σ_j exp θ_j`: mixture weights from as many unconstrained values.
///
/// ```
/// use bam_prior::softmax;
///
/// assert_eq!(softmax(&[1000.0, 1000.0]), [0.5, 0.5]);
/// ```
pub fn softmax(theta: &[f64]) -> Vec<f64> {
    let most = theta.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = theta.iter().map(|t| (t - most).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.into_iter().map(|e| e / sum).collect()
}

/// `θ_k = ln π_k`: the inverse of [`softmax`] whose exponentials sum to the sum of the weights.
///
/// # Errors
///
/// [`Error::Value`] unless every weight is finite and above 0.
pub fn softmax_inverse(weights: &[f64]) -> Result<Vec<f64>, Error> {
    weights
        .iter()
        .map(|&weight| Ok(positive("mixture weight", weight)?.ln()))
        .collect()
}

/// The gradient in `θ` from the gradient in `π = softmax(θ)`: `π_k·(g_k − Σ_j π_j·g_j)`.
///
/// # Errors
///
/// [`Error::Count`] unless there are as many gradient entries as weights.
pub fn softmax_pullback(weights: &[f64], gradient: &[f64]) -> Result<Vec<f64>, Error> {
    let gradient = crate::error::as_many("softmax gradient", weights.len(), gradient)?;
    let mean: f64 = weights.iter().zip(gradient).map(|(w, g)| w * g).sum();
    Ok(weights
        .iter()
        .zip(gradient)
        .map(|(w, g)| w * (g - mean))
        .collect())
}
