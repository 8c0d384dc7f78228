//! Learned families: what heads store, the priors that it means, and back.

mod families;
mod null_control;

use bam_prior::{
    Component, Direction, Error, Family, Gaussian, GeneralizedGaussian, KerplePower, Laplace, Link,
    Mixture, ParameterSpec, PositionalPrior, Prior, Role, StoredPrior, StudentT, T5Buckets, Table,
    Uniform, alibi_slopes,
};
use families::{lags, location_of, mixture, simple};
use null_control::{holds, near, refuted};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

fn values(prior: &Prior) -> Vec<f64> {
    prior.parameters().iter().map(|of| of.value).collect()
}

/// A family, and as many numbers as its widest member stores.
fn heads() -> impl Strategy<Value = (Family, Vec<f64>)> {
    let numbers = prop::collection::vec(-9.0..9.0, 64);
    (prop::sample::select(&Family::ALL), numbers)
}

/// The numbers as `θ`, parameter by parameter.
fn theta_of(family: Family, numbers: &[f64]) -> Vec<Vec<f64>> {
    let specs = family.parameters(1);
    let of = |(index, spec): (usize, &ParameterSpec)| numbers[index..][..spec.width].to_vec();
    specs.iter().enumerate().map(of).collect()
}

#[test]
fn what_is_stored_comes_back() {
    type Inverse = fn(Family, &Prior) -> Result<Vec<Vec<f64>>, Error>;
    let law = |inverse: Inverse, (family, numbers): (Family, Vec<f64>)| -> TestCaseResult {
        let theta = theta_of(family, &numbers);
        let prior = family.prior(&theta).unwrap();
        let back = inverse(family, &prior).unwrap();
        prop_assert_eq!(theta.len(), back.len());
        for ((theta, back), spec) in theta.iter().zip(back).zip(family.parameters(1)) {
            prop_assert_eq!(theta.len(), back.len());
            for (theta, back) in theta.iter().zip(back) {
                // Near the upper end of a logistic a step of the value is e^θ steps of θ.
                let lost = spec.link.constrain(*theta).abs() / spec.link.derivative(*theta);
                near(back, *theta, 1e-15 * (32.0 + 8.0 * lost))?;
            }
        }
        Ok(())
    };
    holds(&heads(), |case| law(|family, of| family.theta(of), case));
    refuted(&heads(), |case| {
        let off = |family: Family, of: &Prior| {
            let mut theta = family.theta(of)?;
            theta.iter_mut().flatten().for_each(|x| *x += 1e-9);
            Ok(theta)
        };
        law(off, case)
    });
}

/// Every prior that a family can hold is stored and read as it was; whatever else is refused.
#[test]
fn distributions_are_held_by_their_family() {
    let priors = prop_oneof![simple(), mixture(), tables()];
    let law = |read: fn(Family, &[Vec<f64>]) -> Prior, prior: Prior| -> TestCaseResult {
        let Some(family) = Family::of(&prior) else {
            prop_assert!(
                Family::ALL
                    .iter()
                    .all(|family| family.theta(&prior).is_err())
            );
            return Ok(());
        };
        let theta = family.theta(&prior).unwrap();
        let back = read(family, &theta);
        for other in Family::ALL {
            prop_assert_eq!(other.theta(&prior).is_ok(), other == family);
        }
        let pairs = values(&prior).into_iter().zip(values(&back));
        for (expected, got) in pairs {
            near(got, expected, 1e-14 * (1.0 + 8.0 * expected.abs()))?;
        }
        Ok(())
    };
    holds(&priors, |prior| {
        law(|family, theta| family.prior(theta).unwrap(), prior)
    });
    // An impostor that forgets what it was given.
    refuted(&priors, |prior| {
        let start = |family: Family, _: &[Vec<f64>]| {
            let initial = family.parameters(1).into_iter().map(|spec| spec.initial);
            family.prior(&initial.collect::<Vec<_>>()).unwrap()
        };
        law(start, prior)
    });
}

/// Tables as wide as those that are learned.
fn tables() -> impl Strategy<Value = Prior> {
    let direction = prop_oneof![Just(Direction::Causal), Just(Direction::Bidirectional)];
    prop_oneof![
        prop::collection::vec(-3.0..3.0, 64).prop_map(|t| Table::new(t).unwrap().into()),
        (prop::collection::vec(-3.0..3.0, 32), direction)
            .prop_map(|(t, direction)| T5Buckets::new(t, 128, direction).unwrap().into()),
    ]
}

/// The formulas of the reference and of the papers, written out once more.
#[test]
fn laws_are_those_that_are_written_down() {
    let cases = (heads(), lags());
    let law = |sinh: fn(f64) -> f64, ((family, numbers), d): ((Family, Vec<f64>), f64)| {
        let numbers: Vec<f64> = numbers.iter().map(|x| x / 3.0).collect();
        let prior = family.prior(&theta_of(family, &numbers)).unwrap();
        let (r, x, y, z) = (d.abs(), numbers[0], numbers[1], numbers[2]);
        let centred = d - 2.0 * sinh(x);
        let logistic = |theta: f64| 1.0 / (1.0 + (-theta).exp());
        let written_out = match family {
            Family::Uniform => 0.0,
            Family::Laplace => -x.exp() * r,
            Family::Gaussian => -y.exp() * centred * centred,
            Family::GeneralizedGaussian => -(centred.abs() + 1e-5).powf(z) * y.exp(),
            Family::KerpleLog => -x.exp() * (1.0 + y.exp() * r).ln(),
            Family::KerplePower => -x.exp() * r.powf(2.0 * logistic(y)),
            Family::StudentT => {
                let nu = z.exp();
                -0.5 * (nu + 1.0) * ((centred / y.exp()).powi(2) / nu).ln_1p()
            }
            Family::T5Buckets => match -d as usize {
                // What lies ahead is as what is here.
                exact @ 0..16 => numbers[exact],
                // ⌊16·ln(r/16)/ln 8⌋ of 16 more buckets.
                distance => {
                    numbers[16 + (16.0 * (distance as f64 / 16.0).ln() / 8_f64.ln()) as usize]
                }
            },
            Family::Table => numbers[r as usize],
            Family::LaplaceSlab => {
                let slab = logistic(y);
                ((1.0 - slab) * (-x.exp() * r).exp() + slab).ln()
            }
        };
        near(
            prior.ln_weight(d),
            written_out,
            1e-12 * (1.0 + written_out.abs()),
        )
    };
    holds(&cases, |case| law(f64::sinh, case));
    refuted(&cases, |case| law(|theta| theta, case));
    refuted(&cases, |case| law(|_| 0.0, case));
}

/// The chain rule gives the slope of the log-weight in what is stored.
#[test]
fn gradients_by_what_is_stored_are_slopes() {
    let cases = (heads(), lags(), prop::bool::ANY);
    type Gradient = fn(&StoredPrior, f64) -> Vec<f64>;
    let law = |gradient: Gradient,
               ((family, numbers), d, both): ((Family, Vec<f64>), f64, bool)| {
        const STEP: f64 = 1e-4;
        let direction = match both {
            true => Direction::Bidirectional,
            false => Direction::Causal,
        };
        let numbers: Vec<f64> = numbers.iter().map(|x| x / 9.0).collect();
        let theta = theta_of(family, &numbers);
        let stored = family.stored_prior(&theta, direction).unwrap();
        let claimed = gradient(&stored, d);
        prop_assert_eq!(claimed.len(), theta.iter().map(Vec::len).sum::<usize>());
        let places = theta.iter().enumerate();
        let places = places.flat_map(|(i, of)| (0..of.len()).map(move |j| (i, j)));
        for ((i, j), claimed) in places.zip(claimed) {
            let at = |steps: f64| {
                let mut moved = theta.clone();
                moved[i][j] += steps * STEP;
                let moved = family.stored_prior(&moved, direction).unwrap();
                moved.prior().ln_weight(d)
            };
            let slope = (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * STEP);
            let size = 1.0 + slope.abs() + stored.prior().ln_weight(d).abs();
            near(claimed, slope, 1e-6 * size)?;
        }
        Ok(())
    };
    let right: Gradient = |stored, d| stored.ln_weight_gradient(d);
    // Away from the kink at a location, which a step may cross.
    let smooth = cases.prop_filter("smooth", |((family, numbers), d, _)| {
        let location = family
            .parameters(1)
            .iter()
            .any(|of| of.role == Role::Location);
        !location || (d - 2.0 * (numbers[0] / 9.0).sinh()).abs() > 0.01
    });
    holds(&smooth, |case| law(right, case));
    // Without the links, and without the sign of the share that the other component loses.
    refuted(&smooth, |case| {
        law(|stored, d| stored.prior().ln_weight_gradient(d), case)
    });
    refuted(&smooth, |case| {
        law(
            |stored, d| {
                stored
                    .ln_weight_gradient(d)
                    .iter()
                    .map(|x| x.abs())
                    .collect()
            },
            case,
        )
    });
}

#[test]
fn names_go_to_text_and_back() {
    for family in Family::ALL {
        assert_eq!(family.name().parse(), Ok(family));
        let json = serde_json::to_string(&family).unwrap();
        assert_eq!(json, format!("\"{family}\""));
        assert_eq!(serde_json::from_str::<Family>(&json).unwrap(), family);
        // One name for the law and for what is learned of it.
        let start: Vec<Vec<f64>> = family
            .parameters(1)
            .into_iter()
            .map(|of| of.initial)
            .collect();
        let law = family.prior(&start).unwrap().family();
        let of_a_mixture = family == Family::LaplaceSlab && law == "mixture";
        assert!(law == family.name() || of_a_mixture, "{family}: {law}");
    }
    let error = "laplacian".parse::<Family>().unwrap_err().to_string();
    assert!(
        error.starts_with("family: expected one of uniform, laplace,"),
        "{error}"
    );
    assert!(error.ends_with("got laplacian"), "{error}");
    assert_eq!(Role::Location.name(), "location");
}

/// The numbers that models start with, to the bit: checkpoints and records depend on them.
#[test]
fn starting_values() {
    for heads in [1, 3, 6, 8, 12] {
        let slopes = alibi_slopes(heads).unwrap();
        let ln: Vec<f64> = slopes.iter().map(|m| m.ln()).collect();
        let all = |theta: f64| vec![theta; heads];
        let initial = |family: Family| -> Vec<Vec<f64>> {
            let specs = family.parameters(heads).into_iter();
            specs.map(|spec| spec.initial).collect()
        };
        assert_eq!(initial(Family::Laplace), std::slice::from_ref(&ln));
        assert_eq!(
            initial(Family::GeneralizedGaussian),
            [all(0.0), ln.clone(), all(1.0)]
        );
        let wide: Vec<f64> = slopes.iter().map(|m| (m * m / 4.0).ln()).collect();
        assert_eq!(initial(Family::Gaussian), [all(0.0), wide]);
        assert_eq!(initial(Family::KerpleLog), [all(0.0), ln.clone()]);
        assert_eq!(initial(Family::KerplePower), [ln.clone(), all(0.0)]);
        let widths: Vec<f64> = ln.iter().map(|x| -x).collect();
        assert_eq!(initial(Family::StudentT), [all(0.0), widths, all(0.0)]);
        assert_eq!(initial(Family::LaplaceSlab), [ln, all(-4.6)]);
        assert_eq!(initial(Family::T5Buckets), [vec![0.0; heads * 32]]);
        assert_eq!(initial(Family::Table), [vec![0.0; heads * 64]]);
        assert!(initial(Family::Uniform).is_empty());
    }
    let spec = &Family::Table.parameters(3)[0];
    let rows: Vec<usize> = (0..3 * 64).collect();
    assert_eq!(spec.of_head(&rows, 2)[..2], [128, 129]);
}

#[test]
fn what_a_family_does_not_say_is_refused() {
    for prior in [
        Prior::from(Gaussian::new(0.0, 2.0).unwrap()),
        GeneralizedGaussian::with_epsilon(0.0, 1.0, 1.0, 1e-3)
            .unwrap()
            .into(),
        Table::new(vec![0.0; 10]).unwrap().into(),
        T5Buckets::new(vec![0.0; 32], 64, Direction::Causal)
            .unwrap()
            .into(),
        T5Buckets::new(vec![0.0; 16], 128, Direction::Causal)
            .unwrap()
            .into(),
        mixed(
            0.5,
            Laplace::new(1.0).unwrap().into(),
            StudentT::new(0.0, 1.0, 1.0).unwrap().into(),
        ),
    ] {
        for family in Family::ALL.into_iter().filter(|f| *f != Family::Gaussian) {
            let error = family.theta(&prior).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, Error::Family { .. }), "{text}");
            assert!(text.contains(&format!("one that {family} heads")), "{text}");
        }
    }
}

fn mixed(weight: f64, one: Prior, other: Prior) -> Prior {
    Mixture::new(vec![
        Component {
            weight: 1.0 - weight,
            prior: one,
        },
        Component {
            weight,
            prior: other,
        },
    ])
    .unwrap()
    .into()
}

#[test]
fn values_that_no_head_can_store_are_named() {
    let whole = KerplePower::new(1.0, 2.0).unwrap().into();
    let error = Family::KerplePower.theta(&whole).unwrap_err().to_string();
    assert_eq!(
        error,
        "kerple_power exponent: expected a number between 0 and 2, got 2"
    );
    for slab in [0.0, 1.0] {
        let prior = mixed(slab, Laplace::new(1.0).unwrap().into(), Uniform.into());
        let error = Family::LaplaceSlab.theta(&prior).unwrap_err().to_string();
        assert!(error.starts_with("laplace_slab slab: expected"), "{error}");
    }
    // Of a scale of 0, of one beyond any number, of none.
    for theta in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 800.0, -800.0] {
        for (family, spec) in Family::ALL
            .iter()
            .flat_map(|f| f.parameters(1).into_iter().map(move |s| (f, s)))
        {
            let wild = matches!(spec.link, Link::Exponential) || !theta.is_finite();
            let bounded =
                matches!(spec.link, Link::Logistic | Link::TwoLogistic) && !theta.is_nan();
            if !wild || bounded {
                continue;
            }
            let mut stored: Vec<Vec<f64>> = family
                .parameters(1)
                .into_iter()
                .map(|of| of.initial)
                .collect();
            let index = family
                .parameters(1)
                .iter()
                .position(|of| of.name == spec.name)
                .unwrap();
            stored[index][0] = theta;
            assert!(
                family.prior(&stored).is_err(),
                "{family} {}: {theta}",
                spec.name
            );
        }
    }
    let two = vec![vec![0.0], vec![0.0]];
    let error = Family::Laplace.prior(&two).unwrap_err().to_string();
    assert_eq!(error, "laplace parameters: expected 1, got 2");
    let error = Family::Table
        .prior(&[vec![0.0; 63]])
        .unwrap_err()
        .to_string();
    assert_eq!(error, "table weights: expected 64, got 63");
}

/// A law that the generalised Gaussian contains weighs the same as one, up to a constant and `ε`.
#[test]
fn generalized_gaussians_contain_others() {
    let contained = prop_oneof![
        Just(Prior::from(Uniform)),
        families::laplace(),
        families::gaussian(),
        families::generalized_gaussian(-2.0..2.0),
    ];
    type Containing = fn(&Prior) -> GeneralizedGaussian;
    let law = |containing: Containing, prior: Prior| -> TestCaseResult {
        let own = containing(&prior);
        let base = own.ln_weight(-500.0) - prior.ln_weight(-500.0);
        for lag in -60..=0 {
            let lag = f64::from(lag);
            let expected = prior.ln_weight(lag);
            // ε is not there in the Gaussian, whose weight falls by 2a·|d − μ| over it; a is below 1.
            let softened = 4e-5 * ((lag - location_of(&prior)).abs() + 500.0);
            near(
                own.ln_weight(lag) - base,
                expected,
                softened + 1e-12 * expected.abs(),
            )?;
        }
        Ok(())
    };
    holds(&contained, |prior| {
        law(
            |of| GeneralizedGaussian::containing(of, 0.25).unwrap().unwrap(),
            prior,
        )
    });
    refuted(&contained, |prior| {
        law(|_| GeneralizedGaussian::new(0.0, 0.25, 1.0).unwrap(), prior)
    });
    let other = Prior::from(StudentT::new(0.0, 1.0, 1.0).unwrap());
    assert_eq!(GeneralizedGaussian::containing(&other, 1.0), Ok(None));
    let soft = GeneralizedGaussian::with_epsilon(0.0, 1.0, 1.0, 0.5).unwrap();
    assert_eq!(GeneralizedGaussian::containing(&soft.into(), 1.0), Ok(None));
    assert!(GeneralizedGaussian::containing(&Uniform.into(), 0.0).is_err());
    let narrow = Gaussian::new(0.0, 1e-200).unwrap();
    assert!(GeneralizedGaussian::containing(&narrow.into(), 1.0).is_err());
}
