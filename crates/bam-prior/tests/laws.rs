//! Laws of the families: normalisation, nesting, agreement with independent implementations,
//! finiteness. Each law is also asserted of an impostor and must be refuted.

mod families;
mod null_control;

use bam_prior::{
    Direction, Gaussian, GeneralizedGaussian, KerpleLog, KerplePower, Laplace, PositionalPrior,
    Prior, StudentT, T5Buckets, Table, Uniform,
};
use families::*;
use null_control::{holds, near, refuted};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use statrs::distribution::Continuous;

fn any_prior() -> impl Strategy<Value = Prior> {
    prop_oneof![9 => simple(), 1 => mixture()]
}

/// The law as it would be if it had no location.
fn without_location(prior: &Prior, lag: f64) -> f64 {
    prior.ln_weight(lag + location_of(prior))
}

/// `∫ exp(ln_density)` by the trapezoid rule in `t`, `d = centre ± eᵗ`, which converges
/// geometrically for laws that are smooth but for a cusp at the centre and a tail of any weight.
fn integral(centre: f64, ln_density: impl Fn(f64) -> f64) -> f64 {
    const STEPS_PER_UNIT: i32 = 32;
    let side = |sign: f64| -> f64 {
        (-60 * STEPS_PER_UNIT..400 * STEPS_PER_UNIT)
            .map(|k| f64::from(k) / f64::from(STEPS_PER_UNIT))
            .map(|t| (ln_density(centre + sign * t.exp()) + t).exp())
            .sum()
    };
    (side(-1.0) + side(1.0)) / f64::from(STEPS_PER_UNIT)
}

#[test]
fn densities_integrate_to_one() {
    let softened = (0.1..2.0, 0.3..3.0, 0.0..2.0).prop_map(|(a, beta, epsilon)| {
        GeneralizedGaussian::with_epsilon(0.0, a, beta, epsilon)
            .unwrap()
            .into()
    });
    let slow = (kerple_power(), kerple_log(1.2..4.0), laplace(), 0.0..1.0)
        .prop_map(|(p, l, e, w)| mix(&[w / 2.0, w / 2.0, 1.0 - w], vec![p, l, e]));
    let families = prop_oneof![
        laplace(),
        gaussian(),
        generalized_gaussian(0.3..4.0),
        softened,
        kerple_log(1.2..4.0),
        kerple_power(),
        student_t(),
        slow,
    ];
    holds(&families, |prior| {
        let total = integral(location_of(&prior), |d| prior.ln_pdf(d).unwrap());
        near(total, 1.0, 1e-10)
    });
    // Normalised as if the scale stood inside the power: right at shape 1 only.
    refuted(&generalized_gaussian(0.3..4.0), |prior| {
        let Prior::GeneralizedGaussian(law) = prior else {
            unreachable!()
        };
        let alpha = law.alpha().unwrap();
        let ln_wrong = law.ln_normaliser().unwrap() - alpha.ln() - law.scale().ln();
        near(
            integral(law.location(), |d| law.ln_weight(d) - ln_wrong),
            1.0,
            1e-10,
        )
    });
}

#[test]
fn only_integrable_weights_have_a_density() {
    let flat: [Prior; 7] = [
        Uniform.into(),
        GeneralizedGaussian::new(0.0, 1.0, 0.0).unwrap().into(),
        GeneralizedGaussian::new(0.0, 1.0, -1.0).unwrap().into(),
        KerpleLog::new(1.0, 1.0).unwrap().into(),
        Table::new(vec![0.0, -5.0]).unwrap().into(),
        T5Buckets::new(vec![0.0; 32], 128, Direction::Causal)
            .unwrap()
            .into(),
        mix(
            &[0.5, 0.5],
            vec![Laplace::new(1.0).unwrap().into(), Uniform.into()],
        ),
    ];
    assert!(flat.iter().all(|prior| prior.ln_pdf(-1.0).is_none()));
    let absent = mix(
        &[1.0, 0.0],
        vec![Laplace::new(1.0).unwrap().into(), Uniform.into()],
    );
    assert_eq!(
        absent.ln_normaliser(),
        Laplace::new(1.0).unwrap().ln_normaliser()
    );
}

/// The generalised Gaussian with the scale inside the power: the plain-BAM inference form.
fn scale_inside(location: f64, scale: f64, shape: f64, lag: f64) -> f64 {
    -((lag - location).abs() * scale).powf(shape)
}

fn exact(location: f64, scale: f64, shape: f64) -> GeneralizedGaussian {
    GeneralizedGaussian::with_epsilon(location, scale, shape, 0.0).unwrap()
}

#[test]
fn generalized_gaussian_of_shape_one_is_laplace() {
    let cases = (0.001..2.0, lags());
    let law = |ln_weight: &dyn Fn(f64, f64) -> f64, (slope, lag): (f64, f64)| {
        let laplace = Laplace::new(slope).unwrap().ln_weight(lag);
        near(
            ln_weight(slope, lag),
            laplace,
            1e-14 * (1.0 + laplace.abs()),
        )
    };
    holds(&cases, |case| {
        law(&|a, d| exact(0.0, a, 1.0).ln_weight(d), case)
    });
    holds(&cases, |(a, d)| {
        let laplace = Laplace::new(a).unwrap().ln_pdf(d).unwrap();
        near(
            exact(0.0, a, 1.0).ln_pdf(d).unwrap(),
            laplace,
            1e-13 * (1.0 + laplace.abs()),
        )
    });
    // The trained form is the same law times the constant exp(−a·ε).
    let constant = |a: f64| a * GeneralizedGaussian::EPSILON;
    let trained = |a, d| GeneralizedGaussian::new(0.0, a, 1.0).unwrap().ln_weight(d);
    holds(&cases, |case| {
        law(&|a, d| trained(a, d) + constant(a), case)
    });
    refuted(&cases, |case| law(&trained, case));
    refuted(&cases, |case| {
        law(&|a, d| exact(0.0, a, 1.01).ln_weight(d), case)
    });
}

#[test]
fn generalized_gaussian_of_shape_two_is_gaussian() {
    let cases = (locations(), 0.5..50.0, lags());
    let law = |ln_weight: fn(f64, f64, f64) -> f64, (mu, sigma, lag): (f64, f64, f64)| {
        let gaussian = Gaussian::new(mu, sigma).unwrap().ln_weight(lag);
        near(
            ln_weight(mu, 0.5 / (sigma * sigma), lag),
            gaussian,
            1e-14 * (1.0 + gaussian.abs()),
        )
    };
    holds(&cases, |case| {
        law(|mu, a, d| exact(mu, a, 2.0).ln_weight(d), case)
    });
    refuted(&cases, |case| {
        law(|_, a, d| exact(0.0, a, 2.0).ln_weight(d), case)
    });
    refuted(&cases, |case| {
        law(|mu, a, d| scale_inside(mu, a, 2.0, d), case)
    });
}

#[test]
fn kerple_power_is_the_generalized_gaussian_without_location() {
    let cases = (0.01..1.0, 0.1..2.0, lags());
    let law = |ln_weight: fn(f64, f64, f64) -> f64, (r1, r2, lag): (f64, f64, f64)| {
        let power = KerplePower::new(r1, r2).unwrap();
        near(
            ln_weight(r1, r2, lag),
            power.ln_weight(lag),
            1e-14 * (1.0 + r1 * lag * lag),
        )
    };
    holds(&cases, |case| {
        law(|r1, r2, d| exact(0.0, r1, r2).ln_weight(d), case)
    });
    refuted(&cases, |case| {
        law(|r1, r2, d| scale_inside(0.0, r1, r2, d), case)
    });
    holds(&cases, |(r1, _, lag)| {
        let laplace = Laplace::new(r1).unwrap().ln_weight(lag);
        prop_assert_eq!(KerplePower::new(r1, 1.0).unwrap().ln_weight(lag), laplace);
        Ok(())
    });
}

#[test]
fn student_t_of_many_degrees_is_gaussian() {
    let cases = (locations(), 0.5..50.0, lags());
    let law = |degrees: f64, (mu, sigma, lag): (f64, f64, f64)| {
        let student = StudentT::new(mu, sigma, degrees).unwrap();
        let gaussian = Gaussian::new(mu, sigma).unwrap();
        let z = (lag - mu) / sigma;
        near(
            student.ln_weight(lag),
            gaussian.ln_weight(lag),
            1e-12 * (1.0 + z.powi(4)),
        )?;
        near(
            student.ln_pdf(mu).unwrap(),
            gaussian.ln_pdf(mu).unwrap(),
            1e-12,
        )
    };
    holds(&cases, |case| law(1e13, case));
    refuted(&cases, |case| law(1e3, case));
}

#[test]
fn densities_agree_with_statrs() {
    let cases = (locations(), 0.1..40.0, 0.2..80.0, lags());
    type Case = (f64, f64, f64, f64);
    let student = |prior: fn(f64, f64, f64) -> StudentT, (mu, sigma, nu, lag): Case| {
        let oracle = statrs::distribution::StudentsT::new(mu, sigma, nu)
            .unwrap()
            .ln_pdf(lag);
        near(
            prior(mu, sigma, nu).ln_pdf(lag).unwrap(),
            oracle,
            1e-11 * (1.0 + oracle.abs()),
        )
    };
    holds(&cases, |case| {
        student(|mu, sigma, nu| StudentT::new(mu, sigma, nu).unwrap(), case)
    });
    refuted(&cases, |case| {
        student(|_, sigma, nu| StudentT::new(0.0, sigma, nu).unwrap(), case)
    });
    refuted(&cases, |case| {
        student(|mu, s, nu| StudentT::new(mu, s, nu + 1.0).unwrap(), case)
    });

    let normal = |prior: fn(f64, f64) -> Gaussian, (mu, sigma, _, lag): Case| {
        let oracle = statrs::distribution::Normal::new(mu, sigma)
            .unwrap()
            .ln_pdf(lag);
        near(
            prior(mu, sigma).ln_pdf(lag).unwrap(),
            oracle,
            1e-12 * (1.0 + oracle.abs()),
        )
    };
    holds(&cases, |case| {
        normal(|mu, sigma| Gaussian::new(mu, sigma).unwrap(), case)
    });
    refuted(&cases, |case| {
        normal(|mu, sigma| Gaussian::new(-mu, sigma).unwrap(), case)
    });

    let laplace = |prior: fn(f64) -> Laplace, (_, width, _, lag): Case| {
        let oracle = statrs::distribution::Laplace::new(0.0, width)
            .unwrap()
            .ln_pdf(lag);
        near(
            prior(width).ln_pdf(lag).unwrap(),
            oracle,
            1e-12 * (1.0 + oracle.abs()),
        )
    };
    holds(&cases, |case| {
        laplace(|width| Laplace::new(width.recip()).unwrap(), case)
    });
    refuted(&cases, |case| {
        laplace(|width| Laplace::new(width).unwrap(), case)
    });
}

#[test]
fn mixture_of_one_law_is_that_law() {
    let cases = (simple(), 0.0..1.0, lags());
    type LnWeight = fn(&Prior, f64) -> f64;
    let law = |expected: LnWeight, (prior, weight, lag): (Prior, f64, f64)| -> TestCaseResult {
        let once = mix(&[1.0], vec![prior.clone()]);
        let twice = mix(&[weight, 1.0 - weight], vec![prior.clone(), prior.clone()]);
        let expected = expected(&prior, lag);
        near(once.ln_weight(lag), expected, 0.0)?;
        near(
            twice.ln_weight(lag),
            expected,
            1e-14 * (1.0 + expected.abs()),
        )
    };
    holds(&cases, |case| law(|prior, lag| prior.ln_weight(lag), case));
    refuted(&cases, |case| law(without_location, case));
}

#[test]
fn mixture_sums_weights_not_log_weights() {
    let cases = (simple(), simple(), 0.01..0.99, lags());
    type Case = (Prior, Prior, f64, f64);
    let law = |sum: fn(f64, f64, f64) -> f64, (a, b, weight, lag): Case| {
        let expected = sum(weight, a.ln_weight(lag), b.ln_weight(lag));
        let got = mix(&[weight, 1.0 - weight], vec![a, b]).ln_weight(lag);
        near(got.exp(), expected, 1e-13 * expected.abs())
    };
    holds(&cases, |case| {
        law(|w, a, b| w * a.exp() + (1.0 - w) * b.exp(), case)
    });
    refuted(&cases, |case| {
        law(|w, a, b| (w * a + (1.0 - w) * b).exp(), case)
    });
}

#[test]
fn laws_are_symmetric_about_their_location() {
    let families = prop_oneof![
        laplace(),
        gaussian(),
        generalized_gaussian(-2.0..2.0),
        kerple_log(0.1..4.0),
        kerple_power(),
        student_t()
    ];
    let law = |ln_weight: fn(&Prior, f64) -> f64, (prior, offset): (Prior, f64)| {
        let location = location_of(&prior);
        let [below, above] = [-offset, offset].map(|x| ln_weight(&prior, location + x));
        near(below, above, 1e-12 * (1.0 + above.abs()))
    };
    let cases = (families, 0.1..100.0);
    holds(&cases, |case| law(|prior, lag| prior.ln_weight(lag), case));
    refuted(&cases, |case| law(without_location, case));
}

#[test]
fn gradients_and_weights_are_finite_at_kinks_and_extremes() {
    let priors: [Prior; 10] = [
        exact(-3.0, 0.5, 0.5).into(),
        exact(-3.0, 0.5, 2.0).into(),
        GeneralizedGaussian::new(-3.0, 1e300, -100.0)
            .unwrap()
            .into(),
        GeneralizedGaussian::new(-3.0, 0.5, 400.0).unwrap().into(),
        Gaussian::new(-3.0, 1e-300).unwrap().into(),
        Laplace::new(f64::MAX).unwrap().into(),
        KerplePower::new(f64::MAX, 0.3).unwrap().into(),
        KerpleLog::new(f64::MAX, f64::MIN_POSITIVE).unwrap().into(),
        StudentT::new(-3.0, f64::MIN_POSITIVE, 1e-300)
            .unwrap()
            .into(),
        mix(
            &[1.0, 0.0],
            vec![Laplace::new(f64::MAX).unwrap().into(), Uniform.into()],
        ),
    ];
    for prior in priors {
        for lag in [0.0, -3.0, -1e6, 1e6] {
            assert!(prior.ln_weight(lag).is_finite(), "{prior:?} at {lag}");
            assert!(prior.ln_weight_f32(lag).is_finite(), "{prior:?} at {lag}");
            let gradient = prior.ln_weight_gradient(lag);
            assert!(
                gradient.iter().all(|g| g.is_finite()),
                "{prior:?} at {lag}: {gradient:?}"
            );
        }
    }
}

#[test]
fn f32_is_the_f64_weight_rounded_once() {
    let cases = (any_prior(), -1e8..1e2);
    let law = |ln_weight: fn(&Prior, f64) -> f32, (prior, lag): (Prior, f64)| {
        let exact = prior.ln_weight(lag);
        near(
            f64::from(ln_weight(&prior, lag)),
            exact,
            exact.abs() * f64::from(f32::EPSILON) / 2.0,
        )
    };
    holds(&cases, |case| {
        law(|prior, lag| prior.ln_weight_f32(lag), case)
    });
    refuted(&cases, |case| {
        law(
            |prior, lag| prior.ln_weight(f64::from(lag as f32)) as f32,
            case,
        )
    });
}
