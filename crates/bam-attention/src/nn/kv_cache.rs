//! Keys and values of the tokens before: what neighbouring heads keep, and a layer's cache.

use super::mask::Mask;
use crate::{AttentionError, Documents, HeadSkips, KeyNorms, KeyPrior, Lags, LogPrior, SkipLog};
use bam_kernel::KernelError;
use burn::tensor::{Device, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// One layer's keys and values for up to `capacity` tokens, `length` of them read; made by
/// [`BayesianAttention::cache`](super::BayesianAttention::cache).
///
/// It holds the prior over that capacity, which depends on nothing that is read: parameters that
/// change later do not reach it. With a window only the tokens that a row can see are kept.
#[derive(Debug)]
pub struct KvCache {
    pub(super) group: HeadGroupCache,
    batch: usize,
    capacity: usize,
    length: usize,
    /// Documents of the tokens that were read, `[batch][length]`, once a mask was given.
    ids: Option<Vec<Vec<i32>>>,
}

impl KvCache {
    pub(super) fn new(group: HeadGroupCache, batch: usize, capacity: usize) -> Self {
        Self {
            group,
            batch,
            capacity,
            length: 0,
            ids: None,
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

    /// Tokens whose keys are kept.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.group.kept(self.length)
    }

    /// Tiles left unread so far, by head. Keys that were not kept are not counted.
    #[must_use]
    pub fn skips(&self) -> Vec<HeadSkips> {
        self.group.skip_log.heads()
    }

    /// Forgets everything after the first `length` tokens, or all of it where a window no longer
    /// holds what a row would see there: [`KvCache::length`] says where to read on.
    pub fn truncate(&mut self, length: usize) {
        if length >= self.length {
            return;
        }
        let whole = self.group.forget_last(self.length - length, self.length);
        if !whole {
            self.group.forget_last(self.length, self.length);
        }
        self.length = if whole { length } else { 0 };
        for ids in self.ids.iter_mut().flatten() {
            ids.truncate(self.length);
        }
    }

    /// # Errors
    /// If rows of that many tokens don't fit in.
    pub(super) fn check(&self, batch: usize, tokens: usize) -> Result<(), AttentionError> {
        let room = self.capacity - self.length;
        match batch == self.batch && tokens <= room {
            true => Ok(()),
            false => Err(AttentionError::Value {
                what: "tokens for the cache",
                expected: format!("at most {room} more in {} rows", self.batch),
                got: format!("{tokens} in {batch} rows"),
            }),
        }
    }

    /// The documents of the new tokens and of the keys that they will be read with.
    ///
    /// # Errors
    /// If the mask is not that of so many new tokens.
    pub(super) fn documents(
        &self,
        mask: Option<&Mask>,
        tokens: usize,
    ) -> Result<Option<Documents>, AttentionError> {
        if mask.is_none() && self.ids.is_none() {
            return Ok(None);
        }
        if let Some(Mask(documents)) = mask {
            let (expected, got) = ((self.batch, tokens, tokens), documents.dims());
            if got != expected {
                return Err(KernelError::Shape {
                    what: "mask (batch, queries, keys) of the new tokens",
                    expected: format!("{expected:?}"),
                    got: format!("{got:?}"),
                }
                .into());
            }
        }
        let (mut queries, mut keys) = (Vec::new(), Vec::new());
        for row in 0..self.batch {
            let new = match mask {
                Some(Mask(documents)) => documents.key_ids(row).to_vec(),
                None => vec![0; tokens],
            };
            match &self.ids {
                Some(ids) => keys.extend(&ids[row][self.length - self.kept()..]),
                None => keys.extend(std::iter::repeat_n(0, self.kept())),
            }
            keys.extend(&new);
            queries.extend(new);
        }
        Ok(Some(Documents::with_cache(self.batch, queries, keys)?))
    }

    /// The tokens are in now, with those documents.
    pub(super) fn advance(&mut self, tokens: usize, documents: Option<&Documents>) {
        if let Some(documents) = documents {
            let before = || vec![vec![0; self.length]; self.batch];
            let ids = self.ids.get_or_insert_with(before);
            for (row, ids) in ids.iter_mut().enumerate() {
                ids.extend(documents.query_ids(row));
            }
        }
        self.length += tokens;
    }
}

/// Keys and values of neighbouring heads that keep the same tokens.
#[derive(Debug)]
pub struct HeadGroupCache {
    /// Query heads.
    pub heads: Range<usize>,
    /// Their key heads.
    pub key_heads: Range<usize>,
    /// Of these heads, over the lags that they can see.
    pub log_prior: LogPrior,
    /// Tiles left unread.
    pub skip_log: Arc<SkipLog>,
    storage: Storage,
    /// Of the tokens that are kept, beside their keys, where there is one.
    key_prior: Option<KeyPrior>,
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

/// Keys and values that a group's rows read.
pub(super) struct Seen {
    pub keys: Tensor<4>,
    pub values: Tensor<4>,
    /// Tokens that stand before the new ones here.
    pub before: usize,
    /// Keys at this distance and beyond are hidden.
    pub window: Option<usize>,
    pub norms: Option<Arc<KeyNorms>>,
    pub key_prior: Option<KeyPrior>,
}

/// A group's tokens, to come back to if a call fails. What is written beyond the tokens of a full
/// cache is not read.
pub(super) struct Before {
    window_tokens: Option<[Tensor<4>; 2]>,
    key_prior: Option<KeyPrior>,
}

impl HeadGroupCache {
    /// An empty cache for some key heads, with room for the capacity, or for the last `window` tokens, a
    /// row's own among them.
    ///
    /// # Shapes
    /// - `shape`: that of all heads' keys, `[batch, key_heads, capacity, dim]`
    /// - `log_prior`: all heads', over at least the capacity's causal lags
    ///
    /// # Errors
    /// If there are no such heads or lags.
    pub fn new(
        key_heads: Range<usize>,
        window: Option<usize>,
        shape: [usize; 4],
        log_prior: &LogPrior,
        device: &Device,
    ) -> Result<Self, AttentionError> {
        let [batch, all, capacity, dim] = shape;
        let [query_heads, _] = log_prior.ln_weights().dims();
        let group = query_heads / all;
        let heads = key_heads.start * group..key_heads.end * group;
        let storage = match window {
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
        let lags = window.map_or(*log_prior.lags(), Lags::causal);
        Ok(Self {
            log_prior: log_prior.narrowed(heads.clone(), lags)?,
            heads,
            key_heads,
            skip_log: Arc::default(),
            storage,
            key_prior: None,
        })
    }

    /// The part of a prior over keys that is this group's, of one by query head, of which the layer has so many, or by
    /// key head. Of another number of heads it is given back whole, and refused where it is used.
    pub(super) fn own_heads(&self, prior: &KeyPrior, query_heads: usize) -> KeyPrior {
        let key_heads = query_heads * self.key_heads.len() / self.heads.len();
        match prior.values.dims()[1] {
            heads if heads == query_heads => prior.narrowed(1, self.heads.clone()),
            heads if heads == key_heads => prior.narrowed(1, self.key_heads.clone()),
            _ => prior.clone(),
        }
    }

    /// Running sums of new tokens that go on from the last one that is kept; where none is, only
    /// differences among the new ones matter.
    pub(super) fn gone_on(&self, before: usize, new: KeyPrior) -> KeyPrior {
        let kept = self.kept(before);
        match &self.key_prior {
            Some(of_kept) if kept > 0 => {
                let last = of_kept.narrowed(2, kept - 1..kept);
                new.after(last.pairs())
            }
            _ => new,
        }
    }

    /// The prior over the keys that are kept and the new ones.
    ///
    /// # Errors
    /// If some have one and others none.
    fn prior_with(
        &self,
        before: usize,
        new: Option<KeyPrior>,
    ) -> Result<Option<KeyPrior>, AttentionError> {
        let kept = (before > 0).then_some(self.key_prior.as_ref());
        match (kept, new) {
            (None, new) => Ok(new),
            (Some(None), None) => Ok(None),
            (Some(Some(kept)), Some(new)) => {
                let kept = kept.narrowed(2, 0..before);
                Ok(KeyPrior::joined(vec![kept, new], 2))
            }
            (Some(_), new) => Err(AttentionError::Value {
                what: "prior over keys of the new tokens",
                expected: "one if those in the cache have one, else none".into(),
                got: new.map_or("none", |_| "one").into(),
            }),
        }
    }

    /// Takes in the keys, the values and the prior over keys of this group's heads from position `start` on;
    /// gives back what their rows read.
    ///
    /// # Errors
    /// If the keys before `start` are missing, or some have a prior over keys and others none.
    pub(super) fn append(
        &mut self,
        start: usize,
        k: Tensor<4>,
        v: Tensor<4>,
        new: Option<KeyPrior>,
    ) -> Result<Seen, AttentionError> {
        let key_prior = self.prior_with(self.kept(start), new)?;
        match &mut self.storage {
            Storage::Full {
                keys,
                values,
                norms,
            } => {
                Arc::make_mut(norms).extend(start, &k)?;
                self.key_prior.clone_from(&key_prior);
                Ok(Seen {
                    keys: write(keys, start, k),
                    values: write(values, start, v),
                    before: start,
                    window: None,
                    norms: Some(norms.clone()),
                    key_prior,
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
                let of_all = key_prior.as_ref().filter(|_| count > 0);
                self.key_prior = of_all.map(|of| of.narrowed(2, all - count..all));
                Ok(Seen {
                    keys,
                    values,
                    before,
                    window: Some(*window),
                    norms: None,
                    key_prior,
                })
            }
        }
    }

    /// The tokens that it has read.
    pub(super) fn tokens(&self) -> Before {
        Before {
            window_tokens: match &self.storage {
                Storage::Full { .. } => None,
                Storage::SlidingWindow { tokens, .. } => tokens.clone(),
            },
            key_prior: self.key_prior.clone(),
        }
    }

    /// Undoes what [`append`](Self::append) did since those were asked for.
    pub(super) fn restore(&mut self, before: Before) {
        self.key_prior = before.key_prior;
        if let Storage::SlidingWindow { tokens, .. } = &mut self.storage {
            *tokens = before.window_tokens;
        }
    }

    /// Takes over `length` tokens from groups that have read `total` and share out all heads, not
    /// necessarily as this one does.
    ///
    /// # Errors
    /// If they do not keep what this one needs.
    pub fn take_over(
        &mut self,
        others: &[Self],
        length: usize,
        total: usize,
    ) -> Result<(), AttentionError> {
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
        let [mut keys, mut values] = [Vec::new(), Vec::new()];
        let mut priors = Vec::new();
        for given in given {
            let (of_keys, of_values, prior) = given?;
            keys.push(of_keys);
            values.push(of_values);
            priors.extend(prior);
        }
        let prior = KeyPrior::joined(priors, 1);
        self.append(0, Tensor::cat(keys, 1), Tensor::cat(values, 1), prior)?;
        Ok(())
    }

    /// Keys, values and prior over keys of the tokens at these of `total` positions, of its heads among the given ones.
    fn give(
        &self,
        key_heads: &Range<usize>,
        positions: Range<usize>,
        total: usize,
    ) -> Option<Result<Given, AttentionError>> {
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
                return Some(Err(AttentionError::Value {
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
        let prior = self.key_prior.as_ref().map(|of| {
            let start = positions.start - dropped;
            let of_keys = of.narrowed(2, start..start + positions.len());
            let [_, heads, _] = of.values.dims();
            let each = heads / self.key_heads.len();
            let [first, end] = [first, end].map(|head| (head - self.key_heads.start) * each);
            of_keys.narrowed(1, first..end)
        });
        Some(Ok((some(keys), some(values), prior)))
    }

    /// Tokens that are kept of `length` that were read.
    #[must_use]
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
        let prior = self.key_prior.take().filter(|_| left > 0);
        self.key_prior = prior.map(|of| of.narrowed(2, 0..left));
        left >= wanted
    }
}

/// Keys and values that one group gives another, and its prior over those keys.
type Given = (Tensor<4>, Tensor<4>, Option<KeyPrior>);

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
