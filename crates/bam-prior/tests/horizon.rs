//! Certified horizons against brute force: the worst content there is, in every row.

mod null_control;

use bam_prior::{
    GeneralizedGaussian, KerpleLog, Laplace, LogitBound, PositionalPrior, Prior, Sharpening, Table,
    Uniform,
};
use null_control::{holds, near, refuted};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Case {
    ln_weights: Vec<f64>,
    bound: LogitBound,
    epsilon: f64,
}

impl Case {
    fn horizon(&self, bound: LogitBound) -> usize {
        let all = self.ln_weights.len() - 1;
        let horizon = bound.horizon(&self.ln_weights, self.epsilon);
        horizon.unwrap().unwrap_or(all)
    }

    /// The share of the posterior that the keys farther than `r` get in a row of `keys` keys if their
    /// content is `far` and that of the others `near`.
    fn share(&self, keys: usize, r: usize, far: f64, near: f64) -> f64 {
        let (tau, prior_factor) = match self.bound.sharpening {
            Sharpening::None => (1.0, 1.0),
            Sharpening::LikelihoodAndPrior(s) => (s * (keys as f64).ln(), s * (keys as f64).ln()),
            Sharpening::Likelihood(s) => (s * (keys as f64).ln(), 1.0),
        };
        let logits: Vec<f64> = (0..keys)
            .map(|d| {
                let content = if d > r { far } else { near };
                tau * content + prior_factor * self.ln_weights[d]
            })
            .collect();
        let largest = logits.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
        let mass = |logits: &[f64]| logits.iter().map(|x| (x - largest).exp()).sum::<f64>();
        mass(&logits[(r + 1).min(keys)..]) / mass(&logits)
    }

    /// The largest share that any content gives them in any row.
    fn worst(&self, r: usize) -> f64 {
        let c = self.bound.content;
        (r + 2..=self.ln_weights.len())
            .flat_map(|keys| [self.share(keys, r, c, -c), self.share(keys, r, -c, c)])
            .fold(0.0, f64::max)
    }
}

/// Local, flat, anti-local and rugged ones.
fn priors() -> impl Strategy<Value = Prior> {
    prop_oneof![
        Just(Prior::from(Uniform)),
        (0.01..2.0).prop_map(|slope| Laplace::new(slope).unwrap().into()),
        (-30.0..3.0, 0.01..1.0, -1.0..2.0).prop_map(|(mu, a, b)| GeneralizedGaussian::new(
            mu, a, b
        )
        .unwrap()
        .into()),
        (0.5..9.0, 0.1..3.0).prop_map(|(a, b)| KerpleLog::new(a, b).unwrap().into()),
        prop::collection::vec(-9.0..3.0, 1..30).prop_map(|t| Table::new(t).unwrap().into()),
    ]
}

fn cases(sharpening: impl Strategy<Value = Sharpening>) -> impl Strategy<Value = Case> {
    let keys = prop_oneof![
        prop::sample::select(vec![1_usize, 2, 3, 63, 65, 100, 257]),
        1..120_usize
    ];
    (priors(), keys, 0.0..6.0, sharpening, -8.0..-0.3).prop_map(
        |(prior, keys, content, sharpening, decades): (Prior, usize, f64, Sharpening, f64)| Case {
            ln_weights: (0..keys).map(|r| prior.ln_weight(-(r as f64))).collect(),
            bound: LogitBound {
                content,
                sharpening,
            },
            epsilon: 10_f64.powf(decades),
        },
    )
}

fn sharpenings() -> impl Strategy<Value = Sharpening> {
    let scale = -0.8..1.4;
    prop_oneof![
        Just(Sharpening::None),
        scale.clone().prop_map(Sharpening::LikelihoodAndPrior),
        scale.prop_map(Sharpening::Likelihood),
    ]
}

#[test]
fn no_content_in_any_row_gives_more_than_epsilon_beyond_the_horizon() {
    let law = |bound: fn(LogitBound) -> LogitBound, case: Case| {
        let worst = case.worst(case.horizon(bound(case.bound)));
        prop_assert!(worst <= case.epsilon, "{} of {:?}", worst, case);
        Ok(())
    };
    let all = cases(sharpenings());
    holds(&all, |case| law(|bound| bound, case));
    // Impostors: one that ignores the content, one that takes C for the range 2C, one that ignores
    // that logits grow with the row.
    let impostors: [fn(LogitBound) -> LogitBound; 3] = [
        |bound| LogitBound {
            content: 0.0,
            ..bound
        },
        |bound| LogitBound {
            content: 0.5 * bound.content,
            ..bound
        },
        |bound| LogitBound {
            sharpening: Sharpening::None,
            ..bound
        },
    ];
    for impostor in impostors {
        refuted(&all, |case| law(impostor, case));
    }
}

/// Under scalable softmax the longest row is not the worst: it is the sharpest.
#[test]
fn the_longest_row_is_not_all_rows() {
    let sharp = (0.2..1.4).prop_map(Sharpening::LikelihoodAndPrior);
    let cases = cases(sharp);
    refuted(&cases, |case| {
        let (c, keys) = (case.bound.content, case.ln_weights.len());
        let r = (0..keys)
            .find(|&r| case.share(keys, r, c, -c) <= case.epsilon)
            .unwrap_or(keys - 1);
        let worst = case.worst(r);
        prop_assert!(worst <= case.epsilon);
        Ok(())
    });
}

/// One key fewer is too few, where logits don't grow; where they do, a tenth fewer or so.
#[test]
fn the_horizon_is_no_farther_than_it_must_be() {
    holds(&cases(Just(Sharpening::None)), |case| {
        let r = case.horizon(case.bound);
        prop_assert!(r == 0 || case.worst(r - 1) > case.epsilon * (1.0 - 1e-4));
        Ok(())
    });
    let scales = (0.3..1.4).prop_map(Sharpening::LikelihoodAndPrior);
    let local = (cases(scales), 0.05..1.0).prop_map(|(case, slope): (Case, f64)| Case {
        ln_weights: (0..case.ln_weights.len())
            .map(|r| -slope * r as f64)
            .collect(),
        ..case
    });
    let law = |factor: f64, case: Case| {
        let exact = (0..case.ln_weights.len()).find(|&r| case.worst(r) <= case.epsilon);
        let limit = factor * exact.unwrap_or(0) as f64 + 3.0;
        let r = case.horizon(case.bound);
        prop_assert!(r as f64 <= limit, "{} for {:?}", r, exact);
        Ok(())
    };
    holds(&local, |case| law(1.15, case));
    refuted(&local, |case| law(0.8, case));
}

/// `n` equal keys, no content: those farther than `r` hold `(n − 1 − r)/n`.
#[test]
fn uniform_rows_in_closed_form() {
    let cases = (1..3000_usize, 0.001..0.9);
    let law = |content: f64, (keys, epsilon): (usize, f64)| {
        let bound = LogitBound {
            content,
            sharpening: Sharpening::None,
        };
        let horizon = bound.horizon(&vec![0.0; keys], epsilon).unwrap();
        let expected = (keys as f64 * (1.0 - epsilon)).ceil() - 1.0;
        near(horizon.unwrap_or(keys - 1) as f64, expected, 1.0)
    };
    holds(&cases, |case| law(0.0, case));
    refuted(&cases, |case| law(0.1, case));
}

#[test]
fn what_can_not_be_certified_is_none_and_nonsense_is_refused() {
    let bound = LogitBound {
        content: 1.0,
        sharpening: Sharpening::None,
    };
    let flat = vec![0.0; 257];
    assert_eq!(bound.horizon(&flat, 1e-6).unwrap(), None);
    assert_eq!(bound.horizon(&[0.0], 1e-6).unwrap(), None);
    assert_eq!(bound.horizon(&[], 1e-6).unwrap(), None);
    // Nothing beyond: far weights that underflow are still counted.
    let wall: Vec<f64> = (0..257).map(|r| f64::from(r) * -1e300).collect();
    assert_eq!(bound.horizon(&wall, 1e-6).unwrap(), Some(0));
    let anti_local = Table::new((0..100).map(|r| f64::from(r) * 10.0).collect()).unwrap();
    let rising: Vec<f64> = (0..100)
        .map(|r| anti_local.ln_weight(-f64::from(r)))
        .collect();
    assert_eq!(bound.horizon(&rising, 0.5).unwrap(), None);
    // A negative temperature turns the prior upside down.
    let upside_down = LogitBound {
        content: 0.0,
        sharpening: Sharpening::LikelihoodAndPrior(-1.0),
    };
    assert!(upside_down.horizon(&rising, 0.5).unwrap().is_some());
    for (bound, ln_weights, epsilon, named) in [
        (bound, &flat, 0.0, "epsilon"),
        (bound, &flat, 1.0, "epsilon"),
        (bound, &flat, f64::NAN, "epsilon"),
        (bound, &vec![0.0, f64::NAN], 0.5, "distance 1"),
        (bound, &vec![f64::NEG_INFINITY], 0.5, "distance 0"),
        (
            LogitBound {
                content: -1.0,
                ..bound
            },
            &flat,
            0.5,
            "content",
        ),
        (
            LogitBound {
                sharpening: Sharpening::Likelihood(f64::INFINITY),
                ..bound
            },
            &flat,
            0.5,
            "scale",
        ),
    ] {
        let error = bound.horizon(ln_weights, epsilon).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}
