//! Keys and values of the tokens before, so that a row can be read on in pieces.

use super::ModelConfig;
use crate::Error;
use bam_attention::{HeadSkips, KeyNorms, LogPrior, SkipLog, Skipping};
use burn::tensor::{Device, Tensor};
use std::sync::Arc;

/// The longest row there is: priors take lags as `f32`, which is exact up to here.
pub const LONGEST_ROW: usize = 1 << 24;

/// # Errors
/// Where a row is longer than there are.
pub(crate) fn check_row(length: usize) -> Result<(), Error> {
    match length <= LONGEST_ROW {
        true => Ok(()),
        false => Err(Error::Value {
            what: "length",
            expected: format!("at most {LONGEST_ROW} tokens"),
            got: length.to_string(),
        }),
    }
}

/// The priors of all layers over some capacity: they depend on nothing that is read, so caches of up
/// to that capacity can share them.
#[derive(Clone, Debug)]
pub struct CachePriors {
    pub(crate) capacity: usize,
    pub(crate) layers: Vec<LogPrior>,
}

impl CachePriors {
    /// The longest row that they reach over.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// The keys and values of every layer, room for `capacity` tokens, `length` of them filled.
///
/// Also the priors over that capacity: they depend on nothing that is read, so they are computed
/// once for all pieces of a row.
#[derive(Debug)]
pub struct Cache {
    pub(crate) layers: Vec<LayerCache>,
    capacity: usize,
    pub(crate) length: usize,
    pub(crate) skipping: Skipping,
}

#[derive(Debug)]
pub(crate) struct LayerCache {
    keys: Tensor<4>,
    values: Tensor<4>,
    pub log_prior: LogPrior,
    /// With them, keys that are skipped are not read at all.
    pub norms: Arc<KeyNorms>,
    pub skip_log: Arc<SkipLog>,
}

impl Cache {
    pub(crate) fn new(
        config: &ModelConfig,
        batch: usize,
        capacity: usize,
        priors: Vec<LogPrior>,
        device: &Device,
    ) -> Self {
        let shape = [batch, config.key_heads, capacity, config.head_dim()];
        let layers = priors
            .into_iter()
            .map(|log_prior| LayerCache {
                keys: Tensor::zeros(shape, device),
                values: Tensor::zeros(shape, device),
                log_prior,
                norms: Arc::new(KeyNorms::new(batch, config.key_heads)),
                skip_log: Arc::default(),
            })
            .collect();
        Self {
            layers,
            capacity,
            length: 0,
            skipping: Skipping::Exact,
        }
    }

    /// What may be left unread; [`Skipping::Exact`] if nothing is said.
    #[must_use]
    pub fn with_skipping(self, skipping: Skipping) -> Self {
        Self { skipping, ..self }
    }

    /// What was left unread so far, by layer and head.
    #[must_use]
    pub fn skips(&self) -> Vec<Vec<HeadSkips>> {
        let layers = self.layers.iter();
        layers.map(|layer| layer.skip_log.heads()).collect()
    }

    /// Tokens that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens that are in.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Rows that are read side by side.
    pub(crate) fn batch(&self) -> usize {
        self.layers.first().map_or(1, |layer| layer.keys.dims()[0])
    }

    /// Takes over the first `length` tokens of another cache of the same model. The other one stays as
    /// it is.
    ///
    /// # Errors
    /// If this one is not empty, or there are not so many tokens or no room for them.
    pub fn take_over(&mut self, other: &Self, length: usize) -> Result<(), Error> {
        if self.length > 0 || length > other.length || length > self.capacity {
            return Err(Error::Value {
                what: "tokens to take over",
                expected: format!(
                    "at most {} into an empty cache",
                    other.length.min(self.capacity)
                ),
                got: format!("{length} into one of {}", self.length),
            });
        }
        if length > 0 {
            for (own, other) in self.layers.iter_mut().zip(&other.layers) {
                let first = |t: &Tensor<4>| t.clone().narrow(2, 0, length);
                own.append(0, first(&other.keys), first(&other.values))?;
            }
            self.length = length;
        }
        Ok(())
    }

    /// Forgets everything after the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl LayerCache {
    /// Writes keys and values from position `start` on; gives back all up to their end.
    ///
    /// # Errors
    /// If the keys before `start` are missing.
    pub fn append(
        &mut self,
        start: usize,
        k: Tensor<4>,
        v: Tensor<4>,
    ) -> Result<(Tensor<4>, Tensor<4>), Error> {
        Arc::make_mut(&mut self.norms).extend(start, &k)?;
        let [batch, heads, length, dim] = k.dims();
        let end = start + length;
        let write = |room: &mut Tensor<4>, new: Tensor<4>| {
            // The room is taken out while it is written, so that it is written in place.
            let empty = Tensor::empty([1, 1, 1, 1], &room.device());
            let taken = std::mem::replace(room, empty);
            *room = taken.slice_assign([0..batch, 0..heads, start..end, 0..dim], new);
            room.clone().narrow(2, 0, end)
        };
        Ok((write(&mut self.keys, k), write(&mut self.values, v)))
    }
}
