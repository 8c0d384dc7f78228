//! The Gaussian prior: quadratic decay of the log-weight around a location.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

use crate::error::{exactly, finite, positive};
use crate::positional_prior::saturated;
use crate::{Error, Parameter, PositionalPrior};

/// `ln w(d) = −(d − μ)² / (2σ²)` with location `μ` and deviation `σ > 0`, both in tokens.
///
/// Equal to a [`crate::GeneralizedGaussian`] of shape 2 and scale `1/(2σ²)`, `ε → 0`. Its density
/// is the normal density, `ln Z = ln σ + ½·ln 2π`.
///
/// ```
/// use bam_prior::{Gaussian, PositionalPrior};
///
/// let prior = Gaussian::new(-10.0, 2.0)?; // looks ten tokens back
/// assert_eq!(prior.ln_weight(-10.0), 0.0);
/// assert_eq!(prior.ln_weight(-6.0), -2.0);
/// # Ok::<(), bam_prior::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct Gaussian {
    location: f64,
    deviation: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    location: f64,
    deviation: f64,
}

impl TryFrom<Fields> for Gaussian {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self, Error> {
        Self::new(fields.location, fields.deviation)
    }
}

impl Gaussian {
    /// The prior of the given location (lag of the mode) and standard deviation, in tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless the location is finite and the deviation is finite and above 0.
    pub fn new(location: f64, deviation: f64) -> Result<Self, Error> {
        Ok(Self {
            location: finite("gaussian location", location)?,
            deviation: positive("gaussian deviation", deviation)?,
        })
    }

    /// The location `μ`: the lag of the mode, in tokens.
    pub fn location(&self) -> f64 {
        self.location
    }

    /// The standard deviation `σ`, in tokens.
    pub fn deviation(&self) -> f64 {
        self.deviation
    }

    /// `1/(2σ²)`: the scale of the [`crate::GeneralizedGaussian`] of shape 2 that this is.
    pub fn precision(&self) -> f64 {
        0.5 / self.deviation.powi(2)
    }

    fn standardised(&self, lag: f64) -> f64 {
        (lag - self.location) / self.deviation
    }
}

impl PositionalPrior for Gaussian {
    fn family(&self) -> &'static str {
        "gaussian"
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![
            Parameter::new("location", self.location),
            Parameter::new("deviation", self.deviation),
        ]
    }

    fn with_parameters(&self, values: &[f64]) -> Result<Self, Error> {
        let [location, deviation] = exactly("gaussian parameters", values)?;
        Self::new(location, deviation)
    }

    fn ln_weight(&self, lag: f64) -> f64 {
        let z = self.standardised(lag);
        saturated(-0.5 * z * z)
    }

    fn ln_weight_gradient(&self, lag: f64) -> Vec<f64> {
        let z = self.standardised(lag);
        vec![
            saturated(z / self.deviation),
            saturated(z * z / self.deviation),
        ]
    }

    fn ln_normaliser(&self) -> Option<f64> {
        Some(self.deviation.ln() + 0.5 * TAU.ln())
    }
}
