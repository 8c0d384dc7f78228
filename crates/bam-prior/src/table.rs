//! The table prior: a free log-weight per distance.

use serde::{Deserialize, Serialize};

use crate::error::{as_many, finite};
use crate::{Error, Parameter, PositionalPrior};

/// `ln w(d) = t[min(|d|, len − 1)]`: one log-weight per distance, in nats.
///
/// The last entry extends to every larger distance, so a table has no maximum length and, its
/// tail being constant, no density on the line. A lag between whole tokens takes the entry of the
/// nearest whole distance.
///
/// ```
/// use bam_prior::{PositionalPrior, Table};
///
/// let prior = Table::new(vec![0.0, -1.0, -1.5])?;
/// assert_eq!(prior.ln_weight(-1.0), -1.0);
/// assert_eq!(prior.ln_weight(-1e6), -1.5);
/// # Ok::<(), bam_prior::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct Table {
    ln_weights: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    ln_weights: Vec<f64>,
}

impl TryFrom<Fields> for Table {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self, Error> {
        Self::new(fields.ln_weights)
    }
}

impl Table {
    /// The prior with log-weight `ln_weights[r]`, in nats, at distance `r`.
    ///
    /// # Errors
    ///
    /// [`Error::Count`] if the table is empty, [`Error::Value`] if an entry is not finite.
    pub fn new(ln_weights: Vec<f64>) -> Result<Self, Error> {
        if ln_weights.is_empty() {
            return Err(Error::Count {
                what: "table ln_weights".into(),
                expected: "at least 1".into(),
                got: 0,
            });
        }
        for (distance, &ln_weight) in ln_weights.iter().enumerate() {
            finite(format!("table ln_weights[{distance}]"), ln_weight)?;
        }
        Ok(Self { ln_weights })
    }

    /// The log-weights by distance from 0, in nats.
    pub fn ln_weights(&self) -> &[f64] {
        &self.ln_weights
    }

    fn entry(&self, lag: f64) -> usize {
        (lag.abs().round() as usize).min(self.ln_weights.len() - 1)
    }
}

impl PositionalPrior for Table {
    fn family(&self) -> &'static str {
        "table"
    }

    fn parameters(&self) -> Vec<Parameter> {
        let named = |(r, &value)| Parameter::new(format!("ln_weight_{r}"), value);
        self.ln_weights.iter().enumerate().map(named).collect()
    }

    fn with_parameters(&self, values: &[f64]) -> Result<Self, Error> {
        Self::new(as_many("table parameters", self.ln_weights.len(), values)?.to_vec())
    }

    fn ln_weight(&self, lag: f64) -> f64 {
        self.ln_weights[self.entry(lag)]
    }

    fn ln_weight_gradient(&self, lag: f64) -> Vec<f64> {
        let mut gradient = vec![0.0; self.ln_weights.len()];
        gradient[self.entry(lag)] = 1.0;
        gradient
    }

    fn ln_normaliser(&self) -> Option<f64> {
        None
    }
}
