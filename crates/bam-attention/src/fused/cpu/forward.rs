//! Forward: per row a running maximum, a running evidence and a running expectation of the values.

use super::super::bound::{Bounds, Schedule, TILE};
use super::decode::{FEW, FewRows};
use super::exponential::exp2;
use super::narrow::{Narrow, PairedValues};
use super::panel::{BLOCK, QueryPanels, Sight, read_row, splat};
use super::product::{Aligned, Line, aligned, columns_by_panel, lines_mut, panel_rows};
use super::split::{Parts, splits};
use super::tile::KeyTile;
use super::{ByDistance, Inputs};
use crate::skipping::HeadSkips;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::f32::consts::LN_2;
use std::ops::Range;

/// `(out [b, h, i, d], ln evidence [b, h, i])`.
pub(in super::super) fn forward(inputs: &Inputs<'_>) -> (Vec<f32>, Vec<f32>) {
    let (queries, dim) = (inputs.queries(), inputs.dim);
    let few = queries <= FEW;
    let block = if few { FEW } else { BLOCK };
    let heads = inputs.batch * inputs.heads;
    let splits = splits(heads * queries.div_ceil(block), inputs.keys());
    let norms = inputs.key_norms();
    let bounds = inputs.bounds(norms.as_deref());
    let by_distance = (!few).then(|| ByDistance::new(inputs));
    let paired = if few { None } else { PairedValues::new(inputs) };
    let arch = inputs.arch();

    let mut parts = Parts::new(splits, heads * queries, dim);
    let visits: Vec<Visit> = parts
        .out
        .par_chunks_mut(queries * dim)
        .zip(parts.ln_evidence.par_chunks_mut(queries))
        .enumerate()
        .flat_map(|(index, (out, ln_evidence))| {
            out.par_chunks_mut(block * dim)
                .zip(ln_evidence.par_chunks_mut(block))
                .enumerate()
                .map(move |(number, rows)| (index, number * block, rows))
        })
        .map(|(index, first, (out, ln_evidence))| {
            let (split, head) = (index / heads, index % heads);
            let mut task = Task {
                inputs,
                bounds: &bounds,
                batch: head / inputs.heads,
                head: head % inputs.heads,
                rows: first..first + ln_evidence.len(),
                split,
                splits,
                out,
                ln_evidence,
            };
            match &by_distance {
                None => arch.dispatch(FewRows(&mut task)),
                Some(by_distance) => arch.dispatch(ManyRows {
                    task: &mut task,
                    by_distance,
                    paired: paired.as_ref(),
                }),
            }
        })
        .collect();
    let merged = parts.merge(splits, dim);
    log_skips(inputs, &visits, &merged.ln_evidence);
    (merged.out, merged.ln_evidence)
}

/// One part of the keys for one block of rows, with the slices of the results that are its own.
pub(super) struct Task<'a> {
    pub inputs: &'a Inputs<'a>,
    pub bounds: &'a Bounds<'a>,
    pub batch: usize,
    pub head: usize,
    pub rows: Range<usize>,
    split: usize,
    splits: usize,
    pub out: &'a mut [f32],
    pub ln_evidence: &'a mut [f32],
}

/// Which tiles a task visited.
pub(super) struct Visit {
    batch: usize,
    head: usize,
    rows: Range<usize>,
    visible: usize,
    visited: usize,
    /// `ln` of what the others can hold.
    ln_mass_of_rest: f64,
}

impl Task<'_> {
    pub fn schedule(&self) -> Schedule {
        let block = self
            .inputs
            .row_bounds(self.batch, self.head, self.rows.clone());
        self.bounds.schedule(&block, self.split, self.splits)
    }

    /// The rows, counted from the block's first, that have to find their keys before the rest of the
    /// tiles can be left out.
    pub fn searching(&self) -> Vec<usize> {
        let inputs = self.inputs;
        let sees = |r: &usize| !inputs.sees_nothing(self.batch, self.rows.start + r);
        (0..self.rows.len()).filter(sees).collect()
    }

    pub fn visit(&self, schedule: &Schedule, visited: usize) -> Visit {
        Visit {
            batch: self.batch,
            head: self.head,
            rows: self.rows.clone(),
            visible: schedule.tiles.len(),
            visited,
            ln_mass_of_rest: schedule.ln_mass_of_rest(visited),
        }
    }

    /// Writes the results of row `r` of the block: sums relative to the largest logit,
    /// which is to the base 2, divided.
    pub fn finish_row(
        &mut self,
        r: usize,
        (largest, evidence): (f32, f32),
        weighted_values: impl Iterator<Item = f32>,
    ) {
        let dim = self.inputs.dim;
        let out = &mut self.out[r * dim..][..dim];
        if evidence == 0.0 {
            self.ln_evidence[r] = f32::INFINITY;
            out.fill(0.0);
        } else {
            self.ln_evidence[r] = (largest + evidence.log2()) * LN_2;
            out.iter_mut()
                .zip(weighted_values)
                .for_each(|(out, sum)| *out = sum / evidence);
        }
    }
}

/// Whether the tiles from `t` on can be left out, by the least of the largest logits, which come to
/// the base 2, and of the evidence over the `searching` rows.
pub(super) fn may_stop(
    schedule: &Schedule,
    t: usize,
    searching: &[usize],
    largest: &[f32],
    evidence: impl Fn(usize) -> f32,
) -> bool {
    let least = |of: &dyn Fn(usize) -> f64| {
        let values = searching.iter().map(|r| of(*r));
        values.fold(f64::INFINITY, f64::min)
    };
    let largest = |r: usize| f64::from(largest[r]) * std::f64::consts::LN_2;
    let least_evidence = || least(&|r| largest(r) + f64::from(evidence(r)).ln());
    schedule.may_stop(t, least(&largest), least_evidence)
}

/// A block of rows in panels.
struct ManyRows<'t, 'a> {
    task: &'t mut Task<'a>,
    by_distance: &'t ByDistance,
    /// Where numbers are multiplied as `bf16`.
    paired: Option<&'t PairedValues>,
}

impl WithSimd for ManyRows<'_, '_> {
    type Output = Visit;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Visit {
        if S::REGISTER_COUNT >= 32 {
            self.run::<S, 8, 3>(simd)
        } else {
            self.run::<S, 6, 2>(simd)
        }
    }
}

impl<'a> ManyRows<'_, 'a> {
    #[inline(always)]
    fn run<S: Simd, const GROUP: usize, const VECTORS: usize>(self, simd: S) -> Visit {
        let (inputs, rows) = (self.task.inputs, self.task.rows.clone());
        let at = (self.task.batch, self.task.head);
        let queries = QueryPanels::new::<S, VECTORS>(inputs, self.by_distance, at, rows);
        let narrow = self.paired;
        match narrow.and_then(|paired| Narrow::new(inputs, &queries, paired)) {
            Some(narrow) => self.visit::<S, VECTORS>(simd, &queries, narrow),
            None => {
                let queries = queries.with_scaled_q(inputs);
                self.visit::<S, VECTORS>(simd, &queries, Wide::<GROUP>(KeyTile::new(inputs)))
            }
        }
    }

    #[inline(always)]
    fn visit<S: Simd, const VECTORS: usize>(
        self,
        simd: S,
        queries: &QueryPanels<'_>,
        mut products: impl Products<'a, S, VECTORS>,
    ) -> Visit {
        let task = self.task;
        let inputs = task.inputs;
        let at = (task.batch, task.head / inputs.call.group);
        let schedule = task.schedule();
        let searching = task.searching();
        let mut running = Running::new(queries.count() * queries.width, inputs.padded_dim());
        let mut scores = aligned(0.0, TILE * queries.width);
        let mut visited = 0;
        for &first_key in &schedule.tiles {
            let evidence = |r: usize| running.evidence[r];
            if may_stop(&schedule, visited, &searching, &running.largest, evidence) {
                break;
            }
            visited += 1;
            products.load(inputs, at, first_key);
            for panel in 0..queries.count() {
                let Some(sight) = queries.sight(inputs, panel, first_key) else {
                    continue;
                };
                products.logits(simd, inputs, queries, panel, &sight, &mut scores);
                let sums = running.weigh(simd, panel, sight.keys.clone(), &mut scores);
                products.add_values(simd, sight.keys, &mut scores, sums);
            }
        }
        let (width, padded) = (queries.width, inputs.padded_dim());
        for r in 0..task.rows.len() {
            let of_row = (running.largest[r], running.evidence[r]);
            let sums = read_row(&running.weighted_values, width, padded, r);
            task.finish_row(r, of_row, sums);
        }
        task.visit(&schedule, visited)
    }
}

/// How the products of a panel of rows and a tile of keys are taken.
pub(super) trait Products<'a, S: Simd, const VECTORS: usize> {
    /// Reads the tile of that batch row and key head that begins at key `first_key`.
    fn load(&mut self, inputs: &Inputs<'a>, at: (usize, usize), first_key: usize);

    /// The logits of a panel and the keys in sight, as [`QueryPanels::logits`] gives them.
    fn logits(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        queries: &QueryPanels<'_>,
        panel: usize,
        sight: &Sight,
        scores: &mut [f32],
    );

    /// Adds the values of some keys of the tile, by the weights that a panel gives them.
    fn add_values(
        &mut self,
        simd: S,
        keys: Range<usize>,
        weights: &mut [f32],
        sums: &mut [Line<S, VECTORS>],
    );
}

/// In `f32`, whatever the numbers were.
struct Wide<'a, const GROUP: usize>(KeyTile<'a>);

impl<'a, S: Simd, const GROUP: usize, const VECTORS: usize> Products<'a, S, VECTORS>
    for Wide<'a, GROUP>
{
    #[inline(always)]
    fn load(&mut self, inputs: &Inputs<'a>, (batch, key_head): (usize, usize), first_key: usize) {
        self.0.load(inputs, batch, key_head, first_key);
    }

    #[inline(always)]
    fn logits(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        queries: &QueryPanels<'_>,
        panel: usize,
        sight: &Sight,
        scores: &mut [f32],
    ) {
        queries.logits::<S, GROUP, VECTORS>(simd, inputs, panel, &self.0, sight, scores);
    }

    #[inline(always)]
    fn add_values(
        &mut self,
        simd: S,
        keys: Range<usize>,
        weights: &mut [f32],
        sums: &mut [Line<S, VECTORS>],
    ) {
        let padded = sums.len();
        let values = &self.0.values()[keys.start * padded..keys.end * padded];
        let weights = &lines_mut::<S, VECTORS>(weights)[keys];
        columns_by_panel::<S, GROUP, VECTORS>(simd, (values, padded), weights, sums);
    }
}

/// The online softmax of a block in panels: sums relative to the largest logit so far.
struct Running {
    largest: Aligned<f32>,
    evidence: Aligned<f32>,
    /// `[panels, padded dim, rows of a panel]`.
    weighted_values: Aligned<f32>,
    padded: usize,
}

impl Running {
    fn new(rows: usize, padded: usize) -> Self {
        Self {
            largest: aligned(f32::NEG_INFINITY, rows),
            evidence: aligned(0.0, rows),
            weighted_values: aligned(0.0, rows * padded),
            padded,
        }
    }

    /// Turns the logits of some keys of a tile into weights `2^(logit − largest)` and adds them to the
    /// evidence; the panel's weighted values, relative to the same largest logit.
    #[inline(always)]
    fn weigh<S: Simd, const VECTORS: usize>(
        &mut self,
        simd: S,
        panel: usize,
        keys: Range<usize>,
        scores: &mut [f32],
    ) -> &mut [Line<S, VECTORS>] {
        let (width, padded) = (panel_rows::<S, VECTORS>(), self.padded);
        let of_panel = panel * width..(panel + 1) * width;
        let largest = &mut lines_mut::<S, VECTORS>(&mut self.largest[of_panel.clone()])[0];
        let evidence = &mut lines_mut::<S, VECTORS>(&mut self.evidence[of_panel])[0];
        let sums = &mut self.weighted_values[panel * padded * width..][..padded * width];
        let sums = lines_mut::<S, VECTORS>(sums);
        let scores = &mut lines_mut::<S, VECTORS>(scores)[keys];

        let before = *largest;
        for line in scores.iter() {
            for c in 0..VECTORS {
                largest[c] = simd.max_f32s(largest[c], line[c]);
            }
        }
        // Where nothing was seen yet, −∞ − −∞ is to be −∞.
        let mut shift = *largest;
        let mut grew = simd.splat_f32s(0.0);
        for c in 0..VECTORS {
            let nothing = simd.equal_f32s(largest[c], simd.splat_f32s(f32::NEG_INFINITY));
            shift[c] = simd.select_f32s(nothing, simd.splat_f32s(0.0), largest[c]);
            let larger = simd.less_than_f32s(before[c], largest[c]);
            grew = simd.select_f32s(larger, simd.splat_f32s(1.0), grew);
        }
        if simd.reduce_max_f32s(grew) > 0.0 {
            let mut shrink: Line<S, VECTORS> = splat(simd, 0.0);
            for c in 0..VECTORS {
                shrink[c] = simd.sub_f32s(before[c], shift[c]);
            }
            shrink = exp2(simd, shrink);
            for c in 0..VECTORS {
                evidence[c] = simd.mul_f32s(evidence[c], shrink[c]);
            }
            for sum in sums.iter_mut() {
                for c in 0..VECTORS {
                    sum[c] = simd.mul_f32s(sum[c], shrink[c]);
                }
            }
        }
        let mut total: Line<S, VECTORS> = splat(simd, 0.0);
        for line in scores.iter_mut() {
            for c in 0..VECTORS {
                line[c] = simd.sub_f32s(line[c], shift[c]);
            }
            *line = exp2(simd, *line);
            for c in 0..VECTORS {
                total[c] = simd.add_f32s(total[c], line[c]);
            }
        }
        for c in 0..VECTORS {
            evidence[c] = simd.add_f32s(evidence[c], total[c]);
        }
        sums
    }
}

/// What a logarithm that was rounded to `f32` was at least.
pub(super) fn at_least(ln_evidence: f32) -> f64 {
    f64::from(ln_evidence.next_down())
}

/// Adds up what was skipped, where the caller asked.
fn log_skips(inputs: &Inputs<'_>, visits: &[Visit], ln_evidence: &[f32]) {
    let Some(log) = &inputs.call.skip_log else {
        return;
    };
    let queries = inputs.queries();
    let mut dropped = vec![0.0f64; ln_evidence.len()];
    for visit in visits {
        let first = (visit.batch * inputs.heads + visit.head) * queries;
        let rows = first + visit.rows.start..first + visit.rows.end;
        let mut largest = 0.0f64;
        for (dropped, ln_evidence) in dropped[rows.clone()].iter_mut().zip(&ln_evidence[rows]) {
            // A row that sees nothing has the evidence +∞ and drops nothing.
            *dropped += (visit.ln_mass_of_rest - at_least(*ln_evidence)).exp();
            largest = largest.max(*dropped);
        }
        log.add(
            visit.head,
            &HeadSkips {
                visible_tiles: visit.visible as u64,
                skipped_tiles: (visit.visible - visit.visited) as u64,
                dropped_mass: largest,
            },
        );
    }
}
