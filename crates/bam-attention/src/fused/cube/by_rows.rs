//! The backward pass over rows: `dq`, `dτ` and the diagonals of `dlogit`, which are the gradient of the
//! log-weights. Weights are recomputed from the saved evidence.

use super::bounds::{GRAIN, OF_ROWS, bound, factors, negligible};
use super::by_key::load_pairs;
use super::forward::{meets, weight};
use super::log::{Counts, OF_LOG};
use super::pairs::{Pair, difference, prior_head};
use super::rules::{Numbers, Rules, keys_in_sight, sees, shares};
use super::tiling::Tiling;
use super::units::{Span, Units, number, span};
use super::window::load_window;
use cubecl::prelude::*;

/// One cube a segment of rows (x), and batch row and head (y). The blocks of a causal head differ in
/// work, so segments take turns at them, there and back.
#[cube(launch_unchecked)]
pub(super) fn by_rows<F: Float, N: Size, U: Units>(
    q: &Tensor<Vector<F, N>>,
    k: &Tensor<Vector<F, N>>,
    v: &Tensor<Vector<F, N>>,
    gradient: &Tensor<Vector<F, N>>,
    ln_weights: &Tensor<f32>,
    temperature: &Tensor<f32>,
    key_pairs: &Tensor<Pair>,
    references: &Tensor<Pair>,
    query_ids: &Tensor<i32>,
    key_ids: &Tensor<i32>,
    ln_evidence: &Tensor<f32>,
    deltas: &Tensor<f32>,
    row_bounds: &Tensor<f32>,
    key_norms: &Tensor<f32>,
    ranges: &Tensor<f32>,
    key_ranges: &Tensor<Pair>,
    d_q: &mut Tensor<f32>,
    d_temperature: &mut Tensor<f32>,
    d_ln_weights: &mut Tensor<f32>,
    log: &mut Tensor<f32>,
    of: &Numbers,
    #[comptime] t: Tiling,
    #[comptime] rules: Rules,
    #[define(F)] _dtype: ElemType,
) {
    let segment = CUBE_POS_X as usize;
    let segments = CUBE_COUNT_X as usize;
    let batch_head = CUBE_POS_Y as usize;
    let heads = q.shape(1);
    let (rows, keys) = (q.shape(2), k.shape(2));
    let (batch, head) = (batch_head / heads, batch_head % heads);
    let key_head = head / (heads / k.shape(1));
    let lags = ln_weights.shape(1);
    let diagonals = (batch_head * segments + segment) * lags;
    let blocks = (rows + comptime!(t.rows - 1)) / t.rows;
    let by_key = prior_head(key_pairs, batch, head, heads, rules);

    let held = comptime!(t.rows_held());
    let columns = comptime!(t.columns_held());
    let outs = comptime!(t.out_held());
    let mut memory = U::memory(t);
    let mut window = Shared::<[f32]>::new_slice(comptime!(t.lags()));
    let mut verdicts = Shared::<[u32]>::new_slice(comptime!(t.units()));
    let mut told = Shared::<[f32]>::new_slice(comptime!(t.told()));
    let mut prior_factors = Shared::<[f32]>::new_slice(t.rows);
    let mut pairs = Shared::<[Pair]>::new_slice(comptime!(t.keyed(rules.has_key_prior())));

    let mut of_content = Array::<f32>::new(held);
    let mut of_prior = Array::<f32>::new(held);
    let mut of_key_prior = Array::<f32>::new(held);
    let mut reference = Array::<Pair>::new(held);
    let mut ids = Array::<i32>::new(held);
    let mut evidence = Array::<f32>::new(held);
    let mut delta = Array::<f32>::new(held);
    let mut d_scaled = Array::<f32>::new(held);
    let mut keep = Array::<f32>::new(held);
    let mut weights = Array::<f32>::new(comptime!(held * columns));
    let mut mixed = Array::<f32>::new(comptime!(held * columns));
    let mut sums = Array::<f32>::new(comptime!(held * outs));

    // A unit owns every `units`-th lag.
    let mut column = UNIT_POS as usize;
    while column < lags {
        d_ln_weights[diagonals + column] = 0.0;
        column += comptime!(t.units());
    }
    for turn in 0..(blocks + segments - 1) / segments {
        let mut block = turn * segments + segment;
        if turn % 2 == 1 {
            block = (turn + 1) * segments - (segment + 1);
        }
        if block < blocks {
            let first_row = block * t.rows;
            let end_row = min(first_row + t.rows, rows);
            let of_rows = span::<F, N>(q, batch, head, first_row);
            let of_gradient = span::<F, N>(gradient, batch, head, first_row);
            sync_cube();
            U::keep::<F, N>(q, &of_rows, 0usize, &mut memory, t);
            U::keep::<F, N>(gradient, &of_gradient, 1usize, &mut memory, t);
            #[unroll(t.unroll)]
            for i in 0..held {
                let row = min(first_row + U::row(i, t), rows - 1);
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
                evidence[i] = ln_evidence[batch_head * rows + row];
                delta[i] = deltas[batch_head * rows + row];
                d_scaled[i] = 0.0f32;
                keep[i] = 1.0f32;
                prior_factors[U::row(i, t)] = of_prior[i];
            }
            #[unroll(t.unroll)]
            for i in 0..comptime!(held * outs) {
                sums[i] = 0.0f32;
            }
            let (from, to) =
                keys_in_sight(first_row as i32, end_row as i32, keys as i32, of, rules);
            let from = max(from, 0) as usize / t.columns;
            let to = (max(to, 0) as usize + comptime!(t.columns - 1)) / t.columns;
            let tiles = max(to, from) - from;
            let mut counts = Counts::none();
            let mut start = 0usize.runtime();
            while start < tiles {
                let end = min(tiles, start + comptime!(t.units()));
                if comptime!(rules.judges()) {
                    let mut verdict = 0u32.runtime();
                    let tile = from + start + UNIT_POS as usize;
                    if tile < from + end {
                        if comptime!(rules.documents) {
                            if !meets(
                                query_ids,
                                batch * rows + first_row,
                                batch * rows + end_row,
                                key_ids,
                                batch * keys + tile * t.columns,
                                batch * keys + min((tile + 1) * t.columns, keys),
                            ) {
                                verdict = 1u32;
                            }
                        }
                        if verdict == 0u32 {
                            counts.seen += 1.0f32;
                        }
                        if comptime!(rules.skips()) {
                            let lag = (tile * t.columns) as i32
                                - of.offset
                                - first_row as i32
                                - of.first_lag;
                            let at = batch_head * row_bounds.shape(2) + first_row / GRAIN;
                            let upper = bound(
                                row_bounds,
                                at,
                                key_norms[(batch * k.shape(1) + key_head) * key_norms.shape(2)
                                    + tile * t.columns / GRAIN],
                                ranges,
                                head,
                                lags as i32,
                                lag - comptime!(t.rows as i32 - 1),
                                lag + comptime!(t.columns as i32 - 1),
                                key_ranges,
                                by_key,
                                tile * t.columns / GRAIN,
                                rules,
                            );
                            let least = row_bounds[at * OF_ROWS + 3];
                            if verdict == 0u32
                                && negligible(
                                    upper,
                                    least,
                                    tiles as f32,
                                    comptime!(t.columns as f32),
                                    of,
                                    rules,
                                )
                            {
                                counts.left_out += 1.0f32;
                                counts.dropped +=
                                    (upper - least).exp() * comptime!(t.columns as f32);
                                verdict = 1u32;
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
                        let first_key = (from + visit) * t.columns;
                        let of_keys = span::<F, N>(k, batch, key_head, first_key);
                        let of_values = span::<F, N>(v, batch, key_head, first_key);
                        let lag = first_key as i32 - of.offset - first_row as i32;
                        let first_lag = lag - comptime!(t.rows as i32 - 1);
                        sync_cube();
                        load_window(ln_weights, head, first_lag, of.first_lag, &mut window, t);
                        if comptime!(rules.has_key_prior()) {
                            load_pairs(key_pairs, by_key, first_key, &mut pairs, t);
                        }
                        U::bring::<F, N>(k, &of_keys, 0usize, &mut memory, t);
                        U::bring::<F, N>(v, &of_values, 1usize, &mut memory, t);
                        U::ready();
                        U::products::<F, N>(
                            q,
                            &of_rows,
                            k,
                            &of_keys,
                            0usize,
                            &mut memory,
                            &mut weights,
                            t,
                        );
                        U::products::<F, N>(
                            gradient,
                            &of_gradient,
                            v,
                            &of_values,
                            1usize,
                            &mut memory,
                            &mut mixed,
                            t,
                        );
                        #[unroll(t.unroll)]
                        for i in 0..held {
                            let row = U::row(i, t);
                            #[unroll(t.unroll)]
                            for j in 0..columns {
                                let column = U::column(j, t);
                                let at = i * columns + j;
                                let w = window[column + comptime!(t.rows - 1) - row];
                                let mut logit = of_content[i] * weights[at] + of_prior[i] * w;
                                let mut scaled = f32::new(0.0);
                                if comptime!(rules.scales_prior()) {
                                    scaled = w;
                                }
                                if comptime!(rules.has_key_prior()) {
                                    let u = difference(pairs[column], reference[i]);
                                    logit += of_key_prior[i] * u;
                                    if comptime!(rules.scales_keys()) {
                                        scaled += u;
                                    }
                                }
                                let mut seen = first_key + column < keys
                                    && first_row + row < rows
                                    && sees(lag + column as i32 - row as i32, of, rules);
                                if comptime!(rules.documents) {
                                    let key = min(first_key + column, keys - 1);
                                    seen = seen && shares(ids[i], key_ids[batch * keys + key]);
                                }
                                let mut d_logit = f32::new(0.0);
                                if seen {
                                    d_logit = weight(logit, evidence[i]) * (mixed[at] - delta[i]);
                                }
                                mixed[at] = d_logit;
                                d_scaled[i] += d_logit * scaled;
                            }
                        }
                        U::mix::<F, N>(
                            &mixed,
                            k,
                            &of_keys,
                            0usize,
                            &keep,
                            &mut sums,
                            &mut memory,
                            t,
                        );
                        U::lay_out(&mixed, &mut memory, t);
                        add_diagonals::<U>(
                            &memory,
                            &prior_factors,
                            d_ln_weights,
                            diagonals,
                            first_lag - of.first_lag,
                            lags as i32,
                            t,
                        );
                    }
                }
                start = end;
            }
            if comptime!(rules.counts) {
                let at = (batch_head * blocks + block) * OF_LOG;
                counts.write(log, at, &mut told, t);
            }
            if comptime!(rules.has_temperature()) {
                write_d_temperature::<F, N, U>(
                    q,
                    &of_rows,
                    &sums,
                    &mut d_scaled,
                    d_temperature,
                    batch_head * rows,
                    &mut memory,
                    of,
                    t,
                    rules,
                );
            }
            #[unroll(t.unroll)]
            for i in 0..held {
                let row = first_row + U::row(i, t);
                #[unroll(t.unroll)]
                for e in 0..outs {
                    let column = U::column(e, t);
                    if row < rows && column < q.shape(3) {
                        d_q[(batch_head * rows + row) * q.shape(3) + column] =
                            sums[i * outs + e] * of_content[i];
                    }
                }
            }
        }
    }
}

/// Adds the sums over the diagonals of the fragment in shared memory, each number times its row's
/// factor: `d ln w(lag) += Σ b_i·dlogit_ij`. A lag has one unit for the whole pass, so nobody waits.
#[cube]
fn add_diagonals<U: Units>(
    memory: &U::Memory,
    factors: &Shared<[f32]>,
    d_ln_weights: &mut Tensor<f32>,
    base: usize,
    first: i32,
    lags: i32,
    #[comptime] t: Tiling,
) {
    let units = comptime!(t.units() as i32);
    let mut column = first + ((UNIT_POS as i32 - first) % units + units) % units;
    while column < first + comptime!(t.lags() as i32) {
        if column >= 0 && column < lags {
            let diagonal = (column - first) as usize;
            let from = comptime!(t.rows - 1) - min(diagonal, comptime!(t.rows - 1));
            let to = min(comptime!(t.rows + t.columns - 1) - diagonal, t.rows);
            let mut sum = f32::new(0.0);
            for row in from..to {
                let of_tile = diagonal + row - comptime!(t.rows - 1);
                sum += factors[row] * U::laid_out(row, of_tile, memory, t);
            }
            d_ln_weights[base + column as usize] += sum;
        }
        column += units;
    }
}

/// `dτ_i = Σ_j dlogit_ij·q_i·k_j/√D`, which is `q_i/√D` times the sum that `dq` is made of, and the
/// prior's part where the temperature multiplies that.
#[cube]
fn write_d_temperature<F: Float, N: Size, U: Units>(
    q: &Tensor<Vector<F, N>>,
    of_rows: &Span,
    sums: &Array<f32>,
    d_scaled: &mut Array<f32>,
    d_temperature: &mut Tensor<f32>,
    base: usize,
    memory: &mut U::Memory,
    of: &Numbers,
    #[comptime] t: Tiling,
    #[comptime] rules: Rules,
) {
    let held = comptime!(t.rows_held());
    let outs = comptime!(t.out_held());
    #[unroll(t.unroll)]
    for i in 0..held {
        let row = min(of_rows.first + U::row(i, t), of_rows.end - 1);
        let mut sum = f32::new(0.0);
        #[unroll(t.unroll)]
        for e in 0..outs {
            let column = U::column(e, t);
            if column < q.shape(3) {
                let x = number::<F, N>(q, of_rows.base + row * of_rows.stride + column);
                sum += x * sums[i * outs + e];
            }
        }
        sum *= of.scale;
        if comptime!(rules.scales_prior() || rules.scales_keys()) {
            sum += d_scaled[i];
        }
        d_scaled[i] = sum;
    }
    U::sum_across(d_scaled, memory, t);
    #[unroll(t.unroll)]
    for i in 0..held {
        let row = of_rows.first + U::row(i, t);
        if row < of_rows.end && U::leads(t) {
            d_temperature[base + row] = d_scaled[i];
        }
    }
}
