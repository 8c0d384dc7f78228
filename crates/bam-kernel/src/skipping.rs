//! Leaving out keys that a prior known in advance makes negligible, as a caller asks for it and hears of it.
//!
//! The bound and its proof are in `docs/kernel.md`; the code is `certificate.rs`.

use crate::error::KernelError;
use std::sync::{Mutex, PoisonError};

/// Tiles of keys that may be left unread.
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
    pub(crate) fn check(self) -> Result<(), KernelError> {
        match self {
            Self::Certified { epsilon } if !(epsilon > 0.0 && epsilon < 1.0) => {
                Err(KernelError::Epsilon { got: epsilon })
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
    type Err = KernelError;

    fn from_str(text: &str) -> Result<Self, KernelError> {
        let skipping = match text {
            "off" => Self::Off,
            "exact" => Self::Exact,
            number => Self::Certified {
                epsilon: number.parse().unwrap_or(f64::NAN),
            },
        };
        skipping.check().map_err(|_| KernelError::SkippingName {
            got: text.to_owned(),
        })?;
        Ok(skipping)
    }
}

/// A record of what was skipped, per query head: handed to a call, read after it.
///
/// A log that is used again adds up, over calls and over passes.
#[derive(Debug, Default)]
pub struct SkipLog {
    heads: Mutex<Vec<HeadSkips>>,
}

/// The skipped part of one query head.
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

    /// Adds what a pass over a head skipped; for those who bring a kernel of their own.
    pub fn add(&self, head: usize, skips: &HeadSkips) {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        if heads.len() <= head {
            heads.resize(head + 1, HeadSkips::default());
        }
        heads[head].add(skips);
    }
}
