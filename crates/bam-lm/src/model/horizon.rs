//! How far heads can look whatever they read, and so which keys a cache can do without.

use super::prior::host_values;
use super::{ModelConfig, Transformer, check_row};
use crate::Error;
use crate::encoding::Position;
use bam_attention::{Lags, LogPrior};
use bam_prior::LogitBound;
use bam_record::KeptKeys;
use rayon::prelude::*;
use std::ops::Range;

/// Certified horizons: distances beyond which a head gives no text more than a stated share of any
/// row's posterior.
///
/// They follow from the parameters alone: the log-weights that attention reads, and the bound of
/// its content scores ([`Transformer::logit_bounds`]). The proof is with [`LogitBound`]; the
/// posterior meant is the one that exact arithmetic makes of the queries and keys as computed.
///
/// A cache of that capacity or less may forget what lies beyond: [`Transformer::certified_cache`].
#[derive(Clone, Debug, PartialEq)]
pub struct Horizons {
    keys: usize,
    epsilon: f64,
    layers: Vec<Vec<Option<usize>>>,
}

impl Horizons {
    /// As they are said to be, for tests.
    #[cfg(test)]
    pub(crate) fn assumed(keys: usize, epsilon: f64, layers: Vec<Vec<Option<usize>>>) -> Self {
        Self {
            keys,
            epsilon,
            layers,
        }
    }

    /// They hold in rows of up to this many keys.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// The share of a row's posterior that may lie beyond.
    #[must_use]
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// By layer and query head: the farthest distance that is needed; `None` where there is none
    /// short of the whole row.
    #[must_use]
    pub fn layers(&self) -> &[Vec<Option<usize>>] {
        &self.layers
    }

    /// By layer: neighbouring key heads with the same number of nearest tokens to keep of at most
    /// `capacity`, `None` for all. A key head keeps what the farthest of its query heads needs.
    pub(crate) fn windows(&self, key_heads: usize, capacity: usize) -> Vec<Vec<Window>> {
        let runs = |heads: &Vec<Option<usize>>| {
            let group = heads.len() / key_heads;
            let mut runs: Vec<Window> = Vec::new();
            for (key_head, heads) in heads.chunks_exact(group).enumerate() {
                let needed: Option<Vec<usize>> = heads.iter().copied().collect();
                let farthest = needed.and_then(|all| all.into_iter().max());
                let tokens = farthest.map(|r| r + 1).filter(|tokens| *tokens < capacity);
                match runs.last_mut() {
                    Some(run) if run.tokens == tokens => run.key_heads.end += 1,
                    _ => runs.push(Window {
                        key_heads: key_head..key_head + 1,
                        tokens,
                    }),
                }
            }
            runs
        };
        self.layers.iter().map(runs).collect()
    }
}

/// What neighbouring key heads keep.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Window {
    pub key_heads: Range<usize>,
    /// The row's own and the nearest before it; `None` for all.
    pub tokens: Option<usize>,
}

impl Transformer {
    /// The certified horizon of every head in rows of up to `keys` keys.
    ///
    /// Takes time: about ten passes over the log-weights of each head.
    ///
    /// # Errors
    /// Unless `0 < epsilon < 1`, and if a log-weight is not finite or a row that long can't be.
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
        check_row(keys)?;
        if keys == 0 {
            return Err(Error::Value {
                what: "length",
                expected: "at least 1 token".into(),
                got: "0".into(),
            });
        }
        let priors = self.log_priors(Lags::causal(keys))?;
        let layers: Result<Vec<_>, Error> = priors
            .iter()
            .zip(bounds)
            .map(|(prior, bounds)| {
                let heads = by_distance(prior);
                let heads = heads.par_chunks_exact(keys).zip(bounds);
                let horizon = |(ln_weights, bound): (&[f64], &LogitBound)| {
                    let horizon = bound.horizon(ln_weights, epsilon)?;
                    Ok(within(horizon, self.config.hidden_from(), keys))
                };
                heads.map(horizon).collect::<Result<Vec<_>, Error>>()
            })
            .collect();
        Ok(Horizons {
            keys,
            epsilon,
            layers: layers?,
        })
    }
}

impl ModelConfig {
    /// Keys of all layers and key heads that a row of `length` tokens reads, so what a cache has to
    /// hold; there are as many values.
    #[must_use]
    pub fn cached_keys(&self, length: usize, horizons: Option<&Horizons>) -> usize {
        let key_heads = self.key_heads;
        match horizons {
            None => self.layers * key_heads * length,
            Some(horizons) => {
                let windows = horizons.windows(key_heads, length);
                let kept =
                    |window: &Window| window.key_heads.len() * window.tokens.unwrap_or(length);
                windows.iter().flatten().map(kept).sum()
            }
        }
    }

    /// What a cache with these horizons keeps of a row of this length.
    #[must_use]
    pub fn kept_keys(&self, length: usize, horizons: &Horizons) -> KeptKeys {
        KeptKeys {
            length,
            kept: self.cached_keys(length, Some(horizons)),
            all: self.cached_keys(length, None),
        }
    }

    /// The distance from which on the encoding hides keys.
    pub(crate) fn hidden_from(&self) -> Option<usize> {
        let hides = self.encoding.position == Position::RotaryLocal;
        hides.then_some(self.train_length)
    }
}

/// The nearer of the horizon and where keys are hidden anyway.
fn within(horizon: Option<usize>, hidden_from: Option<usize>, keys: usize) -> Option<usize> {
    let shown = hidden_from.filter(|from| *from < keys).map(|from| from - 1);
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
