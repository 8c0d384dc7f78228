//! Priors to try laws on: every family, at parameters that training reaches.

use bam_prior::{
    Component, Direction, Gaussian, GeneralizedGaussian, KerpleLog, KerplePower, Laplace, Mixture,
    PositionalPrior, Prior, StudentT, T5Buckets, Table, Uniform, softmax,
};
use proptest::prelude::*;

/// Whole lags; locations lie between them, so no law is probed at its kink.
pub fn lags() -> impl Strategy<Value = f64> {
    (-40..=20).prop_map(f64::from)
}

pub fn locations() -> impl Strategy<Value = f64> {
    (-20..=5, 0.1..0.9).prop_map(|(whole, part)| f64::from(whole) + part)
}

pub fn laplace() -> impl Strategy<Value = Prior> {
    (0.004..1.0).prop_map(|slope| Laplace::new(slope).unwrap().into())
}

pub fn gaussian() -> impl Strategy<Value = Prior> {
    (locations(), 2.0..50.0).prop_map(|(mu, sigma)| Gaussian::new(mu, sigma).unwrap().into())
}

pub fn generalized_gaussian(shapes: std::ops::Range<f64>) -> impl Strategy<Value = Prior> {
    (locations(), 0.01..0.5, shapes)
        .prop_map(|(mu, a, beta)| GeneralizedGaussian::new(mu, a, beta).unwrap().into())
}

pub fn kerple_log(exponents: std::ops::Range<f64>) -> impl Strategy<Value = Prior> {
    (exponents, 0.01..3.0).prop_map(|(r1, r2)| KerpleLog::new(r1, r2).unwrap().into())
}

pub fn kerple_power() -> impl Strategy<Value = Prior> {
    (0.01..0.5, 0.2..1.9).prop_map(|(r1, r2)| KerplePower::new(r1, r2).unwrap().into())
}

pub fn student_t() -> impl Strategy<Value = Prior> {
    (locations(), 0.3..30.0, 0.3..60.0)
        .prop_map(|(mu, sigma, nu)| StudentT::new(mu, sigma, nu).unwrap().into())
}

pub fn table() -> impl Strategy<Value = Prior> {
    prop::collection::vec(-3.0..3.0, 1..30).prop_map(|t| Table::new(t).unwrap().into())
}

pub fn t5_buckets() -> impl Strategy<Value = Prior> {
    let direction = prop_oneof![Just(Direction::Causal), Just(Direction::Bidirectional)];
    (prop::collection::vec(-3.0..3.0, 8), 5_usize..40, direction)
        .prop_map(|(t, max, direction)| T5Buckets::new(t, max, direction).unwrap().into())
}

pub fn simple() -> impl Strategy<Value = Prior> {
    prop_oneof![
        Just(Prior::from(Uniform)),
        laplace(),
        gaussian(),
        generalized_gaussian(-2.0..2.0),
        kerple_log(0.1..4.0),
        kerple_power(),
        student_t(),
        table(),
        t5_buckets(),
    ]
}

pub fn mixture() -> impl Strategy<Value = Prior> {
    prop::collection::vec((-2.0..2.0, simple()), 1..4).prop_map(|parts| {
        let (theta, priors): (Vec<f64>, Vec<Prior>) = parts.into_iter().unzip();
        mix(&softmax(&theta), priors)
    })
}

pub fn mix(weights: &[f64], priors: Vec<Prior>) -> Prior {
    let components = weights.iter().zip(priors);
    let components = components
        .map(|(&weight, prior)| Component { weight, prior })
        .collect();
    Mixture::new(components).unwrap().into()
}

pub fn location_of(prior: &Prior) -> f64 {
    prior
        .parameters()
        .iter()
        .find(|p| p.name == "location")
        .map_or(0.0, |p| p.value)
}
