//! Logarithms of the gamma function and of its ratios, for the normalisers.

/// `ln |Γ(x)|`.
pub(crate) fn ln_gamma(x: f64) -> f64 {
    libm::lgamma(x)
}

/// `ln Γ(x + ½) − ln Γ(x)` for `x > 0`.
///
/// The difference of two large logarithms loses its digits (all of them at `x = 10¹⁵`), so beyond
/// 20 its asymptotic series takes over, with a truncation error below 2·10⁻¹⁷ there.
/// Source: Tricomi and Erdélyi 1951, DLMF 5.11.13.
pub(crate) fn ln_gamma_half_step(x: f64) -> f64 {
    if x < 20.0 {
        return ln_gamma(x + 0.5) - ln_gamma(x);
    }
    let u = x.recip();
    let u2 = u * u;
    let series = -1.0 / 8.0
        + u2 * (1.0 / 192.0
            + u2 * (-1.0 / 640.0 + u2 * (17.0 / 14_336.0 - u2 * (31.0 / 18_432.0))));
    0.5 * x.ln() + u * series
}

/// `ln Q(s, x) = ln Γ(s, x)/Γ(s)`, the regularised upper incomplete gamma function, for `s > 0`
/// and `x ≥ 0`; `None` where its expansion has not converged in 10⁵ terms (`s` and `x` both beyond
/// about 10⁸).
///
/// Below `x = s + 1` by the power series of the lower function, above by the continued fraction
/// of the upper one, evaluated by Lentz's method. Source: DLMF 8.7.1 and 8.9.2.
pub(crate) fn ln_upper_gamma_ratio(s: f64, x: f64) -> Option<f64> {
    const TERMS: usize = 100_000;
    if x == 0.0 {
        return Some(0.0);
    }
    if x < s + 1.0 {
        let mut term = 1.0;
        let mut sum = 1.0;
        let converged = (1..=TERMS).any(|k| {
            term *= x / (s + k as f64);
            sum += term;
            term <= sum * f64::EPSILON
        });
        let ln_lower = s * x.ln() - x - ln_gamma(s + 1.0) + sum.ln();
        return converged.then(|| (-ln_lower.exp()).ln_1p());
    }
    let tiny = f64::MIN_POSITIVE;
    let mut b = x + 1.0 - s;
    let mut c = tiny.recip();
    let mut d = b.recip();
    let mut fraction = d;
    let converged = (1..=TERMS).any(|k| {
        let k = k as f64;
        let a = k * (s - k);
        b += 2.0;
        let denominator = a * d + b;
        d = if denominator.abs() < tiny {
            tiny
        } else {
            denominator
        }
        .recip();
        let numerator = b + a / c;
        c = if numerator.abs() < tiny {
            tiny
        } else {
            numerator
        };
        fraction *= c * d;
        (c * d - 1.0).abs() <= 2.0 * f64::EPSILON
    });
    converged.then(|| s * x.ln() - x - ln_gamma(s) + fraction.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_step_is_continuous_where_the_series_takes_over() {
        let direct = ln_gamma(20.5) - ln_gamma(20.0);
        assert!((ln_gamma_half_step(20.0) - direct).abs() < 5e-14);
        assert!((ln_gamma_half_step(1e15) - 0.5 * 1e15_f64.ln()).abs() < 1e-14);
    }

    #[test]
    fn upper_ratio_of_whole_orders_is_a_finite_sum() {
        // Q(1, x) = e^(−x), Q(2, x) = (1 + x)·e^(−x), on both sides of the switch at x = s + 1.
        for x in [1e-8, 0.3, 1.9, 2.1, 5.0, 40.0, 700.0] {
            let one = ln_upper_gamma_ratio(1.0, x).unwrap();
            assert!((one + x).abs() <= 1e-13 * x.max(1.0), "Q(1, {x}): {one}");
            let two = ln_upper_gamma_ratio(2.0, x).unwrap();
            let expected = x.ln_1p() - x;
            assert!(
                (two - expected).abs() <= 1e-13 * x.max(1.0),
                "Q(2, {x}): {two}"
            );
        }
        assert_eq!(ln_upper_gamma_ratio(3.0, 0.0), Some(0.0));
        assert_eq!(ln_upper_gamma_ratio(1e300, 1e300), None);
    }
}
