//! The prefix cache: what ended sequences have read, kept as long as there is memory, the last used longest.

use crate::model::{KvCache, TokenScore};
use std::collections::VecDeque;

/// Sequences that ended; the one that was not used for longest first.
#[derive(Debug, Default)]
pub(super) struct PrefixCache {
    prefixes: VecDeque<Prefix>,
}

/// A sequence that ended.
#[derive(Debug)]
pub(super) struct Prefix {
    /// The tokens that the cache holds.
    pub tokens: Vec<i32>,
    pub cache: KvCache,
    /// Of the tokens but the first, as far as they were scored.
    pub scores: Vec<TokenScore>,
    pub bytes: usize,
}

impl PrefixCache {
    pub fn iter(&self) -> impl Iterator<Item = &Prefix> {
        self.prefixes.iter()
    }

    pub fn bytes(&self) -> usize {
        self.prefixes.iter().map(|kept| kept.bytes).sum()
    }

    /// The one at that index, which is being used.
    pub fn touch(&mut self, index: usize) -> &Prefix {
        if let Some(used) = self.prefixes.remove(index) {
            self.prefixes.push_back(used);
        }
        self.prefixes.back().expect("there is one at the index")
    }

    /// Keeps a sequence, unless another one says as much; forgets those that say no more than it.
    pub fn insert(&mut self, new: Prefix) {
        let says_as_much = |a: &Prefix, b: &Prefix| {
            a.tokens.starts_with(&b.tokens)
                && a.scores.len() >= b.scores.len()
                && a.cache.holds_all() >= b.cache.holds_all()
        };
        if let Some(index) = self.prefixes.iter().position(|old| says_as_much(old, &new)) {
            self.touch(index);
            return;
        }
        self.prefixes.retain(|old| !says_as_much(&new, old));
        self.prefixes.push_back(new);
    }

    /// Forgets what was not used for longest, until the rest takes at most so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        while self.bytes() > bytes {
            self.prefixes.pop_front();
        }
    }
}
