//! The Student-t prior: heavy tails around a location.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::{exactly, finite, positive};
use crate::gamma::ln_gamma_half_step;
use crate::positional_prior::saturated;
use crate::{Error, Parameter, PositionalPrior};

/// `ln w(d) = −(ν+1)/2 · ln(1 + ((d − μ)/σ)²/ν)` with location `μ`, scale `σ > 0` (both in tokens)
/// and `ν > 0` degrees of freedom.
///
/// The weight decays as `|d|^(−ν−1)`; `ν = 1` is the Cauchy law, `ν → ∞` the [`crate::Gaussian`].
/// `ln Z = ln σ + ½·ln(νπ) + ln Γ(ν/2) − ln Γ((ν+1)/2)`.
///
/// ```
/// use bam_prior::{PositionalPrior, StudentT};
///
/// let cauchy = StudentT::new(0.0, 1.0, 1.0)?;
/// assert!((cauchy.ln_weight(-3.0) + 10_f64.ln()).abs() < 1e-15);
/// assert!((cauchy.ln_pdf(0.0).unwrap() + std::f64::consts::PI.ln()).abs() < 1e-15);
/// # Ok::<(), bam_prior::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct StudentT {
    location: f64,
    scale: f64,
    degrees_of_freedom: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    location: f64,
    scale: f64,
    degrees_of_freedom: f64,
}

impl TryFrom<Fields> for StudentT {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self, Error> {
        Self::new(fields.location, fields.scale, fields.degrees_of_freedom)
    }
}

impl StudentT {
    /// The prior of the given location and scale, in tokens, and degrees of freedom.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless all are finite and the scale and the degrees are above 0.
    pub fn new(location: f64, scale: f64, degrees_of_freedom: f64) -> Result<Self, Error> {
        Ok(Self {
            location: finite("student_t location", location)?,
            scale: positive("student_t scale", scale)?,
            degrees_of_freedom: positive("student_t degrees_of_freedom", degrees_of_freedom)?,
        })
    }

    /// The location `μ`: the lag of the mode, in tokens.
    pub fn location(&self) -> f64 {
        self.location
    }

    /// The scale `σ`, in tokens. Not the standard deviation, which exists only for `ν > 2`.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The degrees of freedom `ν`.
    pub fn degrees_of_freedom(&self) -> f64 {
        self.degrees_of_freedom
    }

    /// `((d − μ)/σ)² / ν`, infinite where it leaves the range of `f64`.
    fn excess(&self, lag: f64) -> f64 {
        let z = (lag - self.location) / self.scale;
        z * z / self.degrees_of_freedom
    }

    /// `ln(1 + excess)`, finite even where the excess is not.
    fn ln_1p_excess(&self, lag: f64) -> f64 {
        let excess = self.excess(lag);
        if excess.is_finite() {
            excess.ln_1p()
        } else {
            let ln_z = (lag - self.location).abs().ln() - self.scale.ln();
            2.0 * ln_z - self.degrees_of_freedom.ln()
        }
    }
}

impl PositionalPrior for StudentT {
    fn family(&self) -> &'static str {
        "student_t"
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![
            Parameter::new("location", self.location),
            Parameter::new("scale", self.scale),
            Parameter::new("degrees_of_freedom", self.degrees_of_freedom),
        ]
    }

    fn with_parameters(&self, values: &[f64]) -> Result<Self, Error> {
        let [location, scale, degrees_of_freedom] = exactly("student_t parameters", values)?;
        Self::new(location, scale, degrees_of_freedom)
    }

    fn ln_weight(&self, lag: f64) -> f64 {
        saturated(-0.5 * (self.degrees_of_freedom + 1.0) * self.ln_1p_excess(lag))
    }

    /// With `e = ((d−μ)/σ)²/ν` and `s = e/(1+e)`: `(ν+1)·s/(d−μ)`, `(ν+1)·s/σ`,
    /// `−½·ln(1+e) + (ν+1)/(2ν)·s`.
    fn ln_weight_gradient(&self, lag: f64) -> Vec<f64> {
        let excess = self.excess(lag);
        let share = if excess.is_finite() {
            excess / (1.0 + excess)
        } else {
            1.0
        };
        let toward = lag - self.location;
        let order = self.degrees_of_freedom + 1.0;
        let location = if toward == 0.0 {
            0.0
        } else {
            order * share / toward
        };
        let degrees = 0.5 * (order / self.degrees_of_freedom * share - self.ln_1p_excess(lag));
        vec![
            saturated(location),
            saturated(order * share / self.scale),
            saturated(degrees),
        ]
    }

    fn ln_normaliser(&self) -> Option<f64> {
        let nu = self.degrees_of_freedom;
        Some(self.scale.ln() + 0.5 * (nu.ln() + PI.ln()) - ln_gamma_half_step(0.5 * nu))
    }
}
