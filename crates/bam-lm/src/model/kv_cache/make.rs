//! Caches of a model: empty ones, with horizons or without, and room for more tokens.

use super::{CachePriors, Horizons, KvCache, check_length};
use crate::Error;
use crate::model::transformer::Transformer;
use bam_attention::{Lags, LogPrior};

impl Transformer {
    /// An empty cache for `batch` sequences of up to `capacity` tokens.
    ///
    /// # Errors
    /// If the prior can't be evaluated.
    pub fn cache(&self, batch: usize, capacity: usize) -> Result<KvCache, Error> {
        let priors = self.priors(capacity)?;
        self.cache_with(batch, capacity, &priors, None)
    }

    /// The priors of all layers over sequences of up to `capacity` tokens, for caches that share them.
    ///
    /// # Errors
    /// If the prior can't be evaluated.
    pub fn priors(&self, capacity: usize) -> Result<CachePriors, Error> {
        check_length(capacity)?;
        let layers = self.log_priors(Lags::causal(capacity));
        Ok(CachePriors { capacity, layers })
    }

    /// The same, but of every head it keeps only the tokens within its certified horizon: what it
    /// forgets can hold at most the share [`Horizons::epsilon`] of any row's posterior in any head,
    /// so attention given the same queries, keys and values differs by at most `2·epsilon` times the
    /// largest value. What is not kept is not read either.
    ///
    /// # Errors
    /// If the horizons are another model's or hold in shorter rows only.
    pub fn certified_cache(
        &self,
        batch: usize,
        capacity: usize,
        horizons: &Horizons,
    ) -> Result<KvCache, Error> {
        let priors = self.priors(capacity)?;
        self.cache_with(batch, capacity, &priors, Some(horizons))
    }

    /// An empty cache with priors that are there already, with horizons or without.
    ///
    /// # Errors
    /// If the priors reach over shorter sequences only or live elsewhere, or the horizons are another model's or do.
    pub fn cache_with(
        &self,
        batch: usize,
        capacity: usize,
        priors: &CachePriors,
        horizons: Option<&Horizons>,
    ) -> Result<KvCache, Error> {
        self.check_capacity(capacity, priors, horizons)?;
        let (config, device) = (&self.config, self.device());
        KvCache::new(config, batch, capacity, &priors.layers, horizons, &device)
    }

    /// Makes room in a cache for more tokens, with priors and horizons as in [`Transformer::cache_with`];
    /// the horizons are those that it was made with. Keys and values are copied.
    ///
    /// # Errors
    /// Those of [`Transformer::cache_with`]; also if there is room for as many already.
    pub fn grow(
        &self,
        cache: &mut KvCache,
        capacity: usize,
        priors: &CachePriors,
        horizons: Option<&Horizons>,
    ) -> Result<(), Error> {
        self.check_capacity(capacity, priors, horizons)?;
        if capacity <= cache.capacity() {
            return Err(Error::Value {
                what: "capacity",
                expected: format!("more than {}", cache.capacity()),
                got: capacity.to_string(),
            });
        }
        let (config, device) = (&self.config, self.device());
        cache.grow(config, capacity, &priors.layers, horizons, &device)
    }

    fn check_capacity(
        &self,
        capacity: usize,
        priors: &CachePriors,
        horizons: Option<&Horizons>,
    ) -> Result<(), Error> {
        if capacity > priors.capacity {
            return Err(Error::Value {
                what: "capacity",
                expected: format!("at most the {} keys of the priors", priors.capacity),
                got: capacity.to_string(),
            });
        }
        let device = self.device();
        let elsewhere = |prior: &&LogPrior| prior.ln_weights().device() != device;
        if let Some(prior) = priors.layers.iter().find(elsewhere) {
            return Err(Error::Value {
                what: "priors",
                expected: format!("some on the model's device, {device:?}"),
                got: format!("some on {:?}", prior.ln_weights().device()),
            });
        }
        horizons.map_or(Ok(()), |horizons| self.check_horizons(capacity, horizons))
    }

    fn check_horizons(&self, capacity: usize, horizons: &Horizons) -> Result<(), Error> {
        let shape = [self.config.layers, self.config.heads];
        let layers = horizons.layers();
        let fits = layers.len() == shape[0] && layers.iter().all(|heads| heads.len() == shape[1]);
        if fits && capacity <= horizons.keys() {
            return Ok(());
        }
        Err(Error::Value {
            what: "horizons",
            expected: format!(
                "those of {} layers of {} heads in rows of at least {capacity} keys",
                shape[0], shape[1]
            ),
            got: format!(
                "{} layers of {} heads in rows of {} keys",
                layers.len(),
                layers.first().map_or(0, Vec::len),
                horizons.keys()
            ),
        })
    }
}
