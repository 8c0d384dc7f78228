//! Parameters: unconstrained ↔ constrained, domains, and the serialised form.

mod null_control;

use bam_prior::{
    Error, Gaussian, GeneralizedGaussian, KerpleLog, KerplePower, Laplace, Link, PositionalPrior,
    Prior, StudentT, Uniform, softmax, softmax_inverse,
};
use null_control::{holds, near, refuted};
use proptest::prelude::*;

const LINKS: [Link; 6] = [
    Link::Identity,
    Link::Exponential,
    Link::TwoSinh,
    Link::Softplus,
    Link::Logistic,
    Link::TwoLogistic,
];

#[test]
fn links_invert() {
    let cases = (prop::sample::select(&LINKS), -12.0..12.0);
    let law = |inverse: fn(Link, f64) -> f64, (link, theta): (Link, f64)| {
        // Near the upper end of the logistic a step of x is e^θ steps of θ.
        let lost = link.constrain(theta).abs() / link.derivative(theta);
        near(
            inverse(link, link.constrain(theta)),
            theta,
            1e-15 * (16.0 + 4.0 * lost),
        )
    };
    holds(&cases, |case| {
        law(|link, x| link.unconstrain(x).unwrap(), case)
    });
    refuted(&cases, |case| {
        law(|link, x| link.unconstrain(x).unwrap() + 1e-9, case)
    });
    let without_the_two = |link, x: f64| match link {
        Link::TwoSinh => x.asinh(),
        link => link.unconstrain(x).unwrap(),
    };
    refuted(&cases, |case| law(without_the_two, case));
}

#[test]
fn link_derivatives_are_slopes() {
    let cases = (prop::sample::select(&LINKS), -12.0..12.0);
    let law = |derivative: fn(Link, f64) -> f64, (link, theta): (Link, f64)| {
        const STEP: f64 = 1e-3;
        let at = |steps: f64| link.constrain(theta + steps * STEP);
        let slope = (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * STEP);
        near(
            derivative(link, theta),
            slope,
            1e-11 * (slope.abs() + at(0.0).abs()),
        )
    };
    holds(&cases, |case| law(Link::derivative, case));
    refuted(&cases, |case| {
        law(|link, theta| link.derivative(-theta), case)
    });
    refuted(&cases, |case| {
        law(|link, theta| 1.000_001 * link.derivative(theta), case)
    });
}

#[test]
fn links_reject_what_lies_outside_their_domain() {
    for link in [
        Link::Exponential,
        Link::Softplus,
        Link::Logistic,
        Link::TwoLogistic,
    ] {
        for outside in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(link.unconstrain(outside).is_err(), "{link:?} {outside}");
        }
    }
    assert!(Link::Logistic.unconstrain(1.0).is_err());
    assert!(Link::TwoLogistic.unconstrain(1.999).is_ok());
    assert!(Link::TwoLogistic.unconstrain(2.0).is_err());
}

#[test]
fn links_keep_their_digits_far_out() {
    assert_eq!(Link::Softplus.constrain(-700.0), (-700_f64).exp());
    assert_eq!(Link::Softplus.constrain(1e6), 1e6);
    assert_eq!(Link::Logistic.constrain(-700.0), (-700_f64).exp());
    assert_eq!(Link::Logistic.constrain(f64::MAX), 1.0);
    assert_eq!(Link::Softplus.derivative(-1e9), 0.0);
    let theta = Link::Softplus.unconstrain(1e-300).unwrap();
    assert!((theta - 1e-300_f64.ln()).abs() < 1e-12);
}

#[test]
fn softmax_inverts_up_to_a_shift() {
    let cases = prop::collection::vec(-30.0..30.0, 1..6);
    let law = |inverse: fn(&[f64]) -> Vec<f64>, theta: Vec<f64>| {
        let weights = softmax(&theta);
        near(weights.iter().sum(), 1.0, 1e-15 * theta.len() as f64)?;
        let back = inverse(&weights);
        for (got, expected) in back.iter().zip(&theta) {
            near(got - back[0], expected - theta[0], 1e-13)?;
        }
        Ok(())
    };
    holds(&cases, |theta| {
        law(|weights| softmax_inverse(weights).unwrap(), theta)
    });
    refuted(&cases, |theta| law(|weights| weights.to_vec(), theta));
}

#[test]
fn alpha_is_the_width_of_the_density() {
    let prior = GeneralizedGaussian::new(0.0, 1.0 / 16.0, 2.0).unwrap();
    assert_eq!(prior.alpha(), Some(4.0));
    assert_eq!(
        GeneralizedGaussian::new(0.0, 0.5, 0.0).unwrap().alpha(),
        None
    );
    assert_eq!(
        GeneralizedGaussian::new(0.0, 0.5, -1.0).unwrap().alpha(),
        None
    );
}

#[test]
fn constructors_reject_what_lies_outside_the_family() {
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(Laplace::new(bad).is_err());
        assert!(Gaussian::new(0.0, bad).is_err());
        assert!(GeneralizedGaussian::new(0.0, bad, 1.0).is_err());
        assert!(KerpleLog::new(bad, 1.0).is_err() && KerpleLog::new(1.0, bad).is_err());
        assert!(KerplePower::new(bad, 1.0).is_err() && KerplePower::new(1.0, bad).is_err());
        assert!(StudentT::new(0.0, bad, 1.0).is_err() && StudentT::new(0.0, 1.0, bad).is_err());
    }
    assert!(GeneralizedGaussian::with_epsilon(0.0, 1.0, 0.0, 0.0).is_err());
    assert!(GeneralizedGaussian::with_epsilon(0.0, 1.0, 0.5, 0.0).is_ok());
    let error = Uniform.with_parameters(&[1.0]).unwrap_err();
    assert!(matches!(error, Error::Count { got: 1, .. }), "{error}");
}

#[test]
fn names_are_in_the_order_of_the_values() {
    let text = r#"{"family":"mixture","components":[
        {"weight":0.75,"prior":{"family":"student_t","location":-2.5,"scale":3,"degrees_of_freedom":4}},
        {"weight":0.25,"prior":{"family":"laplace","slope":0.5}}]}"#;
    let prior: Prior = serde_json::from_str(text).unwrap();
    let named: Vec<String> = prior
        .parameters()
        .iter()
        .map(|p| format!("{}={}", p.name, p.value))
        .collect();
    let expected = [
        "weight_0=0.75",
        "weight_1=0.25",
        "component_0.location=-2.5",
        "component_0.scale=3",
        "component_0.degrees_of_freedom=4",
        "component_1.slope=0.5",
    ];
    assert_eq!(named, expected);
    let values: Vec<f64> = prior.parameters().iter().map(|p| p.value).collect();
    assert_eq!(prior.with_parameters(&values).unwrap(), prior);
    assert!(prior.with_parameters(&values[1..]).is_err());
}

#[test]
fn every_family_survives_serialisation() {
    let texts = [
        r#"{"family":"uniform"}"#,
        r#"{"family":"laplace","slope":0.5}"#,
        r#"{"family":"gaussian","location":-1.5,"deviation":2.0}"#,
        r#"{"family":"generalized_gaussian","location":0.1,"scale":0.5,"shape":-1.0,"epsilon":1e-05}"#,
        r#"{"family":"kerple_log","r1":0.5,"r2":2.0}"#,
        r#"{"family":"kerple_power","r1":0.5,"r2":2.0}"#,
        r#"{"family":"student_t","location":0.0,"scale":1.0,"degrees_of_freedom":3.0}"#,
        r#"{"family":"t5_buckets","ln_weights":[0.0,-1.0],"max_distance":8,"direction":"causal"}"#,
        r#"{"family":"table","ln_weights":[0.0,-0.25]}"#,
        r#"{"family":"mixture","components":[{"weight":1.0,"prior":{"family":"uniform"}}]}"#,
    ];
    for text in texts {
        let prior: Prior = serde_json::from_str(text).unwrap();
        let value = serde_json::to_value(&prior).unwrap();
        assert_eq!(
            value,
            serde_json::from_str::<serde_json::Value>(text).unwrap()
        );
        assert_eq!(value["family"], prior.family());
        assert_eq!(serde_json::from_value::<Prior>(value).unwrap(), prior);
    }
    let trained = r#"{"family":"generalized_gaussian","location":0,"scale":1,"shape":1}"#;
    let trained: Prior = serde_json::from_str(trained).unwrap();
    assert_eq!(
        trained,
        GeneralizedGaussian::new(0.0, 1.0, 1.0).unwrap().into()
    );
}

#[test]
fn deserialisation_rejects_what_constructors_reject() {
    let texts = [
        r#"{"family":"laplace","slope":-0.5}"#,
        r#"{"family":"laplace","slope":0.5,"location":1.0}"#,
        r#"{"family":"laplace"}"#,
        r#"{"family":"laplacian","slope":0.5}"#,
        r#"{"family":"gaussian","location":0.0,"deviation":0.0}"#,
        r#"{"family":"generalized_gaussian","location":0,"scale":1,"shape":-1,"epsilon":0}"#,
        r#"{"family":"kerple_power","r1":0.5,"r2":2.5}"#,
        r#"{"family":"t5_buckets","ln_weights":[0,0],"max_distance":1,"direction":"causal"}"#,
        r#"{"family":"t5_buckets","ln_weights":[0,0,0,0,0],"max_distance":9,"direction":"bidirectional"}"#,
        r#"{"family":"table","ln_weights":[]}"#,
        r#"{"family":"mixture","components":[]}"#,
        r#"{"family":"mixture","components":[{"weight":0.5,"prior":{"family":"uniform"}}]}"#,
    ];
    for text in texts {
        assert!(serde_json::from_str::<Prior>(text).is_err(), "{text}");
    }
    let error = serde_json::from_str::<Prior>(texts[0])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("laplace slope: expected a finite number above 0, got -0.5"),
        "{error}"
    );
}
