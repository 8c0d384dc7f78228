//! The generalised Gaussian prior: location, scale and shape, the prior that BAM learns.

use std::f64::consts::LN_2;

use serde::{Deserialize, Serialize};

use crate::error::{exactly, finite, positive, within};
use crate::gamma::{ln_gamma, ln_upper_gamma_ratio};
use crate::positional_prior::saturated;
use crate::{Error, Parameter, PositionalPrior};

/// `ln w(d) = −a·(|d − μ| + ε)^β` with location `μ`, scale `a > 0` and shape `β`.
///
/// Source: BAM (arXiv 2505.22842), in the form in which it is trained. The scale multiplies
/// **outside** the power and `ε` = [`Self::EPSILON`]. The trained parameters are unconstrained:
/// `μ = 2·sinh θ_location`, `a = exp θ_scale`, `β = θ_shape` ([`crate::Family::GeneralizedGaussian`]).
/// Units: `μ` and `ε` in tokens, `a` in nats per tokenᵝ.
///
/// | Shape | Prior |
/// |---|---|
/// | 1 | Laplace of slope `a` (ALiBi), times the constant `exp(−a·ε)` |
/// | 2 | Gaussian of variance `1/(2a)`, as `ε → 0` |
/// | 0 | flat |
/// | below 0 | anti-local: keys near `μ` are suppressed, far keys weigh the same |
///
/// **Density.** For `β > 0` and `ε → 0` this is the paper's density
/// `β/(2αΓ(1/β)) · exp(−(|d−μ|/α)^β)` with `α = a^(−1/β)` ([`Self::alpha`]). For `ε > 0` the
/// integral carries the factor `Q(1/β, a·ε^β)`, the regularised upper incomplete gamma function;
/// [`PositionalPrior::ln_pdf`] includes it, so it is the density of exactly the law that is
/// trained. The two differ by about `ε/α`, which matters only for narrow laws or small shapes.
/// For `β ≤ 0` the weight tends to a constant and there is no density on the line; on a finite
/// row the prior is as good as any other.
///
/// ```
/// use bam_prior::{GeneralizedGaussian, PositionalPrior};
///
/// let prior = GeneralizedGaussian::new(-2.0, 0.5, 2.0)?;
/// assert!((prior.ln_weight(-5.0) + 0.5 * 9.0).abs() < 1e-4);
/// let anti_local = GeneralizedGaussian::new(0.0, 1.0, -1.0)?;
/// assert!(anti_local.ln_weight(-1.0) < anti_local.ln_weight(-1e6));
/// # Ok::<(), bam_prior::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct GeneralizedGaussian {
    location: f64,
    scale: f64,
    shape: f64,
    epsilon: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    location: f64,
    scale: f64,
    shape: f64,
    #[serde(default = "trained_epsilon")]
    epsilon: f64,
}

fn trained_epsilon() -> f64 {
    GeneralizedGaussian::EPSILON
}

impl TryFrom<Fields> for GeneralizedGaussian {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self, Error> {
        Self::with_epsilon(fields.location, fields.scale, fields.shape, fields.epsilon)
    }
}

impl GeneralizedGaussian {
    /// The distance, in tokens, added to `|d − μ|` in the trained form: it keeps the power of 0
    /// and its derivative finite for every shape.
    pub const EPSILON: f64 = 1e-5;

    /// The trained form, `ε` = [`Self::EPSILON`], from constrained values.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless all are finite and the scale is above 0.
    pub fn new(location: f64, scale: f64, shape: f64) -> Result<Self, Error> {
        Self::with_epsilon(location, scale, shape, Self::EPSILON)
    }

    /// The law with another `ε`, in tokens; `ε = 0` is the paper's density.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]; besides `ε` must be finite and at least 0, and above 0 where the shape is
    /// not above 0 (the law would be infinite or undefined at its location).
    pub fn with_epsilon(
        location: f64,
        scale: f64,
        shape: f64,
        epsilon: f64,
    ) -> Result<Self, Error> {
        const EPSILON: &str = "generalized_gaussian epsilon";
        let shape = finite("generalized_gaussian shape", shape)?;
        Ok(Self {
            location: finite("generalized_gaussian location", location)?,
            scale: positive("generalized_gaussian scale", scale)?,
            shape,
            epsilon: if shape > 0.0 {
                within(EPSILON, "a finite number of at least 0", epsilon, |x| {
                    x >= 0.0
                })?
            } else {
                within(
                    EPSILON,
                    "a finite number above 0 (shape is not)",
                    epsilon,
                    |x| x > 0.0,
                )?
            },
        })
    }

    /// The location `μ`: the lag around which the law is symmetric, in tokens.
    pub fn location(&self) -> f64 {
        self.location
    }

    /// The scale `a`: the factor outside the power, in nats per tokenᵝ.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The shape `β`: the exponent.
    pub fn shape(&self) -> f64 {
        self.shape
    }

    /// The distance `ε` added to `|d − μ|`, in tokens.
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// The width `α = a^(−1/β)` of the density, in tokens; `None` unless the shape is above 0.
    ///
    /// Infinite or 0 where it leaves the range of `f64`.
    pub fn alpha(&self) -> Option<f64> {
        (self.shape > 0.0).then(|| self.scale.powf(-self.shape.recip()))
    }

    fn softened_distance(&self, lag: f64) -> f64 {
        (lag - self.location).abs() + self.epsilon
    }
}

impl PositionalPrior for GeneralizedGaussian {
    fn family(&self) -> &'static str {
        "generalized_gaussian"
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![
            Parameter::new("location", self.location),
            Parameter::new("scale", self.scale),
            Parameter::new("shape", self.shape),
        ]
    }

    fn with_parameters(&self, values: &[f64]) -> Result<Self, Error> {
        let [location, scale, shape] = exactly("generalized_gaussian parameters", values)?;
        Self::with_epsilon(location, scale, shape, self.epsilon)
    }

    fn ln_weight(&self, lag: f64) -> f64 {
        saturated(-self.scale * self.softened_distance(lag).powf(self.shape))
    }

    /// With `z = |d−μ| + ε`: `a·β·z^(β−1)·sign(d−μ)`, `−z^β`, `−a·z^β·ln z`.
    fn ln_weight_gradient(&self, lag: f64) -> Vec<f64> {
        let z = self.softened_distance(lag);
        let power = z.powf(self.shape);
        let toward = lag - self.location;
        let location = if toward == 0.0 {
            0.0
        } else {
            self.scale * self.shape * z.powf(self.shape - 1.0) * toward.signum()
        };
        // z = 0 needs ε = 0, hence β > 0, where z^β·ln z tends to 0.
        let shape = if z == 0.0 {
            0.0
        } else {
            -self.scale * power * z.ln()
        };
        vec![saturated(location), saturated(-power), saturated(shape)]
    }

    /// `ln Z = ln 2 − ln β − (ln a)/β + ln Γ(1/β) + ln Q(1/β, a·ε^β)`, for `β > 0`.
    fn ln_normaliser(&self) -> Option<f64> {
        if self.shape <= 0.0 {
            return None;
        }
        let order = self.shape.recip();
        let ln_paper = LN_2 - self.shape.ln() - order * self.scale.ln() + ln_gamma(order);
        let softening = self.scale * self.epsilon.powf(self.shape);
        let ln_z = ln_paper + ln_upper_gamma_ratio(order, softening)?;
        ln_z.is_finite().then_some(ln_z)
    }
}
