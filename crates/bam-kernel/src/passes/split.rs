//! Splitting the keys of a block among several tasks, and putting the parts together again.
//!
//! The number of parts depends on the sizes of a call only, never on the threads: the same call gives
//! the same bits anywhere.

use crate::results::RowsMut;
use rayon::prelude::*;

/// Tasks that a call should have at least, forward and back, so that many cores find work. A constant:
/// results would depend on the number of threads if this did.
pub(super) const TASKS: usize = 16;

/// Keys that are worth a task of their own.
const KEYS: usize = 2048;

/// Into how many parts the keys of every block are split.
pub(super) fn splits(blocks: usize, keys: usize) -> usize {
    match blocks {
        TASKS.. => 1,
        _ => TASKS.div_ceil(blocks).min(keys / KEYS).max(1),
    }
}

/// The posterior of a part of the keys: `out` is the expectation over them, `ln_evidence` the
/// logarithm of their evidence, `+∞` where there is none.
///
/// # Shapes
/// - `out`: `[splits, rows, dim]`
/// - `ln_evidence`: `[splits, rows]`
pub(super) struct Parts {
    splits: usize,
    /// `[splits · batch, heads, queries, dim]`.
    shape: [usize; 4],
    out: Vec<f32>,
    ln_evidence: Vec<f32>,
}

impl Parts {
    pub fn new(splits: usize, [batch, heads, queries, dim]: [usize; 4]) -> Self {
        let rows = splits * batch * heads * queries;
        Self {
            splits,
            shape: [splits * batch, heads, queries, dim],
            out: vec![0.0; rows * dim],
            ln_evidence: vec![0.0; rows],
        }
    }

    /// The memory of the parts, one after the other.
    pub fn memory(&mut self) -> (RowsMut<'_>, &mut [f32]) {
        let out = RowsMut::new(&mut self.out, self.shape).expect("made for these rows");
        (out, &mut self.ln_evidence)
    }

    /// Writes the posterior over all keys: parts weighed by their evidence, in order.
    pub fn merge(&self, out: &mut RowsMut<'_>, ln_evidence: &mut [f32]) {
        let (splits, rows, dim) = (self.splits, ln_evidence.len(), out.shape()[3]);
        let heads = out.heads().into_iter();
        let own: Vec<_> = heads
            .flat_map(|head| head.blocks(1))
            .zip(ln_evidence)
            .collect();
        own.into_par_iter()
            .enumerate()
            .for_each(|(row, (mut out, ln_evidence))| {
                let out = out.row(0);
                let parts = || (0..splits).map(|split| split * rows + row);
                let of = |part: usize| match self.ln_evidence[part] {
                    f32::INFINITY => f32::NEG_INFINITY,
                    ln_evidence => ln_evidence,
                };
                let largest = parts().map(of).fold(f32::NEG_INFINITY, f32::max);
                out.fill(0.0);
                if parts().all(|part| of(part) == f32::NEG_INFINITY) {
                    *ln_evidence = f32::INFINITY;
                    return;
                }
                let evidence: f32 = parts().map(|part| (of(part) - largest).exp()).sum();
                *ln_evidence = largest + evidence.ln();
                for part in parts() {
                    let weight = (of(part) - largest).exp() / evidence;
                    for (out, value) in out.iter_mut().zip(&self.out[part * dim..][..dim]) {
                        *out += weight * value;
                    }
                }
            });
    }
}
