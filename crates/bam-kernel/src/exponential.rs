//! The exponential function on vectors.

use pulp::Simd;

/// The logarithm of the smallest weight that a key can have beside its row's heaviest: `−100·ln 2`, about
/// −69.3. A key whose logit lies further below the row's largest has the weight 0, exactly.
///
/// A million such weights are less than the rounding of a sum by far. Products of smaller ones leave the
/// normal range, where some processors take a hundred times as long.
pub const LN_SMALLEST_WEIGHT: f64 = SMALLEST as f64 * std::f64::consts::LN_2;

/// The same to the base 2: [`exp2`] is 0 below it.
const SMALLEST: f32 = -100.0;

/// `2^x` for `x ≤ 0` and a little above, at most 2 units in the last place off; exactly 0 below
/// `2^−100`, `−∞` included. NaN and `+∞` give NaN.
///
/// `x = n + r` with `|r| ≤ 1/2`, a polynomial for `2^r`, and `2^n` made of its bits. Several vectors
/// at once: a constant that was loaded serves them all.
#[inline(always)]
pub(crate) fn exp2<S: Simd, const COUNT: usize>(simd: S, x: [S::f32s; COUNT]) -> [S::f32s; COUNT] {
    // Adding 1.5·2²³ rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const COEFFICIENTS: [f32; 7] = [
        1.535_336_2e-4,
        1.339_887_4e-3,
        9.618_437e-3,
        5.550_332_5e-2,
        2.402_264_7e-1,
        std::f32::consts::LN_2,
        1.0,
    ];
    let (round, first) = (simd.splat_f32s(ROUND), simd.splat_f32s(COEFFICIENTS[0]));
    let shifted = x.map(
        #[inline(always)]
        |x| simd.add_f32s(x, round),
    );
    let mut fraction = [first; COUNT];
    let mut rest = x;
    for c in 0..COUNT {
        rest[c] = simd.sub_f32s(x[c], simd.sub_f32s(shifted[c], round));
    }
    for coefficient in &COEFFICIENTS[1..] {
        let coefficient = simd.splat_f32s(*coefficient);
        for c in 0..COUNT {
            fraction[c] = simd.mul_add_e_f32s(fraction[c], rest[c], coefficient);
        }
    }
    let mut result = x;
    for c in 0..COUNT {
        let bits = simd.transmute_u32s_f32s(shifted[c]);
        let exponent = simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23));
        let scaled = simd.add_u32s(exponent, simd.transmute_u32s_f32s(fraction[c]));
        // Asked this way round, NaN stays NaN.
        let tiny = simd.less_than_f32s(x[c], simd.splat_f32s(SMALLEST));
        result[c] = simd.select_f32s(tiny, simd.splat_f32s(0.0), simd.transmute_f32s_u32s(scaled));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp2Of<'a>(&'a mut [f32]);

    impl pulp::WithSimd for Exp2Of<'_> {
        type Output = ();
        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, rest) = S::as_mut_simd_f32s(self.0);
            assert!(rest.is_empty());
            for x in vectors {
                [*x] = exp2(simd, [*x]);
            }
        }
    }

    #[test]
    fn exponential_is_within_two_units_in_the_last_place() {
        let inputs: Vec<f32> = (0..1 << 16)
            .map(|i| -(i as f32) * 100.0 / 65536.0)
            .collect();
        let mut outputs = inputs.clone();
        pulp::Arch::new().dispatch(Exp2Of(&mut outputs));
        for (x, y) in inputs.iter().zip(&outputs) {
            let exact = f64::from(*x).exp2();
            let unit = exact * f64::from(f32::EPSILON);
            assert!(
                (f64::from(*y) - exact).abs() <= 2.0 * unit,
                "2^{x} = {y}, not {exact}"
            );
        }
    }

    /// The largest number that gives 0 and the smallest that does not are on either side of the constant.
    #[test]
    fn the_constant_is_where_the_exponential_ends() {
        let end = (LN_SMALLEST_WEIGHT / std::f64::consts::LN_2) as f32;
        let mut values = [0.0f32; 16];
        values[..4].copy_from_slice(&[end, end.next_down(), end.next_up(), end - 1.0]);
        pulp::Arch::new().dispatch(Exp2Of(&mut values));
        assert!(values[0] > 0.0 && values[2] > 0.0, "{values:?}");
        assert_eq!([values[1], values[3]], [0.0, 0.0]);
    }

    #[test]
    fn exponential_ends_in_exact_zeros_and_one() {
        let mut values = [0.0f32; 16];
        values[1] = f32::NEG_INFINITY;
        values[2] = -1e30;
        values[3] = -100.1;
        pulp::Arch::new().dispatch(Exp2Of(&mut values));
        assert_eq!(values[..4], [1.0, 0.0, 0.0, 0.0]);
        values[5] = f32::NAN;
        values[6] = f32::INFINITY;
        pulp::Arch::new().dispatch(Exp2Of(&mut values));
        assert!(values[5].is_nan() && values[6].is_nan());
    }
}
