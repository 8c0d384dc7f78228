//! The forward pass: tiles of keys stream past a block of rows; few rows against many keys are split
//! over the keys and merged.

use super::bounds::{BIG, GRAIN, bound, factors, negligible};
use super::by_key::load_pairs;
use super::log::{Counts, OF_LOG};
use super::pairs::{Pair, difference, prior_head};
use super::rules::{Numbers, PADDING, Rules, keys_in_sight, sees, shares};
use super::tiling::Tiling;
use super::units::{Units, span};
use super::window::load_window;
use bam_kernel::LN_SMALLEST_WEIGHT;
use cubecl::prelude::*;

/// The logit of a key that a row does not see.
const HIDDEN: f32 = -BIG;

/// One cube a block of rows (x), batch row and head (y), and split of the keys (z).
#[cube(launch_unchecked)]
pub(super) fn forward<F: Float, N: Size, U: Units>(
    q: &Tensor<Vector<F, N>>,
    k: &Tensor<Vector<F, N>>,
    v: &Tensor<Vector<F, N>>,
    ln_weights: &Tensor<f32>,
    temperature: &Tensor<f32>,
    key_pairs: &Tensor<Pair>,
    references: &Tensor<Pair>,
    query_ids: &Tensor<i32>,
    key_ids: &Tensor<i32>,
    row_bounds: &Tensor<f32>,
    key_norms: &Tensor<f32>,
    ranges: &Tensor<f32>,
    key_ranges: &Tensor<Pair>,
    out: &mut Tensor<f32>,
    ln_evidence: &mut Tensor<f32>,
    log: &mut Tensor<f32>,
    of: &Numbers,
    #[comptime] t: Tiling,
    #[comptime] rules: Rules,
    #[define(F)] _dtype: ElemType,
) {
    let block = CUBE_POS_X as usize;
    let batch_head = CUBE_POS_Y as usize;
    let split = CUBE_POS_Z as usize;
    let splits = CUBE_COUNT_Z as usize;
    let heads = q.shape(1);
    let (rows, keys) = (q.shape(2), k.shape(2));
    let (batch, head) = (batch_head / heads, batch_head % heads);
    let key_head = head / (heads / k.shape(1));
    let first_row = block * t.rows;
    let end_row = min(first_row + t.rows, rows);
    let by_key = prior_head(key_pairs, batch, head, heads, rules);
    let of_rows = span::<F, N>(q, batch, head, first_row);

    let held = comptime!(t.rows_held());
    let columns = comptime!(t.columns_held());
    let outs = comptime!(t.out_held());
    let mut memory = U::memory(t);
    let mut window = Shared::<[f32]>::new_slice(comptime!(t.lags()));
    let mut told = Shared::<[f32]>::new_slice(comptime!(t.told()));
    let mut verdicts = Shared::<[u32]>::new_slice(comptime!(t.units()));
    let mut pairs = Shared::<[Pair]>::new_slice(comptime!(t.keyed(rules.has_key_prior())));

    let mut of_content = Array::<f32>::new(held);
    let mut of_prior = Array::<f32>::new(held);
    let mut of_key_prior = Array::<f32>::new(held);
    let mut reference = Array::<Pair>::new(held);
    let mut ids = Array::<i32>::new(held);
    let mut largest = Array::<f32>::new(held);
    let mut evidence = Array::<f32>::new(held);
    let mut keep = Array::<f32>::new(held);
    let mut most = Array::<f32>::new(held);
    let mut scores = Array::<f32>::new(comptime!(held * columns));
    let mut sums = Array::<f32>::new(comptime!(held * outs));
    #[unroll(t.unroll)]
    for i in 0..held {
        let row = min(first_row + U::row(i, t), rows - 1);
        largest[i] = HIDDEN;
        evidence[i] = 0.0f32;
        let (content, prior, key_prior) =
            factors(temperature, batch_head, heads, row, rows, of, rules);
        of_content[i] = content;
        of_prior[i] = prior;
        if comptime!(rules.has_key_prior()) {
            of_key_prior[i] = key_prior;
            reference[i] = references[by_key * rows + row];
        }
        if comptime!(rules.documents) {
            ids[i] = query_ids[batch * rows + row];
        }
    }
    #[unroll(t.unroll)]
    for i in 0..comptime!(held * outs) {
        sums[i] = 0.0f32;
    }

    U::keep::<F, N>(q, &of_rows, 0usize, &mut memory, t);

    // Nearest tiles first: from the last row's own backwards, then what lies after it.
    let (from, to) = keys_in_sight(first_row as i32, end_row as i32, keys as i32, of, rules);
    let from = max(from, 0) as usize / t.columns;
    let to = (max(to, 0) as usize + comptime!(t.columns - 1)) / t.columns;
    let own = (of.offset as usize + end_row - 1) / t.columns;
    let own = min(max(own, from), max(to, 1) - 1);
    let visits = (max(to, from) - from + splits - 1 - split) / splits;
    let tiles = (max(to, from) - from) as f32;

    let mut counts = Counts::none();
    // The first visit tells what the others are measured by.
    let mut start = 0usize.runtime();
    let mut end = min(visits, 1usize);
    while start < visits {
        if comptime!(rules.judges()) {
            let mut least = f32::new(-BIG);
            if comptime!(rules.skips()) {
                least = least_so_far::<U>(
                    &largest,
                    &evidence,
                    &ids,
                    &mut memory,
                    &mut told,
                    first_row,
                    end_row,
                    t,
                    rules,
                );
            }
            let visit = start + UNIT_POS as usize;
            let mut verdict = 0u32.runtime();
            if visit < end {
                let tile = tile_of(visit * splits + split, own, from);
                if comptime!(rules.documents) {
                    if !meets(
                        query_ids,
                        batch * rows + first_row,
                        batch * rows + end_row,
                        key_ids,
                        batch * keys + tile * t.columns,
                        batch * keys + min((tile + 1) * t.columns, keys),
                    ) {
                        verdict = 2u32;
                    }
                }
                if verdict == 0u32 {
                    counts.seen += 1.0f32;
                }
                if comptime!(rules.skips()) {
                    if verdict == 0u32 {
                        let lag =
                            (tile * t.columns) as i32 - of.offset - first_row as i32 - of.first_lag;
                        let norms = key_norms.shape(2);
                        let upper = bound(
                            row_bounds,
                            batch_head * row_bounds.shape(2) + first_row / GRAIN,
                            key_norms[(batch * k.shape(1) + key_head) * norms
                                + tile * t.columns / GRAIN],
                            ranges,
                            head,
                            ln_weights.shape(1) as i32,
                            lag - comptime!(t.rows as i32 - 1),
                            lag + comptime!(t.columns as i32 - 1),
                            key_ranges,
                            by_key,
                            tile * t.columns / GRAIN,
                            rules,
                        );
                        if negligible(upper, least, tiles, comptime!(t.columns as f32), of, rules) {
                            verdict = 1u32;
                            counts.left_out += 1.0f32;
                            counts.dropped += (upper - least).exp() * comptime!(t.columns as f32);
                        }
                    }
                }
            }
            sync_cube();
            verdicts[UNIT_POS as usize] = verdict;
            sync_cube();
        }
        for visit in start..end {
            let mut wanted = true;
            if comptime!(rules.judges()) {
                wanted = verdicts[visit - start] == 0u32;
            }
            if wanted {
                let first_key = tile_of(visit * splits + split, own, from) * t.columns;
                let of_tile = span::<F, N>(k, batch, key_head, first_key);
                let of_values = span::<F, N>(v, batch, key_head, first_key);
                let lag = first_key as i32 - of.offset - first_row as i32;
                sync_cube();
                load_window(
                    ln_weights,
                    head,
                    lag - comptime!(t.rows as i32 - 1),
                    of.first_lag,
                    &mut window,
                    t,
                );
                if comptime!(rules.has_key_prior()) {
                    load_pairs(key_pairs, by_key, first_key, &mut pairs, t);
                }
                U::bring::<F, N>(k, &of_tile, 0usize, &mut memory, t);
                U::bring::<F, N>(v, &of_values, 1usize, &mut memory, t);
                U::ready();
                U::products::<F, N>(
                    q,
                    &of_rows,
                    k,
                    &of_tile,
                    0usize,
                    &mut memory,
                    &mut scores,
                    t,
                );
                #[unroll(t.unroll)]
                for i in 0..held {
                    let row = U::row(i, t);
                    most[i] = largest[i];
                    #[unroll(t.unroll)]
                    for j in 0..columns {
                        let column = U::column(j, t);
                        let w = window[column + comptime!(t.rows - 1) - row];
                        let mut logit = of_content[i] * scores[i * columns + j] + of_prior[i] * w;
                        if comptime!(rules.has_key_prior()) {
                            logit += of_key_prior[i] * difference(pairs[column], reference[i]);
                        }
                        let mut seen = first_key + column < keys
                            && sees(lag + column as i32 - row as i32, of, rules);
                        if comptime!(rules.documents) {
                            let key = min(first_key + column, keys - 1);
                            seen = seen && shares(ids[i], key_ids[batch * keys + key]);
                        }
                        if !seen {
                            logit = HIDDEN;
                        }
                        scores[i * columns + j] = logit;
                        most[i] = max(most[i], logit);
                    }
                }
                U::largest_across(&mut most, &mut memory, t);
                #[unroll(t.unroll)]
                for i in 0..held {
                    keep[i] = weight(largest[i], most[i]);
                    largest[i] = most[i];
                    let mut sum = f32::new(0.0);
                    #[unroll(t.unroll)]
                    for j in 0..columns {
                        let p = weight(scores[i * columns + j], most[i]);
                        scores[i * columns + j] = p;
                        sum += p;
                    }
                    evidence[i] = evidence[i] * keep[i] + sum;
                }
                U::mix::<F, N>(
                    &scores,
                    v,
                    &of_values,
                    1usize,
                    &keep,
                    &mut sums,
                    &mut memory,
                    t,
                );
            }
        }
        start = end;
        end = min(visits, end + comptime!(t.units()));
    }

    U::sum_across(&mut evidence, &mut memory, t);
    let part = split * (CUBE_COUNT_Y as usize) + batch_head;
    #[unroll(t.unroll)]
    for i in 0..held {
        let row = first_row + U::row(i, t);
        if row < rows {
            let found = evidence[i] > 0.0;
            let share = select(found, 1.0 / evidence[i], 0.0);
            if U::leads(t) {
                // No evidence: going back, every weight is then 0.
                ln_evidence[part * rows + row] =
                    select(found, largest[i] + evidence[i].ln(), f32::new(BIG));
            }
            #[unroll(t.unroll)]
            for e in 0..outs {
                let column = U::column(e, t);
                if column < q.shape(3) {
                    out[(part * rows + row) * q.shape(3) + column] = sums[i * outs + e] * share;
                }
            }
        }
    }
    if comptime!(rules.counts) {
        let at = (part * CUBE_COUNT_X as usize + block) * OF_LOG;
        counts.write(log, at, &mut told, t);
    }
}

/// The tile of a visit: from `own` down to `from`, then up from `own`.
#[cube]
fn tile_of(visit: usize, own: usize, from: usize) -> usize {
    let down = own - from + 1;
    let mut tile = visit + from;
    if visit < down {
        tile = own - visit;
    }
    tile
}

/// `exp(logit − largest)`, exactly 0 far below.
#[cube]
pub(super) fn weight(logit: f32, largest: f32) -> f32 {
    // A row that has seen nothing is shifted by nothing.
    let x = logit - select(largest <= HIDDEN, 0.0, largest);
    select(x < LN_SMALLEST_WEIGHT as f32, 0.0, x.exp())
}

/// A lower bound over the rows of the block that may see a key: of the largest logit, or of
/// `ln evidence` where the share is certified.
#[cube]
fn least_so_far<U: Units>(
    largest: &Array<f32>,
    evidence: &Array<f32>,
    ids: &Array<i32>,
    memory: &mut U::Memory,
    told: &mut Shared<[f32]>,
    first_row: usize,
    end_row: usize,
    #[comptime] t: Tiling,
    #[comptime] rules: Rules,
) -> f32 {
    let held = comptime!(t.rows_held());
    let mut found = Array::<f32>::new(held);
    if comptime!(rules.is_certified()) {
        #[unroll(t.unroll)]
        for i in 0..held {
            found[i] = evidence[i];
        }
        U::sum_across(&mut found, memory, t);
        #[unroll(t.unroll)]
        for i in 0..held {
            found[i] = select(found[i] > 0.0, largest[i] + found[i].ln(), f32::new(HIDDEN));
        }
    } else {
        #[unroll(t.unroll)]
        for i in 0..held {
            found[i] = largest[i];
        }
    }
    let mut least = f32::new(BIG);
    #[unroll(t.unroll)]
    for i in 0..held {
        let mut counts = first_row + U::row(i, t) < end_row;
        if comptime!(rules.documents) {
            counts = counts && ids[i] != i32::new(PADDING);
        }
        least = select(counts, min(least, found[i]), least);
    }
    sync_cube();
    told[UNIT_POS as usize] = least;
    sync_cube();
    for unit in 0..comptime!(t.units()) {
        least = min(least, told[unit]);
    }
    least
}

/// Whether some queries may share a document with some keys.
#[cube]
pub(super) fn meets(
    query_ids: &Tensor<i32>,
    first_query: usize,
    end_query: usize,
    key_ids: &Tensor<i32>,
    first_key: usize,
    end_key: usize,
) -> bool {
    let (low, high) = range_of_ids(query_ids, first_query, end_query);
    let (key_low, key_high) = range_of_ids(key_ids, first_key, end_key);
    key_low <= high && low <= key_high
}

/// Smallest and largest document among tokens; an empty range where all are padding.
#[cube]
fn range_of_ids(ids: &Tensor<i32>, from: usize, to: usize) -> (i32, i32) {
    let mut low = i32::new(i32::MAX as i64);
    let mut high = i32::new(PADDING);
    for at in from..to {
        let id = ids[at];
        if id != i32::new(PADDING) {
            low = min(low, id);
            high = max(high, id);
        }
    }
    (low, high)
}

/// Merges the splits of every row by their evidence, one unit a number of the output.
#[cube(launch_unchecked)]
pub(super) fn merge(
    parts: &Tensor<f32>,
    of_parts: &Tensor<f32>,
    out: &mut Tensor<f32>,
    ln_evidence: &mut Tensor<f32>,
    dim: usize,
) {
    let at = ABSOLUTE_POS;
    if at < out.len() {
        let row = at / dim;
        let rows = ln_evidence.len();
        let splits = of_parts.len() / rows;
        let mut largest = f32::new(HIDDEN);
        for split in 0..splits {
            let one = of_parts[split * rows + row];
            largest = select(one < BIG, max(largest, one), largest);
        }
        let mut evidence = f32::new(0.0);
        let mut sum = f32::new(0.0);
        for split in 0..splits {
            let one = of_parts[split * rows + row];
            let share = select(one < BIG, weight(one, largest), 0.0);
            evidence += share;
            sum += share * parts[split * out.len() + at];
        }
        let found = evidence > 0.0;
        out[at] = select(found, sum / evidence, 0.0);
        if at % dim == 0 {
            ln_evidence[row] = select(found, largest + evidence.ln(), f32::new(BIG));
        }
    }
}
