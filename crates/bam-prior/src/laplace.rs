//! The Laplace prior: linear decay of the log-weight, which is ALiBi.

use std::f64::consts::LN_2;

use serde::{Deserialize, Serialize};

use crate::error::{exactly, positive};
use crate::positional_prior::saturated;
use crate::{Error, Parameter, PositionalPrior};

/// `ln w(d) = −m·|d|` with slope `m > 0`, in nats per token.
///
/// Source: ALiBi (Press, Smith, Lewis, arXiv 2108.12409), a Laplace prior by BAM
/// (arXiv 2505.22842). Its density is `m/2 · exp(−m·|d|)`. Slopes: [`crate::alibi_slopes`].
///
/// ```
/// use bam_prior::{Laplace, PositionalPrior};
///
/// let prior = Laplace::new(0.5)?;
/// assert_eq!(prior.ln_weight(-4.0), -2.0);
/// assert_eq!(prior.ln_pdf(0.0), Some(0.25_f64.ln()));
/// # Ok::<(), bam_prior::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct Laplace {
    slope: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    slope: f64,
}

impl TryFrom<Fields> for Laplace {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self, Error> {
        Self::new(fields.slope)
    }
}

impl Laplace {
    /// The prior of the given slope, in nats per token.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless the slope is finite and above 0.
    pub fn new(slope: f64) -> Result<Self, Error> {
        Ok(Self {
            slope: positive("laplace slope", slope)?,
        })
    }

    /// The slope `m`, in nats per token.
    pub fn slope(&self) -> f64 {
        self.slope
    }
}

impl PositionalPrior for Laplace {
    fn family(&self) -> &'static str {
        "laplace"
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![Parameter::new("slope", self.slope)]
    }

    fn with_parameters(&self, values: &[f64]) -> Result<Self, Error> {
        let [slope] = exactly("laplace parameters", values)?;
        Self::new(slope)
    }

    fn ln_weight(&self, lag: f64) -> f64 {
        saturated(-self.slope * lag.abs())
    }

    fn ln_weight_gradient(&self, lag: f64) -> Vec<f64> {
        vec![-lag.abs()]
    }

    fn ln_normaliser(&self) -> Option<f64> {
        Some(LN_2 - self.slope.ln())
    }
}
