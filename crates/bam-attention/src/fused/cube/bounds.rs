//! Certified skipping on a device: what is known of rows, keys and the prior before keys are read, and
//! the bound made of it. The proof is in `docs/kernel.md`, §5 and §10.

use super::pairs::{Pair, difference, pair, prior_head};
use super::rules::{Numbers, Rules};
use cubecl::prelude::*;

/// Rows, keys or lags that share a bound: a multiple of every tiling's blocks and tiles.
pub(super) const GRAIN: usize = 64;

/// Below this distance from a row's largest logit a weight is exactly 0; a unit below the end of the
/// exponential, for the rounding of the difference.
pub(super) const EXACT_ZERO: f32 = -70.0;

/// Stands for infinity: compilers of shaders may take it that there is none.
pub(super) const BIG: f32 = 1e30;

/// Numbers per block of rows in its bounds: largest `|factor|·‖q‖`, smallest and largest factor of the
/// log-weights, and smallest `ln evidence`; of a prior over keys, smallest and largest factor, and smallest and
/// largest reference (pairs) of the rows that see a key.
pub(super) const OF_ROWS: usize = 10;

/// Raises a norm above what its rounding, and that of the product it bounds, can have taken: all are
/// sums of at most 256 terms.
const RAISED: f32 = 1.0001;

/// Raises the largest norms of every [`GRAIN`] keys, `[batch, heads, room]`, by those of `k`, which
/// stand from position `start` on and touch `blocks` of them; one unit a block. [`BIG`] where a number
/// is none.
#[cube(launch_unchecked)]
pub(super) fn largest_norms<F: Float>(
    k: &Tensor<F>,
    norms: &mut Tensor<f32>,
    start: usize,
    blocks: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    let (heads, length) = (k.shape(1), k.shape(2));
    if at < k.shape(0) * heads * blocks {
        let block = start / GRAIN + at % blocks;
        let base = at / blocks / heads * k.stride(0) + at / blocks % heads * k.stride(1);
        let place = at / blocks * norms.shape(2) + block;
        let first = max(block * GRAIN, start) - start;
        let end = min((block + 1) * GRAIN - start, length);
        let mut most = norms[place];
        for r in first..end {
            most = larger(
                most,
                squares::<F>(k, base + r * k.stride(2)).sqrt() * RAISED,
            );
        }
        norms[place] = most;
    }
}

/// The same norms where there is more room, by one unit each.
#[cube(launch_unchecked)]
pub(super) fn copy_norms(from: &Tensor<f32>, to: &mut Tensor<f32>) {
    let at = ABSOLUTE_POS;
    if at < from.len() {
        let room = from.shape(2);
        let place = at / room * to.shape(2) + at % room;
        to[place] = from[at];
    }
}

#[cube]
fn squares<F: Float>(x: &Tensor<F>, at: usize) -> f32 {
    let mut sum = f32::new(0.0);
    for c in 0..x.shape(3) {
        let one = f32::cast_from(x[at + c]);
        sum += one * one;
    }
    sum
}

/// The larger of two numbers that are not negative; [`BIG`] where one is none.
#[cube]
fn larger(a: f32, b: f32) -> f32 {
    let mut most = a;
    // Not `b > a`: a number that is none must not pass for small.
    if !(b <= a) {
        most = select(b == b, b, f32::new(BIG));
    }
    most
}

/// The bounds of every [`GRAIN`] queries, `[batch, heads, blocks, OF_ROWS]`, by one unit each.
#[cube(launch_unchecked)]
pub(super) fn row_bounds<F: Float>(
    q: &Tensor<F>,
    temperature: &Tensor<f32>,
    references: &Tensor<Pair>,
    ln_evidence: &Tensor<f32>,
    bounds: &mut Tensor<f32>,
    of: &Numbers,
    #[comptime] rules: Rules,
    #[comptime] has_evidence: bool,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    let blocks = bounds.shape(2);
    if at < bounds.len() / OF_ROWS {
        let heads = bounds.shape(1);
        let rows = q.shape(2);
        let first = at % blocks * GRAIN;
        let end = min(first + GRAIN, rows);
        let base = at / blocks / heads * q.stride(0) + at / blocks % heads * q.stride(1);
        let mut content = f32::new(0.0);
        let mut low = f32::new(1.0);
        let mut high = f32::new(1.0);
        let mut evidence = f32::new(BIG);
        let mut smallest = pair(BIG, BIG);
        let mut largest = pair(-BIG, -BIG);
        for r in first..end {
            let norm = squares::<F>(q, base + r * q.stride(2)).sqrt();
            let mut factor = f32::new(1.0);
            if comptime!(rules.has_temperature()) {
                factor = temperature[row_of_temperature(temperature, at / blocks, heads, r, rows)];
            }
            content = larger(content, factor.abs() * norm);
            if comptime!(rules.has_temperature()) {
                if r == first {
                    low = factor;
                    high = factor;
                }
                low = min(low, factor);
                high = max(high, factor);
            }
            if comptime!(rules.has_key_prior()) {
                let of_head = prior_head(
                    references,
                    at / blocks / heads,
                    at / blocks % heads,
                    heads,
                    rules,
                );
                let reference = references[of_head * rows + r];
                if reference.extract(0usize) > -BIG {
                    smallest = min(smallest, reference);
                    largest = max(largest, reference);
                }
            }
            if comptime!(has_evidence) {
                evidence = min(evidence, ln_evidence[at / blocks * rows + r]);
            }
        }
        bounds[at * OF_ROWS] = content * of.scale * RAISED;
        bounds[at * OF_ROWS + 1] = factor_if(rules.scales_prior(), low);
        bounds[at * OF_ROWS + 2] = factor_if(rules.scales_prior(), high);
        bounds[at * OF_ROWS + 3] = evidence;
        if comptime!(rules.has_key_prior()) {
            bounds[at * OF_ROWS + 4] = factor_if(rules.scales_keys(), low);
            bounds[at * OF_ROWS + 5] = factor_if(rules.scales_keys(), high);
            #[unroll]
            for part in 0..2usize {
                bounds[at * OF_ROWS + 6 + part] = smallest.extract(part);
                bounds[at * OF_ROWS + 8 + part] = largest.extract(part);
            }
        }
    }
}

/// A temperature where it multiplies a term, else 1.
#[cube]
fn factor_if(#[comptime] multiplies: bool, temperature: f32) -> f32 {
    let mut factor = f32::new(1.0);
    if comptime!(multiplies) {
        factor = temperature;
    }
    factor
}

/// The factors of a row's content, of its log-weights and of its prior over keys.
#[cube]
pub(super) fn factors(
    temperature: &Tensor<f32>,
    batch_head: usize,
    heads: usize,
    row: usize,
    rows: usize,
    of: &Numbers,
    #[comptime] rules: Rules,
) -> (f32, f32, f32) {
    let mut tau = f32::new(1.0);
    let mut content = of.scale;
    if comptime!(rules.has_temperature()) {
        tau = temperature[row_of_temperature(temperature, batch_head, heads, row, rows)];
        content = tau * of.scale;
    }
    (
        content,
        factor_if(rules.scales_prior(), tau),
        factor_if(rules.scales_keys(), tau),
    )
}

/// The place of a row's temperature, which may be one for all batch rows: `batch_head` counts through
/// batch and heads.
#[cube]
fn row_of_temperature(
    temperature: &Tensor<f32>,
    batch_head: usize,
    heads: usize,
    row: usize,
    rows: usize,
) -> usize {
    let mut of = batch_head;
    if temperature.shape(0) == 1 {
        of = batch_head % heads;
    }
    of * rows + row
}

/// Smallest and largest log-weight of every [`GRAIN`] lags, `[heads, blocks, 2]`, by one unit each.
#[cube(launch_unchecked)]
pub(super) fn prior_ranges(ln_weights: &Tensor<f32>, ranges: &mut Tensor<f32>) {
    let at = ABSOLUTE_POS;
    if at < ranges.len() / 2 {
        let lags = ln_weights.shape(1);
        let blocks = ranges.shape(1);
        let first = at % blocks * GRAIN;
        let base = at / blocks * lags;
        let mut low = ln_weights[base + first];
        let mut high = low;
        for column in first..min(first + GRAIN, lags) {
            let w = ln_weights[base + column];
            low = select(w < low || w != w, w, low);
            high = select(w > high || w != w, w, high);
        }
        // A range that is none bounds nothing: its tiles are never left out.
        let none = low != low || high != high;
        ranges[at * 2] = select(none, f32::new(-BIG), low);
        ranges[at * 2 + 1] = select(none, f32::new(BIG), high);
    }
}

/// An upper bound of the logits between rows and keys whose lags are `first..=last`, rounding included;
/// the keys are of that grain and read that head of a prior over keys.
#[cube]
pub(super) fn bound(
    of_rows: &Tensor<f32>,
    rows_at: usize,
    norm: f32,
    ranges: &Tensor<f32>,
    head: usize,
    lags: i32,
    first: i32,
    last: i32,
    key_ranges: &Tensor<Pair>,
    prior_head: usize,
    grain: usize,
    #[comptime] rules: Rules,
) -> f32 {
    let blocks = ranges.shape(1);
    let from = clamp(first, 0, lags - 1) as usize / GRAIN;
    let to = clamp(last, 0, lags - 1) as usize / GRAIN;
    let mut low = f32::new(BIG);
    let mut high = f32::new(-BIG);
    for range in from..to + 1 {
        low = min(low, ranges[(head * blocks + range) * 2]);
        high = max(high, ranges[(head * blocks + range) * 2 + 1]);
    }
    let least = of_rows[rows_at * OF_ROWS + 1];
    let most = of_rows[rows_at * OF_ROWS + 2];
    let content = of_rows[rows_at * OF_ROWS] * norm;
    let mut prior = largest_product(least, most, low, high);
    let mut size = content + prior.abs();
    if comptime!(rules.has_key_prior()) {
        let by_key = key_bound(of_rows, rows_at, key_ranges, prior_head, grain);
        prior += by_key;
        size += by_key.abs();
    }
    content + prior + size * 2e-6
}

/// An upper bound of what the prior over keys adds to the logits between a block of rows and the keys of a grain.
#[cube]
fn key_bound(
    of_rows: &Tensor<f32>,
    rows_at: usize,
    ranges: &Tensor<Pair>,
    prior_head: usize,
    grain: usize,
) -> f32 {
    let at = rows_at * OF_ROWS + 4;
    let smallest = pair(of_rows[at + 2], of_rows[at + 3]);
    let largest = pair(of_rows[at + 4], of_rows[at + 5]);
    let of_keys = (prior_head * ranges.shape(2) + grain) * 2;
    let least = difference(ranges[of_keys], largest);
    let most = difference(ranges[of_keys + 1], smallest);
    largest_product(of_rows[at], of_rows[at + 1], least, most)
}

/// The largest product of a number of one range and a number of another: that of two ends.
#[cube]
fn largest_product(low: f32, high: f32, least: f32, most: f32) -> f32 {
    max(max(low * least, low * most), max(high * least, high * most))
}

/// Whether a tile of so many columns can be left out of so many: `least` is a lower bound, over the
/// rows, of the largest logit so far, or of `ln evidence`. Bounds that are no numbers leave nothing out.
#[cube]
pub(super) fn negligible(
    bound: f32,
    least: f32,
    tiles: f32,
    columns: f32,
    of: &Numbers,
    #[comptime] rules: Rules,
) -> bool {
    if comptime!(rules.is_certified()) {
        // Every tile may hold its share of epsilon, less the rounding of the evidence.
        bound - least + columns.ln() <= of.ln_epsilon - tiles.ln() - 1e-3
    } else {
        bound - least < EXACT_ZERO
    }
}
