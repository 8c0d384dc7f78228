//! Beginnings of rows that were read before, kept as long as there is memory, the last used longest.

use crate::model::{Cache, TokenScore};
use std::collections::VecDeque;

/// Rows that ended; the one that was not used for longest first.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    kept: VecDeque<Kept>,
}

/// A row that ended.
#[derive(Debug)]
pub(super) struct Kept {
    /// What the cache holds.
    pub tokens: Vec<i32>,
    pub cache: Cache,
    /// Of the tokens but the first, as far as they were scored.
    pub scores: Vec<TokenScore>,
    pub bytes: usize,
}

impl Prefixes {
    pub fn iter(&self) -> impl Iterator<Item = &Kept> {
        self.kept.iter()
    }

    pub fn bytes(&self) -> usize {
        self.kept.iter().map(|kept| kept.bytes).sum()
    }

    /// The one at that index, which is being used.
    pub fn take_note(&mut self, index: usize) -> &Kept {
        if let Some(used) = self.kept.remove(index) {
            self.kept.push_back(used);
        }
        self.kept.back().expect("there is one at the index")
    }

    /// Keeps a row, unless another one says as much; forgets those that say no more than it.
    pub fn keep(&mut self, new: Kept) {
        let says_as_much = |a: &Kept, b: &Kept| {
            a.tokens.starts_with(&b.tokens)
                && a.scores.len() >= b.scores.len()
                && a.cache.holds_all() >= b.cache.holds_all()
        };
        if let Some(index) = self.kept.iter().position(|old| says_as_much(old, &new)) {
            self.take_note(index);
            return;
        }
        self.kept.retain(|old| !says_as_much(&new, old));
        self.kept.push_back(new);
    }

    /// Forgets what was not used for longest, until the rest takes at most so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        while self.bytes() > bytes {
            self.kept.pop_front();
        }
    }
}
