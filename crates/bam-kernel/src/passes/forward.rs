//! Forward: per row a running maximum, a running evidence and a running expectation of the values.

use super::decode::{FEW, FewRows};
use super::inputs::{ByDistance, Inputs};
use super::narrow::PairedKeys;
use super::panel::BLOCK;
use super::prefill::{ManyRows, Workspace};
use super::split::{Parts, splits};
use super::task::{Task, Visit, log_skips};
use crate::results::RowsMut;
use rayon::prelude::*;

/// The result of the forward pass, all numbers one after the other; the backward pass wants both.
#[derive(Clone, Debug, PartialEq)]
pub struct Posterior {
    /// The expectation of the values, `[batch, query heads, queries, dim]`.
    pub out: Vec<f32>,
    /// `ln evidence`, `[batch, query heads, queries]`; `+∞` where a row sees no key. Under a prior over keys it is
    /// relative to the row's largest `u` in sight (times the temperature, where that scales it): of large sums
    /// `f32` would keep too little for the way back.
    pub ln_evidence: Vec<f32>,
}

pub(super) fn forward(inputs: &Inputs<'_>, out: &mut RowsMut<'_>, ln_evidence: &mut [f32]) {
    let block = block(inputs);
    let blocks = inputs.batch * inputs.heads * inputs.queries().div_ceil(block);
    let splits = splits(blocks, inputs.keys());
    let visits = if splits == 1 {
        visit_all(inputs, 1, out, ln_evidence)
    } else {
        let mut parts = Parts::new(splits, out.shape());
        let (mut out_of_parts, of_parts) = parts.memory();
        let visits = visit_all(inputs, splits, &mut out_of_parts, of_parts);
        parts.merge(out, ln_evidence);
        visits
    };
    log_skips(inputs, &visits, ln_evidence);
}

/// Rows that a task has.
fn block(inputs: &Inputs<'_>) -> usize {
    if inputs.queries() <= FEW { FEW } else { BLOCK }
}

/// All blocks of rows against all parts of the keys: `out` and `ln_evidence` hold the parts one after the other.
fn visit_all(
    inputs: &Inputs<'_>,
    splits: usize,
    out: &mut RowsMut<'_>,
    ln_evidence: &mut [f32],
) -> Vec<Visit> {
    let heads = inputs.batch * inputs.heads;
    let norms = inputs.key_norms();
    let bounds = inputs.bounds(norms.as_deref());
    let block = block(inputs);
    let few = block == FEW;
    let by_distance = (!few).then(|| ByDistance::new(inputs));
    let paired = match few {
        true => None,
        false => PairedKeys::new(inputs, &inputs.v),
    };
    let arch = inputs.arch();
    let workspace = || by_distance.as_ref().map(|of| Workspace::new(inputs, of));

    let of_heads = ln_evidence.chunks_mut(inputs.queries());
    let of_heads = out.heads().into_iter().zip(of_heads).enumerate();
    let tasks: Vec<_> = of_heads
        .flat_map(|(index, (out, ln_evidence))| {
            let blocks = out.blocks(block).zip(ln_evidence.chunks_mut(block));
            let numbered = blocks.enumerate();
            numbered.map(move |(number, rows)| (index, number * block, rows))
        })
        .collect();
    let tasks = tasks.into_par_iter();
    tasks
        .map_init(
            workspace,
            |workspace, (index, first, (out, ln_evidence))| {
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
                match workspace {
                    None => arch.dispatch(FewRows(&mut task)),
                    Some(workspace) => arch.dispatch(ManyRows {
                        task: &mut task,
                        workspace,
                        paired: paired.as_ref(),
                    }),
                }
            },
        )
        .collect()
}
