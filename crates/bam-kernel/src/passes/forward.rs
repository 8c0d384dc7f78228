//! Forward: per row a running maximum, a running evidence and a running expectation of the values.

use super::decode::{FEW, FewRows};
use super::inputs::{ByDistance, Inputs};
use super::narrow::PairedKeys;
use super::panel::BLOCK;
use super::prefill::{ManyRows, Workspace};
use super::split::{Parts, splits};
use super::task::{Task, Visit, log_skips};
use rayon::prelude::*;

/// The result of the forward pass, all numbers one after the other; the backward pass wants both.
#[derive(Clone, Debug, PartialEq)]
pub struct Posterior {
    /// The expectation of the values, `[batch, query heads, queries, dim]`.
    pub out: Vec<f32>,
    /// `ln evidence`, `[batch, query heads, queries]`; `+∞` where a row sees no key.
    pub ln_evidence: Vec<f32>,
}

pub(super) fn forward(inputs: &Inputs<'_>) -> Posterior {
    let (queries, dim) = (inputs.queries(), inputs.dim);
    let few = queries <= FEW;
    let block = if few { FEW } else { BLOCK };
    let heads = inputs.batch * inputs.heads;
    let splits = splits(heads * queries.div_ceil(block), inputs.keys());
    let norms = inputs.key_norms();
    let bounds = inputs.bounds(norms.as_deref());
    let by_distance = (!few).then(|| ByDistance::new(inputs));
    let paired = match few {
        true => None,
        false => PairedKeys::new(inputs, &inputs.v),
    };
    let arch = inputs.arch();

    let workspace = || by_distance.as_ref().map(|of| Workspace::new(inputs, of));
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
        .collect();
    let merged = parts.merge(splits, dim);
    log_skips(inputs, &visits, &merged.ln_evidence);
    Posterior {
        out: merged.out,
        ln_evidence: merged.ln_evidence,
    }
}
