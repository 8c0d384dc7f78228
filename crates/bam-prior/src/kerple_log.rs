//! The logarithmic KERPLE prior: a power-law weight.

use std::f64::consts::LN_2;

use serde::{Deserialize, Serialize};

use crate::error::{exactly, positive};
use crate::positional_prior::saturated;
use crate::{Error, Parameter, PositionalPrior};

/// `ln w(d) = −r₁·ln(1 + r₂·|d|)` with exponent `r₁ > 0` and rate `r₂ > 0` (per token).
///
/// Source: KERPLE, logarithmic variant (Chi et al., arXiv 2205.09921). The weight decays as
/// `|d|^(−r₁)`: for `r₁ > 1` it has the density of a two-sided Pareto law,
/// `ln Z = ln 2 − ln r₂ − ln(r₁ − 1)`; for `r₁ ≤ 1` the integral diverges.
///
/// ```
/// use bam_prior::{KerpleLog, PositionalPrior};
///
/// let prior = KerpleLog::new(2.0, 1.0)?;
/// assert!((prior.ln_weight(-9.0) + 2.0 * 10_f64.ln()).abs() < 1e-15);
/// assert_eq!(KerpleLog::new(1.0, 1.0)?.ln_pdf(0.0), None);
/// # Ok::<(), bam_prior::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct KerpleLog {
    r1: f64,
    r2: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    r1: f64,
    r2: f64,
}

impl TryFrom<Fields> for KerpleLog {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self, Error> {
        Self::new(fields.r1, fields.r2)
    }
}

impl KerpleLog {
    /// The prior of the given exponent and rate.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless both are finite and above 0.
    pub fn new(r1: f64, r2: f64) -> Result<Self, Error> {
        Ok(Self {
            r1: positive("kerple_log r1", r1)?,
            r2: positive("kerple_log r2", r2)?,
        })
    }

    /// The exponent `r₁` of the tail.
    pub fn r1(&self) -> f64 {
        self.r1
    }

    /// The rate `r₂`, per token: `1/r₂` is where the tail begins.
    pub fn r2(&self) -> f64 {
        self.r2
    }
}

impl PositionalPrior for KerpleLog {
    fn family(&self) -> &'static str {
        "kerple_log"
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![Parameter::new("r1", self.r1), Parameter::new("r2", self.r2)]
    }

    fn with_parameters(&self, values: &[f64]) -> Result<Self, Error> {
        let [r1, r2] = exactly("kerple_log parameters", values)?;
        Self::new(r1, r2)
    }

    fn ln_weight(&self, lag: f64) -> f64 {
        saturated(-self.r1 * (self.r2 * lag.abs()).ln_1p())
    }

    /// `−ln(1 + r₂·|d|)` and `−r₁·|d| / (1 + r₂·|d|)`.
    fn ln_weight_gradient(&self, lag: f64) -> Vec<f64> {
        let distance = lag.abs();
        let reach = self.r2 * distance;
        vec![
            saturated(-reach.ln_1p()),
            saturated(-self.r1 * (distance / (1.0 + reach))),
        ]
    }

    fn ln_normaliser(&self) -> Option<f64> {
        (self.r1 > 1.0).then(|| LN_2 - self.r2.ln() - (self.r1 - 1.0).ln())
    }
}
