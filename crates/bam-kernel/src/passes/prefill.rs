//! Forward for many rows: panels of rows against tiles of keys, with an online softmax.

use super::inputs::{ByDistance, Inputs};
use super::narrow::{Narrow, PairedKeys};
use super::panel::{Products, QueryPanels, Sight, splat};
use super::product::{
    Aligned, Factors, Lanes, Line, Strips, aligned, lines_mut, panel_rows, rows_from_lines,
    run_in_registers,
};
use super::task::{Task, Visit, may_stop};
use super::tile::{TileRows, load_strips};
use crate::exponential::exp2;
use crate::key_norms::TILE;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// Memory that one block of many rows is computed in after the other.
pub(super) struct Workspace<'a> {
    queries: QueryPanels<'a>,
    tile: Wide<'a>,
    running: Running,
    /// `[TILE, rows of a panel]`.
    scores: Aligned<f32>,
}

impl<'a> Workspace<'a> {
    pub fn new(inputs: &Inputs<'a>, by_distance: &'a ByDistance) -> Self {
        Self {
            queries: QueryPanels::new(inputs, by_distance),
            tile: Wide::new(inputs),
            running: Running::new(inputs.padded_dim()),
            scores: aligned(0.0, 0),
        }
    }
}

/// A block of rows in panels.
pub(super) struct ManyRows<'t, 'a> {
    pub task: &'t mut Task<'a>,
    pub workspace: &'t mut Workspace<'a>,
    /// Values for AMX, if numbers are multiplied as `bf16`.
    pub paired: Option<&'t PairedKeys>,
}

impl WithSimd for ManyRows<'_, '_> {
    type Output = Visit;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Visit {
        run_in_registers!(self, simd)
    }
}

impl<'a> ManyRows<'_, 'a> {
    #[inline(always)]
    fn run<S: Simd, const GROUP: usize, const VECTORS: usize>(self, simd: S) -> Visit {
        let Self {
            task,
            workspace,
            paired,
        } = self;
        let Workspace {
            queries,
            tile,
            running,
            scores,
        } = workspace;
        let (inputs, rows) = (task.inputs, task.rows.clone());
        queries.load::<S, VECTORS>(inputs, (task.batch, task.head), rows);
        running.restart(queries.count() * queries.width, queries.width);
        scores.resize(TILE * queries.width, 0.0);
        match paired.and_then(|paired| Narrow::new(inputs, queries, paired)) {
            Some(narrow) => visit::<S, VECTORS>(simd, task, queries, running, scores, narrow),
            None => {
                queries.load_q(inputs);
                let wide = Grouped::<GROUP>(tile);
                visit::<S, VECTORS>(simd, task, queries, running, scores, wide)
            }
        }
    }
}

/// Visits the tiles of a block, and writes its results.
#[inline(always)]
fn visit<'a, S: Simd, const VECTORS: usize>(
    simd: S,
    task: &mut Task<'a>,
    queries: &QueryPanels<'_>,
    running: &mut Running,
    scores: &mut [f32],
    mut products: impl Products<'a, S, VECTORS>,
) -> Visit {
    let (inputs, padded) = (task.inputs, task.inputs.padded_dim());
    let at = (task.batch, task.head / inputs.plan.group());
    let schedule = task.schedule();
    let searching = task.searching(&schedule);
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
            products.logits(simd, inputs, queries, panel, &sight, scores);
            let grew = running.weigh::<S, VECTORS>(simd, panel, sight.keys.clone(), scores);
            let size = padded * queries.width;
            let sums = &mut running.weighted_values[panel * size..][..size];
            if grew {
                products.scale(sums, &running.shrink);
            }
            products.add_values(simd, inputs, queries, (panel, sight.keys), scores, sums);
        }
    }
    for r in 0..task.rows.len() {
        let of_row = (running.largest[r], running.evidence[r]);
        let size = padded * queries.width;
        let sums = &running.weighted_values[r / queries.width * size..][..size];
        task.finish_row(r, of_row, |evidence, out| {
            products.expectation(sums, r % queries.width, evidence, out);
        });
    }
    task.visit(&schedule, visited)
}

/// In `f32`, whatever the numbers were.
struct Wide<'a> {
    first_key: usize,
    keys: TileRows<'a>,
    values: Strips,
    /// Of one row.
    room: Aligned<f32>,
}

impl<'a> Wide<'a> {
    fn new(inputs: &Inputs<'a>) -> Self {
        Self {
            first_key: 0,
            keys: TileRows::new(inputs),
            values: Strips::new(TILE, inputs.padded_dim()),
            room: aligned(0.0, inputs.padded_dim()),
        }
    }
}

/// Those products with `GROUP` keys side by side.
struct Grouped<'t, 'a, const GROUP: usize>(&'t mut Wide<'a>);

impl<'a, S: Simd, const GROUP: usize, const VECTORS: usize> Products<'a, S, VECTORS>
    for Grouped<'_, 'a, GROUP>
{
    #[inline(always)]
    fn load(&mut self, inputs: &Inputs<'a>, at: (usize, usize), first_key: usize) {
        let Wide {
            keys, values, room, ..
        } = &mut *self.0;
        keys.load(inputs, &inputs.k, at, first_key);
        load_strips::<S>(inputs, &inputs.v, at, first_key, room, values);
        self.0.first_key = first_key;
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
        let tile = (self.0.keys.rows(), self.0.first_key);
        let lanes = &mut Lanes::of_panel::<S, VECTORS>(scores);
        queries.logits::<S, GROUP, VECTORS>(simd, inputs, panel, tile, sight, lanes);
    }

    /// Sums are `[rows of a panel, padded dim]`.
    #[inline(always)]
    fn add_values(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        queries: &QueryPanels<'_>,
        (panel, keys): (usize, Range<usize>),
        weights: &mut [f32],
        sums: &mut [f32],
    ) {
        let Wide {
            first_key, values, ..
        } = &*self.0;
        let in_sight = |rows| queries.keys_in_sight(inputs, panel, rows, *first_key, &keys);
        let stride = panel_rows::<S, VECTORS>();
        let factors = Factors {
            values: weights,
            stride,
        };
        rows_from_lines(simd, factors, 0..stride, in_sight, values, sums);
    }

    #[inline(always)]
    fn scale(&self, sums: &mut [f32], factors: &[f32]) {
        let padded = sums.len() / factors.len();
        for (sums, factor) in sums.chunks_exact_mut(padded).zip(factors) {
            if *factor != 1.0 {
                sums.iter_mut().for_each(|sum| *sum *= factor);
            }
        }
    }

    #[inline(always)]
    fn expectation(&self, sums: &[f32], r: usize, evidence: f32, out: &mut [f32]) {
        let padded = sums.len() / panel_rows::<S, VECTORS>();
        for (out, sum) in out.iter_mut().zip(&sums[r * padded..][..padded]) {
            *out = sum / evidence;
        }
    }
}

/// The online softmax of a block in panels: sums relative to the largest logit so far.
struct Running {
    largest: Aligned<f32>,
    evidence: Aligned<f32>,
    /// `[panels, padded dim · rows of a panel]`, laid out as the products like it.
    weighted_values: Aligned<f32>,
    padded: usize,
    /// The factor by which each row of the panel at hand grew lighter.
    shrink: Aligned<f32>,
}

impl Running {
    fn new(padded: usize) -> Self {
        let empty = || aligned(0.0, 0);
        Self {
            largest: empty(),
            evidence: empty(),
            weighted_values: empty(),
            padded,
            shrink: empty(),
        }
    }

    /// Begins with so many rows, of panels of `width`.
    fn restart(&mut self, rows: usize, width: usize) {
        for (values, start, count) in [
            (&mut self.largest, f32::NEG_INFINITY, rows),
            (&mut self.evidence, 0.0, rows),
            (&mut self.weighted_values, 0.0, rows * self.padded),
            (&mut self.shrink, 1.0, width),
        ] {
            values.clear();
            values.resize(count, start);
        }
    }

    /// Turns the logits of some keys of a tile into weights `2^(logit − largest)` and adds them to the
    /// evidence. Where a logit is the largest so far, the sums have to be multiplied by `shrink`.
    #[inline(always)]
    fn weigh<S: Simd, const VECTORS: usize>(
        &mut self,
        simd: S,
        panel: usize,
        keys: Range<usize>,
        scores: &mut [f32],
    ) -> bool {
        let width = panel_rows::<S, VECTORS>();
        let of_panel = panel * width..(panel + 1) * width;
        let largest = &mut lines_mut::<S, VECTORS>(&mut self.largest[of_panel.clone()])[0];
        let evidence = &mut lines_mut::<S, VECTORS>(&mut self.evidence[of_panel])[0];
        let scores = &mut lines_mut::<S, VECTORS>(scores)[keys];

        let before = *largest;
        for line in scores.iter() {
            for c in 0..VECTORS {
                largest[c] = simd.max_f32s(largest[c], line[c]);
            }
        }
        let (nothing, one) = (simd.splat_f32s(f32::NEG_INFINITY), simd.splat_f32s(1.0));
        // Where nothing was seen yet, −∞ − −∞ is to be −∞.
        let mut shift = *largest;
        let mut grew = simd.splat_f32s(0.0);
        for c in 0..VECTORS {
            let unseen = simd.equal_f32s(largest[c], nothing);
            shift[c] = simd.select_f32s(unseen, simd.splat_f32s(0.0), largest[c]);
            let larger = simd.less_than_f32s(before[c], largest[c]);
            grew = simd.select_f32s(larger, one, grew);
        }
        let grew = simd.reduce_max_f32s(grew) > 0.0;
        if grew {
            let shrink = &mut lines_mut::<S, VECTORS>(&mut self.shrink)[0];
            for c in 0..VECTORS {
                shrink[c] = simd.sub_f32s(before[c], shift[c]);
            }
            *shrink = exp2(simd, *shrink);
            for c in 0..VECTORS {
                // Sums of nothing are zeros, whatever the factor.
                let unseen = simd.equal_f32s(before[c], nothing);
                shrink[c] = simd.select_f32s(unseen, one, shrink[c]);
                evidence[c] = simd.mul_f32s(evidence[c], shrink[c]);
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
        grew
    }
}
