//! Null controls: an implementation that ignores one thing must fail the comparison that the
//! honest one passes. Ignoring is simulated by changing that thing in the case of the oracle.

use bam_attention::Implementation::{self, Fused, Reference};
use bam_attention::KeyPriorScope::{Added, Scaled};
use bam_attention::testing::{Case, OnTensors, Shape, oracle, test_device};

fn error_against(case: &Case, implementation: Implementation, oracle_case: &Case) -> f64 {
    let out = case
        .attend(&case.tensors(&test_device()), implementation)
        .unwrap()
        .into_data();
    out.as_slice::<f32>()
        .unwrap()
        .iter()
        .zip(oracle(oracle_case))
        .map(|(got, expected)| (f64::from(*got) - expected).abs())
        .fold(0.0, f64::max)
}

fn assert_told_apart(honest: &Case, what: &str, change: impl Fn(&mut Case)) {
    let mut impostor = honest.clone();
    change(&mut impostor);
    for implementation in [Reference, Fused] {
        let right = error_against(honest, implementation, honest);
        let wrong = error_against(honest, implementation, &impostor);
        assert!(
            right < 2e-5,
            "{what}: {implementation:?} is off by {right:e}"
        );
        assert!(wrong > 1e-2, "{what} ignored goes unnoticed: {wrong:e}");
    }
}

fn case() -> Case {
    let shape = Shape {
        batch: 2,
        heads: 4,
        key_heads: 2,
        queries: 70,
        keys: 130,
        dim: 24,
    };
    Case::random(&shape, 11)
}

#[test]
fn who_ignores_the_prior_is_caught() {
    assert_told_apart(&case(), "prior", |case| case.ln_weights.fill(0.0));
}

#[test]
fn who_shifts_the_lags_by_one_is_caught() {
    assert_told_apart(&case(), "lag", |case| case.ln_weights.rotate_right(1));
}

#[test]
fn who_uses_one_heads_prior_for_all_is_caught() {
    assert_told_apart(&case(), "head", |case| {
        let first = case.ln_weights[..case.lags].to_vec();
        case.ln_weights
            .chunks_mut(case.lags)
            .for_each(|row| row.copy_from_slice(&first));
    });
}

#[test]
fn who_ignores_the_keys_is_caught() {
    assert_told_apart(&case(), "K", |case| case.k.fill(0.0));
}

#[test]
fn who_mixes_up_the_key_heads_is_caught() {
    assert_told_apart(&case(), "key heads", |case| {
        let size = case.keys * case.dim;
        case.k
            .chunks_mut(2 * size)
            .for_each(|pair| pair.rotate_left(size));
    });
}

#[test]
fn who_ignores_the_mask_is_caught() {
    assert_told_apart(&case(), "causality", |case| case.causal = false);
    assert_told_apart(&case().with_window(9), "window", |case| case.window = None);
    assert_told_apart(&case().with_documents(3), "documents", |case| {
        case.documents = None
    });
}

#[test]
fn who_ignores_the_cache_offset_is_caught() {
    assert_told_apart(&case(), "offset", |case| case.offset = 0);
}

#[test]
fn who_ignores_the_temperature_is_caught() {
    let case = case().with_temperature(true);
    assert_told_apart(&case, "temperature", |case| case.temperature = None);
    assert_told_apart(&case, "temperature of the prior", |case| {
        case.temperature.as_mut().unwrap().1 = false;
    });
}

#[test]
fn who_ignores_the_prior_over_keys_is_caught() {
    let by_key_head = case().with_key_prior(false, Added).with_temperature(false);
    assert_told_apart(&by_key_head, "prior over keys", |case| {
        case.key_prior = None;
    });
    assert_told_apart(&by_key_head, "key", |case| {
        case.key_prior.as_mut().unwrap().high.rotate_right(1);
    });
    assert_told_apart(&by_key_head, "scope: scaled", |case| {
        case.key_prior.as_mut().unwrap().scope = Scaled;
    });
    let by_query_head = case().with_key_prior(true, Scaled).with_temperature(true);
    assert_told_apart(&by_query_head, "head of the prior over keys", |case| {
        case.key_prior
            .as_mut()
            .unwrap()
            .high
            .rotate_right(case.keys);
    });
    assert_told_apart(&by_query_head, "scope: added", |case| {
        case.key_prior.as_mut().unwrap().scope = Added;
    });
}
