//! The gate of a feed-forward layer.

use super::TASK;
use crate::exponential::exp2;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::f32::consts::LOG2_E;

/// SwiGLU (arXiv 2002.05202): `out = silu(a) · b` with `silu(a) = a·σ(a)`, `σ(a) = 1/(1 + exp(−a))`.
///
/// # Panics
/// If the slices are not of one length.
pub fn gated(a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!([b.len(), out.len()] == [a.len(); 2]);
    let run = |(a, b), out| Arch::new().dispatch(Forward { a, b, out });
    if a.len() <= TASK {
        return run((a, b), out);
    }
    let parts = a.par_chunks(TASK).zip(b.par_chunks(TASK));
    let parts = parts.zip(out.par_chunks_mut(TASK));
    parts.for_each(|(numbers, out)| run(numbers, out));
}

/// The gradients of a number by `a` and `b`, given that by [`gated`]'s output, `g`:
/// `da = g·b·σ(a)·(1 + a·(1 − σ(a)))`, `db = g·a·σ(a)`.
///
/// # Panics
/// If the slices are not of one length.
pub fn gated_gradients(a: &[f32], b: &[f32], g: &[f32], da: &mut [f32], db: &mut [f32]) {
    assert!([b.len(), g.len(), da.len(), db.len()] == [a.len(); 4]);
    let run = |(a, b), g, (da, db)| Arch::new().dispatch(Backward { a, b, g, da, db });
    if a.len() <= TASK {
        return run((a, b), g, (da, db));
    }
    let parts = a
        .par_chunks(TASK)
        .zip(b.par_chunks(TASK))
        .zip(g.par_chunks(TASK));
    let gradients = da.par_chunks_mut(TASK).zip(db.par_chunks_mut(TASK));
    parts
        .zip(gradients)
        .for_each(|((numbers, g), gradients)| run(numbers, g, gradients));
}

/// `σ(x)`, by an exponential that is at most 1.
#[inline(always)]
fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let (zero, one) = (simd.splat_f32s(0.0), simd.splat_f32s(1.0));
    let below = simd.mul_f32s(simd.abs_f32s(x), simd.splat_f32s(-LOG2_E));
    let [exp] = exp2(simd, [below]);
    let larger = simd.div_f32s(one, simd.add_f32s(one, exp));
    let negative = simd.less_than_f32s(x, zero);
    simd.select_f32s(negative, simd.mul_f32s(exp, larger), larger)
}

#[inline(always)]
fn gate<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
    simd.mul_f32s(simd.mul_f32s(a, sigmoid(simd, a)), b)
}

/// The gradients by `a` and `b`.
#[inline(always)]
fn gate_back<S: Simd>(simd: S, a: S::f32s, b: S::f32s, g: S::f32s) -> (S::f32s, S::f32s) {
    let (sigmoid, one) = (sigmoid(simd, a), simd.splat_f32s(1.0));
    let slope = simd.mul_add_f32s(a, simd.sub_f32s(one, sigmoid), one);
    let through = simd.mul_f32s(g, sigmoid);
    let da = simd.mul_f32s(simd.mul_f32s(through, b), slope);
    (da, simd.mul_f32s(through, a))
}

struct Forward<'a> {
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let ([a, b], [a_rest, b_rest]) = split::<S, 2>([self.a, self.b]);
        let (out, out_rest) = S::as_mut_simd_f32s(self.out);
        for ((a, b), out) in a.iter().zip(b).zip(out) {
            *out = gate(simd, *a, *b);
        }
        let [a, b] = [a_rest, b_rest].map(|rest| simd.partial_load_f32s(rest));
        let rest = gate(simd, a, b);
        simd.partial_store_f32s(out_rest, rest);
    }
}

struct Backward<'a> {
    a: &'a [f32],
    b: &'a [f32],
    g: &'a [f32],
    da: &'a mut [f32],
    db: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let ([a, b, g], [a_rest, b_rest, g_rest]) = split::<S, 3>([self.a, self.b, self.g]);
        let (da, da_rest) = S::as_mut_simd_f32s(self.da);
        let (db, db_rest) = S::as_mut_simd_f32s(self.db);
        let gradients = da.iter_mut().zip(db);
        for (((a, b), g), (da, db)) in a.iter().zip(b).zip(g).zip(gradients) {
            (*da, *db) = gate_back(simd, *a, *b, *g);
        }
        let [a, b, g] = [a_rest, b_rest, g_rest].map(|rest| simd.partial_load_f32s(rest));
        let (da, db) = gate_back(simd, a, b, g);
        simd.partial_store_f32s(da_rest, da);
        simd.partial_store_f32s(db_rest, db);
    }
}

#[inline(always)]
fn split<S: Simd, const N: usize>(slices: [&[f32]; N]) -> ([&[S::f32s]; N], [&[f32]; N]) {
    let parts = slices.map(|slice| S::as_simd_f32s(slice));
    (parts.map(|part| part.0), parts.map(|part| part.1))
}
