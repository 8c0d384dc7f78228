//! The backward pass over keys: `dk`, `dv` and the gradient of a prior over keys, all summed over the queries that see a
//! key.

use super::bounds::{GRAIN, OF_ROWS, bound, factors, negligible};
use super::forward::{meets, weight};
use super::pairs::{Pair, difference, prior_head};
use super::rules::{Numbers, Rules, rows_in_sight, sees, shares};
use super::tiling::Tiling;
use super::units::{Units, span};
use super::window::load_window;
use cubecl::prelude::*;

/// One cube a block of keys (x), and batch row and key head (y). The block's rows are keys here, a
/// tile's columns queries.
#[cube(launch_unchecked)]
pub(super) fn by_keys<F: Float, N: Size, U: Units>(
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
    d_k: &mut Tensor<f32>,
    d_v: &mut Tensor<f32>,
    d_key_prior: &mut Tensor<f32>,
    of: &Numbers,
    #[comptime] t: Tiling,
    #[comptime] rules: Rules,
    #[define(F)] _dtype: ElemType,
) {
    let block = CUBE_POS_X as usize;
    let heads = q.shape(1);
    let key_heads = k.shape(1);
    let group = heads / key_heads;
    let (rows, keys) = (q.shape(2), k.shape(2));
    let batch = CUBE_POS_Y as usize / key_heads;
    let key_head = CUBE_POS_Y as usize % key_heads;
    let lags = ln_weights.shape(1) as i32;
    let first_key = block * t.rows;
    let end_key = min(first_key + t.rows, keys);
    let of_keys = span::<F, N>(k, batch, key_head, first_key);
    let of_values = span::<F, N>(v, batch, key_head, first_key);

    let held = comptime!(t.rows_held());
    let columns = comptime!(t.columns_held());
    let outs = comptime!(t.out_held());
    let mut memory = U::memory(t);
    let mut window = Shared::<[f32]>::new_slice(comptime!(t.lags()));
    let mut verdicts = Shared::<[u32]>::new_slice(comptime!(t.units()));
    let mut of_content = Shared::<[f32]>::new_slice(t.columns);
    let mut of_prior = Shared::<[f32]>::new_slice(t.columns);
    let keyed = comptime!(t.keyed(rules.has_key_prior()));
    let mut of_key_prior = Shared::<[f32]>::new_slice(keyed);
    let mut reference = Shared::<[Pair]>::new_slice(keyed);
    let mut evidence = Shared::<[f32]>::new_slice(t.columns);
    let mut delta = Shared::<[f32]>::new_slice(t.columns);
    let mut weights = Array::<f32>::new(comptime!(held * columns));
    let mut mixed = Array::<f32>::new(comptime!(held * columns));
    let mut keep = Array::<f32>::new(held);
    let mut ids = Array::<i32>::new(held);
    let mut pairs = Array::<Pair>::new(held);
    let mut sums_u = Array::<f32>::new(held);
    let mut sums_k = Array::<f32>::new(comptime!(held * outs));
    let mut sums_v = Array::<f32>::new(comptime!(held * outs));
    U::keep::<F, N>(k, &of_keys, 0usize, &mut memory, t);
    U::keep::<F, N>(v, &of_values, 1usize, &mut memory, t);
    #[unroll(t.unroll)]
    for i in 0..held {
        keep[i] = 1.0f32;
        sums_u[i] = 0.0f32;
        if comptime!(rules.documents) {
            ids[i] = key_ids[batch * keys + min(first_key + U::row(i, t), keys - 1)];
        }
    }
    #[unroll(t.unroll)]
    for i in 0..comptime!(held * outs) {
        sums_k[i] = 0.0f32;
        sums_v[i] = 0.0f32;
    }

    let (from, to) = rows_in_sight(first_key as i32, end_key as i32, rows as i32, of, rules);
    let from = max(from, 0) as usize / t.columns;
    let to = (max(to, 0) as usize + comptime!(t.columns - 1)) / t.columns;
    let tiles = max(to, from) - from;
    // The tiles of all the query heads that share these keys, one head after the other.
    let mut start = 0usize.runtime();
    while start < tiles * group {
        let end = min(tiles * group, start + comptime!(t.units()));
        if comptime!(rules.judges()) {
            let mut verdict = 0u32.runtime();
            let visit = start + UNIT_POS as usize;
            if visit < end {
                let head = key_head * group + visit / tiles;
                let tile = from + visit % tiles;
                if comptime!(rules.documents) {
                    if !meets(
                        query_ids,
                        batch * rows + tile * t.columns,
                        batch * rows + min((tile + 1) * t.columns, rows),
                        key_ids,
                        batch * keys + first_key,
                        batch * keys + end_key,
                    ) {
                        verdict = 1u32;
                    }
                }
                if comptime!(rules.skips()) {
                    let lag =
                        first_key as i32 - of.offset - (tile * t.columns) as i32 - of.first_lag;
                    let at =
                        (batch * heads + head) * row_bounds.shape(2) + tile * t.columns / GRAIN;
                    let upper = bound(
                        row_bounds,
                        at,
                        key_norms[(batch * key_heads + key_head) * key_norms.shape(2)
                            + first_key / GRAIN],
                        ranges,
                        head,
                        lags,
                        lag - comptime!(t.columns as i32 - 1),
                        lag + comptime!(t.rows as i32 - 1),
                        key_ranges,
                        prior_head(key_ranges, batch, head, heads, rules),
                        first_key / GRAIN,
                        rules,
                    );
                    let blocks = CUBE_COUNT_X as f32;
                    let width = comptime!(t.rows as f32);
                    let least = row_bounds[at * OF_ROWS + 3];
                    if negligible(upper, least, blocks, width, of, rules) {
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
                let head = key_head * group + visit / tiles;
                let batch_head = batch * heads + head;
                let first_row = (from + visit % tiles) * t.columns;
                let of_rows = span::<F, N>(q, batch, head, first_row);
                let of_gradient = span::<F, N>(gradient, batch, head, first_row);
                let lag = first_key as i32 - of.offset - first_row as i32;
                let first_lag = lag - comptime!(t.columns as i32 - 1);
                let by_key = prior_head(key_pairs, batch, head, heads, rules);
                sync_cube();
                load_window(ln_weights, head, first_lag, of.first_lag, &mut window, t);
                U::bring::<F, N>(q, &of_rows, 0usize, &mut memory, t);
                U::bring::<F, N>(gradient, &of_gradient, 1usize, &mut memory, t);
                let mut e = UNIT_POS as usize;
                while e < t.columns {
                    let row = min(first_row + e, rows - 1);
                    let (content, prior, key_prior) =
                        factors(temperature, batch_head, heads, row, rows, of, rules);
                    of_content[e] = content;
                    of_prior[e] = prior;
                    if comptime!(rules.has_key_prior()) {
                        of_key_prior[e] = key_prior;
                        reference[e] = references[by_key * rows + row];
                    }
                    evidence[e] = ln_evidence[batch_head * rows + row];
                    delta[e] = deltas[batch_head * rows + row];
                    e += comptime!(t.units());
                }
                U::ready();
                U::products::<F, N>(
                    k,
                    &of_keys,
                    q,
                    &of_rows,
                    0usize,
                    &mut memory,
                    &mut weights,
                    t,
                );
                U::products::<F, N>(
                    v,
                    &of_values,
                    gradient,
                    &of_gradient,
                    1usize,
                    &mut memory,
                    &mut mixed,
                    t,
                );
                if comptime!(rules.has_key_prior()) {
                    #[unroll(t.unroll)]
                    for i in 0..held {
                        let key = min(first_key + U::row(i, t), keys - 1);
                        pairs[i] = key_pairs[by_key * keys + key];
                    }
                }
                #[unroll(t.unroll)]
                for i in 0..held {
                    let key = U::row(i, t);
                    let mut sum_u = f32::new(0.0);
                    #[unroll(t.unroll)]
                    for j in 0..columns {
                        let row = U::column(j, t);
                        let at = i * columns + j;
                        let w = window[key + comptime!(t.columns - 1) - row];
                        let mut logit = of_content[row] * weights[at] + of_prior[row] * w;
                        if comptime!(rules.has_key_prior()) {
                            logit += of_key_prior[row] * difference(pairs[i], reference[row]);
                        }
                        let mut seen = first_row + row < rows
                            && first_key + key < keys
                            && sees(lag + key as i32 - row as i32, of, rules);
                        if comptime!(rules.documents) {
                            let query = min(first_row + row, rows - 1);
                            seen = seen && shares(query_ids[batch * rows + query], ids[i]);
                        }
                        let mut p = f32::new(0.0);
                        if seen {
                            p = weight(logit, evidence[row]);
                        }
                        weights[at] = p;
                        let d_logit = p * (mixed[at] - delta[row]);
                        mixed[at] = d_logit * of_content[row];
                        if comptime!(rules.has_key_prior()) {
                            sum_u += d_logit * of_key_prior[row];
                        }
                    }
                    sums_u[i] += sum_u;
                }
                U::mix::<F, N>(
                    &weights,
                    gradient,
                    &of_gradient,
                    1usize,
                    &keep,
                    &mut sums_v,
                    &mut memory,
                    t,
                );
                sync_cube();
                U::mix::<F, N>(
                    &mixed,
                    q,
                    &of_rows,
                    0usize,
                    &keep,
                    &mut sums_k,
                    &mut memory,
                    t,
                );
            }
            // A prior may differ between the heads that share keys.
            if comptime!(rules.has_key_prior()) {
                if visit % tiles == tiles - 1 {
                    let batch_head = batch * heads + key_head * group + visit / tiles;
                    sync_cube();
                    U::sum_across(&mut sums_u, &mut memory, t);
                    #[unroll(t.unroll)]
                    for i in 0..held {
                        let key = first_key + U::row(i, t);
                        if key < keys && U::leads(t) {
                            d_key_prior[batch_head * keys + key] = sums_u[i];
                        }
                        sums_u[i] = 0.0f32;
                    }
                }
            }
        }
        start = end;
    }
    #[unroll(t.unroll)]
    for i in 0..held {
        let key = first_key + U::row(i, t);
        #[unroll(t.unroll)]
        for e in 0..outs {
            let column = U::column(e, t);
            if key < keys && column < k.shape(3) {
                let at = (CUBE_POS_Y as usize * keys + key) * k.shape(3) + column;
                d_k[at] = sums_k[i * outs + e];
                d_v[at] = sums_v[i * outs + e];
            }
        }
    }
}
