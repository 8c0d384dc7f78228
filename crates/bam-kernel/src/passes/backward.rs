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
use crate::skipping::HeadSkips;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
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
    let (batch, heads, key_heads) = (inputs.batch, inputs.heads, inputs.key_heads());
    let (queries, dim, group) = (inputs.queries(), inputs.dim, inputs.plan.group());
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
    let of_head = inputs.keys() * dim;
    let mut dq = vec![0.0; batch * heads * queries * dim];
    let mut d_temperature = vec![0.0; batch * heads * queries];
    // The first segment's sums are where the others' are added to.
    let [mut dk, mut dv] = [(); 2].map(|()| vec![0.0; batch * key_heads * of_head]);
    let later = batch * key_heads * (segments.len() - 1) * of_head;
    let [mut later_dk, mut later_dv] = [(); 2].map(|()| vec![0.0; later]);
    let of_tasks: Vec<Sums> = {
        let dq = cut(&mut dq, queries * dim, dim, group, &segments);
        let d_temperature = cut(&mut d_temperature, queries, 1, group, &segments);
        let dk = by_segment(&mut dk, &mut later_dk, of_head, segments.len());
        let dv = by_segment(&mut dv, &mut later_dv, of_head, segments.len());
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
    for (sums, later) in [(&mut dk, &later_dk), (&mut dv, &later_dv)] {
        add_segments(inputs, sums, later, &segments[1..]);
    }
    log_skips(inputs, &of_tasks);
    Gradients {
        q: dq,
        k: dk,
        v: dv,
        ln_weights: add_ln_weights(inputs, &of_tasks, segments.len()),
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

/// `[heads, of_head]` for the first segment and `[heads, segments − 1, of_head]` for the later ones, as tasks
/// want it.
fn by_segment<'a>(
    first: &'a mut [f32],
    later: &'a mut [f32],
    of_head: usize,
    segments: usize,
) -> impl Iterator<Item = &'a mut [f32]> {
    let mut later = later.chunks_mut(of_head);
    let mut first = first.chunks_mut(of_head);
    let heads = first.len();
    (0..heads * segments).map(move |task| {
        let of = if task % segments == 0 {
            &mut first
        } else {
            &mut later
        };
        of.next().expect("a slice for every task")
    })
}

/// Adds the sums of later segments, in order, to those of the first.
fn add_segments(inputs: &Inputs<'_>, sums: &mut [f32], later: &[f32], segments: &[Range<usize>]) {
    if segments.is_empty() {
        return;
    }
    let of_head = inputs.keys() * inputs.dim;
    let of_heads = later.par_chunks(segments.len() * of_head);
    let of_heads = sums.par_chunks_mut(of_head).zip(of_heads);
    of_heads.for_each(|(sums, later)| {
        for (rows, later) in segments.iter().zip(later.chunks(of_head)) {
            let seen = inputs.plan.positions().keys_in_sight(rows.clone());
            let keys = seen.start * inputs.dim..seen.end.max(seen.start) * inputs.dim;
            let sums = sums[keys.clone()].iter_mut();
            sums.zip(&later[keys]).for_each(|(sum, part)| *sum += part);
        }
    });
}

/// Some rows of the query heads of one key head, with the slices of the gradients that are its own.
struct TaskRows<'t> {
    batch: usize,
    key_head: usize,
    rows: Range<usize>,
    dq: Vec<&'t mut [f32]>,
    d_temperature: Vec<&'t mut [f32]>,
    /// `[keys, dim]`.
    dk: &'t mut [f32],
    dv: &'t mut [f32],
}

/// Memory that one task is computed in after the other.
struct Workspace<'a> {
    block: RowBlock<'a>,
    of_tile: TileSums,
    wide: Wide<'a>,
    narrow: Option<Narrow<'a>>,
}

impl<'a> Workspace<'a> {
    /// Given the keys for AMX, if numbers are multiplied as `bf16`.
    fn new(given: &'a Given<'a>, paired: Option<&'a PairedKeys>) -> Self {
        Self {
            block: RowBlock::new(given),
            of_tile: TileSums::new(given.inputs),
            wide: Wide::new(given.inputs),
            narrow: paired.map(|paired| Narrow::new(given.inputs, paired)),
        }
    }

    fn run(&mut self, arch: Arch, given: &Given<'a>, rows: TaskRows<'_>) -> Sums {
        let (block, of_tile) = (&mut self.block, &mut self.of_tile);
        let narrow = self.narrow.as_mut();
        match narrow.and_then(|narrow| InTiles::new(given, narrow)) {
            Some(products) => arch.dispatch(BackwardTask {
                given,
                block,
                of_tile,
                products,
                rows,
            }),
            None => arch.dispatch(BackwardTask {
                given,
                block,
                of_tile,
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
    of_tile: &'t mut TileSums,
    products: P,
    rows: TaskRows<'t>,
}

/// Sums of a tile that do not fit the gradient as they are made: `[TILE, padded dim]`.
struct TileSums {
    dk: Aligned<f32>,
    dv: Aligned<f32>,
}

impl TileSums {
    fn new(inputs: &Inputs<'_>) -> Self {
        let of_tile = || aligned(0.0, TILE * inputs.padded_dim());
        Self {
            dk: of_tile(),
            dv: of_tile(),
        }
    }

    /// The gradients of some keys, `[keys, dim]`, where those of a whole tile can be added to them, else zeros
    /// of its own.
    fn or_own<'t>(
        &'t mut self,
        (dk, dv): (&'t mut [f32], &'t mut [f32]),
    ) -> (&'t mut [f32], &'t mut [f32]) {
        if dk.len() == self.dk.len() {
            return (dk, dv);
        }
        self.dk.fill(0.0);
        self.dv.fill(0.0);
        (&mut self.dk, &mut self.dv)
    }

    /// Adds its own to the gradients of some keys, where [`TileSums::or_own`] gave them.
    fn add_own_to(&self, (dk, dv): (&mut [f32], &mut [f32]), dim: usize) {
        if dk.len() == self.dk.len() {
            return;
        }
        let padded = self.dk.len() / TILE;
        for (to, from) in [(dk, &self.dk), (dv, &self.dv)] {
            for (to, from) in to.chunks_exact_mut(dim).zip(from.chunks_exact(padded)) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        }
    }
}

/// Sums that tasks add up together, and reports.
struct Sums {
    /// By distance, one row per query head.
    d_ln_weights: Vec<f32>,
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
            .visit::<S, VECTORS>(simd, given, self.block, self.of_tile, products)
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
            .visit::<S, VECTORS>(simd, given, self.block, self.of_tile, products)
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
        of_tile: &mut TileSums,
        mut products: impl Products<'a, S, VECTORS>,
    ) -> Sums {
        let group = given.inputs.plan.group();
        let (inputs, dim) = (given.inputs, given.inputs.dim);
        let columns = given.by_distance.columns;
        let mut sums = Sums {
            d_ln_weights: vec![0.0; group * columns],
            skips: vec![HeadSkips::default(); group],
        };
        for index in 0..group {
            let head = self.key_head * group + index;
            let by_distance = &mut sums.d_ln_weights[index * columns..][..columns];
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
                    let keys = first_key..(first_key + TILE).min(inputs.keys());
                    let keys = keys.start * dim..keys.end * dim;
                    let (dk, dv) = (&mut self.dk[keys.clone()], &mut self.dv[keys]);
                    let to = of_tile.or_own((&mut *dk, &mut *dv));
                    let at = (self.key_head, first_key);
                    block.add(simd, &mut products, at, by_distance, to);
                    of_tile.add_own_to((dk, dv), dim);
                }
                sums.skips[index].add(&HeadSkips {
                    visible_tiles: schedule.tiles.len() as u64,
                    skipped_tiles: (schedule.tiles.len() - visited) as u64,
                    dropped_mass: (schedule.ln_mass_of_rest(visited) - least).exp(),
                });
                let own = rows.start - self.rows.start..rows.end - self.rows.start;
                let dq = &mut self.dq[index][own.start * dim..own.end * dim];
                block.finish(&products, dq, &mut self.d_temperature[index][own]);
            }
        }
        sums
    }
}

/// The gradient of the log-weights, `[heads, lags]`: batch rows and segments added in order.
fn add_ln_weights(inputs: &Inputs<'_>, of_tasks: &[Sums], segments: usize) -> Vec<f32> {
    let (lags, group) = (inputs.plan.lags().count(), inputs.plan.group());
    let mut sums = vec![0.0; inputs.heads * lags];
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
