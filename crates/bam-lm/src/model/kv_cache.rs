//! Keys and values of the tokens before, so that a sequence can be read on in pieces.

mod horizons;
mod make;

use super::ModelConfig;
use crate::Error;
use bam_attention::nn::HeadGroupCache;
use bam_attention::{HeadSkips, LogPrior, Skipping};
use burn::tensor::Device;

use horizons::HeadWindow;
pub use horizons::Horizons;

/// The longest sequence there is: priors take lags as `f32`, which is exact up to here.
pub const LONGEST_SEQUENCE: usize = 1 << 24;

/// # Errors
/// If a sequence is longer than there are.
pub fn check_length(length: usize) -> Result<(), Error> {
    match length <= LONGEST_SEQUENCE {
        true => Ok(()),
        false => Err(Error::Value {
            what: "length",
            expected: format!("at most {LONGEST_SEQUENCE} tokens"),
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
    /// The longest sequence that they reach over.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// The keys and values of every layer for up to `capacity` tokens, `length` of them read.
///
/// Also the priors over that capacity: they depend on nothing that is read, so they are computed
/// once for all pieces of a sequence. Of a layer with a window it keeps the tokens within; with
/// [`Horizons`], of every head only those that it can see.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
    batch: usize,
    capacity: usize,
    pub(crate) length: usize,
    pub(crate) skipping: Skipping,
    device: Device,
}

/// One layer's heads, those that keep the same tokens together.
#[derive(Debug)]
pub(crate) struct LayerCache {
    pub groups: Vec<HeadGroupCache>,
}

/// The tokens that a layer is to keep.
struct LayerPlan<'a> {
    /// `[batch, key_heads, capacity, dim]`.
    shape: [usize; 4],
    prior: &'a LogPrior,
    windows: Vec<HeadWindow>,
}

impl LayerCache {
    fn plans<'a>(
        config: &ModelConfig,
        batch: usize,
        capacity: usize,
        priors: &'a [LogPrior],
        horizons: Option<&Horizons>,
    ) -> impl Iterator<Item = LayerPlan<'a>> {
        let shape = [batch, config.key_heads, capacity, config.head_dim()];
        priors
            .iter()
            .zip(config.head_windows(capacity, horizons))
            .map(move |(prior, windows)| LayerPlan {
                shape,
                prior,
                windows,
            })
    }

    fn take_over(&mut self, other: &Self, length: usize, total: usize) -> Result<(), Error> {
        for group in &mut self.groups {
            group.take_over(&other.groups, length, total)?;
        }
        Ok(())
    }
}

impl LayerPlan<'_> {
    fn empty(self, device: &Device) -> Result<LayerCache, Error> {
        let of_window = |HeadWindow { key_heads, tokens }| {
            HeadGroupCache::new(key_heads, tokens, self.shape, self.prior, device)
        };
        let groups = self.windows.into_iter().map(of_window);
        Ok(LayerCache {
            groups: groups.collect::<Result<_, _>>()?,
        })
    }
}

impl KvCache {
    /// `priors` are those of the layers over the causal lags of at least the capacity.
    pub(crate) fn new(
        config: &ModelConfig,
        batch: usize,
        capacity: usize,
        priors: &[LogPrior],
        horizons: Option<&Horizons>,
        device: &Device,
    ) -> Result<Self, Error> {
        let layers = LayerCache::plans(config, batch, capacity, priors, horizons);
        let layers: Result<_, Error> = layers.map(|plan| plan.empty(device)).collect();
        Ok(Self {
            layers: layers?,
            batch,
            capacity,
            length: 0,
            skipping: Skipping::Exact,
            device: device.clone(),
        })
    }

    /// Makes room for more tokens; the arguments are those of [`KvCache::new`] and the same horizons as
    /// before. Layer by layer, so that little more memory is used meanwhile. What was skipped is counted
    /// anew.
    ///
    /// # Errors
    /// If the log-weights can't be narrowed. The cache is of no use then.
    pub(crate) fn grow(
        &mut self,
        config: &ModelConfig,
        capacity: usize,
        priors: &[LogPrior],
        horizons: Option<&Horizons>,
        device: &Device,
    ) -> Result<(), Error> {
        let plans = LayerCache::plans(config, self.batch, capacity, priors, horizons);
        for (layer, plan) in self.layers.iter_mut().zip(plans) {
            let mut larger = plan.empty(device)?;
            larger.take_over(layer, self.length, self.length)?;
            *layer = larger;
        }
        self.capacity = capacity;
        Ok(())
    }

    /// The keys that may be left unread; [`Skipping::Exact`] if nothing is said.
    #[must_use]
    pub fn with_skipping(self, skipping: Skipping) -> Self {
        Self { skipping, ..self }
    }

    /// The keys left unread so far, by layer and head; those that were not kept are not counted.
    #[must_use]
    pub fn skips(&self) -> Vec<Vec<HeadSkips>> {
        let layers = self.layers.iter();
        layers
            .map(|layer| {
                let groups = layer.groups.iter();
                groups.flat_map(|group| group.skip_log.heads()).collect()
            })
            .collect()
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

    /// The device of the keys and values.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Sequences that are read side by side.
    pub(crate) fn batch(&self) -> usize {
        self.batch
    }

    /// Whether the first `length` tokens can be taken over: windows hold the last ones only.
    #[must_use]
    pub fn can_give(&self, length: usize) -> bool {
        length == self.length || length < self.length && self.holds_all()
    }

    /// Whether every head still has all keys.
    pub(crate) fn holds_all(&self) -> bool {
        let mut groups = self.layers.iter().flat_map(|layer| &layer.groups);
        groups.all(|group| group.kept(self.length) == self.length)
    }

    /// Takes over the first `length` tokens of another cache of the same model and the same horizons, or
    /// of one that has all keys. The other one stays as it is.
    ///
    /// # Errors
    /// If this one is not empty, the other one can't give them, or there is no room for them.
    pub fn take_over(&mut self, other: &Self, length: usize) -> Result<(), Error> {
        if self.length > 0 || length > self.capacity || !other.can_give(length) {
            return Err(Error::Value {
                what: "tokens to take over",
                expected: format!("some of {} into an empty cache", other.length),
                got: format!("{length} into {} of {}", self.length, self.capacity),
            });
        }
        for (own, other_layer) in self.layers.iter_mut().zip(&other.layers) {
            own.take_over(other_layer, length, other.length)?;
        }
        self.length = length;
        Ok(())
    }

    /// Keys that are kept of a batch row, over all layers and key heads; there are as many values.
    #[must_use]
    pub fn kept_keys(&self) -> usize {
        let groups = self.layers.iter().flat_map(|layer| &layer.groups);
        groups
            .map(|group| group.key_heads.len() * group.kept(self.length))
            .sum()
    }

    /// Forgets everything after the first `length` tokens, or all of it where a window no longer
    /// holds what a row would see there: [`KvCache::length`] says where to read on.
    pub fn truncate(&mut self, length: usize) {
        if length >= self.length {
            return;
        }
        let mut whole = true;
        let groups = self.layers.iter_mut().flat_map(|layer| &mut layer.groups);
        for group in groups {
            whole &= group.forget_last(self.length - length, self.length);
        }
        if !whole {
            let groups = self.layers.iter_mut().flat_map(|layer| &mut layer.groups);
            for group in groups {
                group.forget_last(self.length, self.length);
            }
        }
        self.length = if whole { length } else { 0 };
    }
}

#[cfg(test)]
mod tests;
