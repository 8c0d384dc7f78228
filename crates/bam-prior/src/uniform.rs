//! The uniform prior: no position at all (NoPE).

use serde::{Deserialize, Serialize};

use crate::error::exactly;
use crate::{Error, Parameter, PositionalPrior};

/// `ln w(d) = 0`: every visible key weighs the same.
///
/// Attention without positional encoding has this prior over its visible keys (NoPE). It has no
/// parameters, and no density on the unbounded line.
///
/// ```
/// use bam_prior::{PositionalPrior, Uniform};
///
/// assert_eq!(Uniform.ln_weight(-1e6), 0.0);
/// assert_eq!(Uniform.ln_pdf(0.0), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Uniform;

impl PositionalPrior for Uniform {
    fn family(&self) -> &'static str {
        "uniform"
    }

    fn parameters(&self) -> Vec<Parameter> {
        Vec::new()
    }

    fn with_parameters(&self, values: &[f64]) -> Result<Self, Error> {
        exactly::<0>("uniform parameters", values).map(|[]| Self)
    }

    fn ln_weight(&self, _lag: f64) -> f64 {
        0.0
    }

    fn ln_weight_gradient(&self, _lag: f64) -> Vec<f64> {
        Vec::new()
    }

    fn ln_normaliser(&self) -> Option<f64> {
        None
    }
}
