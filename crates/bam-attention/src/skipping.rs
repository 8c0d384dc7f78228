//! Leaving out keys that a prior known in advance makes negligible: what a caller says and hears.
//!
//! How the bound comes about, and why it holds, is in `docs/kernel.md`; its code is `fused/bound.rs`.

use crate::AttentionError;
use crate::fused::TILE;
use burn::tensor::Tensor;
use std::sync::{Mutex, PoisonError};

/// Which tiles of keys the fused implementation may leave unread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Skipping {
    /// None: every key that a row may see is read.
    Off,
    /// Tiles whose every weight is exactly 0 in `f32`: the results are the same bits as with
    /// [`Skipping::Off`], in outputs and gradients.
    Exact,
    /// Tiles that together hold at most the share `epsilon` of a row's posterior, guaranteed for
    /// every row. An output moves by at most `2·epsilon` times the largest value in sight.
    Certified {
        /// From above 0 to below 1.
        epsilon: f64,
    },
}

impl Skipping {
    pub(crate) fn check(self) -> Result<(), AttentionError> {
        match self {
            Self::Certified { epsilon } if !(epsilon > 0.0 && epsilon < 1.0) => {
                Err(AttentionError::Epsilon { got: epsilon })
            }
            _ => Ok(()),
        }
    }
}

/// `off`, `exact`, or the epsilon of `certified`.
impl std::fmt::Display for Skipping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Exact => f.write_str("exact"),
            Self::Certified { epsilon } => write!(f, "{epsilon:e}"),
        }
    }
}

impl std::str::FromStr for Skipping {
    type Err = AttentionError;

    fn from_str(text: &str) -> Result<Self, AttentionError> {
        let skipping = match text {
            "off" => Self::Off,
            "exact" => Self::Exact,
            number => Self::Certified {
                epsilon: number.parse().unwrap_or(f64::NAN),
            },
        };
        skipping.check().map_err(|_| AttentionError::SkippingName {
            got: text.to_owned(),
        })?;
        Ok(skipping)
    }
}

/// What was skipped, per query head: hand it to [`Options`](crate::Options), read it after the call.
///
/// A log that is used again adds up, over calls and over passes.
#[derive(Debug, Default)]
pub struct SkipLog {
    heads: Mutex<Vec<HeadSkips>>,
}

/// What was skipped of one query head.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadSkips {
    /// Tiles that a block of rows may see, summed over blocks.
    pub visible_tiles: u64,
    /// Those of them whose keys and values were not read.
    pub skipped_tiles: u64,
    /// The largest share of a row's posterior that what was skipped can have held.
    pub dropped_mass: f64,
}

impl HeadSkips {
    /// The share of tiles that was skipped.
    #[must_use]
    pub fn skipped_share(&self) -> f64 {
        match self.visible_tiles {
            0 => 0.0,
            visible => self.skipped_tiles as f64 / visible as f64,
        }
    }

    /// Both together: tiles are added, of the dropped masses the larger one stays.
    pub fn add(&mut self, other: &Self) {
        self.visible_tiles += other.visible_tiles;
        self.skipped_tiles += other.skipped_tiles;
        self.dropped_mass = self.dropped_mass.max(other.dropped_mass);
    }
}

impl SkipLog {
    /// Everything so far, head by head.
    #[must_use]
    pub fn heads(&self) -> Vec<HeadSkips> {
        self.heads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn add(&self, head: usize, skips: &HeadSkips) {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        if heads.len() <= head {
            heads.resize(head + 1, HeadSkips::default());
        }
        heads[head].add(skips);
    }
}

/// The largest norm of a key in every tile of keys: what the bound knows of the content.
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
    pub fn extend(&mut self, start: usize, k: &Tensor<4>) -> Result<(), AttentionError> {
        let [batch, heads, length, dim] = k.dims();
        if (batch, heads) != (self.batch, self.heads) {
            return Err(AttentionError::Shape {
                what: "keys of the norms",
                expected: format!("[{}, {}, length, dim]", self.batch, self.heads),
                got: format!("{:?}", k.dims()),
            });
        }
        if start > self.keys {
            return Err(AttentionError::Shape {
                what: "keys of the norms",
                expected: format!("to start at {} or before", self.keys),
                got: format!("a start at {start}"),
            });
        }
        self.keys = self.keys.max(start + length);
        let values = k.clone().inner().into_data().convert::<f32>();
        let values = values.as_slice::<f32>().expect("converted to f32");
        for (of_head, keys) in self
            .largest
            .iter_mut()
            .zip(values.chunks_exact(length * dim))
        {
            raise(of_head, start, keys.chunks_exact(dim));
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
        use rayon::prelude::*;
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
    pub(crate) fn check(
        &self,
        batch: usize,
        heads: usize,
        keys: usize,
    ) -> Result<(), AttentionError> {
        if (self.batch, self.heads) == (batch, heads) && self.keys >= keys {
            return Ok(());
        }
        Err(AttentionError::Shape {
            what: "key norms (batch, key heads, keys)",
            expected: format!("[{batch}, {heads}, at least {keys}]"),
            got: format!("[{}, {}, {}]", self.batch, self.heads, self.keys),
        })
    }
}

/// Raises the largest norms of the tiles that `keys`, standing from `start` on, lie in.
pub(crate) fn raise<'a>(
    largest: &mut Vec<f32>,
    start: usize,
    keys: impl Iterator<Item = &'a [f32]>,
) {
    for (index, key) in keys.enumerate() {
        let tile = (start + index) / TILE;
        if largest.len() <= tile {
            largest.resize(tile + 1, 0.0);
        }
        // No tile that holds a NaN is ever skipped.
        largest[tile] = raised(largest[tile], norm(key));
    }
}

/// An upper bound of the Euclidean norm, rounding included.
pub(crate) fn norm(values: &[f32]) -> f32 {
    let squares: f64 = values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    ((squares.sqrt() * (1.0 + 1e-6)) as f32).next_up()
}

/// The larger of the two; NaN if one is.
pub(crate) fn larger(a: f64, b: f64) -> f64 {
    match a.is_nan() || b.is_nan() {
        true => f64::NAN,
        false => a.max(b),
    }
}

/// [`larger`] of numbers in `f32`.
pub(crate) fn raised(a: f32, b: f32) -> f32 {
    larger(f64::from(a), f64::from(b)) as f32
}
