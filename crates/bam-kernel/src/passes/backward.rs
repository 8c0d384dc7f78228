//! Backward: the posterior is recomputed tile by tile from the saved evidence.
//!
//! With `p` the posterior, `g` the gradient of the output and `δ_i = g_i·out_i`:
//!
//! ```text
//! dlogit_ij = p_ij (g_i·v_j − δ_i)        dv_j = Σ_i p_ij g_i        dk_j = Σ_i dlogit_ij q̂_i
//! dq̂_i     = Σ_j dlogit_ij k_j           d ln w(d) = Σ over the diagonal j − i = d of factor_i dlogit_ij
//! dτ_i      = Σ_j dlogit_ij (q_i·k_j/√D + ln w(j − i))        du_j = Σ_i factor_i dlogit_ij
//! ```
//!
//! A task owns some rows of one key head's query heads, in a fixed order inside; what tasks add up
//! together is added in a fixed order after. So gradients are the same bits for any number of threads.

use super::backward_block::{Given, Products, RowBlock};
use super::backward_narrow::{InTiles, Narrow};
use super::backward_wide::{Grouped, Wide};
use super::inputs::{ByDistance, Inputs, PAD};
use super::narrow::PairedKeys;
use super::panel::BLOCK;
use super::product::{Aligned, aligned, run_in_registers};
use super::split::TASKS;
use crate::key_norms::TILE;
use crate::operands::Rows;
use crate::results::{HeadRows, RowsMut};
use crate::skipping::HeadSkips;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// A vector that was made for a shape.
const MADE: &str = "made for these rows";

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
    /// `[batch, query heads or key heads, keys]`; empty where the call has no prior over keys.
    pub key_prior: Vec<f32>,
}

/// Memory for [`Gradients`]; whatever is there is overwritten.
#[derive(Debug)]
pub struct GradientsMut<'a> {
    /// `[batch, query heads, queries, dim]`.
    pub q: RowsMut<'a>,
    /// `[batch, key heads, keys, dim]`.
    pub k: RowsMut<'a>,
    /// `[batch, key heads, keys, dim]`.
    pub v: RowsMut<'a>,
    /// `[query heads, lags]`.
    pub ln_weights: &'a mut [f32],
    /// `[batch or 1, query heads, queries]`; empty where the call has no temperature.
    pub temperature: &'a mut [f32],
    /// `[batch, query heads or key heads, keys]`; empty where the call has no prior over keys.
    pub key_prior: &'a mut [f32],
}

pub(super) fn backward(
    inputs: &Inputs<'_>,
    out: Rows<'_>,
    ln_evidence: &[f32],
    out_gradient: Rows<'_>,
    gradients: &mut GradientsMut<'_>,
) {
    let (batch, key_heads) = (inputs.batch, inputs.key_heads());
    let group = inputs.plan.group();
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
    let paired = PairedKeys::new(inputs, &inputs.k);
    let arch = inputs.arch();

    let segments = segments(inputs, TASKS.div_ceil(batch * key_heads));
    let mut d_temperature = vec![0.0; batch * inputs.heads * inputs.queries()];
    // The first segment's sums are written to the gradients, where the others' are added to them.
    let shape = [
        batch * key_heads,
        segments.len() - 1,
        inputs.keys(),
        inputs.dim,
    ];
    let mut later = [(); 2].map(|()| vec![0.0; shape.iter().product()]);
    let of_tasks: Vec<Sums> = {
        let dq = cut(gradients.q.heads(), group, &segments);
        let of_temperature = RowsMut::new(
            &mut d_temperature,
            [batch, inputs.heads, inputs.queries(), 1],
        );
        let mut of_temperature = of_temperature.expect(MADE);
        let d_temperature = cut(of_temperature.heads(), group, &segments);
        let [later_k, later_v] = &mut later;
        let [mut later_k, mut later_v] =
            [later_k, later_v].map(|of| RowsMut::new(of, shape).expect(MADE));
        let dk = by_segment(gradients.k.heads(), later_k.heads(), segments.len());
        let dv = by_segment(gradients.v.heads(), later_v.heads(), segments.len());
        let tasks: Vec<_> = dq.into_iter().zip(d_temperature).zip(dk.zip(dv)).collect();
        tasks
            .into_par_iter()
            .enumerate()
            .map_init(
                || Workspace::new(&given, paired.as_ref()),
                |workspace, (index, ((dq, d_temperature), (dk, dv)))| {
                    let (head, segment) = (index / segments.len(), index % segments.len());
                    let rows = TaskRows {
                        batch: head / key_heads,
                        key_head: head % key_heads,
                        rows: segments[segment].clone(),
                        dq,
                        d_temperature,
                        dk,
                        dv,
                    };
                    workspace.run(arch, &given, rows)
                },
            )
            .collect()
    };
    for (sums, later) in [&mut gradients.k, &mut gradients.v].into_iter().zip(&later) {
        add_segments(inputs, sums, later, &segments[1..]);
    }
    log_skips(inputs, &of_tasks);
    add_ln_weights(inputs, &of_tasks, segments.len(), gradients.ln_weights);
    add_temperature(inputs, &d_temperature, gradients.temperature);
    add_key_prior(inputs, &of_tasks, segments.len(), gradients.key_prior);
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

/// Rows of query heads as tasks want them: per key head and segment, those of its query heads.
fn cut<'a>(
    mut heads: Vec<HeadRows<'a>>,
    group: usize,
    segments: &[Range<usize>],
) -> Vec<Vec<HeadRows<'a>>> {
    let mut tasks = Vec::new();
    for group in heads.chunks_mut(group) {
        for segment in segments {
            tasks.push(
                group
                    .iter_mut()
                    .map(|head| head.take(segment.len()))
                    .collect(),
            );
        }
    }
    tasks
}

/// Rows of key heads as tasks want them: those of the first segment, and those of the later ones.
fn by_segment<'a>(
    first: Vec<HeadRows<'a>>,
    later: Vec<HeadRows<'a>>,
    segments: usize,
) -> impl Iterator<Item = HeadRows<'a>> {
    let (heads, mut first, mut later) = (first.len(), first.into_iter(), later.into_iter());
    (0..heads * segments).map(move |task| {
        let of = if task % segments == 0 {
            &mut first
        } else {
            &mut later
        };
        of.next().expect("rows for every task")
    })
}

/// Adds the sums of later segments, in order, to those of the first.
fn add_segments(
    inputs: &Inputs<'_>,
    sums: &mut RowsMut<'_>,
    later: &[f32],
    segments: &[Range<usize>],
) {
    if segments.is_empty() {
        return;
    }
    let (dim, of_head) = (inputs.dim, inputs.keys() * inputs.dim);
    let of_heads = sums
        .heads()
        .into_par_iter()
        .zip(later.par_chunks(segments.len() * of_head));
    of_heads.for_each(|(mut sums, later)| {
        for (rows, later) in segments.iter().zip(later.chunks(of_head)) {
            for key in inputs.plan.positions().keys_in_sight(rows.clone()) {
                let part = &later[key * dim..][..dim];
                sums.row(key)
                    .iter_mut()
                    .zip(part)
                    .for_each(|(sum, part)| *sum += part);
            }
        }
    });
}

/// Some rows of the query heads of one key head, with the rows of the gradients that are its own.
struct TaskRows<'t> {
    batch: usize,
    key_head: usize,
    rows: Range<usize>,
    dq: Vec<HeadRows<'t>>,
    d_temperature: Vec<HeadRows<'t>>,
    dk: HeadRows<'t>,
    dv: HeadRows<'t>,
}

/// Memory that one task is computed in after the other.
struct Workspace<'a> {
    block: RowBlock<'a>,
    sums: KeySums,
    wide: Wide<'a>,
    narrow: Option<Narrow<'a>>,
}

impl<'a> Workspace<'a> {
    /// Given the keys for AMX, if numbers are multiplied as `bf16`.
    fn new(given: &'a Given<'a>, paired: Option<&'a PairedKeys>) -> Self {
        Self {
            block: RowBlock::new(given),
            sums: KeySums::new(given.inputs),
            wide: Wide::new(given.inputs),
            narrow: paired.map(|paired| Narrow::new(given.inputs, paired)),
        }
    }

    fn run(&mut self, arch: Arch, given: &Given<'a>, rows: TaskRows<'_>) -> Sums {
        let (block, sums) = (&mut self.block, &mut self.sums);
        let narrow = self.narrow.as_mut();
        match narrow.and_then(|narrow| InTiles::new(given, narrow)) {
            Some(products) => arch.dispatch(BackwardTask {
                given,
                block,
                sums,
                products,
                rows,
            }),
            None => arch.dispatch(BackwardTask {
                given,
                block,
                sums,
                products: &mut self.wide,
                rows,
            }),
        }
    }
}

/// A task with its way to take products. Two types, so two functions: with both ways in one, that in `f32` took
/// 4 % longer with AVX-512.
struct BackwardTask<'t, 'a, P> {
    given: &'t Given<'a>,
    block: &'t mut RowBlock<'a>,
    sums: &'t mut KeySums,
    products: P,
    rows: TaskRows<'t>,
}

/// The sums of all keys of a head while a task runs, in whole tiles: `[keys or more, padded dim]`.
struct KeySums {
    dk: Aligned<f32>,
    dv: Aligned<f32>,
}

impl KeySums {
    fn new(inputs: &Inputs<'_>) -> Self {
        let count = inputs.keys().next_multiple_of(TILE) * inputs.padded_dim();
        let [dk, dv] = [(); 2].map(|()| aligned(0.0, count));
        Self { dk, dv }
    }
}

/// Sums that tasks add up together, and reports.
struct Sums {
    /// By distance, one row per query head.
    d_ln_weights: Vec<f32>,
    /// `[heads of the prior over keys, keys in whole tiles]`: those that the query heads read, if there is one.
    d_key_prior: Vec<f64>,
    skips: Vec<HeadSkips>,
}

impl<'a> WithSimd for BackwardTask<'_, 'a, &mut Wide<'a>> {
    type Output = Sums;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Sums {
        run_in_registers!(self, simd)
    }
}

impl<'a> BackwardTask<'_, 'a, &mut Wide<'a>> {
    #[inline(always)]
    fn run<S: Simd, const GROUP: usize, const VECTORS: usize>(self, simd: S) -> Sums {
        let (given, products) = (self.given, Grouped::<GROUP>(self.products));
        self.rows
            .visit::<S, VECTORS>(simd, given, self.block, self.sums, products)
    }
}

impl<'a> WithSimd for BackwardTask<'_, 'a, InTiles<'_, 'a>> {
    type Output = Sums;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Sums {
        run_in_registers!(self, simd)
    }
}

impl<'a> BackwardTask<'_, 'a, InTiles<'_, 'a>> {
    #[inline(always)]
    fn run<S: Simd, const GROUP: usize, const VECTORS: usize>(self, simd: S) -> Sums {
        let (given, products) = (self.given, self.products);
        self.rows
            .visit::<S, VECTORS>(simd, given, self.block, self.sums, products)
    }
}

impl TaskRows<'_> {
    /// Visits the tiles of every block, and writes its results.
    #[inline(always)]
    fn visit<'a, S: Simd, const VECTORS: usize>(
        mut self,
        simd: S,
        given: &Given<'a>,
        block: &mut RowBlock<'a>,
        KeySums { dk, dv }: &mut KeySums,
        mut products: impl Products<'a, S, VECTORS>,
    ) -> Sums {
        let group = given.inputs.plan.group();
        let (inputs, dim) = (given.inputs, given.inputs.dim);
        let columns = given.by_distance.columns;
        let padded = inputs.padded_dim();
        let padded_keys = inputs.keys().next_multiple_of(TILE);
        dk.fill(0.0);
        dv.fill(0.0);
        let mut reports = Sums {
            d_ln_weights: vec![0.0; group * columns],
            d_key_prior: vec![0.0; key_prior_heads(inputs) * padded_keys],
            skips: vec![HeadSkips::default(); group],
        };
        for index in 0..group {
            let head = self.key_head * group + index;
            let by_distance = &mut reports.d_ln_weights[index * columns..][..columns];
            for first in self.rows.clone().step_by(BLOCK) {
                let rows = first..(first + BLOCK).min(self.rows.end);
                let row_bounds = inputs.row_bounds(self.batch, head, rows.clone(), given.bounds);
                let schedule = given.bounds.schedule(&row_bounds, 0, 1);
                let at = (self.batch, head);
                block.load::<S, VECTORS>(simd, &mut products, at, rows.clone());
                let least = block.least_evidence();
                let mut visited = 0;
                for &first_key in &schedule.tiles {
                    if schedule.may_stop(visited, least, || least) {
                        break;
                    }
                    visited += 1;
                    let of_tile = first_key * padded..(first_key + TILE) * padded;
                    let d_key_prior = match key_prior_heads(inputs) {
                        0 => &mut [],
                        heads => {
                            let of_head = index * heads / group * padded_keys;
                            &mut reports.d_key_prior[of_head + first_key..][..TILE]
                        }
                    };
                    let to = (&mut dk[of_tile.clone()], &mut dv[of_tile], d_key_prior);
                    let at = (self.key_head, first_key);
                    block.add(simd, &mut products, at, by_distance, to);
                }
                reports.skips[index].add(&HeadSkips {
                    visible_tiles: schedule.tiles.len() as u64,
                    skipped_tiles: (schedule.tiles.len() - visited) as u64,
                    dropped_mass: (schedule.ln_mass_of_rest(visited) - least).exp(),
                });
                let own = (&mut self.dq[index], &mut self.d_temperature[index]);
                block.finish(&products, rows.start - self.rows.start, own);
            }
        }
        for (rows, sums) in [(&mut self.dk, dk), (&mut self.dv, dv)] {
            for (key, sum) in sums.chunks_exact(padded).take(inputs.keys()).enumerate() {
                rows.row(key).copy_from_slice(&sum[..dim]);
            }
        }
        reports
    }
}

/// The gradient of the log-weights, `[heads, lags]`: batch rows and segments added in order.
fn add_ln_weights(inputs: &Inputs<'_>, of_tasks: &[Sums], segments: usize, sums: &mut [f32]) {
    let (lags, group) = (inputs.plan.lags().count(), inputs.plan.group());
    sums.fill(0.0);
    for (index, task) in of_tasks.iter().enumerate() {
        let key_head = index / segments % inputs.key_heads();
        let columns = task.d_ln_weights.len() / group;
        for (head, by_distance) in task.d_ln_weights.chunks_exact(columns).enumerate() {
            let sums = &mut sums[(key_head * group + head) * lags..][..lags];
            for (sum, part) in sums.iter_mut().rev().zip(&by_distance[PAD..]) {
                *sum += part;
            }
        }
    }
}

/// Heads of the prior over keys that the query heads of one key head read.
fn key_prior_heads(inputs: &Inputs<'_>) -> usize {
    let shape = inputs.plan.shapes().key_prior;
    shape.map_or(0, |[_, heads, _]| heads / inputs.key_heads())
}

/// The gradient of the prior over keys, `[batch, heads, keys]`: segments added in order.
fn add_key_prior(inputs: &Inputs<'_>, of_tasks: &[Sums], segments: usize, sums: &mut [f32]) {
    let (keys, padded) = (inputs.keys(), inputs.keys().next_multiple_of(TILE));
    let of_heads = sums.chunks_mut(keys * key_prior_heads(inputs).max(1));
    for (sums, tasks) in of_heads.zip(of_tasks.chunks(segments)) {
        for (head, sums) in sums.chunks_mut(keys).enumerate() {
            for (key, sum) in sums.iter_mut().enumerate() {
                let parts = tasks
                    .iter()
                    .map(|task| task.d_key_prior[head * padded + key]);
                *sum = parts.sum::<f64>() as f32;
            }
        }
    }
}

/// The gradient of the temperature in its own shape, from that of every row.
fn add_temperature(inputs: &Inputs<'_>, of_rows: &[f32], sums: &mut [f32]) {
    let Some(temperature) = inputs.temperature else {
        return;
    };
    sums.fill(0.0);
    let queries = inputs.queries();
    for (index, value) in of_rows.iter().enumerate() {
        let (head, row) = (index / queries, index % queries);
        sums[temperature.index(head / inputs.heads, head % inputs.heads, row)] += value;
    }
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
