//! What neighbouring heads of a layer keep of the tokens before.

use super::horizons::HeadWindow;
use crate::Error;
use bam_attention::{KeyNorms, Lags, LogPrior, SkipLog};
use burn::tensor::{Device, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// Neighbouring heads that keep the same tokens.
#[derive(Debug)]
pub(crate) struct HeadGroupCache {
    /// Query heads.
    pub heads: Range<usize>,
    pub key_heads: Range<usize>,
    /// Of these heads, over the lags that they can see.
    pub log_prior: LogPrior,
    pub skip_log: Arc<SkipLog>,
    storage: Storage,
}

/// Keys and values, `[batch, key_heads, tokens, dim]` each.
#[derive(Debug)]
enum Storage {
    /// Every token, in room that was made for all.
    Full {
        keys: Tensor<4>,
        values: Tensor<4>,
        /// With them, keys that are skipped are not read at all.
        norms: Arc<KeyNorms>,
    },
    /// The last ones: with its own, a row sees `window` tokens.
    SlidingWindow {
        window: usize,
        tokens: Option<[Tensor<4>; 2]>,
    },
}

/// What a group's rows read.
pub(crate) struct Seen {
    pub keys: Tensor<4>,
    pub values: Tensor<4>,
    /// Tokens that stand before the new ones here.
    pub before: usize,
    /// Keys at this distance and beyond are hidden.
    pub horizon: Option<usize>,
    pub norms: Option<Arc<KeyNorms>>,
}

impl HeadGroupCache {
    /// With room for the capacity, or with a window below it. `shape` is that of all heads' keys,
    /// `[batch, key_heads, capacity, dim]`, and `log_prior` theirs over at least the capacity's causal lags.
    pub fn new(
        window: HeadWindow,
        shape: [usize; 4],
        log_prior: &LogPrior,
        device: &Device,
    ) -> Result<Self, Error> {
        let [batch, all, capacity, dim] = shape;
        let [query_heads, _] = log_prior.ln_weights().dims();
        let group = query_heads / all;
        let HeadWindow { key_heads, tokens } = window;
        let heads = key_heads.start * group..key_heads.end * group;
        let storage = match tokens {
            Some(window) => Storage::SlidingWindow {
                window,
                tokens: None,
            },
            None => {
                let room = || Tensor::zeros([batch, key_heads.len(), capacity, dim], device);
                Storage::Full {
                    keys: room(),
                    values: room(),
                    norms: Arc::new(KeyNorms::new(batch, key_heads.len())),
                }
            }
        };
        // Caches of several lengths can share a prior over all that any of them needs.
        let lags = tokens.map_or(*log_prior.lags(), Lags::causal);
        Ok(Self {
            log_prior: log_prior.narrowed(heads.clone(), lags)?,
            heads,
            key_heads,
            skip_log: Arc::default(),
            storage,
        })
    }

    /// Takes in the keys and values of this group's heads from position `start` on; gives back what
    /// their rows read.
    ///
    /// # Errors
    /// If the keys before `start` are missing.
    pub fn append(&mut self, start: usize, k: Tensor<4>, v: Tensor<4>) -> Result<Seen, Error> {
        match &mut self.storage {
            Storage::Full {
                keys,
                values,
                norms,
            } => {
                Arc::make_mut(norms).extend(start, &k)?;
                Ok(Seen {
                    keys: write(keys, start, k),
                    values: write(values, start, v),
                    before: start,
                    horizon: None,
                    norms: Some(norms.clone()),
                })
            }
            Storage::SlidingWindow { window, tokens } => {
                let (keys, values, before) = match tokens.take() {
                    None => (k, v, 0),
                    Some([keys, values]) => {
                        let before = keys.dims()[2];
                        let join = |old, new| Tensor::cat(vec![old, new], 2);
                        (join(keys, k), join(values, v), before)
                    }
                };
                let all = keys.dims()[2];
                let count = all.min(*window - 1);
                let last = |x: &Tensor<4>| x.clone().narrow(2, all - count, count);
                *tokens = (count > 0).then(|| [last(&keys), last(&values)]);
                Ok(Seen {
                    keys,
                    values,
                    before,
                    horizon: Some(*window),
                    norms: None,
                })
            }
        }
    }

    /// Takes over `length` tokens from groups that have read `total` and share out all heads, not
    /// necessarily as this one does.
    ///
    /// # Errors
    /// If they do not keep what this one needs.
    pub fn take_over(&mut self, others: &[Self], length: usize, total: usize) -> Result<(), Error> {
        let needed = match &self.storage {
            Storage::Full { .. } => length,
            Storage::SlidingWindow { window, .. } => length.min(*window - 1),
        };
        if needed == 0 {
            return Ok(());
        }
        let given = others
            .iter()
            .filter_map(|other| other.give(&self.key_heads, length - needed..length, total));
        let (keys, values): (Vec<_>, Vec<_>) =
            given.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        self.append(0, Tensor::cat(keys, 1), Tensor::cat(values, 1))?;
        Ok(())
    }

    /// Keys and values of the tokens at these of `total` positions, of its heads among the given ones.
    fn give(
        &self,
        key_heads: &Range<usize>,
        positions: Range<usize>,
        total: usize,
    ) -> Option<Result<(Tensor<4>, Tensor<4>), Error>> {
        let first = self.key_heads.start.max(key_heads.start);
        let end = self.key_heads.end.min(key_heads.end);
        if first >= end {
            return None;
        }
        let dropped = total - self.kept(total);
        let (keys, values) = match &self.storage {
            Storage::Full { keys, values, .. } => (keys, values),
            Storage::SlidingWindow {
                tokens: Some([keys, values]),
                ..
            } if positions.start >= dropped => (keys, values),
            Storage::SlidingWindow { .. } => {
                return Some(Err(Error::Value {
                    what: "tokens to take over",
                    expected: format!("from {} on", positions.start),
                    got: format!("from {dropped} on"),
                }));
            }
        };
        let some = |x: &Tensor<4>| {
            let heads = x
                .clone()
                .narrow(1, first - self.key_heads.start, end - first);
            heads.narrow(2, positions.start - dropped, positions.len())
        };
        Some(Ok((some(keys), some(values))))
    }

    /// Tokens that are kept of `length` that were read.
    pub fn kept(&self, length: usize) -> usize {
        match &self.storage {
            Storage::Full { .. } => length,
            Storage::SlidingWindow { tokens, .. } => {
                tokens.as_ref().map_or(0, |[keys, _]| keys.dims()[2])
            }
        }
    }

    /// Forgets the last `count` of `length` tokens; `false` where what a row sees after that is gone.
    pub fn forget_last(&mut self, count: usize, length: usize) -> bool {
        let kept = self.kept(length);
        let Storage::SlidingWindow { window, tokens } = &mut self.storage else {
            return true;
        };
        let left = kept.saturating_sub(count);
        let wanted = (length - count).min(*window - 1);
        let shortened = tokens.take().filter(|_| left > 0);
        *tokens = shortened.map(|both| both.map(|x| x.narrow(2, 0, left)));
        left >= wanted
    }
}

/// Writes what stands from `start` on into the room; gives back all up to its end.
fn write(room: &mut Tensor<4>, start: usize, new: Tensor<4>) -> Tensor<4> {
    let [batch, heads, length, dim] = new.dims();
    let end = start + length;
    // The room is taken out while it is written, so that it is written in place.
    let empty = Tensor::empty([1, 1, 1, 1], &room.device());
    let taken = std::mem::replace(room, empty);
    *room = taken.slice_assign([0..batch, 0..heads, start..end, 0..dim], new);
    room.clone().narrow(2, 0, end)
}
