//! The prior over keys as a call computes with it: padded to whole tiles, with the range of every tile, and
//! relative to the largest number that a row sees.
//!
//! A term per row cancels. So every row takes the prior relative to its own **reference** `ρ_i`, the largest `u_j` of the
//! keys that it sees, and what it rounds is `u_j − ρ_i`: small wherever a key counts, however large both are.

use crate::documents::Documents;
use crate::key_norms::TILE;
use crate::key_prior::{KeyPrior, KeyPriorScope};
use crate::plan::Plan;
use crate::rounding::raised;
use rayon::prelude::*;
use std::collections::VecDeque;
use std::ops::Range;

/// Pairs of numbers whose sum is meant.
type Pair = [f32; 2];

/// A prior over keys, made ready.
pub(crate) struct ByKey {
    pub scope: KeyPriorScope,
    /// Of the prior.
    heads: usize,
    /// Query heads that share one of them.
    group: usize,
    padded: usize,
    queries: usize,
    /// `[batch, heads, padded keys]`; zeros at padding.
    high: Vec<f32>,
    low: Vec<f32>,
    /// Of `high` and of `low`, `[batch, heads, tiles]`, without padding and hidden keys.
    ranges: Vec<[Span; 2]>,
    /// `[batch, heads, queries]`; zeros where a row sees nothing.
    references: Vec<Pair>,
}

/// Whether a number, by its high part, hides its key, whatever multiplies it.
pub(crate) fn hides(high: f32) -> bool {
    high == f32::NEG_INFINITY
}

/// The smallest and the largest of some numbers; NaN if one is.
#[derive(Clone, Copy, Debug)]
struct Span(f32, f32);

impl Span {
    const NONE: Self = Self(f32::INFINITY, f32::NEG_INFINITY);

    fn with(self, x: f32) -> Self {
        Self(-raised(-self.0, -x), raised(self.1, x))
    }
}

/// The knowledge of some rows before any key is read: their factors of the prior over keys and their references.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyPriorRows {
    factors: Span,
    references: [Span; 2],
}

impl ByKey {
    /// `prior` must have the plan's shape.
    pub fn new(plan: &Plan, prior: &KeyPrior<'_>) -> Self {
        let [batch, heads, keys] = prior.shape();
        let (padded, queries) = (keys.next_multiple_of(TILE), plan.positions().queries);
        let count = batch * heads;
        let [mut high, mut low] = [(); 2].map(|()| vec![0.0; count * padded]);
        let mut ranges = vec![[Span::NONE; 2]; count * padded / TILE];
        let mut references = vec![[0.0; 2]; count * queries];
        let of_heads = (high.par_chunks_mut(padded).zip(low.par_chunks_mut(padded)))
            .zip(ranges.par_chunks_mut(padded / TILE))
            .zip(references.par_chunks_mut(queries));
        of_heads
            .enumerate()
            .for_each(|(index, (((high, low), ranges), references))| {
                let (batch, head) = (index / heads, index % heads);
                for (key, pair) in prior.of_head(batch, head).enumerate() {
                    if plan.is_padding_key(batch, key) {
                        continue;
                    }
                    [high[key], low[key]] = pair;
                    if hides(pair[0]) {
                        continue;
                    }
                    let of_tile = &mut ranges[key / TILE];
                    *of_tile = std::array::from_fn(|part| of_tile[part].with(pair[part]));
                }
                largest_in_sight(plan, batch, (high, low), references);
            });
        Self {
            scope: prior.scope(),
            heads,
            group: plan.shapes().q[1] / heads,
            padded,
            queries,
            high,
            low,
            ranges,
            references,
        }
    }

    /// The head of the prior that a query head reads, counted over the batch.
    fn of(&self, batch: usize, head: usize) -> usize {
        batch * self.heads + head / self.group
    }

    /// The pairs of the keys from `first` on, as two slices, for a query head.
    pub fn keys(&self, (batch, head): (usize, usize), keys: Range<usize>) -> [&[f32]; 2] {
        let first = self.of(batch, head) * self.padded;
        [&self.high, &self.low].map(|part| &part[first + keys.start..first + keys.end])
    }

    /// The largest pair that a row sees.
    pub fn reference(&self, batch: usize, head: usize, row: usize) -> Pair {
        self.references[self.of(batch, head) * self.queries + row]
    }

    /// The knowledge of some rows of a query head, given the factor of each; those for which it is `None` see
    /// nothing.
    pub fn rows(
        &self,
        (batch, head): (usize, usize),
        rows: Range<usize>,
        factor: impl Fn(usize) -> Option<f32>,
    ) -> KeyPriorRows {
        let mut of_rows = KeyPriorRows {
            factors: Span::NONE,
            references: [Span::NONE; 2],
        };
        for row in rows {
            if let Some(factor) = factor(row) {
                let reference = self.reference(batch, head, row);
                let references = of_rows.references;
                of_rows = KeyPriorRows {
                    factors: of_rows.factors.with(factor),
                    references: [0, 1].map(|part| references[part].with(reference[part])),
                };
            }
        }
        of_rows
    }

    /// `max factor_i·(u_j − ρ_i)` over those rows and the tile that begins at key `first_key`, or more: a
    /// product that is linear in each of its factors is largest at a corner. High and low parts count apart, as they are
    /// rounded apart.
    pub fn bound(
        &self,
        (batch, head): (usize, usize),
        rows: &KeyPriorRows,
        first_key: usize,
    ) -> f64 {
        if rows.factors.0 > rows.factors.1 {
            return f64::NEG_INFINITY;
        }
        let of_tile = &self.ranges[(self.of(batch, head) * self.padded + first_key) / TILE];
        let difference = |a: f32, b: f32| f64::from(a) - f64::from(b);
        let (mut least, mut most) = (0.0, 0.0);
        for (keys, references) in of_tile.iter().zip(&rows.references) {
            least += difference(keys.0, references.1);
            most += difference(keys.1, references.0);
        }
        let Span(low, high) = rows.factors;
        [low, high]
            .into_iter()
            .flat_map(|factor| [least, most].map(|term| f64::from(factor) * term))
            .fold(f64::NEG_INFINITY, crate::rounding::larger)
    }
}

/// Writes the largest pair of the keys that each row sees; both ends of what is in sight only move forward, so the
/// keys that may become largest wait in a queue, each larger than all behind it.
fn largest_in_sight(
    plan: &Plan,
    batch: usize,
    (high, low): (&[f32], &[f32]),
    largest: &mut [Pair],
) {
    let documents = plan.documents();
    let value = |key: usize| f64::from(high[key]) + f64::from(low[key]);
    let mut waiting: VecDeque<usize> = VecDeque::new();
    let (mut document, mut next) = (None, 0);
    for (row, largest) in largest.iter_mut().enumerate() {
        if plan.is_padding_query(batch, row) {
            continue;
        }
        let seen = plan.positions().visible_keys(row);
        let own = documents.map(|documents| documents.query_ids(batch)[row]);
        if own != document {
            waiting.clear();
            (document, next) = (own, 0);
        }
        for key in next.max(seen.start)..seen.end {
            let id = documents.map(|documents| documents.key_ids(batch)[key]);
            if own
                .zip(id)
                .is_some_and(|(own, id)| !Documents::shared(own, id))
            {
                continue;
            }
            while waiting
                .back()
                .is_some_and(|last| value(*last) <= value(key))
            {
                waiting.pop_back();
            }
            waiting.push_back(key);
        }
        next = next.max(seen.end);
        while waiting.front().is_some_and(|first| *first < seen.start) {
            waiting.pop_front();
        }
        // A row that sees hidden keys alone sees nothing.
        let counts = |key: &&usize| !hides(high[**key]);
        let first = waiting.front().filter(counts);
        *largest = first.map_or([0.0; 2], |key| [high[*key], low[*key]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, signed_numbers};

    /// References are the largest numbers in sight, key by key, and a tile's bound is above all of its terms.
    #[test]
    fn references_and_bounds_are_the_definitions() {
        let plain = || Case::random(&[2, 4, 2, 150, 260, 4].into(), 3);
        for (number, case) in [
            plain(),
            plain().full(),
            plain().with_window(7),
            plain().full().with_window(100),
            plain().with_documents(3).with_temperature(true),
            plain().full().with_documents(5).with_window(30),
        ]
        .into_iter()
        .enumerate()
        {
            let case = case.with_key_prior(number % 2 == 0, KeyPriorScope::Scaled);
            let operands = case
                .operands([&case.q, &case.k, &case.v].map(Into::into))
                .unwrap();
            let plan = Plan::new(case.call().unwrap(), operands.shapes()).unwrap();
            let by_key = ByKey::new(&plan, &operands.key_prior.unwrap());
            let factors = signed_numbers(case.queries, 2.0, 5);
            for (batch, head) in [(0, 0), (0, 3), (1, 2)] {
                let u = |key| {
                    let [high, low] = by_key.keys((batch, head), key..key + 1);
                    f64::from(high[0]) + f64::from(low[0])
                };
                let sees = |row: usize, key: usize| {
                    let documents = plan.documents();
                    plan.positions().visible_keys(row).contains(&key)
                        && documents.is_none_or(|of| {
                            Documents::shared(of.query_ids(batch)[row], of.key_ids(batch)[key])
                        })
                };
                let seeing = |row: usize| (0..case.keys).any(|key| sees(row, key));
                for row in 0..case.queries {
                    let keys = (0..case.keys).filter(|key| sees(row, *key));
                    let expected = keys.map(u).fold(f64::NEG_INFINITY, f64::max);
                    let [high, low] = by_key.reference(batch, head, row);
                    let got = f64::from(high) + f64::from(low);
                    assert_eq!(got, if seeing(row) { expected } else { 0.0 });
                }
                for first in (0..case.keys).step_by(TILE) {
                    let factor = |row: usize| seeing(row).then_some(factors[row]);
                    let rows = by_key.rows((batch, head), 20..90, factor);
                    let bound = by_key.bound((batch, head), &rows, first);
                    for key in first..(first + TILE).min(case.keys) {
                        for row in (20..90).filter(|row| sees(*row, key)) {
                            let [high, low] = by_key.reference(batch, head, row);
                            let reference = f64::from(high) + f64::from(low);
                            let term = f64::from(factors[row]) * (u(key) - reference);
                            assert!(term <= bound + 1e-9, "{number}: {term} over {bound}");
                        }
                    }
                }
            }
        }
    }
}
