//! One block of rows going back: its posterior tile by tile, and what flows from it.

use super::inputs::{ByDistance, Inputs};
use super::panel::{BLOCK, Panels, QueryPanels, Sight};
use super::product::{
    Aligned, Factors, LINES, Lanes, STRETCH, Strips, aligned, lines, lines_from_rows, lines_mut,
    panel_rows, rows_by_panel, rows_from_lines,
};
use super::tile::KeyTile;
use crate::certificate::Bounds;
use crate::exponential::exp2;
use crate::key_norms::TILE;
use crate::operands::{Rows, TemperatureScope};
use crate::results::HeadRows;
use crate::rounding::at_least;
use pulp::Simd;
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// The inputs of all tasks.
pub(super) struct Given<'a> {
    pub inputs: &'a Inputs<'a>,
    pub bounds: &'a Bounds<'a>,
    pub by_distance: &'a ByDistance,
    pub out: Rows<'a>,
    pub ln_evidence: &'a [f32],
    pub out_gradient: Rows<'a>,
}

/// A block of rows going back. Its memory serves one block after the other.
pub(super) struct RowBlock<'a> {
    given: &'a Given<'a>,
    queries: QueryPanels<'a>,
    tile: KeyTile<'a>,
    /// The keys of the tile.
    keys: Strips,
    /// Per stretch, the scaled queries and the gradient of the output.
    q_rows: [Strips; BLOCK / STRETCH],
    out_gradient_rows: [Strips; BLOCK / STRETCH],
    /// The gradient of the output again: `[panels, padded dim, rows of a panel]`.
    out_gradient: Panels,
    /// The gradient of the scaled queries, `[rows, padded dim]`.
    dq: Aligned<f32>,
    /// Per row `δ`, and the evidence as a logarithm to either base.
    delta: Aligned<f32>,
    ln_evidence: Aligned<f32>,
    log2_evidence: Aligned<f32>,
    /// `Σ_j dlogit_ij ln w(j − i)`, where a temperature wants it.
    prior_sum: Aligned<f32>,
    /// Of one stretch and one tile, `[TILE, STRETCH]`: the posterior, and the gradient of its logits.
    posterior: Aligned<f32>,
    d_logits: Aligned<f32>,
    /// For rows that are widened.
    room: [Aligned<f32>; 3],
}

impl<'a> RowBlock<'a> {
    pub fn new(given: &'a Given<'a>) -> Self {
        let empty = || aligned(0.0, 0);
        let padded = given.inputs.padded_dim();
        let of_stretches = || std::array::from_fn(|_| Strips::new(STRETCH, padded));
        let of_logits = || aligned(0.0, TILE * STRETCH);
        Self {
            given,
            queries: QueryPanels::new(given.inputs, given.by_distance),
            tile: KeyTile::new(given.inputs),
            keys: Strips::new(TILE, padded),
            q_rows: of_stretches(),
            out_gradient_rows: of_stretches(),
            out_gradient: Panels::new(given.inputs),
            dq: empty(),
            delta: empty(),
            ln_evidence: empty(),
            log2_evidence: empty(),
            prior_sum: empty(),
            posterior: of_logits(),
            d_logits: of_logits(),
            room: std::array::from_fn(|_| aligned(0.0, padded)),
        }
    }

    /// Goes to these rows of a head.
    #[inline(always)]
    pub fn load<S: Simd, const VECTORS: usize>(
        &mut self,
        simd: S,
        (batch, head): (usize, usize),
        rows: Range<usize>,
    ) {
        let (inputs, padded) = (self.given.inputs, self.given.inputs.padded_dim());
        self.queries
            .load::<S, VECTORS>(inputs, (batch, head), rows.clone());
        self.queries.load_q(inputs);
        let gradient = &self.given.out_gradient;
        let (at, width) = ((batch, head, rows.clone()), self.queries.width);
        self.out_gradient.load(inputs, gradient, at, width, |_| 1.0);
        let count = self.queries.content_factors.len();
        for (values, start, size) in [
            (&mut self.dq, 0.0, count * padded),
            (&mut self.delta, 0.0, count),
            // Rows past the end see nothing: exp(logit − ∞) = 0.
            (&mut self.ln_evidence, f32::INFINITY, count),
            (&mut self.log2_evidence, f32::INFINITY, count),
            (&mut self.prior_sum, 0.0, count),
        ] {
            values.clear();
            values.resize(size, start);
        }
        for r in 0..count.next_multiple_of(STRETCH) {
            let (row, stretch, own) = (rows.start + r, r / STRETCH, r % STRETCH);
            let [of_q, of_gradient] =
                [&mut self.q_rows, &mut self.out_gradient_rows].map(|rows| &mut rows[stretch]);
            if row >= rows.end || inputs.plan.is_padding_query(batch, row) {
                of_q.write::<S>(own, &[], 0.0);
                of_gradient.write::<S>(own, &[], 0.0);
                continue;
            }
            let [of_q_row, of_gradient_row, of_out] = &mut self.room;
            let factor = self.queries.content_factors[r];
            of_q.write::<S>(own, inputs.q.read((batch, head, row), of_q_row), factor);
            let gradient = gradient.read((batch, head, row), of_gradient_row);
            of_gradient.write::<S>(own, gradient, 1.0);
            let out = self.given.out.read((batch, head, row), of_out);
            self.delta[r] = dot(simd, gradient, out);
            let index = (batch * inputs.heads + head) * inputs.queries() + row;
            self.ln_evidence[r] = self.given.ln_evidence[index];
            self.log2_evidence[r] = self.given.ln_evidence[index] * LOG2_E;
        }
    }

    pub fn least_evidence(&self) -> f64 {
        let evidence = self.ln_evidence.iter().map(|x| at_least(*x));
        evidence.fold(f64::INFINITY, f64::min)
    }

    /// Adds a tile's part to the sums of rows, of lags and of its keys, `[TILE, padded dim]` each.
    #[inline(always)]
    pub fn add<S: Simd, const GROUP: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        (key_head, first_key): (usize, usize),
        by_distance: &mut [f32],
        (dk, dv): (&mut [f32], &mut [f32]),
    ) {
        let (inputs, padded) = (self.given.inputs, self.given.inputs.padded_dim());
        self.tile
            .load(inputs, self.queries.batch, key_head, first_key);
        for (index, key) in self.tile.keys().chunks_exact(padded).enumerate() {
            self.keys.write::<S>(index, key, 1.0);
        }
        let width = panel_rows::<S, VECTORS>();
        let panels = STRETCH / width;
        for stretch in 0..self.queries.count().div_ceil(panels) {
            let mut seen: Option<Range<usize>> = None;
            let first_panel = stretch * panels;
            for panel in first_panel..(first_panel + panels).min(self.queries.count()) {
                let Some(sight) = self.queries.sight(inputs, panel, first_key) else {
                    continue;
                };
                let first = (panel - first_panel) * width;
                let whole = whole_groups(&sight.keys);
                self.posterior::<S, GROUP, VECTORS>(simd, panel, first, &sight);
                self.add_diagonals::<S, VECTORS>(simd, panel, first, &sight, by_distance);
                let queries = &self.queries;
                let keys_of =
                    |rows| queries.keys_in_sight(inputs, panel, rows, first_key, &sight.keys);
                rows_from_lines(
                    simd,
                    Factors {
                        values: &self.d_logits,
                        stride: STRETCH,
                    },
                    first..first + width,
                    keys_of,
                    &self.keys,
                    &mut self.dq[panel * width * padded..][..width * padded],
                );
                let before = seen.unwrap_or(whole.clone());
                seen = Some(before.start.min(whole.start)..before.end.max(whole.end));
            }
            let Some(seen) = seen else {
                continue;
            };
            let rows = first_panel * width..(first_panel + panels) * width;
            let rows_of = |keys: Range<usize>| {
                let first = first_key + seen.start;
                self.queries
                    .rows_in_sight(inputs, &rows, first + keys.start..first + keys.end)
            };
            for (factors, right, sums) in [
                (&self.posterior, &self.out_gradient_rows[stretch], &mut *dv),
                (&self.d_logits, &self.q_rows[stretch], &mut *dk),
            ] {
                lines_from_rows(
                    simd,
                    &factors.as_chunks().0[seen.clone()],
                    rows_of,
                    right,
                    &mut sums[seen.start * padded..seen.end * padded],
                );
            }
        }
    }

    /// `p = exp(logit − ln evidence)` and `dlogit = p·(g·v − δ)` of a panel, from lane `first` on, zeros out
    /// of sight.
    #[inline(always)]
    fn posterior<S: Simd, const GROUP: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        panel: usize,
        first: usize,
        sight: &Sight,
    ) {
        let inputs = self.given.inputs;
        let (width, padded) = (panel_rows::<S, VECTORS>(), inputs.padded_dim());
        let [posterior, d_logits] =
            &mut [&mut self.posterior, &mut self.d_logits].map(|values| Lanes {
                values,
                stride: STRETCH,
                first,
            });
        let tile = (self.tile.keys(), self.tile.first);
        self.queries
            .logits::<S, GROUP, VECTORS>(simd, inputs, panel, tile, sight, posterior);
        let whole = whole_groups(&sight.keys);
        for key in (whole.start..sight.keys.start).chain(sight.keys.end..whole.end) {
            posterior.numbers(key, width).fill(0.0);
        }
        let evidence = lines::<S, VECTORS>(&self.log2_evidence[panel * width..])[0];
        for key in sight.keys.clone() {
            let line = posterior.line::<S, VECTORS>(key);
            for c in 0..VECTORS {
                line[c] = simd.sub_f32s(line[c], evidence[c]);
            }
            *line = exp2(simd, *line);
        }
        let delta = lines::<S, VECTORS>(&self.delta[panel * width..])[0];
        let gradient = &self.out_gradient.values[panel * padded * width..];
        rows_by_panel::<S, GROUP, VECTORS>(
            simd,
            (
                &self.tile.values()[whole.start * padded..whole.end * padded],
                padded,
            ),
            inputs.dim,
            lines::<S, VECTORS>(gradient),
            #[inline(always)]
            |key, products| {
                let posterior = posterior.line::<S, VECTORS>(whole.start + key);
                let d_logits = d_logits.line::<S, VECTORS>(whole.start + key);
                for c in 0..VECTORS {
                    let beyond = simd.sub_f32s(products[c], delta[c]);
                    d_logits[c] = simd.mul_f32s(posterior[c], beyond);
                }
            },
        );
    }

    /// Sums along diagonals, for the prior, and along rows, for its temperature.
    #[inline(always)]
    fn add_diagonals<S: Simd, const VECTORS: usize>(
        &mut self,
        simd: S,
        panel: usize,
        first: usize,
        sight: &Sight,
        by_distance: &mut [f32],
    ) {
        let (inputs, width) = (self.given.inputs, panel_rows::<S, VECTORS>());
        let (ln_weights, column) = self.queries.ln_weights_at(inputs, panel, self.tile.first);
        let of_panel = panel * width..(panel + 1) * width;
        let factors = lines::<S, VECTORS>(&self.queries.prior_factors[of_panel.clone()])[0];
        let d_logits =
            |key: usize| &lines::<S, VECTORS>(&self.d_logits[key * STRETCH + first..][..width])[0];
        // The windows of neighbouring keys overlap but for one column. A vector apart, none reads what
        // two others have just written, which processors are slow at.
        for start in 0..S::F32_LANES {
            for key in (sight.keys.start + start..sight.keys.end).step_by(S::F32_LANES) {
                let window = &mut by_distance[column - key..][..width];
                let window = &mut lines_mut::<S, VECTORS>(window)[0];
                let d_logits = d_logits(key);
                for c in 0..VECTORS {
                    window[c] = simd.mul_add_e_f32s(factors[c], d_logits[c], window[c]);
                }
            }
        }
        if prior_is_scaled(inputs) {
            let prior_sum = &mut lines_mut::<S, VECTORS>(&mut self.prior_sum[of_panel])[0];
            for key in sight.keys.clone() {
                let weights = lines::<S, VECTORS>(&ln_weights[column - key..][..width])[0];
                let d_logits = d_logits(key);
                for c in 0..VECTORS {
                    prior_sum[c] = simd.mul_add_e_f32s(d_logits[c], weights[c], prior_sum[c]);
                }
            }
        }
    }

    /// Writes what rows own, from row `first` of the results on: the gradient of `q` and one number a row.
    #[inline(always)]
    pub fn finish(
        &self,
        first: usize,
        (dq, d_temperature): (&mut HeadRows<'_>, &mut HeadRows<'_>),
    ) {
        let inputs = self.given.inputs;
        let (dim, padded, queries) = (inputs.dim, inputs.padded_dim(), &self.queries);
        let mut q = vec![0.0; dim];
        for (r, row) in queries.rows.clone().enumerate() {
            let dq = dq.row(first + r);
            if inputs.plan.is_padding_query(queries.batch, row) {
                dq.fill(0.0);
                continue;
            }
            let of_scaled = &self.dq[r * padded..][..dim];
            let factor = queries.content_factors[r];
            for (dq, of_scaled) in dq.iter_mut().zip(of_scaled) {
                *dq = factor * of_scaled;
            }
            if inputs.temperature.is_some() {
                inputs.q.load(queries.batch, queries.head, row, &mut q);
                let content: f32 = of_scaled.iter().zip(&q).map(|(dq, q)| dq * q).sum();
                d_temperature.row(first + r)[0] =
                    content * inputs.content_scale + self.prior_sum[r];
            }
        }
    }
}

/// Whether a temperature multiplies the prior too.
fn prior_is_scaled(inputs: &Inputs<'_>) -> bool {
    let scope = inputs.temperature.map(|of| of.scope());
    scope == Some(TemperatureScope::LikelihoodAndPrior)
}

/// Those keys and more, as many as the products of lines want.
fn whole_groups(keys: &Range<usize>) -> Range<usize> {
    keys.start / LINES * LINES..keys.end.next_multiple_of(LINES)
}

/// `Σ_t a[t]·b[t]`.
#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let mut sum = simd.splat_f32s(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = simd.mul_add_e_f32s(*a, *b, sum);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    simd.reduce_sum_f32s(sum) + rest
}
