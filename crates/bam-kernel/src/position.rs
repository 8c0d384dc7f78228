//! Where tokens are: the only file that subtracts positions.
//!
//! A **lag** is key position − query position, so a causal row sees lags ≤ 0. Query row `i` stands
//! at position `offset + i` among the keys; the offset is the number of keys in the cache before it.

use std::ops::Range;

/// Which keys a row may see, by position alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Its own position and everything before it.
    Causal,
    /// Every key, before and after.
    Full,
}

/// A contiguous range of lags, the columns of the log-weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lags {
    first: i64,
    count: usize,
}

impl Lags {
    /// The lags `-(keys - 1) ..= 0` of causal rows over `keys` keys.
    #[must_use]
    pub const fn causal(keys: usize) -> Self {
        Self {
            first: 1 - keys as i64,
            count: keys,
        }
    }

    /// The lags `-(queries - 1) ..= keys - 1` of rows that see both ways.
    #[must_use]
    pub const fn full(queries: usize, keys: usize) -> Self {
        Self {
            first: 1 - queries as i64,
            count: (queries + keys).saturating_sub(1),
        }
    }

    /// `count` lags from `first` on.
    #[must_use]
    pub const fn starting_at(first: i64, count: usize) -> Self {
        Self { first, count }
    }

    /// Smallest lag, that of column 0.
    #[must_use]
    pub fn first(&self) -> i64 {
        self.first
    }

    /// Largest lag, that of the last column.
    #[must_use]
    pub fn last(&self) -> i64 {
        self.first + self.count as i64 - 1
    }

    /// Number of lags.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The lag of every column, ascending.
    pub fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        self.first..self.first + self.count as i64
    }
}

/// The positions of one call: how many queries and keys there are and how they lie to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// Query rows, at least one.
    pub queries: usize,
    /// Keys, the cached ones included.
    pub keys: usize,
    /// Position of query row 0 among the keys.
    pub offset: usize,
    /// Which way rows may look.
    pub visibility: Visibility,
    /// Keys at this distance and beyond are hidden.
    pub window: Option<usize>,
}

impl Positions {
    /// The keys that row `i` may see, by position alone. Empty where the window or the keys end.
    #[must_use]
    pub fn visible_keys(&self, row: usize) -> Range<usize> {
        let position = self.offset + row;
        let before = match self.window {
            Some(window) => (position + 1).saturating_sub(window),
            None => 0,
        };
        let end = match (self.visibility, self.window) {
            (Visibility::Causal, _) => (position + 1).min(self.keys),
            (Visibility::Full, Some(window)) => position.saturating_add(window).min(self.keys),
            (Visibility::Full, None) => self.keys,
        };
        before.min(end)..end
    }

    /// The rows that may see key `j`, by position alone: the inverse of [`Self::visible_keys`].
    #[must_use]
    pub fn visible_rows(&self, key: usize) -> Range<usize> {
        let first = match (self.visibility, self.window) {
            (Visibility::Causal, _) => key,
            (Visibility::Full, Some(window)) => (key + 1).saturating_sub(window),
            (Visibility::Full, None) => 0,
        };
        let end = self
            .window
            .map_or(usize::MAX, |window| key.saturating_add(window));
        let row = |position: usize| position.saturating_sub(self.offset).min(self.queries);
        row(first).min(row(end))..row(end)
    }

    /// The keys that at least one of the rows sees; the rows are consecutive and not none.
    #[must_use]
    pub fn keys_in_sight(&self, rows: Range<usize>) -> Range<usize> {
        self.visible_keys(rows.start).start..self.visible_keys(rows.end - 1).end
    }

    /// Whether every one of the rows sees every one of the keys.
    #[must_use]
    pub fn all_visible(&self, rows: &Range<usize>, keys: &Range<usize>) -> bool {
        // Both ends of a row's keys only move forward from row to row.
        self.visible_keys(rows.end - 1).start <= keys.start
            && keys.end <= self.visible_keys(rows.start).end
    }

    /// The range of lags that occur between the rows and those of the keys that they may see, or a
    /// wider one: `(first, last)`.
    #[must_use]
    pub fn lags_between(&self, rows: &Range<usize>, keys: &Range<usize>) -> (i64, i64) {
        let (first, last) = self.needed_lags();
        let nearest = keys.end as i64 - 1 - (self.offset + rows.start) as i64;
        let farthest = keys.start as i64 - (self.offset + rows.end - 1) as i64;
        (farthest.max(first), nearest.min(last))
    }

    /// The column of the lag between row 0 and key `j` where columns run from the **last** lag back:
    /// consecutive rows are consecutive columns. Row `i` is `i` columns further.
    ///
    /// Negative where the lag is beyond the last.
    #[must_use]
    pub fn column_by_distance(&self, key: usize, lags: &Lags) -> i64 {
        lags.last() - (key as i64 - self.offset as i64)
    }

    /// The column of the lag between row `i` and key 0. Key `j` is `j` columns further.
    ///
    /// Negative where `lags` does not reach back to key 0; the columns of visible keys are not.
    #[must_use]
    pub fn column_of_first_key(&self, row: usize, lags: &Lags) -> i64 {
        -((self.offset + row) as i64) - lags.first
    }

    /// The range of lags that occur between a row and a key it may see: `(first, last)`.
    #[must_use]
    pub fn needed_lags(&self) -> (i64, i64) {
        let last_position = (self.offset + self.queries - 1) as i64;
        let reach = self.window.map_or(i64::MAX, |window| {
            i64::try_from(window).map_or(i64::MAX, |window| window - 1)
        });
        let first = (-last_position).max(-reach);
        let last = match self.visibility {
            Visibility::Causal => 0,
            Visibility::Full => (self.keys as i64 - 1 - self.offset as i64).min(reach),
        };
        (first.min(last), last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Visible keys and columns against the definition, key by key.
    #[test]
    fn rows_see_what_the_definition_says() {
        for visibility in [Visibility::Causal, Visibility::Full] {
            for window in [None, Some(1), Some(3), Some(100), Some(usize::MAX)] {
                for (queries, keys, offset) in [(1, 1, 0), (5, 5, 0), (3, 9, 6), (2, 9, 4)] {
                    let positions = Positions {
                        queries,
                        keys,
                        offset,
                        visibility,
                        window,
                    };
                    let lags = Lags::full(keys, keys);
                    for key in 0..keys {
                        let sees = |row: &usize| positions.visible_keys(*row).contains(&key);
                        let expected: Vec<usize> = (0..queries).filter(sees).collect();
                        assert_eq!(positions.visible_rows(key).collect::<Vec<_>>(), expected);
                    }
                    for row in 0..queries {
                        let position = (offset + row) as i64;
                        let expected: Vec<usize> = (0..keys)
                            .filter(|&key| {
                                let lag = key as i64 - position;
                                (visibility == Visibility::Full || lag <= 0)
                                    && window.is_none_or(|reach| lag.unsigned_abs() < reach as u64)
                            })
                            .collect();
                        assert_eq!(positions.visible_keys(row).collect::<Vec<_>>(), expected);
                        let (first, last) = positions.needed_lags();
                        for key in expected {
                            let column = positions.column_of_first_key(row, &lags) + key as i64;
                            let lag = lags.iter().nth(column as usize).unwrap();
                            assert_eq!(lag, key as i64 - position);
                            let by_distance = positions.column_by_distance(key, &lags) + row as i64;
                            assert_eq!(by_distance, lags.last() - lag);
                            let (one_row, one_key) = (row..row + 1, key..key + 1);
                            assert_eq!(positions.lags_between(&one_row, &one_key), (lag, lag));
                            assert!((first..=last).contains(&lag));
                        }
                    }
                }
            }
        }
    }
}
