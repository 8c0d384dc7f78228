//! Certified horizons: the distances beyond which a cache can do without keys.

use crate::model::config::ModelConfig;
use std::ops::Range;

/// Certified horizons: distances beyond which a head gives no text more than a stated share of any
/// row's posterior.
///
/// They follow from the parameters alone: the log-weights that attention reads, and the bound of
/// its content scores ([`Transformer::logit_bounds`](crate::model::Transformer::logit_bounds)). The proof is with [`LogitBound`](bam_prior::LogitBound); the
/// posterior meant is the one that exact arithmetic makes of the queries and keys as computed.
///
/// A cache of that capacity or less may forget what lies beyond: [`certified_cache`](crate::model::Transformer::certified_cache).
#[derive(Clone, Debug, PartialEq)]
pub struct Horizons {
    keys: usize,
    epsilon: f64,
    layers: Vec<Vec<Option<usize>>>,
}

impl Horizons {
    /// As they are said to be: certifying them is the caller's.
    pub(crate) fn new(keys: usize, epsilon: f64, layers: Vec<Vec<Option<usize>>>) -> Self {
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
    fn windows(&self, key_heads: usize, capacity: usize) -> Vec<Vec<HeadWindow>> {
        let runs = |heads: &Vec<Option<usize>>| {
            let group = heads.len() / key_heads;
            let mut runs: Vec<HeadWindow> = Vec::new();
            for (key_head, heads) in heads.chunks_exact(group).enumerate() {
                let needed: Option<Vec<usize>> = heads.iter().copied().collect();
                let farthest = needed.and_then(|all| all.into_iter().max());
                let tokens = farthest.map(|r| r + 1).filter(|tokens| *tokens < capacity);
                match runs.last_mut() {
                    Some(run) if run.tokens == tokens => run.key_heads.end += 1,
                    _ => runs.push(HeadWindow {
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

/// Neighbouring key heads that keep the same tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeadWindow {
    pub key_heads: Range<usize>,
    /// Those of their sliding window: the row's own and the nearest before it; `None` for all.
    pub tokens: Option<usize>,
}

impl ModelConfig {
    /// By layer: neighbouring key heads that keep the same tokens of at most `capacity`, those that the
    /// horizons show, or the layer's window.
    pub(super) fn head_windows(
        &self,
        capacity: usize,
        horizons: Option<&Horizons>,
    ) -> Vec<Vec<HeadWindow>> {
        let of_window = |layer| {
            vec![HeadWindow {
                key_heads: 0..self.key_heads,
                tokens: self.window(layer).filter(|tokens| *tokens < capacity),
            }]
        };
        match horizons {
            // They show nothing beyond a window.
            Some(horizons) => horizons.windows(self.key_heads, capacity),
            None => (0..self.layers).map(of_window).collect(),
        }
    }

    /// Keys of all layers and key heads that a row of `length` tokens reads, so what a cache has to
    /// hold; there are as many values.
    #[must_use]
    pub fn cached_keys(&self, length: usize, horizons: Option<&Horizons>) -> usize {
        let windows = self.head_windows(length, horizons);
        let kept = |window: &HeadWindow| window.key_heads.len() * window.tokens.unwrap_or(length);
        windows.iter().flatten().map(kept).sum()
    }
}
