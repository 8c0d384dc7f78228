//! Golden numbers, to lag 10⁶, from 50-digit arithmetic: see `golden/generate.py`.

use bam_prior::{Direction, GeneralizedGaussian, PositionalPrior, Prior, T5Buckets};
use serde::Deserialize;

/// The golden numbers are rounded once. The laws take a handful of roundings, each worth half an
/// ε = 10⁻¹⁶, times the condition number of the power, at most the shape: below 100 ε in all.
const RELATIVE: f64 = 1e-13;
/// Log-weights of mixtures cross 0, where the roundings of the sum remain.
const ABSOLUTE: f64 = 1e-15;

#[derive(Deserialize)]
struct Tail {
    prior: Prior,
    ln_normaliser: Option<f64>,
    points: Vec<(f64, f64)>,
}

fn tails() -> Vec<Tail> {
    let lines = include_str!("golden/tails.jsonl").lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn agrees(got: f64, golden: f64, tolerance: f64) -> bool {
    (got - golden).abs() <= tolerance * golden.abs() + ABSOLUTE
}

/// The golden points, as `prior at lag: got, golden`, where `ln_weight` is off.
fn disagreements(ln_weight: impl Fn(&Prior, f64) -> f64, tolerance: f64) -> Vec<String> {
    let mut found = Vec::new();
    for Tail { prior, points, .. } in tails() {
        for (lag, golden) in points {
            let got = ln_weight(&prior, lag);
            if !agrees(got, golden, tolerance) {
                found.push(format!(
                    "{prior:?} at {lag}: got {got:e}, golden {golden:e}"
                ));
            }
        }
    }
    found
}

fn with_generalized(prior: &Prior, lag: f64, law: fn(&GeneralizedGaussian, f64) -> f64) -> f64 {
    match prior {
        Prior::GeneralizedGaussian(generalized) => law(generalized, lag),
        other => other.ln_weight(lag),
    }
}

#[test]
fn log_weights_to_lag_one_million() {
    let found = disagreements(|prior, lag| prior.ln_weight(lag), RELATIVE);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn log_weights_in_f32_to_lag_one_million() {
    let half_ulp = f64::from(f32::EPSILON) / 2.0;
    // Below the normal range of f32 (10⁻³⁸) and beyond its largest number nothing can agree.
    let in_range = |golden: f64| golden == 0.0 || (1e-37..1e38).contains(&golden.abs());
    for Tail { prior, points, .. } in tails() {
        for (lag, golden) in points {
            let got = prior.ln_weight_f32(lag);
            assert!(got.is_finite());
            if in_range(golden) {
                assert!(
                    agrees(f64::from(got), golden, 1.001 * half_ulp),
                    "{prior:?} at {lag}"
                );
            }
        }
    }
}

#[test]
fn impostors_disagree_with_the_golden_numbers() {
    let ignores_location = |prior: &Prior, lag: f64| {
        with_generalized(prior, lag, |law, lag| {
            let centred =
                GeneralizedGaussian::with_epsilon(0.0, law.scale(), law.shape(), law.epsilon());
            centred.unwrap().ln_weight(lag)
        })
    };
    let scale_inside = |prior: &Prior, lag: f64| {
        with_generalized(prior, lag, |law, lag| {
            -(((lag - law.location()).abs() + law.epsilon()) * law.scale()).powf(law.shape())
        })
    };
    let no_epsilon = |prior: &Prior, lag: f64| {
        with_generalized(prior, lag, |law, lag| {
            -(lag - law.location()).abs().powf(law.shape()) * law.scale()
        })
    };
    let rounded_to_f32 = |prior: &Prior, lag: f64| f64::from(prior.ln_weight(lag) as f32);
    let mirrored = |prior: &Prior, lag: f64| prior.ln_weight(-lag);
    let through_the_density = |prior: &Prior, lag: f64| prior.ln_weight(lag).exp().ln();
    type LnWeight<'a> = &'a dyn Fn(&Prior, f64) -> f64;
    let impostors: [(&str, LnWeight); 6] = [
        ("ignores the location", &ignores_location),
        ("scale inside the power", &scale_inside),
        ("no epsilon", &no_epsilon),
        ("computed in f32", &rounded_to_f32),
        ("lag of the wrong sign", &mirrored),
        ("logarithm of the weight", &through_the_density),
    ];
    for (name, impostor) in impostors {
        assert!(
            !disagreements(impostor, RELATIVE).is_empty(),
            "passes: {name}"
        );
    }
}

/// The golden normalisers that `ln_normaliser` misses. `ln Z` is a sum of terms of both signs, so
/// where it is near 0 it is accurate to the rounding of numbers of the size of 1.
fn normaliser_disagreements(ln_normaliser: impl Fn(&Prior) -> Option<f64>) -> Vec<String> {
    let mut found = Vec::new();
    for Tail {
        prior,
        ln_normaliser: golden,
        ..
    } in tails()
    {
        let got = ln_normaliser(&prior);
        let agree = match (got, golden) {
            (Some(got), Some(golden)) => (got - golden).abs() <= 1e-13 * golden.abs().max(1.0),
            (got, golden) => got == golden,
        };
        if !agree {
            found.push(format!("{prior:?}: got {got:?}, golden {golden:?}"));
        }
    }
    found
}

#[test]
fn normalisers() {
    let found = normaliser_disagreements(|prior| prior.ln_normaliser());
    assert!(found.is_empty(), "{found:#?}");
    let without_epsilon = |prior: &Prior| match prior {
        Prior::GeneralizedGaussian(law) if law.shape() > 0.0 => {
            GeneralizedGaussian::with_epsilon(0.0, law.scale(), law.shape(), 0.0)
                .unwrap()
                .ln_normaliser()
        }
        other => other.ln_normaliser(),
    };
    assert!(
        !normaliser_disagreements(without_epsilon).is_empty(),
        "passes: no epsilon"
    );
}

#[derive(Deserialize)]
struct Buckets {
    buckets: usize,
    max_distance: usize,
    direction: Direction,
    reach: i32,
    /// Changes of the bucket on the way from −reach to reach: lag and new bucket.
    changes: Vec<(i32, usize)>,
}

fn bucket_disagreements(bucket: impl Fn(&T5Buckets, f64) -> usize) -> usize {
    let lines = include_str!("golden/t5_buckets.jsonl").lines();
    let cases = lines.map(|line| serde_json::from_str::<Buckets>(line).unwrap());
    cases
        .map(|case| {
            let prior =
                T5Buckets::new(vec![0.0; case.buckets], case.max_distance, case.direction).unwrap();
            let mut changes = case.changes.into_iter().peekable();
            let mut golden = 0;
            (-case.reach..=case.reach)
                .filter(|&lag| {
                    if let Some((_, next)) = changes.next_if(|&(at, _)| at == lag) {
                        golden = next;
                    }
                    bucket(&prior, f64::from(lag)) != golden
                })
                .count()
        })
        .sum()
}

#[test]
fn t5_buckets_as_in_exact_arithmetic() {
    assert_eq!(bucket_disagreements(|prior, lag| prior.bucket(lag)), 0);
    assert!(
        bucket_disagreements(|prior, lag| prior.bucket(-lag)) > 0,
        "wrong sign passes"
    );
    assert!(
        bucket_disagreements(|prior, lag| prior.bucket(lag - 1.0)) > 0,
        "off by one passes"
    );
}
