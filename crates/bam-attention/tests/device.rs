//! A GPU's own refusals, and wide heads. `BAM_TEST_DEVICE` names the device; on the CPU there is little to say.

use bam_attention::Implementation::{Fused, Reference};
use bam_attention::KeyPriorScope;
use bam_attention::device::cpu;
use bam_attention::testing::{Case, OnTensors, Shape, Tensors, on_cpu, oracle, test_device};
use burn::tensor::FloatDType;

fn case(dim: usize) -> Case {
    Case::random(&Shape::from([1, 2, 1, 70, 70, dim]), 3)
}

fn message(tensors: &Tensors, case: &Case) -> String {
    case.attend(tensors, Fused).unwrap_err().to_string()
}

#[test]
fn tensors_of_two_devices_are_refused() {
    if on_cpu() {
        return;
    }
    let case = case(16);
    let there = case.tensors(&test_device());
    let here = case.tensors(&cpu());
    for mixed in [
        Tensors {
            k: here.k.clone(),
            ..there.clone()
        },
        Tensors {
            ln_weights: here.ln_weights.clone(),
            ..there.clone()
        },
        Tensors {
            q: there.q.clone(),
            ..here.clone()
        },
    ] {
        for implementation in [Fused, Reference] {
            let error = case.attend(&mixed, implementation).unwrap_err().to_string();
            assert!(
                error.starts_with("device of k, v, priors and temperature: expected that of q"),
                "{error}"
            );
        }
    }
}

#[test]
fn heads_that_are_too_wide_and_types_that_are_not_there_are_refused() {
    if on_cpu() {
        return;
    }
    let device = test_device();
    let wide = case(257);
    let error = message(&wide.tensors(&device), &wide);
    assert_eq!(
        error,
        "head dimension on a GPU: expected at most 256, got 257"
    );
    let of_keys = case(16).with_key_prior(true, KeyPriorScope::Added);
    assert_eq!(
        message(&of_keys.tensors(&device), &of_keys),
        "fused attention: expected no prior over keys on a GPU; the reference takes one, got one"
    );
    if !device.supports_dtype(FloatDType::BF16) {
        let case = case(16);
        let plain = case.tensors(&cpu());
        let narrow =
            |x: &burn::tensor::Tensor<4>| x.clone().cast(FloatDType::BF16).to_device(&device);
        let there = case.tensors(&device);
        let tensors = Tensors {
            q: narrow(&plain.q),
            k: narrow(&plain.k),
            v: narrow(&plain.v),
            ..there
        };
        let error = message(&tensors, &case);
        assert!(error.contains("F16 that the device has"), "{error}");
    }
}

/// The widest kernel that there is, and one that is not a power of two.
#[test]
fn wide_heads() {
    for dim in [100, 256] {
        let case = case(dim);
        let out = case
            .attend(&case.tensors(&test_device()), Fused)
            .unwrap()
            .into_data();
        let errors = out.as_slice::<f32>().unwrap().iter().zip(oracle(&case));
        let error = errors
            .map(|(a, b)| (f64::from(*a) - b).abs())
            .fold(0.0, f64::max);
        assert!(error <= case.rounding(), "{dim}: {error:e}");
    }
}
