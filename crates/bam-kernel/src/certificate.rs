//! Certified skipping: in which order a block of rows visits the tiles of keys, and when the rest of
//! them can't matter any more.
//!
//! For a row `i` of a block and any key `j` of a tile `J`, by the Cauchy-Schwarz inequality,
//!
//! ```text
//! logit_ij ≤ U_J = max_i |τ_i|/√D·‖q_i‖ · max_J ‖k_j‖ + max_{i, lags of J} (factor_i · ln w(lag))
//!                 + max_{i, J} (factor_i · (u_j − ρ_i))
//! ```
//!
//! and what the tiles that were not visited can hold of the row's posterior is at most
//! `Σ_J |J|·exp(U_J) / evidence_i`, the evidence being what was summed so far. Tiles are visited in
//! the order of their prior, largest first, whatever the mode: the evidence is complete early, and
//! the modes differ in where they stop only. The proof is in `docs/kernel.md`.

use crate::by_key::{ByKey, KeyPriorRows};
use crate::documents::Documents;
use crate::exponential::LN_SMALLEST_WEIGHT;
use crate::key_norms::{KeyNorms, TILE};
use crate::plan::Plan;
use crate::prior_ranges::PriorRanges;
use crate::rounding::larger;
use crate::skipping::Skipping;
use std::ops::Range;

/// Below this distance from a row's largest logit a weight is exactly 0: −70, which is below the end of
/// the exponential by more than the rounding of a difference.
const EXACT_ZERO: f64 = LN_SMALLEST_WEIGHT.floor();

/// The knowledge of a block of rows before any key is read.
#[derive(Clone, Debug)]
pub(crate) struct RowBounds {
    pub batch: usize,
    pub head: usize,
    pub rows: Range<usize>,
    /// `max_i |factor of q·k| · ‖q_i‖`.
    pub content: f64,
    /// Smallest and largest factor of the log-weights.
    pub prior_factors: (f64, f64),
    /// That of a prior over keys, if there is one.
    pub of_keys: Option<KeyPriorRows>,
}

/// The tiles of a block of rows in the order in which they are visited.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// The first key of every tile.
    pub tiles: Vec<usize>,
    rule: Rule,
}

/// When the rest of the tiles can be left out. Entry `t` is about the tiles `t..`.
#[derive(Debug)]
enum Rule {
    Never,
    /// The largest logit that the rest can hold.
    Exact {
        largest: Vec<f64>,
    },
    /// `ln Σ |J|·exp(U_J)` of the rest.
    Certified {
        ln_mass: Vec<f64>,
        ln_epsilon: f64,
    },
}

/// A tile's part of the bound that is known before any key is read.
struct Tile {
    /// Its first key.
    first: usize,
    /// The largest that lags, and that keys, can add to a logit.
    prior: f64,
    /// The sum of the absolute values of the two, by which they are rounded.
    size: f64,
}

/// The part of the bound that all blocks of a call share.
pub(crate) struct Bounds<'a> {
    pub plan: &'a Plan,
    pub ranges: &'a PriorRanges,
    pub norms: Option<&'a KeyNorms>,
    pub key_prior: Option<&'a ByKey>,
    pub dim: usize,
}

impl Bounds<'_> {
    /// The tiles of split number `split` of `splits`, which take turns at the tiles.
    pub fn schedule(&self, block: &RowBounds, split: usize, splits: usize) -> Schedule {
        let mut tiles: Vec<Tile> = tiles_in_sight(self.plan, block)
            .map(|first| self.tile(block, first))
            .collect();
        // Last keys first where the prior doesn't tell; the sort keeps that order.
        tiles.reverse();
        if !tiles.is_sorted_by(|a, b| a.prior >= b.prior) {
            tiles.sort_by(|a, b| b.prior.total_cmp(&a.prior));
        }
        let tiles: Vec<Tile> = tiles.into_iter().skip(split).step_by(splits).collect();
        let rule = match (self.plan.call().skipping, self.norms) {
            (Skipping::Off, _) | (_, None) => Rule::Never,
            (Skipping::Exact, Some(norms)) => {
                let mut largest = self.bounds(block, &tiles, norms);
                for t in (1..largest.len()).rev() {
                    largest[t - 1] = larger(largest[t - 1], largest[t]);
                }
                Rule::Exact { largest }
            }
            (Skipping::Certified { epsilon }, Some(norms)) => Rule::Certified {
                ln_mass: ln_sums(self.bounds(block, &tiles, norms)),
                // Splits stop by their own evidence, and their evidence adds up.
                ln_epsilon: epsilon.ln() - ln_rounding(tiles.len()),
            },
        };
        Schedule {
            tiles: tiles.into_iter().map(|tile| tile.first).collect(),
            rule,
        }
    }

    fn tile_keys(&self, first: usize) -> Range<usize> {
        first..(first + TILE).min(self.plan.positions().keys)
    }

    fn tile(&self, block: &RowBounds, first: usize) -> Tile {
        let by_lag = self.prior_bound(block, first);
        let by_key = self.key_prior.zip(block.of_keys.as_ref());
        let by_key = by_key.map_or(0.0, |(of, rows)| {
            of.bound((block.batch, block.head), rows, first)
        });
        Tile {
            first,
            prior: by_lag + by_key,
            size: by_lag.abs() + by_key.abs(),
        }
    }

    /// `max (factor_i · ln w(lag))` over the rows and the tile.
    fn prior_bound(&self, block: &RowBounds, first_key: usize) -> f64 {
        let positions = self.plan.positions();
        let (first, last) = positions.lags_between(&block.rows, &self.tile_keys(first_key));
        let column = |lag: i64| lag - self.plan.lags().first();
        let (low, high) = self.ranges.over(block.head, column(first), column(last));
        let (least, most) = block.prior_factors;
        [least * low, least * high, most * low, most * high]
            .into_iter()
            .fold(f64::NEG_INFINITY, larger)
    }

    /// `U_J` of every tile, rounding included.
    fn bounds(&self, block: &RowBounds, tiles: &[Tile], norms: &KeyNorms) -> Vec<f64> {
        let norms = norms.of_head(block.batch, block.head / self.plan.group());
        // A sum of D products is off by less than D units of rounding of its norms' product, and the
        // scaled queries by less than 4 of theirs.
        let content = block.content * (1.0 + (self.dim + 4) as f64 * f64::from(f32::EPSILON));
        tiles
            .iter()
            .map(|tile| {
                let content = content * f64::from(norms[tile.first / TILE]);
                let rounding = (content + tile.size) * 4.0 * f64::from(f32::EPSILON);
                content + tile.prior + rounding
            })
            .collect()
    }
}

impl Schedule {
    /// Whether every tile is visited, whatever is found.
    pub fn never_stops(&self) -> bool {
        matches!(self.rule, Rule::Never)
    }

    /// Whether the tiles from `t` on can be left out, given lower bounds over the block's rows of the
    /// largest logit so far and of the logarithm of the evidence so far.
    pub fn may_stop(
        &self,
        t: usize,
        least_largest: f64,
        least_evidence: impl FnOnce() -> f64,
    ) -> bool {
        match &self.rule {
            Rule::Never => false,
            Rule::Exact { largest } => largest[t] - least_largest < EXACT_ZERO,
            Rule::Certified {
                ln_mass,
                ln_epsilon,
            } => {
                // The evidence of n keys is at most n times its largest term.
                let at_best = least_largest + ((t * TILE) as f64).ln();
                ln_mass[t] - at_best <= *ln_epsilon && ln_mass[t] - least_evidence() <= *ln_epsilon
            }
        }
    }

    /// `ln` of the mass that the tiles from `t` on can hold, before it is divided by the evidence.
    pub fn ln_mass_of_rest(&self, t: usize) -> f64 {
        if t >= self.tiles.len() {
            return f64::NEG_INFINITY;
        }
        match &self.rule {
            Rule::Never => f64::NEG_INFINITY,
            Rule::Exact { largest } => {
                let keys = ((self.tiles.len() - t) * TILE) as f64;
                largest[t] + keys.ln() + ln_rounding(self.tiles.len())
            }
            Rule::Certified { ln_mass, .. } => ln_mass[t] + ln_rounding(self.tiles.len()),
        }
    }
}

/// A share that covers the rounding of an evidence that was summed over that many tiles: an addition for
/// each, half a dozen roundings more where the largest logit grew, and the exponential's.
fn ln_rounding(tiles: usize) -> f64 {
    ((512 + 6 * tiles) as f64 * f64::from(f32::EPSILON)).ln_1p()
}

/// `ln Σ_{u ≥ t} TILE·exp(bound_u)` for every `t`. Each is raised by more than it was rounded.
fn ln_sums(bounds: Vec<f64>) -> Vec<f64> {
    let mut rest = f64::NEG_INFINITY;
    let mut ln_sums = bounds;
    for entry in ln_sums.iter_mut().rev() {
        let own = *entry + (TILE as f64).ln();
        let (low, high) = if own < rest { (own, rest) } else { (rest, own) };
        let sum = match low {
            f64::NEG_INFINITY => high,
            // NaN, which no comparison takes for small, stays.
            low => high + (low - high).exp().ln_1p(),
        };
        rest = sum + sum.abs() * 4.0 * f64::EPSILON;
        *entry = rest;
    }
    ln_sums
}

/// The first keys of the tiles that the rows have to visit, ascending: visible by position, and
/// holding a document that one of the rows is in.
fn tiles_in_sight<'a>(plan: &'a Plan, block: &RowBounds) -> impl Iterator<Item = usize> + 'a {
    let keys = plan.positions().keys_in_sight(block.rows.clone());
    let batch = block.batch;
    let documents = plan.documents();
    let (low, high) = documents.map_or((i32::MIN, i32::MAX), |documents| {
        Documents::range(&documents.query_ids(batch)[block.rows.clone()])
    });
    let all = plan.positions().keys;
    (keys.start / TILE * TILE..keys.end)
        .step_by(TILE)
        .filter(move |&first| {
            documents.is_none_or(|documents| {
                let tile = &documents.key_ids(batch)[first..(first + TILE).min(all)];
                let (tile_low, tile_high) = Documents::range(tile);
                tile_low <= high && low <= tile_high
            })
        })
}
