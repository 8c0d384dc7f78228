//! Forward for a few rows against many keys, as in generation: no panel would be full.
//!
//! Here the lanes hold elements of a key, then keys: every key is read once for all rows, and what
//! decides the speed is the memory.

use super::task::{Task, Visit, may_stop};
use super::tile::KeyTile;
use crate::by_key::hides;
use crate::documents::Documents;
use crate::exponential::exp2;
use crate::key_norms::TILE;
use pulp::{Simd, WithSimd};
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Up to how many rows are few.
pub(super) const FEW: usize = 8;

/// Keys, or vectors of a value, that are summed side by side.
const GROUP: usize = 4;

/// A block of at most [`FEW`] rows.
pub(super) struct FewRows<'t, 'a>(pub &'t mut Task<'a>);

/// One row on its way through the tiles; logits are to the base 2.
struct Row {
    q: Vec<f32>,
    prior_factor: f32,
    key_factor: f32,
    weighted_values: Vec<f32>,
}

impl WithSimd for FewRows<'_, '_> {
    type Output = Visit;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Visit {
        let task = self.0;
        let inputs = task.inputs;
        let schedule = task.schedule();
        let seeing = task.seeing();
        let mut rows: Vec<Row> = task.rows.clone().map(|row| Row::new(task, row)).collect();
        let mut largest = vec![f32::NEG_INFINITY; rows.len()];
        let mut evidence = vec![0.0; rows.len()];
        let mut tile = KeyTile::new(inputs);
        let mut visited = 0;
        for &first_key in &schedule.tiles {
            if may_stop(&schedule, visited, &seeing, &largest, |r| evidence[r]) {
                break;
            }
            visited += 1;
            tile.load(
                inputs,
                task.batch,
                task.head / inputs.plan.group(),
                first_key,
            );
            for &r in &seeing {
                let mut weights = [f32::NEG_INFINITY; TILE];
                let row = task.rows.start + r;
                let keys = rows[r].logits(simd, task, row, &tile, &mut weights);
                if keys.is_empty() {
                    continue;
                }
                let of_row = (&mut largest[r], &mut evidence[r]);
                rows[r].add(simd, of_row, &tile, keys, &mut weights);
            }
        }
        for (r, row) in rows.into_iter().enumerate() {
            let of_row = (largest[r], evidence[r]);
            task.finish_row(r, of_row, |evidence, out| {
                for (out, sum) in out.iter_mut().zip(&row.weighted_values) {
                    *out = sum / evidence;
                }
            });
        }
        task.visit(&schedule, visited)
    }
}

impl Row {
    fn new(task: &Task<'_>, row: usize) -> Self {
        let inputs = task.inputs;
        let padded = inputs.padded_dim();
        let mut q = vec![0.0; padded];
        let (mut prior_factor, mut key_factor) = (0.0, 0.0);
        if !inputs.plan.is_padding_query(task.batch, row) {
            let (of_content, of_prior) = inputs.factors(task.batch, task.head, row);
            inputs.q.load(task.batch, task.head, row, &mut q);
            let scale = of_content * LOG2_E;
            q.iter_mut().for_each(|q| *q *= scale);
            prior_factor = of_prior * LOG2_E;
            key_factor = inputs.key_factor(task.batch, task.head, row) * LOG2_E;
        }
        Self {
            q,
            prior_factor,
            key_factor,
            weighted_values: vec![0.0; padded],
        }
    }

    /// Writes the logits of the keys of a tile; which of the tile's keys the row may see by position.
    #[inline(always)]
    fn logits<S: Simd>(
        &self,
        simd: S,
        task: &Task<'_>,
        row: usize,
        tile: &KeyTile<'_>,
        logits: &mut [f32; TILE],
    ) -> Range<usize> {
        let inputs = task.inputs;
        let positions = inputs.plan.positions();
        let seen = positions.visible_keys(row);
        let inside = |key: usize| key.clamp(tile.first, tile.first + TILE) - tile.first;
        let keys = inside(seen.start)..inside(seen.end);
        if keys.is_empty() {
            return keys;
        }
        let padded = self.q.len();
        let (q, _) = S::as_simd_f32s(&self.q);
        let groups = keys.start / GROUP..keys.end.div_ceil(GROUP);
        for group in groups {
            let k = &tile.keys()[group * GROUP * padded..][..GROUP * padded];
            let k: [&[S::f32s]; GROUP] =
                std::array::from_fn(|r| &S::as_simd_f32s(&k[r * padded..][..padded]).0[..q.len()]);
            let mut sums = [simd.splat_f32s(0.0); GROUP];
            for (d, q) in q.iter().enumerate() {
                for (sum, k) in sums.iter_mut().zip(&k) {
                    *sum = simd.mul_add_e_f32s(*q, k[d], *sum);
                }
            }
            for (logit, sum) in logits[group * GROUP..].iter_mut().zip(sums) {
                *logit = simd.reduce_sum_f32s(sum);
            }
        }
        logits[..keys.start].fill(f32::NEG_INFINITY);
        logits[keys.end..].fill(f32::NEG_INFINITY);
        let column = positions.column_of_first_key(row, inputs.plan.lags());
        let first = (column + (tile.first + keys.start) as i64) as usize;
        let weights = &inputs.head_ln_weights(task.head)[first..][..keys.len()];
        for (logit, weight) in logits[keys.clone()].iter_mut().zip(weights) {
            *logit += self.prior_factor * weight;
        }
        if let Some(by_key) = &inputs.key_prior {
            let at = (task.batch, task.head);
            let [high, low] = by_key.keys(at, tile.first + keys.start..tile.first + keys.end);
            let reference = by_key.reference(task.batch, task.head, row);
            for ((logit, high), low) in logits[keys.clone()].iter_mut().zip(high).zip(low) {
                if hides(*high) {
                    *logit = f32::NEG_INFINITY;
                } else {
                    *logit += self.key_factor * ((high - reference[0]) + (low - reference[1]));
                }
            }
        }
        if let Some(documents) = inputs.plan.documents() {
            let own = documents.query_ids(task.batch)[row];
            let ids = &documents.key_ids(task.batch)[tile.first + keys.start..];
            for (logit, id) in logits[keys.clone()].iter_mut().zip(ids) {
                if !Documents::shared(own, *id) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        keys
    }

    /// Turns logits into weights `2^(logit − largest)` and adds them.
    #[inline(always)]
    fn add<S: Simd>(
        &mut self,
        simd: S,
        (largest, evidence): (&mut f32, &mut f32),
        tile: &KeyTile<'_>,
        keys: Range<usize>,
        weights: &mut [f32; TILE],
    ) {
        let (line, _) = S::as_mut_simd_f32s(weights.as_mut_slice());
        let of_tile = line.iter().fold(
            simd.splat_f32s(f32::NEG_INFINITY),
            #[inline(always)]
            |a, b| simd.max_f32s(a, *b),
        );
        let of_tile = simd.reduce_max_f32s(of_tile);
        if of_tile > *largest {
            let shrink = (*largest - of_tile).exp2();
            *evidence *= shrink;
            self.weighted_values
                .iter_mut()
                .for_each(|sum| *sum *= shrink);
            *largest = of_tile;
        }
        // Where nothing was seen yet, −∞ − −∞ is to be −∞.
        let shift = match *largest {
            f32::NEG_INFINITY => 0.0,
            largest => largest,
        };
        let shift = simd.splat_f32s(shift);
        let mut total = simd.splat_f32s(0.0);
        for weight in line {
            [*weight] = exp2(simd, [simd.sub_f32s(*weight, shift)]);
            total = simd.add_f32s(total, *weight);
        }
        *evidence += simd.reduce_sum_f32s(total);

        let padded = self.q.len();
        let values = &tile.values()[keys.start * padded..keys.end * padded];
        let (sums, _) = S::as_mut_simd_f32s(&mut self.weighted_values);
        for (group, sums) in sums.chunks_mut(GROUP).enumerate() {
            let mut added = [simd.splat_f32s(0.0); GROUP];
            for (weight, value) in weights[keys.clone()]
                .iter()
                .zip(values.chunks_exact(padded))
            {
                let weight = simd.splat_f32s(*weight);
                let (value, _) = S::as_simd_f32s(value);
                for (added, value) in added.iter_mut().zip(&value[group * GROUP..]) {
                    *added = simd.mul_add_e_f32s(weight, *value, *added);
                }
            }
            for (sum, added) in sums.iter_mut().zip(added) {
                *sum = simd.add_f32s(*sum, added);
            }
        }
    }
}
