//! Intervals for a proportion, of a number of samples that was fixed beforehand and of one that was not.

/// Wilson's score interval for a proportion at 95 %: `(low, high)`, `(0, 1)` without samples.
///
/// With `p = correct / samples`, `n = samples` and `z = 1.96`:
/// `(p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)` (Wilson 1927).
#[must_use]
pub fn wilson_interval(correct: usize, samples: usize) -> (f64, f64) {
    if samples == 0 {
        return (0.0, 1.0);
    }
    const Z: f64 = 1.959_963_984_540_054;
    let n = samples as f64;
    let p = correct as f64 / n;
    let centre = p + Z * Z / (2.0 * n);
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (
        ((centre - spread) / scale).max(0.0),
        ((centre + spread) / scale).min(1.0),
    )
}

/// A 95 % confidence sequence for a proportion: `(low, high)`, `(0, 1)` without samples.
///
/// The intervals after 1, 2, 3, … samples *all* hold the proportion with a probability of 95 %, so that one may look after
/// every sample and stop when one likes; after a stop of that kind Wilson's interval would be too short. It holds each `p`
/// with
/// `Beta(p; correct + 1, samples − correct + 1) > 0.05`:
/// under a uniform prior the ratio of prior to posterior at the true `p` is a martingale from 1 (Robbins 1970;
/// Waudby-Smith & Ramdas 2020, "Confidence sequences for sampling without replacement", § 2), which by Ville's inequality
/// ever reaches 20 with a probability of 5 % at most.
#[must_use]
pub fn confidence_sequence(correct: usize, samples: usize) -> (f64, f64) {
    if samples == 0 {
        return (0.0, 1.0);
    }
    const LN_LEAST: f64 = -2.995_732_273_553_991;
    let (k, n) = (correct as f64, samples as f64);
    let ln_choices: f64 = (1..=correct)
        .map(|i| ((n - k + i as f64) / i as f64).ln())
        .sum();
    let power = |base: f64, times: f64| if times == 0.0 { 0.0 } else { times * base.ln() };
    let ln_density =
        |p: f64| (n + 1.0).ln() + ln_choices + power(p, k) + power(1.0 - p, n - k) - LN_LEAST;
    // The density falls on both sides of its peak.
    let edge = |outside: f64| {
        let (mut outside, mut inside) = (outside, k / n);
        if ln_density(outside) > 0.0 {
            return outside;
        }
        for _ in 0..60 {
            let middle = 0.5 * (outside + inside);
            match ln_density(middle) > 0.0 {
                true => inside = middle,
                false => outside = middle,
            }
        }
        outside
    };
    (edge(0.0), edge(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether some look at a sequence of draws leaves out the proportion that they were made with.
    fn misses(
        interval: impl Fn(usize, usize) -> (f64, f64),
        proportion: f64,
        mut state: u64,
    ) -> bool {
        let mut correct = 0;
        (1..=200).any(|samples| {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let uniform = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
            correct += usize::from(uniform < proportion);
            let (low, high) = interval(correct, samples);
            proportion < low || proportion > high
        })
    }

    #[test]
    fn a_sequence_holds_at_every_look_and_wilson_does_not() {
        for proportion in [0.05, 0.5, 0.9] {
            let rate = |interval: fn(usize, usize) -> (f64, f64)| {
                let missed = (0..2000).filter(|run| misses(interval, proportion, run * 7919));
                missed.count() as f64 / 2000.0
            };
            assert!(rate(confidence_sequence) < 0.05, "{proportion}");
            assert!(
                rate(wilson_interval) > 0.15,
                "{proportion}: the null control"
            );
        }
    }

    #[test]
    fn known_intervals() {
        assert_eq!(confidence_sequence(0, 0), (0.0, 1.0));
        // (n + 1) (1 − p)ⁿ = 1/20
        let (low, high) = confidence_sequence(0, 8);
        assert_eq!(low, 0.0);
        assert!((9.0 * (1.0 - high).powi(8) - 0.05).abs() < 1e-9, "{high}");
        let (low, high) = confidence_sequence(8, 8);
        assert_eq!(high, 1.0);
        assert!((9.0 * low.powi(8) - 0.05).abs() < 1e-9, "{low}");
        let (low, high) = confidence_sequence(50, 100);
        assert!(
            (low + high - 1.0).abs() < 1e-9 && low > 0.33 && low < 0.37,
            "{low}"
        );
        let (low, high) = confidence_sequence(99_000, 100_000);
        assert!(low > 0.988 && high < 0.992, "{low} {high}");
    }
}
