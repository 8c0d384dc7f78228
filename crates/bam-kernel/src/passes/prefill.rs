//! Forward for many rows: panels of rows against tiles of keys, with an online softmax.

use super::inputs::{ByDistance, Inputs};
use super::narrow::{Narrow, PairedValues};
use super::panel::{Products, QueryPanels, Sight, read_row, splat};
use super::product::{Aligned, Line, aligned, columns_by_panel, lines_mut, panel_rows};
use super::task::{Task, Visit, may_stop};
use super::tile::KeyTile;
use crate::exponential::exp2;
use crate::key_norms::TILE;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// A block of rows in panels.
pub(super) struct ManyRows<'t, 'a> {
    pub task: &'t mut Task<'a>,
    pub by_distance: &'t ByDistance,
    /// Where numbers are multiplied as `bf16`.
    pub paired: Option<&'t PairedValues>,
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
        let at = (task.batch, task.head / inputs.plan.group());
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
