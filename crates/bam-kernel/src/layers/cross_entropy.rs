//! The loss of a language model.

use super::rows_of_task;
use crate::exponential::exp2;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::f32::consts::LOG2_E;

/// A loss, and what its gradient wants.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropy {
    /// Nats, times the weights.
    pub loss: f64,
    /// `ln Σ exp` of every row of logits.
    pub ln_evidence: Vec<f32>,
}

/// Weighted cross-entropy `Σ_i weight_i · (ln Σ_v exp(logit_iv) − logit_i,target_i)`, in nats.
///
/// # Shapes
/// - `logits`: `[rows, vocabulary]`; `targets`, `weights`: one a row
///
/// # Panics
/// If the slices do not fit each other, or a target is not in the vocabulary.
#[must_use]
pub fn cross_entropy(logits: &[f32], targets: &[usize], weights: &[f32]) -> CrossEntropy {
    let vocabulary = vocabulary(logits, targets, weights);
    let mut ln_evidence = vec![0.0; targets.len()];
    let task = rows_of_task(vocabulary);
    let run = |logits, ln_evidence| {
        Arch::new().dispatch(Forward {
            logits,
            vocabulary,
            ln_evidence,
        });
    };
    match targets.len() > task {
        true => logits
            .par_chunks(task * vocabulary)
            .zip(ln_evidence.par_chunks_mut(task))
            .for_each(|(logits, ln_evidence)| run(logits, ln_evidence)),
        false => run(logits, &mut ln_evidence),
    }
    let of_rows = logits
        .chunks_exact(vocabulary)
        .zip(targets)
        .zip(weights)
        .zip(&ln_evidence);
    let losses = of_rows.map(|(((logits, target), weight), ln_evidence)| {
        f64::from(*weight) * (f64::from(*ln_evidence) - f64::from(logits[*target]))
    });
    CrossEntropy {
        loss: losses.sum(),
        ln_evidence,
    }
}

/// The gradient by the logits of [`cross_entropy`] times `scale`:
/// `scale · weight_i · (exp(logit_iv − ln Σ exp) − [v = target_i])`.
///
/// # Panics
/// If the slices do not fit each other.
pub fn cross_entropy_gradient(
    logits: &[f32],
    targets: &[usize],
    weights: &[f32],
    ln_evidence: &[f32],
    scale: f32,
    gradient: &mut [f32],
) {
    let vocabulary = vocabulary(logits, targets, weights);
    assert!(gradient.len() == logits.len() && ln_evidence.len() == targets.len());
    let task = rows_of_task(vocabulary);
    let run = |logits, ln_evidence: &[f32], gradient, first: usize| {
        let own = first..first + ln_evidence.len();
        Arch::new().dispatch(Backward {
            logits,
            targets: &targets[own.clone()],
            weights: &weights[own],
            ln_evidence,
            scale,
            gradient,
        });
    };
    if targets.len() <= task {
        return run(logits, ln_evidence, gradient, 0);
    }
    let parts = logits
        .par_chunks(task * vocabulary)
        .zip(ln_evidence.par_chunks(task));
    let parts = parts.zip(gradient.par_chunks_mut(task * vocabulary));
    parts
        .enumerate()
        .for_each(|(index, ((logits, ln_evidence), gradient))| {
            run(logits, ln_evidence, gradient, index * task);
        });
}

fn vocabulary(logits: &[f32], targets: &[usize], weights: &[f32]) -> usize {
    let vocabulary = logits.len() / targets.len().max(1);
    assert!(vocabulary * targets.len() == logits.len() && weights.len() == targets.len());
    assert!(targets.iter().all(|target| *target < vocabulary));
    vocabulary.max(1)
}

/// `exp(logits − shift)`, where the shift is the largest logit or more.
#[inline(always)]
fn exp_beyond<S: Simd>(simd: S, logits: S::f32s, shift: S::f32s) -> S::f32s {
    let beyond = simd.mul_f32s(simd.sub_f32s(logits, shift), simd.splat_f32s(LOG2_E));
    exp2(simd, [beyond])[0]
}

struct Forward<'a> {
    logits: &'a [f32],
    vocabulary: usize,
    ln_evidence: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rows = self.logits.chunks_exact(self.vocabulary);
        for (row, ln_evidence) in rows.zip(self.ln_evidence) {
            let (vectors, rest) = S::as_simd_f32s(row);
            let mut largest = simd.splat_f32s(f32::NEG_INFINITY);
            for vector in vectors {
                largest = simd.max_f32s(largest, *vector);
            }
            let largest = rest
                .iter()
                .copied()
                .fold(simd.reduce_max_f32s(largest), f32::max);
            let shift = simd.splat_f32s(largest);
            let mut evidence = simd.splat_f32s(0.0);
            for vector in vectors {
                evidence = simd.add_f32s(evidence, exp_beyond(simd, *vector, shift));
            }
            let mut evidence = simd.reduce_sum_f32s(evidence);
            for logit in rest {
                evidence += (logit - largest).exp();
            }
            *ln_evidence = largest + evidence.ln();
        }
    }
}

struct Backward<'a> {
    logits: &'a [f32],
    targets: &'a [usize],
    weights: &'a [f32],
    ln_evidence: &'a [f32],
    scale: f32,
    gradient: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let vocabulary = self.logits.len() / self.targets.len();
        let rows = self
            .logits
            .chunks_exact(vocabulary)
            .zip(self.gradient.chunks_exact_mut(vocabulary));
        let of_rows = self.targets.iter().zip(self.weights).zip(self.ln_evidence);
        for ((row, gradient), ((target, weight), ln_evidence)) in rows.zip(of_rows) {
            let factor = self.scale * weight;
            // Most of a padded batch has no weight.
            if factor == 0.0 {
                gradient.fill(0.0);
                continue;
            }
            let (vectors, rest) = S::as_simd_f32s(row);
            let (to, to_rest) = S::as_mut_simd_f32s(gradient);
            let (shift, factors) = (simd.splat_f32s(*ln_evidence), simd.splat_f32s(factor));
            for (to, logits) in to.iter_mut().zip(vectors) {
                *to = simd.mul_f32s(exp_beyond(simd, *logits, shift), factors);
            }
            for (to, logit) in to_rest.iter_mut().zip(rest) {
                *to = factor * (logit - ln_evidence).exp();
            }
            gradient[*target] -= factor;
        }
    }
}
