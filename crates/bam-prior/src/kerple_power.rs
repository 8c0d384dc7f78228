//! The power KERPLE prior: a stretched exponential weight.

use std::f64::consts::LN_2;

use serde::{Deserialize, Serialize};

use crate::error::{exactly, positive, within};
use crate::gamma::ln_gamma;
use crate::positional_prior::saturated;
use crate::{Error, Parameter, PositionalPrior};

/// `ln w(d) = −r₁·|d|^r₂` with rate `r₁ > 0` (nats per token^r₂) and exponent `0 < r₂ ≤ 2`.
///
/// Source: KERPLE, power variant (Chi et al., arXiv 2205.09921); the exponent is bounded by 2
/// because the kernel is conditionally positive definite only up to there. `r₂ = 1` is
/// [`crate::Laplace`] of slope `r₁`. `ln Z = ln 2 − ln r₂ − (ln r₁)/r₂ + ln Γ(1/r₂)`.
///
/// ```
/// use bam_prior::{KerplePower, PositionalPrior};
///
/// assert_eq!(KerplePower::new(0.25, 2.0)?.ln_weight(-6.0), -9.0);
/// assert!(KerplePower::new(0.25, 2.5).is_err());
/// # Ok::<(), bam_prior::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct KerplePower {
    r1: f64,
    r2: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    r1: f64,
    r2: f64,
}

impl TryFrom<Fields> for KerplePower {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self, Error> {
        Self::new(fields.r1, fields.r2)
    }
}

impl KerplePower {
    /// The prior of the given rate and exponent.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `r1` is finite and above 0 and `r2` is above 0 and at most 2.
    pub fn new(r1: f64, r2: f64) -> Result<Self, Error> {
        let exponent = "a number above 0 and at most 2";
        Ok(Self {
            r1: positive("kerple_power r1", r1)?,
            r2: within("kerple_power r2", exponent, r2, |x| x > 0.0 && x <= 2.0)?,
        })
    }

    /// The rate `r₁`, in nats per token^r₂.
    pub fn r1(&self) -> f64 {
        self.r1
    }

    /// The exponent `r₂`.
    pub fn r2(&self) -> f64 {
        self.r2
    }
}

impl PositionalPrior for KerplePower {
    fn family(&self) -> &'static str {
        "kerple_power"
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![Parameter::new("r1", self.r1), Parameter::new("r2", self.r2)]
    }

    fn with_parameters(&self, values: &[f64]) -> Result<Self, Error> {
        let [r1, r2] = exactly("kerple_power parameters", values)?;
        Self::new(r1, r2)
    }

    fn ln_weight(&self, lag: f64) -> f64 {
        saturated(-self.r1 * lag.abs().powf(self.r2))
    }

    /// `−|d|^r₂` and `−r₁·|d|^r₂·ln|d|`.
    fn ln_weight_gradient(&self, lag: f64) -> Vec<f64> {
        let distance = lag.abs();
        let power = distance.powf(self.r2);
        let exponent = if distance == 0.0 {
            0.0
        } else {
            -self.r1 * power * distance.ln()
        };
        vec![saturated(-power), saturated(exponent)]
    }

    fn ln_normaliser(&self) -> Option<f64> {
        let order = self.r2.recip();
        let ln_z = LN_2 - self.r2.ln() - order * self.r1.ln() + ln_gamma(order);
        ln_z.is_finite().then_some(ln_z)
    }
}
