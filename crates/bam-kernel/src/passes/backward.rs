//! Backward: the posterior is recomputed tile by tile from the saved evidence.
//!
//! With `p` the posterior, `g` the gradient of the output and `δ_i = g_i·out_i`:
//!
//! ```text
//! dlogit_ij = p_ij (g_i·v_j − δ_i)        dv_j = Σ_i p_ij g_i        dk_j = Σ_i dlogit_ij q̂_i
//! dq̂_i     = Σ_j dlogit_ij k_j           d ln w(d) = Σ over the diagonal j − i = d of factor_i dlogit_ij
//! dτ_i      = Σ_j dlogit_ij (q_i·k_j/√D + ln w(j − i))
//! ```
//!
//! A task owns some rows of one key head's query heads, in a fixed order inside; what tasks add up
//! together is added in a fixed order after. So gradients are the same bits for any number of threads.

use super::inputs::{ByDistance, Inputs, PAD};
use super::panel::{BLOCK, QueryPanels, Sight, read_row, write_row};
use super::product::{
    Aligned, Panels, aligned, columns_by_panel, lines, lines_mut, panels_by_rows, rows_by_panel,
};
use super::split::TASKS;
use super::tile::KeyTile;
use crate::certificate::Bounds;
use crate::exponential::exp2;
use crate::key_norms::TILE;
use crate::operands::{Rows, TemperatureScope};
use crate::rounding::at_least;
use crate::skipping::HeadSkips;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Gradients in the shapes of the operands, all numbers one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// `[batch, query heads, queries, dim]`.
    pub q: Vec<f32>,
    /// `[batch, key heads, keys, dim]`.
    pub k: Vec<f32>,
    /// `[batch, key heads, keys, dim]`.
    pub v: Vec<f32>,
    /// `[query heads, lags]`.
    pub ln_weights: Vec<f32>,
    /// `[batch or 1, query heads, queries]`, summed over the batch where it is 1; empty where the call
    /// has no temperature.
    pub temperature: Vec<f32>,
}

pub(super) fn backward(
    inputs: &Inputs<'_>,
    out: Rows<'_>,
    ln_evidence: &[f32],
    out_gradient: Rows<'_>,
) -> Gradients {
    let (batch, heads, dim) = (inputs.batch, inputs.heads, inputs.dim);
    let (queries, group) = (inputs.queries(), inputs.plan.group());
    let norms = inputs.key_norms();
    let bounds = inputs.bounds(norms.as_deref());
    let by_distance = ByDistance::new(inputs);
    let given = Given {
        inputs,
        bounds: &bounds,
        by_distance: &by_distance,
        out,
        ln_evidence,
        out_gradient,
    };
    let arch = inputs.arch();

    let segments = segments(inputs, TASKS.div_ceil(batch * inputs.key_heads()));
    let mut dq = vec![0.0; batch * heads * queries * dim];
    let mut d_temperature = vec![0.0; batch * heads * queries];
    let of_tasks: Vec<Sums> = {
        let dq = cut(&mut dq, queries * dim, dim, group, &segments);
        let d_temperature = cut(&mut d_temperature, queries, 1, group, &segments);
        dq.into_par_iter()
            .zip(d_temperature)
            .enumerate()
            .map(|(index, (dq, d_temperature))| {
                let (head, segment) = (index / segments.len(), index % segments.len());
                arch.dispatch(BackwardTask {
                    given: &given,
                    batch: head / inputs.key_heads(),
                    key_head: head % inputs.key_heads(),
                    rows: segments[segment].clone(),
                    dq,
                    d_temperature,
                })
            })
            .collect()
    };
    log_skips(inputs, &of_tasks);
    let ln_weights = add_ln_weights(inputs, &of_tasks, segments.len());
    let (k, v) = add_keys(inputs, of_tasks, segments.len());
    Gradients {
        q: dq,
        k,
        v,
        ln_weights,
        temperature: add_temperature(inputs, &d_temperature),
    }
}

/// The rows in at most `count` parts that hold about as many visible keys each, cut between blocks.
fn segments(inputs: &Inputs<'_>, count: usize) -> Vec<Range<usize>> {
    let queries = inputs.queries();
    let positions = inputs.plan.positions();
    let blocks = (0..queries)
        .step_by(BLOCK)
        .map(|first| first..(first + BLOCK).min(queries));
    let work = |rows: &Range<usize>| positions.keys_in_sight(rows.clone()).len() + 1;
    let total: usize = blocks.clone().map(|rows| work(&rows)).sum();
    let mut segments = vec![0..0; count];
    let mut done = 0;
    for rows in blocks {
        let segment: &mut Range<usize> = &mut segments[done * count / total];
        done += work(&rows);
        *segment = match segment.start == segment.end {
            true => rows,
            false => segment.start..rows.end,
        };
    }
    segments.retain(|segment| segment.start < segment.end);
    segments
}

/// `[heads, rows, width]` as tasks want it: per key head and segment, the rows of its query heads.
fn cut<'a>(
    values: &'a mut [f32],
    of_head: usize,
    width: usize,
    group: usize,
    segments: &[Range<usize>],
) -> Vec<Vec<&'a mut [f32]>> {
    let mut heads: Vec<&mut [f32]> = values.chunks_mut(of_head).collect();
    let mut tasks = Vec::new();
    for group in heads.chunks_mut(group) {
        for segment in segments {
            let take = |rest: &mut &'a mut [f32]| {
                let (own, after) = std::mem::take(rest).split_at_mut(segment.len() * width);
                *rest = after;
                own
            };
            tasks.push(group.iter_mut().map(take).collect());
        }
    }
    tasks
}

/// The inputs of all tasks.
struct Given<'a> {
    inputs: &'a Inputs<'a>,
    bounds: &'a Bounds<'a>,
    by_distance: &'a ByDistance,
    out: Rows<'a>,
    ln_evidence: &'a [f32],
    out_gradient: Rows<'a>,
}

/// Some rows of the query heads of one key head, with the slices of the gradients that are its own.
struct BackwardTask<'a> {
    given: &'a Given<'a>,
    batch: usize,
    key_head: usize,
    rows: Range<usize>,
    dq: Vec<&'a mut [f32]>,
    d_temperature: Vec<&'a mut [f32]>,
}

/// Sums that tasks add up together.
struct Sums {
    /// The keys that the rows see, in whole tiles.
    keys: Range<usize>,
    /// `[keys, padded dim]`.
    dk: Vec<f32>,
    dv: Vec<f32>,
    /// By distance, one row per query head.
    d_ln_weights: Vec<Vec<f32>>,
    skips: Vec<HeadSkips>,
}

impl WithSimd for BackwardTask<'_> {
    type Output = Sums;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Sums {
        if S::REGISTER_COUNT >= 32 {
            self.run::<S, 8, 3>(simd)
        } else {
            self.run::<S, 6, 2>(simd)
        }
    }
}

impl BackwardTask<'_> {
    #[inline(always)]
    fn run<S: Simd, const GROUP: usize, const VECTORS: usize>(mut self, simd: S) -> Sums {
        let given = self.given;
        let (inputs, padded) = (given.inputs, given.inputs.padded_dim());
        let seen = inputs.plan.positions().keys_in_sight(self.rows.clone());
        let keys = seen.start / TILE * TILE..seen.end.max(seen.start).next_multiple_of(TILE);
        let mut sums = Sums {
            dk: vec![0.0; keys.len() * padded],
            dv: vec![0.0; keys.len() * padded],
            d_ln_weights: vec![vec![0.0; given.by_distance.columns]; inputs.plan.group()],
            skips: vec![HeadSkips::default(); inputs.plan.group()],
            keys,
        };
        let mut tile = KeyTile::new(inputs);
        for index in 0..inputs.plan.group() {
            let head = self.key_head * inputs.plan.group() + index;
            for first in self.rows.clone().step_by(BLOCK) {
                let rows = first..(first + BLOCK).min(self.rows.end);
                let row_bounds = inputs.row_bounds(self.batch, head, rows.clone());
                let schedule = given.bounds.schedule(&row_bounds, 0, 1);
                let mut block = RowBlock::new::<S, VECTORS>(given, (self.batch, head), rows);
                let least = block.least_evidence();
                let mut visited = 0;
                for &first_key in &schedule.tiles {
                    if schedule.may_stop(visited, least, || least) {
                        break;
                    }
                    visited += 1;
                    tile.load(inputs, self.batch, self.key_head, first_key);
                    block.add::<S, GROUP, VECTORS>(simd, inputs, &tile, &mut sums, index);
                }
                sums.skips[index].add(&HeadSkips {
                    visible_tiles: schedule.tiles.len() as u64,
                    skipped_tiles: (schedule.tiles.len() - visited) as u64,
                    dropped_mass: (schedule.ln_mass_of_rest(visited) - least).exp(),
                });
                self.finish_rows(&block, index);
            }
        }
        sums
    }

    /// From the gradient of `q̂ = τ/√D·q` to those of `q` and `τ`.
    fn finish_rows(&mut self, block: &RowBlock<'_>, index: usize) {
        let inputs = self.given.inputs;
        let (dim, padded, queries) = (inputs.dim, inputs.padded_dim(), &block.queries);
        let scope = inputs.temperature.map(|of| of.scope());
        let both = scope == Some(TemperatureScope::LikelihoodAndPrior);
        let mut q = vec![0.0; dim];
        for (r, row) in queries.rows.clone().enumerate() {
            if inputs.plan.is_padding_query(self.batch, row) {
                continue;
            }
            let dq_scaled = || read_row(&block.dq, queries.width, padded, r);
            let own = row - self.rows.start;
            for (dq, scaled) in self.dq[index][own * dim..][..dim]
                .iter_mut()
                .zip(dq_scaled())
            {
                *dq = queries.content_factors[r] * scaled;
            }
            inputs.q.load(self.batch, queries.head, row, &mut q);
            let content: f32 = dq_scaled().zip(&q).map(|(dq, q)| dq * q).sum();
            let prior = if both { block.prior_sum[r] } else { 0.0 };
            self.d_temperature[index][own] = content * inputs.content_scale() + prior;
        }
    }
}

/// A block of rows going back.
struct RowBlock<'a> {
    queries: QueryPanels<'a>,
    /// Rows as they lie in panels put one after the other, `[rows, padded dim]`.
    q_rows: Aligned<f32>,
    out_gradient_rows: Aligned<f32>,
    /// `[panels, padded dim, rows of a panel]`, as the two below.
    out_gradient: Aligned<f32>,
    /// Gradient of the scaled queries.
    dq: Aligned<f32>,
    /// Per row `δ`, and the evidence as a logarithm to either base.
    delta: Aligned<f32>,
    ln_evidence: Aligned<f32>,
    log2_evidence: Aligned<f32>,
    /// `Σ_j dlogit_ij ln w(j − i)`.
    prior_sum: Aligned<f32>,
    /// Over one tile, `[panels, TILE, rows of a panel]`: the posterior, and the gradient of its logits.
    posterior: Aligned<f32>,
    d_logits: Aligned<f32>,
}

impl<'a> RowBlock<'a> {
    fn new<S: Simd, const VECTORS: usize>(
        given: &Given<'a>,
        at: (usize, usize),
        rows: Range<usize>,
    ) -> Self {
        let inputs = given.inputs;
        let padded = inputs.padded_dim();
        let queries = QueryPanels::new::<S, VECTORS>(inputs, given.by_distance, at, rows.clone());
        let queries = queries.with_scaled_q(inputs);
        let count = queries.content_factors.len();
        let mut block = Self {
            q_rows: aligned(0.0, count * padded),
            out_gradient_rows: aligned(0.0, count * padded),
            out_gradient: aligned(0.0, count * padded),
            dq: aligned(0.0, count * padded),
            delta: aligned(0.0, count),
            // Rows past the end see nothing: exp(logit − ∞) = 0.
            ln_evidence: aligned(f32::INFINITY, count),
            log2_evidence: aligned(f32::INFINITY, count),
            prior_sum: aligned(0.0, count),
            posterior: aligned(0.0, count * TILE),
            d_logits: aligned(0.0, count * TILE),
            queries,
        };
        let (batch, head) = at;
        let mut out = vec![0.0; inputs.dim];
        for (r, row) in rows.enumerate() {
            if inputs.plan.is_padding_query(batch, row) {
                continue;
            }
            let scaled_q = &mut block.q_rows[r * padded..][..inputs.dim];
            inputs.q.load(batch, head, row, scaled_q);
            let factor = block.queries.content_factors[r];
            scaled_q.iter_mut().for_each(|q| *q *= factor);
            let gradient = &mut block.out_gradient_rows[r * padded..][..inputs.dim];
            given.out_gradient.load(batch, head, row, gradient);
            given.out.load(batch, head, row, &mut out);
            block.delta[r] = gradient.iter().zip(&out).map(|(g, o)| g * o).sum();
            let width = block.queries.width;
            write_row(&mut block.out_gradient, width, padded, r, gradient);
            let index = (batch * inputs.heads + head) * inputs.queries() + row;
            block.ln_evidence[r] = given.ln_evidence[index];
            block.log2_evidence[r] = given.ln_evidence[index] * LOG2_E;
        }
        block
    }

    fn least_evidence(&self) -> f64 {
        let evidence = self.ln_evidence.iter().map(|x| at_least(*x));
        evidence.fold(f64::INFINITY, f64::min)
    }

    /// Adds a tile's part to all sums.
    #[inline(always)]
    fn add<S: Simd, const GROUP: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        tile: &KeyTile<'_>,
        sums: &mut Sums,
        index: usize,
    ) {
        let padded = inputs.padded_dim();
        let mut in_sight: Option<Range<usize>> = None;
        for panel in 0..self.queries.count() {
            let Some(sight) = self.queries.sight(inputs, panel, tile.first) else {
                continue;
            };
            in_sight = Some(in_sight.map_or(panel, |panels| panels.start)..panel + 1);
            self.posterior::<S, GROUP, VECTORS>(simd, inputs, panel, tile, &sight);
            let width = self.queries.width;
            let d_logits = &self.d_logits[panel * TILE * width..][..TILE * width];
            let d_logits = &lines::<S, VECTORS>(d_logits)[sight.keys.clone()];
            let keys = &tile.keys()[sight.keys.start * padded..sight.keys.end * padded];
            let dq = &mut self.dq[panel * padded * width..][..padded * width];
            columns_by_panel::<S, GROUP, VECTORS>(
                simd,
                (keys, padded),
                d_logits,
                lines_mut::<S, VECTORS>(dq),
            );
            let of_head = &mut sums.d_ln_weights[index];
            self.add_diagonals::<S, VECTORS>(simd, inputs, panel, tile.first, &sight, of_head);
        }
        let Some(panels) = in_sight else {
            return;
        };
        let keys = (tile.first - sums.keys.start) * padded..;
        let (dv, dk) = (&mut sums.dv[keys.clone()], &mut sums.dk[keys]);
        let size = TILE * padded;
        for (values, right, sums) in [
            (&self.posterior, &self.out_gradient_rows, &mut dv[..size]),
            (&self.d_logits, &self.q_rows, &mut dk[..size]),
        ] {
            let left = Panels {
                values,
                lines: TILE,
            };
            let right = (right.as_slice(), padded);
            panels_by_rows::<S, GROUP, VECTORS>(simd, left, panels.clone(), right, sums);
        }
    }

    /// `p = exp(logit − ln evidence)` and `dlogit = p·(g·v − δ)` of a panel, zeros out of sight.
    #[inline(always)]
    fn posterior<S: Simd, const GROUP: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        panel: usize,
        tile: &KeyTile<'_>,
        sight: &Sight,
    ) {
        let (width, padded) = (self.queries.width, inputs.padded_dim());
        let posterior = &mut self.posterior[panel * TILE * width..][..TILE * width];
        self.queries
            .logits::<S, GROUP, VECTORS>(simd, inputs, panel, tile, sight, posterior);
        posterior[..sight.keys.start * width].fill(0.0);
        posterior[sight.keys.end * width..].fill(0.0);
        let posterior = lines_mut::<S, VECTORS>(posterior);
        let evidence = lines::<S, VECTORS>(&self.log2_evidence[panel * width..])[0];
        for line in &mut posterior[sight.keys.clone()] {
            for c in 0..VECTORS {
                line[c] = simd.sub_f32s(line[c], evidence[c]);
            }
            *line = exp2(simd, *line);
        }
        let d_logits = &mut self.d_logits[panel * TILE * width..][..TILE * width];
        let first = sight.keys.start / GROUP * GROUP;
        let end = sight.keys.end.next_multiple_of(GROUP);
        d_logits[..first * width].fill(0.0);
        d_logits[end * width..].fill(0.0);
        let d_logits = &mut lines_mut::<S, VECTORS>(d_logits)[first..end];
        let posterior = &posterior[first..end];
        let delta = lines::<S, VECTORS>(&self.delta[panel * width..])[0];
        let gradient = &self.out_gradient[panel * padded * width..];
        rows_by_panel::<S, GROUP, VECTORS>(
            simd,
            (&tile.values()[first * padded..end * padded], padded),
            inputs.dim,
            lines::<S, VECTORS>(gradient),
            #[inline(always)]
            |key, products| {
                for c in 0..VECTORS {
                    let beyond = simd.sub_f32s(products[c], delta[c]);
                    d_logits[key][c] = simd.mul_f32s(posterior[key][c], beyond);
                }
            },
        );
    }

    /// Sums along diagonals, for the prior, and along rows, for its temperature.
    #[inline(always)]
    fn add_diagonals<S: Simd, const VECTORS: usize>(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        panel: usize,
        first_key: usize,
        sight: &Sight,
        of_head: &mut [f32],
    ) {
        let width = self.queries.width;
        let (ln_weights, column) = self.queries.ln_weights_at(inputs, panel, first_key);
        let factors = lines::<S, VECTORS>(&self.queries.prior_factors[panel * width..])[0];
        let d_logits = lines::<S, VECTORS>(&self.d_logits[panel * TILE * width..]);
        let prior_sum = &mut lines_mut::<S, VECTORS>(&mut self.prior_sum[panel * width..])[0];
        // The windows of neighbouring keys overlap but for one column. A vector apart, none reads what
        // two others have just written, which processors are slow at.
        for start in 0..S::F32_LANES {
            for key in (sight.keys.start + start..sight.keys.end).step_by(S::F32_LANES) {
                let weights = lines::<S, VECTORS>(&ln_weights[column - key..][..width])[0];
                let diagonals =
                    &mut lines_mut::<S, VECTORS>(&mut of_head[column - key..][..width])[0];
                let line = &d_logits[key];
                for c in 0..VECTORS {
                    diagonals[c] = simd.mul_add_e_f32s(factors[c], line[c], diagonals[c]);
                    prior_sum[c] = simd.mul_add_e_f32s(line[c], weights[c], prior_sum[c]);
                }
            }
        }
    }
}

/// Gradients of keys and values, `[batch, key heads, keys, dim]`: segments added in order.
fn add_keys(inputs: &Inputs<'_>, of_tasks: Vec<Sums>, segments: usize) -> (Vec<f32>, Vec<f32>) {
    let (dim, padded) = (inputs.dim, inputs.padded_dim());
    let of_head = inputs.keys() * dim;
    let heads = inputs.batch * inputs.key_heads();
    let (mut dk, mut dv) = (vec![0.0; heads * of_head], vec![0.0; heads * of_head]);
    dk.par_chunks_mut(of_head)
        .zip(dv.par_chunks_mut(of_head))
        .zip(of_tasks.par_chunks(segments))
        .for_each(|((dk, dv), of_head)| {
            for sums in of_head {
                for (to, from) in [(&mut *dk, &sums.dk), (&mut *dv, &sums.dv)] {
                    let to = to[sums.keys.start.min(inputs.keys()) * dim..].chunks_exact_mut(dim);
                    for (to, from) in to.zip(from.chunks_exact(padded)) {
                        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
                    }
                }
            }
        });
    (dk, dv)
}

/// The gradient of the log-weights, `[heads, lags]`: batch rows and segments added in order.
fn add_ln_weights(inputs: &Inputs<'_>, of_tasks: &[Sums], segments: usize) -> Vec<f32> {
    let (lags, group) = (inputs.plan.lags().count(), inputs.plan.group());
    let mut sums = vec![0.0; inputs.heads * lags];
    for (index, task) in of_tasks.iter().enumerate() {
        let key_head = index / segments % inputs.key_heads();
        for (head, by_distance) in task.d_ln_weights.iter().enumerate() {
            let sums = &mut sums[(key_head * group + head) * lags..][..lags];
            for (sum, part) in sums.iter_mut().rev().zip(&by_distance[PAD..]) {
                *sum += part;
            }
        }
    }
    sums
}

/// The gradient of the temperature in its own shape, from that of every row.
fn add_temperature(inputs: &Inputs<'_>, of_rows: &[f32]) -> Vec<f32> {
    let Some(temperature) = inputs.temperature else {
        return Vec::new();
    };
    let queries = inputs.queries();
    let mut sums = vec![0.0; temperature.shape().iter().product()];
    for (index, value) in of_rows.iter().enumerate() {
        let (head, row) = (index / queries, index % queries);
        sums[temperature.index(head / inputs.heads, head % inputs.heads, row)] += value;
    }
    sums
}

fn log_skips(inputs: &Inputs<'_>, of_tasks: &[Sums]) {
    let Some(log) = &inputs.plan.call().skip_log else {
        return;
    };
    let group = inputs.plan.group();
    let segments = of_tasks.len() / (inputs.batch * inputs.key_heads());
    for (index, task) in of_tasks.iter().enumerate() {
        let key_head = index / segments % inputs.key_heads();
        for (head, skips) in task.skips.iter().enumerate() {
            log.add(key_head * group + head, skips);
        }
    }
}
