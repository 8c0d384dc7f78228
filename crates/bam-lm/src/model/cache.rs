//! Keys and values of the tokens before, so that a row can be read on in pieces.

use super::ModelConfig;
use crate::Error;
use bam_attention::LogPrior;
use burn::tensor::{Device, Tensor};

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

/// The keys and values of every layer, room for `capacity` tokens, `length` of them filled.
///
/// Also the priors over that capacity: they depend on nothing that is read, so they are computed
/// once for all pieces of a row.
#[derive(Debug)]
pub struct Cache {
    pub(crate) layers: Vec<LayerCache>,
    capacity: usize,
    pub(crate) length: usize,
}

#[derive(Debug)]
pub(crate) struct LayerCache {
    keys: Tensor<4>,
    values: Tensor<4>,
    pub log_prior: LogPrior,
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
            })
            .collect();
        Self {
            layers,
            capacity,
            length: 0,
        }
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

    /// Forgets everything after the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl LayerCache {
    /// Writes keys and values from position `start` on; gives back all up to their end.
    pub fn append(&mut self, start: usize, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, length, dim] = k.dims();
        let end = start + length;
        let write = |room: &mut Tensor<4>, new: Tensor<4>| {
            // The room is taken out while it is written, so that it is written in place.
            let empty = Tensor::empty([1, 1, 1, 1], &room.device());
            let taken = std::mem::replace(room, empty);
            *room = taken.slice_assign([0..batch, 0..heads, start..end, 0..dim], new);
            room.clone().narrow(2, 0, end)
        };
        (write(&mut self.keys, k), write(&mut self.values, v))
    }
}
