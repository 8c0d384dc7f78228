//! The slopes that ALiBi gives to the heads of a layer.

use crate::Error;

/// The ALiBi slopes of `heads` heads, steepest first for a power of two, in nats per token.
///
/// For `n` a power of two the slopes are `2^(−8i/n)`, `i = 1..=n`. For another number they are
/// those of the nearest lower power of two, then every other slope (the first, the third, …) of
/// the next power of two until there are enough.
/// Source: Press, Smith, Lewis, arXiv 2108.12409, and its reference program.
///
/// # Errors
///
/// [`Error::Count`] for no heads.
///
/// ```
/// let slopes = bam_prior::alibi_slopes(6)?;
/// assert_eq!(slopes[..4], [0.25, 0.0625, 0.015625, 0.00390625]); // those of four heads
/// assert_eq!(slopes[4..], [0.5, 0.125]); // the first and the third of eight
/// # Ok::<(), bam_prior::Error>(())
/// ```
pub fn alibi_slopes(heads: usize) -> Result<Vec<f64>, Error> {
    if heads == 0 {
        return Err(Error::Count {
            what: "heads".into(),
            expected: "at least 1".into(),
            got: 0,
        });
    }
    let lower = 1_usize << heads.ilog2();
    let between = geometric(2 * lower).step_by(2);
    Ok(geometric(lower).chain(between).take(heads).collect())
}

/// `2^(−8i/n)` for `i = 1..=n`.
fn geometric(n: usize) -> impl Iterator<Item = f64> {
    (1..=n).map(move |i| (-8.0 * i as f64 / n as f64).exp2())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_slopes_as_heads_and_all_are_within_the_bounds_of_the_paper() {
        for heads in 1..=130 {
            let slopes = alibi_slopes(heads).unwrap();
            assert_eq!(slopes.len(), heads);
            assert!(
                slopes
                    .iter()
                    .all(|slope| (2_f64.powi(-8)..1.0).contains(slope)),
                "{heads}"
            );
        }
        assert!(alibi_slopes(0).is_err());
    }

    #[test]
    fn known_head_counts() {
        assert_eq!(alibi_slopes(1).unwrap(), [2_f64.powi(-8)]);
        assert_eq!(
            alibi_slopes(3).unwrap(),
            [2_f64.powi(-4), 2_f64.powi(-8), 0.25]
        );
        let twelve = alibi_slopes(12).unwrap();
        let reference = [
            0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625,
        ];
        assert_eq!(twelve[..8], reference);
        let halves = [-0.5, -1.5, -2.5, -3.5].map(f64::exp2);
        assert!(
            twelve[8..]
                .iter()
                .zip(halves)
                .all(|(got, exact)| (got - exact).abs() < 1e-16)
        );
    }
}
