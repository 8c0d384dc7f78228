//! Every implementation against the definition in `f64`, at awkward sizes, with every option.
//!
//! The tolerance is derived: the error that the reference makes in the same precision, times a
//! small factor, and never less than the rounding of a result of that size.

use bam_attention::Implementation::{Fused, Reference};
use bam_attention::KeyPriorScope::{Added, Scaled};
use bam_attention::Options;
use bam_attention::testing::{
    Case, OnTensors, Shape, Tensors, awkward_sizes, instructions, oracle, test_device,
};

fn largest_error(case: &Case, options: impl Fn(&Tensors) -> Options) -> f64 {
    let tensors = case.tensors(&test_device());
    let options = options(&tensors);
    let got = case.attend_as(&tensors, &options).unwrap().into_data();
    let expected = oracle(case);
    let got = got.as_slice::<f32>().unwrap();
    assert_eq!(got.len(), expected.len());
    assert!(got.iter().all(|x| x.is_finite()), "a value is not finite");
    got.iter()
        .zip(&expected)
        .map(|(got, expected)| (f64::from(*got) - expected).abs())
        .fold(0.0, f64::max)
}

/// Both implementations are right, the fused one with whatever instructions the processor has.
fn assert_agreement(case: &Case, name: &str) {
    let reference = largest_error(case, |tensors| case.options(tensors, Reference).unwrap());
    assert!(
        reference < 2e-5,
        "{name}: the reference is off by {reference:e}"
    );
    let tolerance = 4.0 * reference.max(f64::from(f32::EPSILON) * 3.0);
    for instructions in instructions() {
        let fused = largest_error(case, |tensors| {
            let options = case.options(tensors, Fused).unwrap();
            options.with_instructions(instructions)
        });
        assert!(
            fused <= tolerance,
            "{name}, {instructions:?}: off by {fused:e}, allowed {tolerance:e}"
        );
    }
}

fn cases() -> impl Iterator<Item = (String, Case)> {
    awkward_sizes().into_iter().enumerate().map(|(seed, s)| {
        let shape = Shape::from(s);
        (format!("{s:?}"), Case::random(&shape, seed as u64))
    })
}

#[test]
fn causal() {
    cases().for_each(|(name, case)| assert_agreement(&case, &name));
}

#[test]
fn both_ways() {
    cases().for_each(|(name, case)| assert_agreement(&case.full(), &name));
}

#[test]
fn window() {
    for window in [1, 2, 64, 100, 5000] {
        cases().for_each(|(name, case)| {
            assert_agreement(&case.clone().with_window(window), &name);
            assert_agreement(&case.full().with_window(window), &name);
        });
    }
}

#[test]
fn documents_and_padding() {
    for count in [1, 3, 9] {
        cases().for_each(|(name, case)| {
            assert_agreement(&case.clone().with_documents(count), &name);
            assert_agreement(&case.full().with_documents(count), &name);
        });
    }
}

#[test]
fn documents_in_any_order() {
    let shape = Shape {
        batch: 2,
        heads: 2,
        key_heads: 1,
        queries: 150,
        keys: 150,
        dim: 16,
    };
    let mut case = Case::random(&shape, 77);
    let ids: Vec<i32> = (0..300).map(|i| (i * i % 7) - 3).collect();
    case.documents = Some((ids.clone(), ids));
    assert_agreement(&case, "scattered documents");
}

#[test]
fn temperature() {
    for on_prior in [false, true] {
        cases().for_each(|(name, case)| {
            assert_agreement(&case.with_temperature(on_prior).with_documents(2), &name);
        });
    }
}

/// Of query heads and of key heads, scaled and not, with documents and a window; few rows are of split keys.
#[test]
fn prior_over_keys() {
    for (by_query_head, scope) in [(true, Scaled), (false, Added)] {
        cases().for_each(|(name, case)| {
            let case = case.with_key_prior(by_query_head, scope);
            let scaled = case.clone().with_temperature(by_query_head);
            assert_agreement(&scaled.with_documents(3), &name);
            assert_agreement(&case.full().with_window(100), &name);
        });
    }
    // Null control: who ignores it is told apart.
    let case = Case::random(&Shape::from([2, 3, 1, 65, 65, 16]), 3).with_key_prior(false, Added);
    let ignored = largest_error(&case, |tensors| Options {
        key_prior: None,
        ..case.options(tensors, Fused).unwrap()
    });
    assert!(ignored > 1e-2, "it makes a difference of {ignored:e} only");
}

/// A row that sees one key has the posterior 1 on it, whatever the temperature: `ln 1 = 0`.
#[test]
fn one_key_has_weight_one() {
    let shape = Shape {
        batch: 1,
        heads: 1,
        key_heads: 1,
        queries: 3,
        keys: 3,
        dim: 2,
    };
    let mut case = Case::random(&shape, 5);
    case.temperature = Some((vec![0.0, 3.0, -2.0], true));
    let out = case
        .attend(&case.tensors(&test_device()), Fused)
        .unwrap()
        .into_data();
    assert_eq!(out.as_slice::<f32>().unwrap()[..2], case.v[..2]);
}
