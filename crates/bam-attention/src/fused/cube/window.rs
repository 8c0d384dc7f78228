//! Log-weights between a block and a tile: one number per lag.

use super::tiling::Tiling;
use cubecl::prelude::*;

/// Copies the log-weights of the lags from `first` on, `t.lags()` of them; zeros where the prior holds
/// none, which no row sees.
#[cube]
pub(super) fn load_window(
    ln_weights: &Tensor<f32>,
    head: usize,
    first: i32,
    first_lag: i32,
    window: &mut Shared<[f32]>,
    #[comptime] t: Tiling,
) {
    let lags = ln_weights.shape(1);
    let mut e = UNIT_POS as usize;
    while e < comptime!(t.lags()) {
        let column = first - first_lag + e as i32;
        let mut w = f32::new(0.0);
        if column >= 0 && column < lags as i32 {
            w = ln_weights[head * lags + column as usize];
        }
        window[e] = w;
        e += comptime!(t.units());
    }
}
