//! One task of the forward pass: what it visits, when it may stop, what it writes.

use super::inputs::Inputs;
use crate::certificate::{Bounds, Schedule};
use crate::results::HeadRows;
use crate::rounding::at_least;
use crate::skipping::HeadSkips;
use std::f32::consts::LN_2;
use std::ops::Range;

/// One part of the keys for one block of rows, with the slices of the results that are its own.
pub(super) struct Task<'a> {
    pub inputs: &'a Inputs<'a>,
    pub bounds: &'a Bounds<'a>,
    pub batch: usize,
    pub head: usize,
    pub rows: Range<usize>,
    pub split: usize,
    pub splits: usize,
    pub out: HeadRows<'a>,
    pub ln_evidence: &'a mut [f32],
}

/// The tiles that a task visited, counted.
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
            .row_bounds(self.batch, self.head, self.rows.clone(), self.bounds);
        self.bounds.schedule(&block, self.split, self.splits)
    }

    /// The rows, counted from the block's first, that see a key.
    pub fn seeing(&self) -> Vec<usize> {
        let inputs = self.inputs;
        let sees = |r: &usize| !inputs.sees_nothing(self.batch, self.rows.start + r);
        (0..self.rows.len()).filter(sees).collect()
    }

    /// Those that have to find their keys before the rest of the tiles can be left out.
    pub fn searching(&self, schedule: &Schedule) -> Vec<usize> {
        match schedule.never_stops() {
            true => Vec::new(),
            false => self.seeing(),
        }
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

    /// Writes the results of row `r` of the block: its largest logit, to the base 2, the evidence relative to
    /// that, and the expectation of the values, which is written given the evidence.
    #[inline(always)]
    pub fn finish_row(
        &mut self,
        r: usize,
        (largest, evidence): (f32, f32),
        expectation: impl FnOnce(f32, &mut [f32]),
    ) {
        let out = self.out.row(r);
        if evidence == 0.0 {
            self.ln_evidence[r] = f32::INFINITY;
            out.fill(0.0);
        } else {
            self.ln_evidence[r] = (largest + evidence.log2()) * LN_2;
            expectation(evidence, out);
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
    if schedule.never_stops() {
        return false;
    }
    let least = |of: &dyn Fn(usize) -> f64| {
        let values = searching.iter().map(|r| of(*r));
        values.fold(f64::INFINITY, f64::min)
    };
    let largest = |r: usize| f64::from(largest[r]) * std::f64::consts::LN_2;
    let least_evidence = || least(&|r| largest(r) + f64::from(evidence(r)).ln());
    schedule.may_stop(t, least(&largest), least_evidence)
}

/// Adds up what was skipped, where the caller asked.
pub(super) fn log_skips(inputs: &Inputs<'_>, visits: &[Visit], ln_evidence: &[f32]) {
    let Some(log) = &inputs.plan.call().skip_log else {
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
