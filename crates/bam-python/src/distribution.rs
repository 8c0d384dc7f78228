//! A prior as a distribution over the lag.

use crate::attention::scope;
use crate::error::value_error;
use bam_kernel::TemperatureScope;
use bam_prior::{
    Component, Direction, Family, LogitBound, Mixture, PositionalPrior, Prior, RowSummary,
    Sharpening,
};
use pyo3::prelude::*;

/// The prior of one head as a distribution over the lag, in `float64`.
///
/// A lag is key position − query position, in tokens; logarithms are natural. Questions about a row are about a causal
/// one of `keys` keys.
#[pyclass(frozen, eq, from_py_object, module = "bam_attention")]
#[derive(Clone, PartialEq)]
pub struct Distribution {
    prior: Prior,
}

impl Distribution {
    fn row(&self, keys: usize) -> PyResult<RowSummary> {
        RowSummary::new(&self.prior, keys).map_err(value_error)
    }
}

#[pymethods]
impl Distribution {
    /// From JSON, such as `{"family": "laplace", "slope": 0.5}`.
    #[staticmethod]
    fn from_json(text: &str) -> PyResult<Self> {
        let prior = serde_json::from_str(text).map_err(value_error)?;
        Ok(Self { prior })
    }

    /// The prior of a head of a family that stores these unconstrained numbers, for each parameter its own.
    #[staticmethod]
    #[pyo3(signature = (family, theta, causal = true))]
    fn from_theta(family: &str, theta: Vec<Vec<f64>>, causal: bool) -> PyResult<Self> {
        let family: Family = family.parse().map_err(value_error)?;
        let direction = if causal {
            Direction::Causal
        } else {
            Direction::Bidirectional
        };
        let stored = family
            .stored_prior(&theta, direction)
            .map_err(value_error)?;
        Ok(Self {
            prior: stored.prior().clone(),
        })
    }

    /// `ln Σ_k π_k·w_k(d)`: weights that sum to 1, and what they weigh.
    #[staticmethod]
    fn mixture(components: Vec<(f64, Distribution)>) -> PyResult<Self> {
        let components = components.into_iter().map(|(weight, of)| Component {
            weight,
            prior: of.prior,
        });
        let mixture = Mixture::new(components.collect()).map_err(value_error)?;
        Ok(Self {
            prior: mixture.into(),
        })
    }

    /// The numbers that a head of a family stores to have this prior.
    fn theta(&self, family: &str) -> PyResult<Vec<Vec<f64>>> {
        let family: Family = family.parse().map_err(value_error)?;
        family.theta(&self.prior).map_err(value_error)
    }

    fn to_json(&self) -> PyResult<String> {
        serde_json::to_string(&self.prior).map_err(value_error)
    }

    /// Its family's name.
    #[getter]
    fn family(&self) -> &'static str {
        self.prior.family()
    }

    /// Names and values of its parameters.
    #[getter]
    fn parameters(&self) -> Vec<(String, f64)> {
        let parameters = self.prior.parameters().into_iter();
        parameters
            .map(|of| (of.name.into_owned(), of.value))
            .collect()
    }

    /// The unnormalised log-weight of a lag, in nats.
    fn ln_weight(&self, lag: f64) -> f64 {
        self.prior.ln_weight(lag)
    }

    /// The log-density at a lag over the real line, or `None` where there is none.
    fn ln_pdf(&self, lag: f64) -> Option<f64> {
        self.prior.ln_pdf(lag)
    }

    /// The smallest distance within which the share `p` of a row's prior mass lies, in tokens.
    fn quantile(&self, p: f64, keys: usize) -> PyResult<usize> {
        self.row(keys)?.quantile(p).map_err(value_error)
    }

    /// The share of a row's prior mass at distances up to this one.
    fn mass_within(&self, distance: usize, keys: usize) -> PyResult<f64> {
        Ok(self.row(keys)?.mass_within(distance))
    }

    /// The mean distance, in tokens.
    fn mean_distance(&self, keys: usize) -> PyResult<f64> {
        Ok(self.row(keys)?.mean_distance())
    }

    /// `−Σ p·ln p`, in nats.
    fn entropy(&self, keys: usize) -> PyResult<f64> {
        Ok(self.row(keys)?.entropy())
    }

    /// `"local"`, `"flat"` or `"anti-local"`: the side that it favours, against the uniform prior.
    fn classify(&self, keys: usize) -> PyResult<String> {
        Ok(self.row(keys)?.class().to_string())
    }

    /// The smallest distance such that in every row of at most `keys` keys those farther hold at most the share
    /// `epsilon` of the posterior, whatever the content, if no `q·k/√D` is larger than `content` in size; `None` where
    /// only the whole row is enough.
    #[pyo3(signature = (keys, content, epsilon = 1e-6, ssmax_scale = None, temperature_scope = "likelihood_and_prior"))]
    fn horizon(
        &self,
        keys: usize,
        content: f64,
        epsilon: f64,
        ssmax_scale: Option<f64>,
        temperature_scope: &str,
    ) -> PyResult<Option<usize>> {
        let sharpening = match ssmax_scale {
            None => Sharpening::None,
            Some(scale) => match scope(temperature_scope)? {
                TemperatureScope::LikelihoodAndPrior => Sharpening::LikelihoodAndPrior(scale),
                TemperatureScope::Likelihood => Sharpening::Likelihood(scale),
            },
        };
        let ln_weights: Vec<f64> = (0..keys)
            .map(|r| self.prior.ln_weight(-(r as f64)))
            .collect();
        let bound = LogitBound {
            content,
            sharpening,
        };
        bound.horizon(&ln_weights, epsilon).map_err(value_error)
    }

    /// For `copy` and `pickle`: JSON keeps every bit of a number.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (String,))> {
        let from_json = slf.get_type().getattr("from_json")?;
        Ok((from_json, (slf.get().to_json()?,)))
    }

    fn __repr__(&self) -> PyResult<String> {
        Ok(format!("Distribution({})", self.to_json()?))
    }
}
