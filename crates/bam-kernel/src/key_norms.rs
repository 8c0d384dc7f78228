//! The norms of keys, tile by tile.

use crate::error::KernelError;
use crate::operands::Rows;
use crate::rounding::{norm, raised};
use rayon::prelude::*;

/// Keys of a tile: a whole number of groups and of vectors on every processor.
pub(crate) const TILE: usize = 96;

/// The largest norm of a key in every tile of keys: all that the bound knows of the content.
///
/// Without it a call reads every key once to find the norms. A cache that keeps it decodes without
/// reading the keys of skipped tiles at all.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyNorms {
    batch: usize,
    heads: usize,
    keys: usize,
    /// One vector per batch row and head.
    largest: Vec<Vec<f32>>,
}

impl KeyNorms {
    /// Of no keys yet.
    #[must_use]
    pub fn new(batch: usize, heads: usize) -> Self {
        Self {
            batch,
            heads,
            keys: 0,
            largest: vec![Vec::new(); batch * heads],
        }
    }

    /// Takes in the keys `k`, `[batch, heads, length, dim]`, which stand from position `start` on.
    ///
    /// Keys written over others only ever raise a norm: the bound stays valid.
    ///
    /// # Errors
    /// If batch or heads are others than before, or keys between those known and `start` are missing.
    pub fn extend(&mut self, start: usize, k: &Rows<'_>) -> Result<(), KernelError> {
        let [batch, heads, length, dim] = k.shape();
        if (batch, heads) != (self.batch, self.heads) {
            return Err(KernelError::Shape {
                what: "keys of the norms",
                expected: format!("[{}, {}, length, dim]", self.batch, self.heads),
                got: format!("{:?}", k.shape()),
            });
        }
        if start > self.keys {
            return Err(KernelError::Shape {
                what: "keys of the norms",
                expected: format!("to start at {} or before", self.keys),
                got: format!("a start at {start}"),
            });
        }
        self.keys = self.keys.max(start + length);
        let mut key = vec![0.0; dim];
        for (index, largest) in self.largest.iter_mut().enumerate() {
            for row in 0..length {
                k.load(index / heads, index % heads, row, &mut key);
                raise(largest, start + row, &key);
            }
        }
        Ok(())
    }

    /// Of all keys of a call, read through `norms`: those of one batch row and head.
    pub(crate) fn gather(
        batch: usize,
        heads: usize,
        keys: usize,
        norms: impl Fn(usize, usize) -> Vec<f32> + Sync,
    ) -> Self {
        let of = |index| norms(index / heads, index % heads);
        Self {
            batch,
            heads,
            keys,
            largest: (0..batch * heads).into_par_iter().map(of).collect(),
        }
    }

    pub(crate) fn of_head(&self, batch: usize, head: usize) -> &[f32] {
        &self.largest[batch * self.heads + head]
    }

    /// Whether the norms cover that many keys of that many rows and heads.
    pub(crate) fn check(&self, batch: usize, heads: usize, keys: usize) -> Result<(), KernelError> {
        if (self.batch, self.heads) == (batch, heads) && self.keys >= keys {
            return Ok(());
        }
        Err(KernelError::Shape {
            what: "key norms (batch, key heads, keys)",
            expected: format!("[{batch}, {heads}, at least {keys}]"),
            got: format!("[{}, {}, {}]", self.batch, self.heads, self.keys),
        })
    }
}

/// Raises the largest norm of the tile that the key at that position lies in.
pub(crate) fn raise(largest: &mut Vec<f32>, position: usize, key: &[f32]) {
    let tile = position / TILE;
    if largest.len() <= tile {
        largest.resize(tile + 1, 0.0);
    }
    // No tile that holds a NaN is ever skipped.
    largest[tile] = raised(largest[tile], norm(key));
}
