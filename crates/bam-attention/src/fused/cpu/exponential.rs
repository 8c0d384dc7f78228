//! The exponential function on vectors.

use pulp::Simd;

/// `exp(x)` for `x ≤ 0`, at most 2 units in the last place off; exactly 0 below the normal range,
/// `−∞` included. NaN and `+∞` give NaN.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`, a polynomial for `e^r`, and `2^n` made of its bits.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Adding 1.5·2²³ rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    let shifted = simd.mul_add_e_f32s(
        x,
        simd.splat_f32s(std::f32::consts::LOG2_E),
        simd.splat_f32s(ROUND),
    );
    let n = simd.sub_f32s(shifted, simd.splat_f32s(ROUND));
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN_2_HIGH), x);
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN_2_LOW), r);
    let mut polynomial = simd.splat_f32s(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        polynomial = simd.mul_add_e_f32s(polynomial, r, simd.splat_f32s(*coefficient));
    }
    let r_squared = simd.mul_f32s(r, r);
    let fraction = simd.mul_add_e_f32s(polynomial, r_squared, r);
    let fraction = simd.add_f32s(fraction, simd.splat_f32s(1.0));
    let exponent =
        simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let scaled =
        simd.transmute_f32s_u32s(simd.add_u32s(exponent, simd.transmute_u32s_f32s(fraction)));
    // Asked this way round, NaN stays NaN.
    let tiny = simd.less_than_f32s(x, simd.splat_f32s(-87.0));
    simd.select_f32s(tiny, simd.splat_f32s(0.0), scaled)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct ExpOf<'a>(&'a mut [f32]);

    impl pulp::WithSimd for ExpOf<'_> {
        type Output = ();
        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, rest) = S::as_mut_simd_f32s(self.0);
            assert!(rest.is_empty());
            for x in vectors {
                *x = exp(simd, *x);
            }
        }
    }

    #[test]
    fn exponential_is_within_two_units_in_the_last_place() {
        let inputs: Vec<f32> = (0..1 << 16).map(|i| -(i as f32) * 87.0 / 65536.0).collect();
        let mut outputs = inputs.clone();
        pulp::Arch::new().dispatch(ExpOf(&mut outputs));
        for (x, y) in inputs.iter().zip(&outputs) {
            let exact = f64::from(*x).exp();
            let unit = exact * f64::from(f32::EPSILON);
            assert!(
                (f64::from(*y) - exact).abs() <= 2.0 * unit,
                "exp({x}) = {y}, not {exact}"
            );
        }
    }

    #[test]
    fn exponential_ends_in_exact_zeros_and_one() {
        let mut values = [0.0f32; 16];
        values[1] = f32::NEG_INFINITY;
        values[2] = -1e30;
        values[3] = -88.0;
        pulp::Arch::new().dispatch(ExpOf(&mut values));
        assert_eq!(values[..4], [1.0, 0.0, 0.0, 0.0]);
        values[5] = f32::NAN;
        values[6] = f32::INFINITY;
        pulp::Arch::new().dispatch(ExpOf(&mut values));
        assert!(values[5].is_nan() && values[6].is_nan());
    }
}
