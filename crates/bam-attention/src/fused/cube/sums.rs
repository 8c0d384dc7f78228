//! Sums that other passes start from or leave behind, one unit a number: no order but that of the loops.

use cubecl::prelude::*;

/// `δ_i = g_i·out_i`, one unit a row.
#[cube(launch_unchecked)]
pub(super) fn row_deltas<F: Float>(
    gradient: &Tensor<F>,
    out: &Tensor<f32>,
    deltas: &mut Tensor<f32>,
    dim: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < deltas.len() {
        let mut sum = f32::new(0.0);
        for c in 0..dim {
            sum += f32::cast_from(gradient[at * dim + c]) * out[at * dim + c];
        }
        deltas[at] = sum;
    }
}

/// `out[m, x] = Σ_o Σ_i parts[o, m, i, x]` in that order, one unit a number of the output.
#[cube(launch_unchecked)]
pub(super) fn add_up(parts: &Tensor<f32>, out: &mut Tensor<f32>, inner: usize, length: usize) {
    let at = ABSOLUTE_POS;
    if at < out.len() {
        let (middle, x) = (at / length, at % length);
        let outer = parts.len() / (out.len() * inner);
        let mut sum = f32::new(0.0);
        for o in 0..outer {
            for i in 0..inner {
                sum += parts[((o * (out.len() / length) + middle) * inner + i) * length + x];
            }
        }
        out[at] = sum;
    }
}
