//! Root mean square layer normalisation.

use super::rows_of_task;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// RMSNorm (arXiv 1910.07467): `out_t = x_t · r · gain_t` with `r = 1/√(Σ x²/D + ε)` of every row of
/// `D = gain.len()` numbers. Returns the factors `r`, one a row, which the gradients want.
///
/// # Panics
/// If `out` is not as long as `x`, or `x` holds no whole number of rows.
pub fn rms_norm(x: &[f32], gain: &[f32], epsilon: f64, out: &mut [f32]) -> Vec<f32> {
    let rows = whole_rows(x, gain, &[out.len()]);
    let mut factors = vec![0.0; rows];
    let task = rows_of_task(gain.len());
    let run = |x, out, factors| {
        Arch::new().dispatch(Forward {
            x,
            gain,
            epsilon,
            out,
            factors,
        });
    };
    if rows <= task {
        run(x, out, &mut factors);
        return factors;
    }
    let numbers = task * gain.len();
    let parts = x.par_chunks(numbers).zip(out.par_chunks_mut(numbers));
    let parts = parts.zip(factors.par_chunks_mut(task));
    parts.for_each(|((x, out), factors)| run(x, out, factors));
    factors
}

/// The gradients of a number by `x`, written to `dx`, and by the gain, given that by [`rms_norm`]'s output,
/// `g`, and the factors `r` that it returned:
/// `dx_t = r·(g_t·gain_t − x_t·r²/D·Σ_s g_s·gain_s·x_s)`, `dgain_t = Σ_rows g_t·x_t·r`.
///
/// # Panics
/// If the slices do not fit each other.
#[must_use]
pub fn rms_norm_gradients(
    x: &[f32],
    gain: &[f32],
    factors: &[f32],
    g: &[f32],
    dx: &mut [f32],
) -> Vec<f32> {
    let rows = whole_rows(x, gain, &[g.len(), dx.len(), factors.len() * gain.len()]);
    let task = rows_of_task(gain.len());
    let run = |x, factors, g, dx| {
        Arch::new().dispatch(Backward {
            x,
            gain,
            factors,
            g,
            dx,
        })
    };
    if rows <= task {
        return run(x, factors, g, dx);
    }
    let numbers = task * gain.len();
    let parts = x.par_chunks(numbers).zip(g.par_chunks(numbers));
    let parts = parts
        .zip(dx.par_chunks_mut(numbers))
        .zip(factors.par_chunks(task));
    let of_tasks: Vec<Vec<f32>> = parts
        .map(|(((x, g), dx), factors)| run(x, factors, g, dx))
        .collect();
    let mut sums = vec![0.0; gain.len()];
    for part in of_tasks {
        sums.iter_mut()
            .zip(part)
            .for_each(|(sum, part)| *sum += part);
    }
    sums
}

fn whole_rows(x: &[f32], gain: &[f32], as_long: &[usize]) -> usize {
    assert!(x.len().is_multiple_of(gain.len()) && as_long.iter().all(|length| *length == x.len()));
    x.len() / gain.len()
}

struct Forward<'a> {
    x: &'a [f32],
    gain: &'a [f32],
    epsilon: f64,
    out: &'a mut [f32],
    factors: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let columns = self.gain.len();
        let rows = self
            .x
            .chunks_exact(columns)
            .zip(self.out.chunks_exact_mut(columns));
        for ((x, out), factor) in rows.zip(self.factors) {
            let square = sum(
                simd,
                x,
                #[inline(always)]
                |at| simd.mul_f32s(at[0], at[0]),
                [x],
            );
            let mean = f64::from(square) / columns as f64;
            *factor = (1.0 / (mean + self.epsilon).sqrt()) as f32;
            for ((out, x), gain) in out.iter_mut().zip(x).zip(self.gain) {
                *out = x * *factor * gain;
            }
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    gain: &'a [f32],
    factors: &'a [f32],
    g: &'a [f32],
    dx: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let (gain, columns) = (self.gain, self.gain.len());
        let mut d_gain = vec![0.0; columns];
        let rows = self
            .x
            .chunks_exact(columns)
            .zip(self.g.chunks_exact(columns));
        let rows = rows
            .zip(self.dx.chunks_exact_mut(columns))
            .zip(self.factors);
        for (((x, g), dx), &factor) in rows {
            let along = sum(
                simd,
                x,
                #[inline(always)]
                |at| simd.mul_f32s(simd.mul_f32s(at[0], at[1]), at[2]),
                [x, g, gain],
            );
            let back = along * factor * factor / columns as f32;
            let numbers = x.iter().zip(g).zip(gain);
            for (((x, g), gain), (dx, d_gain)) in numbers.zip(dx.iter_mut().zip(&mut d_gain)) {
                *dx = factor * (g * gain - x * back);
                *d_gain += g * x * factor;
            }
        }
        d_gain
    }
}

/// `Σ of(vector)` over slices of one length.
#[inline(always)]
fn sum<S: Simd, const N: usize>(
    simd: S,
    like: &[f32],
    of: impl Fn([S::f32s; N]) -> S::f32s,
    slices: [&[f32]; N],
) -> f32 {
    let vectors = like.len() / S::F32_LANES;
    let parts = slices.map(|slice| S::as_simd_f32s(&slice[..like.len()]));
    let mut total = simd.splat_f32s(0.0);
    for t in 0..vectors {
        total = simd.add_f32s(total, of(parts.map(|part| part.0[t])));
    }
    let rest = of(parts.map(|part| simd.partial_load_f32s(part.1)));
    simd.reduce_sum_f32s(simd.add_f32s(total, rest))
}
