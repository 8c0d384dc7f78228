//! Backward: the posterior is recomputed tile by tile from the saved evidence.
//!
//! With `p` the posterior, `g` the gradient of the output and `δ_i = g_i·out_i`:
//!
//! ```text
//! dlogit_ij = p_ij (g_i·v_j − δ_i)        dv_j = Σ_i p_ij g_i        dk_j = Σ_i dlogit_ij q̂_i
//! dq̂_i     = Σ_j dlogit_ij k_j           d ln w(d) = Σ over the diagonal j − i = d of τ_i dlogit_ij
//! dτ_i      = Σ_j dlogit_ij (q_i·k_j/√D + ln w(j − i))
//! ```
//!
//! One task per batch row and head, in a fixed order inside; partial sums are added in a fixed
//! order after. So gradients are bitwise the same for any number of threads.

use super::tile::{
    GROUP, KEYS, KeyTile, QueryBlock, accumulate_product, by_row, exp, padded_dim, rows_in_sight,
    tiles,
};
use super::{Inputs, PAD, Rows};
use crate::TemperatureScope;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Rows whose posterior over a tile is held at once.
const ROWS: usize = 64;

/// Gradients, laid out as the operands are.
pub(super) struct Gradients {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub ln_weights: Vec<f32>,
    pub temperature: Vec<f32>,
}

pub(super) fn backward(
    inputs: &Inputs<'_>,
    out: Rows<'_>,
    ln_evidence: &[f32],
    out_gradient: Rows<'_>,
) -> Gradients {
    let (batch, heads, dim) = (inputs.batch, inputs.heads, inputs.dim);
    let (queries, keys, lags) = (inputs.queries(), inputs.keys(), inputs.plan.lags.count());
    let tasks = batch * heads;
    let zeros = |size: usize| vec![0.0; tasks * size];
    let (mut dq, mut dk, mut dv) = (zeros(queries * dim), zeros(keys * dim), zeros(keys * dim));
    let (mut d_ln_weights, mut d_temperature) = (zeros(lags), zeros(queries));
    let arch = Arch::new();
    dq.par_chunks_mut(queries * dim)
        .zip(dk.par_chunks_mut(keys * dim))
        .zip(dv.par_chunks_mut(keys * dim))
        .zip(d_ln_weights.par_chunks_mut(lags))
        .zip(d_temperature.par_chunks_mut(queries))
        .enumerate()
        .for_each(|(index, ((((dq, dk), dv), d_ln_weights), d_temperature))| {
            arch.dispatch(HeadTask {
                inputs,
                batch: index / heads,
                head: index % heads,
                out,
                ln_evidence: &ln_evidence[index * queries..][..queries],
                out_gradient,
                dq,
                dk,
                dv,
                d_ln_weights,
                d_temperature,
            });
        });
    let group = inputs.plan.call.group;
    let key_heads = heads / group;
    let [temperature_batch, temperature_heads, temperature_rows] =
        [(0, batch), (1, heads), (2, queries)].map(|(axis, size)| {
            if inputs.temperature_strides[axis] == 0 {
                1
            } else {
                size
            }
        });
    Gradients {
        q: dq,
        k: sum_axis(dk, batch * key_heads, group, keys * dim),
        v: sum_axis(dv, batch * key_heads, group, keys * dim),
        ln_weights: sum_axis(d_ln_weights, 1, batch, heads * lags),
        temperature: {
            let by_batch = sum_axis(
                d_temperature,
                1,
                batch / temperature_batch,
                batch * heads * queries / (batch / temperature_batch),
            );
            let by_head = sum_axis(
                by_batch,
                temperature_batch,
                heads / temperature_heads,
                temperature_heads * queries,
            );
            sum_axis(
                by_head,
                temperature_batch * temperature_heads,
                queries / temperature_rows,
                temperature_rows,
            )
        },
    }
}

/// Sums the middle axis of `[outer, count, inner]`, in order.
fn sum_axis(values: Vec<f32>, outer: usize, count: usize, inner: usize) -> Vec<f32> {
    if count == 1 {
        return values;
    }
    let mut sums = vec![0.0; outer * inner];
    for (sums, values) in sums
        .chunks_exact_mut(inner)
        .zip(values.chunks_exact(count * inner))
    {
        for part in values.chunks_exact(inner) {
            sums.iter_mut()
                .zip(part)
                .for_each(|(sum, value)| *sum += value);
        }
    }
    sums
}

/// One head of one batch row, with the slices of the gradients that are its own.
struct HeadTask<'a> {
    inputs: &'a Inputs<'a>,
    batch: usize,
    head: usize,
    out: Rows<'a>,
    ln_evidence: &'a [f32],
    out_gradient: Rows<'a>,
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    d_ln_weights: &'a mut [f32],
    d_temperature: &'a mut [f32],
}

/// Sums over all rows of a head, padded as the tiles are.
struct Sums {
    dk: Vec<f32>,
    dv: Vec<f32>,
    d_ln_weights: Vec<f32>,
}

/// A block of rows going back: its queries, the gradient of its output, and its sums over keys.
struct RowBlock {
    queries: QueryBlock,
    out_gradient: Vec<f32>,
    /// `δ`, and `ln evidence`, per row.
    delta: Vec<f32>,
    ln_evidence: Vec<f32>,
    /// Gradient of the scaled queries.
    dq: Vec<f32>,
    /// `Σ_j dlogit_ij ln w(j − i)`.
    prior_sum: Vec<f32>,
}

/// The posterior of a block over a tile and the gradient of its logits, `[ROWS, KEYS]` each.
struct Panels {
    posterior: Vec<f32>,
    d_logits: Vec<f32>,
}

impl WithSimd for HeadTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let inputs = self.inputs;
        let (dim, padded) = (inputs.dim, padded_dim(inputs.dim));
        let padded_keys = inputs.keys().next_multiple_of(KEYS);
        let mut sums = Sums {
            dk: vec![0.0; padded_keys * padded],
            dv: vec![0.0; padded_keys * padded],
            d_ln_weights: vec![0.0; inputs.padded_lags()],
        };
        let (mut keys, mut values) = (KeyTile::new(dim), KeyTile::new(dim));
        let mut panels = Panels {
            posterior: vec![0.0; ROWS * KEYS],
            d_logits: vec![0.0; ROWS * KEYS],
        };
        for first in (0..inputs.queries()).step_by(ROWS) {
            let rows = first..(first + ROWS).min(inputs.queries());
            let mut block = self.row_block(rows.clone());
            for first_key in tiles(inputs, self.batch, rows.clone()) {
                let in_sight = rows_in_sight(inputs, rows.clone(), first_key);
                if in_sight.is_empty() {
                    continue;
                }
                keys.load(first_key, inputs.keys(), |key| {
                    inputs.unless_padding(&inputs.k, self.batch, self.head, key)
                });
                values.load(first_key, inputs.keys(), |key| {
                    inputs.unless_padding(&inputs.v, self.batch, self.head, key)
                });
                block.posterior(simd, inputs, in_sight.clone(), &keys, &values, &mut panels);
                block.add_row_sums(simd, inputs, in_sight.clone(), &keys, &panels, &mut sums);
                block.add_key_sums(simd, in_sight, padded, first_key, &panels, &mut sums);
            }
            self.finish_rows(&block);
        }
        for (sums, out) in [(&sums.dk, &mut self.dk), (&sums.dv, &mut self.dv)] {
            for (out, sum) in out.chunks_exact_mut(dim).zip(sums.chunks_exact(padded)) {
                out.copy_from_slice(&sum[..dim]);
            }
        }
        let lags = self.d_ln_weights.len();
        self.d_ln_weights
            .copy_from_slice(&sums.d_ln_weights[PAD..PAD + lags]);
    }
}

impl HeadTask<'_> {
    fn row_block(&self, rows: Range<usize>) -> RowBlock {
        let inputs = self.inputs;
        let padded = padded_dim(inputs.dim);
        let padded_rows = rows.len().next_multiple_of(GROUP);
        let mut block = RowBlock {
            out_gradient: vec![0.0; padded_rows * padded],
            delta: vec![0.0; padded_rows],
            // Rows past the end see nothing: exp(logit − ∞) = 0.
            ln_evidence: vec![f32::INFINITY; padded_rows],
            dq: vec![0.0; padded_rows * padded],
            prior_sum: vec![0.0; padded_rows],
            queries: QueryBlock::new(inputs, self.batch, self.head, rows.clone()),
        };
        for (r, row) in rows.enumerate() {
            if inputs.is_padding(self.batch, row) {
                continue;
            }
            let gradient = self.out_gradient.row(self.batch, self.head, row);
            let out = self.out.row(self.batch, self.head, row);
            block.out_gradient[r * padded..][..inputs.dim].copy_from_slice(gradient);
            block.delta[r] = gradient.iter().zip(out).map(|(g, o)| g * o).sum();
            block.ln_evidence[r] = self.ln_evidence[row];
        }
        block
    }

    /// From the gradient of `q̂ = τ/√D·q` to those of `q` and `τ`.
    fn finish_rows(&mut self, block: &RowBlock) {
        let inputs = self.inputs;
        let (dim, padded) = (inputs.dim, padded_dim(inputs.dim));
        for (r, row) in block.queries.rows.clone().enumerate() {
            if inputs.is_padding(self.batch, row) {
                continue;
            }
            let dq_scaled = &block.dq[r * padded..][..dim];
            let factor = block.queries.content_factors[r];
            for (dq, scaled) in self.dq[row * dim..][..dim].iter_mut().zip(dq_scaled) {
                *dq = factor * scaled;
            }
            let q = inputs.q.row(self.batch, self.head, row);
            let content: f32 = dq_scaled.iter().zip(q).map(|(dq, q)| dq * q).sum();
            let prior = match inputs.temperature_scope {
                TemperatureScope::Likelihood => 0.0,
                TemperatureScope::LikelihoodAndPrior => block.prior_sum[r],
            };
            self.d_temperature[row] = content * inputs.content_scale() + prior;
        }
    }
}

impl RowBlock {
    /// `p = exp(logit − ln evidence)` and `dlogit = p·(g·v − δ)` of the rows in sight.
    #[inline(always)]
    fn posterior<S: Simd>(
        &self,
        simd: S,
        inputs: &Inputs<'_>,
        in_sight: Range<usize>,
        keys: &KeyTile,
        values: &KeyTile,
        panels: &mut Panels,
    ) {
        let padded = padded_dim(inputs.dim);
        for r0 in in_sight.step_by(GROUP) {
            let posterior = &mut panels.posterior[r0 * KEYS..][..GROUP * KEYS];
            let d_logits = &mut panels.d_logits[r0 * KEYS..][..GROUP * KEYS];
            self.queries.logits(simd, inputs, r0, keys, posterior);
            d_logits.fill(0.0);
            let gradient = by_row(&self.out_gradient[r0 * padded..][..GROUP * padded], padded);
            accumulate_product(simd, gradient, &values.by_dim, KEYS, d_logits);
            for r in 0..GROUP {
                let ln_evidence = simd.splat_f32s(self.ln_evidence[r0 + r]);
                let delta = simd.splat_f32s(self.delta[r0 + r]);
                let (posterior, _) = S::as_mut_simd_f32s(&mut posterior[r * KEYS..][..KEYS]);
                let (d_logits, _) = S::as_mut_simd_f32s(&mut d_logits[r * KEYS..][..KEYS]);
                for (p, d) in posterior.iter_mut().zip(d_logits) {
                    *p = exp(simd, simd.sub_f32s(*p, ln_evidence));
                    *d = simd.mul_f32s(*p, simd.sub_f32s(*d, delta));
                }
            }
        }
    }

    /// Sums along rows: `dq̂`, and along diagonals: `d ln w`.
    #[inline(always)]
    fn add_row_sums<S: Simd>(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        in_sight: Range<usize>,
        keys: &KeyTile,
        panels: &Panels,
        sums: &mut Sums,
    ) {
        let padded = padded_dim(inputs.dim);
        let ln_weights =
            &inputs.ln_weights[self.queries.head * inputs.padded_lags()..][..inputs.padded_lags()];
        for r0 in in_sight.step_by(GROUP) {
            let d_logits = &panels.d_logits[r0 * KEYS..][..GROUP * KEYS];
            let dq = &mut self.dq[r0 * padded..][..GROUP * padded];
            accumulate_product(simd, by_row(d_logits, KEYS), &keys.by_key, padded, dq);
            for r in (r0..r0 + GROUP).take_while(|r| *r < self.queries.rows.len()) {
                let column = inputs.tile_column(self.queries.rows.start + r, keys.first_key);
                let factor = simd.splat_f32s(self.queries.prior_factors[r]);
                let (line, _) = S::as_simd_f32s(&d_logits[(r - r0) * KEYS..][..KEYS]);
                let (weights, _) = S::as_simd_f32s(&ln_weights[column..column + KEYS]);
                let (diagonals, _) =
                    S::as_mut_simd_f32s(&mut sums.d_ln_weights[column..column + KEYS]);
                let mut prior_sum = simd.splat_f32s(0.0);
                for ((d, weight), diagonal) in line.iter().zip(weights).zip(diagonals) {
                    *diagonal = simd.mul_add_e_f32s(factor, *d, *diagonal);
                    prior_sum = simd.mul_add_e_f32s(*d, *weight, prior_sum);
                }
                self.prior_sum[r] += simd.reduce_sum_f32s(prior_sum);
            }
        }
    }

    /// Sums along columns: `dv` and `dk`.
    #[inline(always)]
    fn add_key_sums<S: Simd>(
        &self,
        simd: S,
        in_sight: Range<usize>,
        padded: usize,
        first_key: usize,
        panels: &Panels,
        sums: &mut Sums,
    ) {
        let rows = in_sight.start * padded..in_sight.end * padded;
        for (panel, right, sums) in [
            (&panels.posterior, &self.out_gradient, &mut sums.dv),
            (&panels.d_logits, &self.queries.scaled_q, &mut sums.dk),
        ] {
            let panel = &panel[in_sight.start * KEYS..in_sight.end * KEYS];
            for c0 in (0..KEYS).step_by(GROUP) {
                let by_key = |t: usize| {
                    let values = &panel[t * KEYS + c0..][..GROUP];
                    [values[0], values[1], values[2], values[3]]
                };
                let sums = &mut sums[(first_key + c0) * padded..][..GROUP * padded];
                accumulate_product(simd, by_key, &right[rows.clone()], padded, sums);
            }
        }
    }
}
