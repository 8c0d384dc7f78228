//! What hides keys besides position: document boundaries and padding.

use crate::error::KernelError;
use crate::position::Positions;
use std::collections::HashMap;

/// The document of every token, for rows in which several documents are packed.
///
/// A query sees the keys of its own document only. Ids are arbitrary; equal id means same document.
/// [`Documents::PADDING`] marks tokens that are none: no query sees them, and as a query they see
/// nothing and give a zero output. What `q`, `k` and `v` hold there is not read, be it NaN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Documents {
    batch: usize,
    queries: Vec<i32>,
    keys: Vec<i32>,
}

impl Documents {
    /// The id of padding.
    pub const PADDING: i32 = i32::MIN;

    /// Queries and keys are the same tokens: `ids` is `[batch, length]`, row after row.
    ///
    /// # Errors
    /// If `ids` does not hold `batch` rows of equal length.
    pub fn new(batch: usize, ids: Vec<i32>) -> Result<Self, KernelError> {
        Self::with_cache(batch, ids.clone(), ids)
    }

    /// Queries follow a cache: `query_ids` is `[batch, queries]`, `key_ids` `[batch, keys]`.
    ///
    /// # Errors
    /// If either does not hold `batch` rows of equal length.
    pub fn with_cache(
        batch: usize,
        query_ids: Vec<i32>,
        key_ids: Vec<i32>,
    ) -> Result<Self, KernelError> {
        for (what, ids) in [("query documents", &query_ids), ("key documents", &key_ids)] {
            if batch == 0 || ids.len() % batch != 0 {
                return Err(KernelError::Shape {
                    what,
                    expected: format!("[{batch}, length]"),
                    got: format!("[{}]", ids.len()),
                });
            }
        }
        Ok(Self {
            batch,
            queries: query_ids,
            keys: key_ids,
        })
    }

    /// `(batch, queries, keys)`.
    #[must_use]
    pub fn dims(&self) -> (usize, usize, usize) {
        (
            self.batch,
            self.queries.len() / self.batch,
            self.keys.len() / self.batch,
        )
    }

    /// The documents of a batch row's queries.
    #[must_use]
    pub fn query_ids(&self, batch: usize) -> &[i32] {
        let length = self.queries.len() / self.batch;
        &self.queries[batch * length..][..length]
    }

    /// The documents of a batch row's keys.
    #[must_use]
    pub fn key_ids(&self, batch: usize) -> &[i32] {
        let length = self.keys.len() / self.batch;
        &self.keys[batch * length..][..length]
    }

    /// Whether a token of document `id` takes part in nothing.
    #[must_use]
    pub fn is_padding(id: i32) -> bool {
        id == Self::PADDING
    }

    /// Smallest and largest id among the tokens that are no padding; an empty range if all are.
    pub(crate) fn range(ids: &[i32]) -> (i32, i32) {
        let tokens = ids.iter().filter(|id| !Self::is_padding(**id));
        tokens.fold((i32::MAX, i32::MIN), |(low, high), id| {
            (low.min(*id), high.max(*id))
        })
    }

    /// Whether a query of document `query` sees a key of document `key`.
    #[must_use]
    pub fn shared(query: i32, key: i32) -> bool {
        query == key && !Self::is_padding(key)
    }
}

/// How many keys each row sees, `[batch, queries]` row after row: the `n` of scalable softmax.
#[must_use]
pub fn visible_counts(
    positions: &Positions,
    batch: usize,
    documents: Option<&Documents>,
) -> Vec<usize> {
    let mut counts = Vec::with_capacity(batch * positions.queries);
    for b in 0..batch {
        match documents {
            None => counts.extend((0..positions.queries).map(|i| positions.visible_keys(i).len())),
            Some(documents) => counts.extend(counts_within_documents(
                positions,
                documents.query_ids(b),
                documents.key_ids(b),
            )),
        }
    }
    counts
}

/// Keys of the own document inside each row's visible range. Both ends of that range only move
/// forward from row to row, so a count per document follows them in one pass over the keys.
fn counts_within_documents(
    positions: &Positions,
    query_ids: &[i32],
    key_ids: &[i32],
) -> Vec<usize> {
    let mut in_range: HashMap<i32, usize> = HashMap::new();
    let (mut start, mut end) = (0, 0);
    (0..positions.queries)
        .map(|row| {
            let visible = positions.visible_keys(row);
            for &id in &key_ids[end..visible.end.max(end)] {
                *in_range.entry(id).or_default() += 1;
            }
            end = visible.end.max(end);
            for id in &key_ids[start..visible.start.max(start)] {
                *in_range
                    .get_mut(id)
                    .expect("every key before `end` was counted") -= 1;
            }
            start = visible.start.max(start);
            match query_ids[row] {
                Documents::PADDING => 0,
                id => in_range.get(&id).copied().unwrap_or(0),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Visibility;

    #[test]
    fn counts_match_the_definition() {
        let ids = vec![3, 3, 1, 1, 1, Documents::PADDING, 3, 8];
        for visibility in [Visibility::Causal, Visibility::Full] {
            for window in [None, Some(1), Some(4)] {
                for offset in [0, 2, 7] {
                    let queries = ids.len() - offset;
                    let positions = Positions {
                        queries,
                        keys: ids.len(),
                        offset,
                        visibility,
                        window,
                    };
                    let documents =
                        Documents::with_cache(1, ids[offset..].to_vec(), ids.clone()).unwrap();
                    let expected: Vec<usize> = (0..queries)
                        .map(|i| {
                            positions
                                .visible_keys(i)
                                .filter(|&j| Documents::shared(ids[offset + i], ids[j]))
                                .count()
                        })
                        .collect();
                    assert_eq!(visible_counts(&positions, 1, Some(&documents)), expected);
                }
            }
        }
    }

    #[test]
    fn rows_of_unequal_length_are_refused() {
        let error = Documents::new(2, vec![0; 5]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("expected shape [2, length], got [5]"),
            "{error}"
        );
    }
}
