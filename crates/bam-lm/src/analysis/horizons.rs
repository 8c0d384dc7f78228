//! Certified horizons of a model: how far heads can look whatever they read.

use crate::Error;
use crate::model::{Horizons, ModelConfig, Transformer, check_length, host_values};
use bam_attention::{Lags, LogPrior};
use bam_prior::LogitBound;
use bam_record::KeptKeys;
use rayon::prelude::*;

impl Transformer {
    /// The certified horizon of every head in rows of up to `keys` keys.
    ///
    /// Takes time: about ten passes over the log-weights of each head.
    ///
    /// # Errors
    /// Unless `0 < epsilon < 1`, and if a log-weight is not finite or a row that long can't be; for a model with forget
    /// gates, which are a prior over keys: a horizon is proved from priors over lags alone.
    pub fn horizons(&self, keys: usize, epsilon: f64) -> Result<Horizons, Error> {
        self.horizons_under(&self.logit_bounds(), keys, epsilon)
    }

    /// The horizons that other bounds would certify.
    pub(crate) fn horizons_under(
        &self,
        bounds: &[Vec<LogitBound>],
        keys: usize,
        epsilon: f64,
    ) -> Result<Horizons, Error> {
        let encoding = &self.config.encoding;
        if encoding.forgets() {
            return Err(Error::Value {
                what: "certified horizons",
                expected: "priors over lags alone".into(),
                got: format!(
                    "forget gates ({encoding}), a prior over keys that depends on the text"
                ),
            });
        }
        check_length(keys)?;
        if keys == 0 {
            return Err(Error::Value {
                what: "length",
                expected: "at least 1 token".into(),
                got: "0".into(),
            });
        }
        let priors = self.log_priors(Lags::causal(keys));
        let layers: Result<Vec<_>, Error> = priors
            .iter()
            .zip(bounds)
            .enumerate()
            .map(|(layer, (prior, bounds))| {
                let heads = by_distance(prior);
                let heads = heads.par_chunks_exact(keys).zip(bounds);
                let horizon = |(ln_weights, bound): (&[f64], &LogitBound)| {
                    // What a text makes of an adaptive temperature is not bounded here.
                    let horizon = match self.layers[layer].adaptive {
                        Some(_) => None,
                        None => bound.horizon(ln_weights, epsilon)?,
                    };
                    Ok(within(horizon, self.config.window(layer), keys))
                };
                heads.map(horizon).collect::<Result<Vec<_>, Error>>()
            })
            .collect();
        Ok(Horizons::new(keys, epsilon, layers?))
    }
}

impl ModelConfig {
    /// The keys that a cache with these horizons keeps of a row of this length.
    #[must_use]
    pub fn kept_keys(&self, length: usize, horizons: &Horizons) -> KeptKeys {
        KeptKeys {
            length,
            kept: self.cached_keys(length, Some(horizons)),
            all: self.cached_keys(length, None),
        }
    }
}

/// The nearer of the horizon and the last distance that the window shows.
fn within(horizon: Option<usize>, window: Option<usize>, keys: usize) -> Option<usize> {
    let shown = window
        .filter(|window| *window < keys)
        .map(|window| window - 1);
    match (horizon, shown) {
        (Some(horizon), Some(shown)) => Some(horizon.min(shown)),
        (horizon, shown) => horizon.or(shown),
    }
}

/// `[heads, keys]` log-weights over causal lags, row after row, each by distance from 0 on.
fn by_distance(prior: &LogPrior) -> Vec<f64> {
    let values = host_values(prior.ln_weights().clone());
    let heads = values.chunks_exact(prior.lags().count());
    heads
        .flat_map(|head| head.iter().rev().map(|w| f64::from(*w)))
        .collect()
}
