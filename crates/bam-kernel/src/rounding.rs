//! Numbers that what was rounded can't be beyond. NaN stays NaN.

/// An upper bound of the Euclidean norm, rounding included.
pub(crate) fn norm(values: &[f32]) -> f32 {
    ((sum_of_squares(values).sqrt() * (1.0 + 1e-6)) as f32).next_up()
}

/// `Σ x²`, each square exact.
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    // Eight sums, so that processors add more than one number at a time.
    let mut sums = [0.0f64; 8];
    let (eights, rest) = values.as_chunks::<8>();
    for eight in eights {
        for (sum, x) in sums.iter_mut().zip(eight) {
            *sum += f64::from(*x) * f64::from(*x);
        }
    }
    let rest = rest.iter().map(|x| f64::from(*x) * f64::from(*x));
    sums.into_iter().chain(rest).sum()
}

/// A lower bound of a logarithm that was rounded to `f32`.
pub(crate) fn at_least(ln_evidence: f32) -> f64 {
    f64::from(ln_evidence.next_down())
}

/// The larger of the two; NaN if one is.
pub(crate) fn larger(a: f64, b: f64) -> f64 {
    match a.is_nan() || b.is_nan() {
        true => f64::NAN,
        false => a.max(b),
    }
}

/// [`larger`] of numbers in `f32`.
pub(crate) fn raised(a: f32, b: f32) -> f32 {
    larger(f64::from(a), f64::from(b)) as f32
}
