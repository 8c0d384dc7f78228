//! A GPU's own refusals, long sums, and wide heads. `BAM_TEST_DEVICE` names the device; on the CPU there is little to say.

use bam_attention::Implementation::{Fused, Reference};
use bam_attention::device::cpu;
use bam_attention::testing::{
    Case, OnTensors, Shape, Tensors, on_cpu, oracle, oracle_gradients, signed_numbers, test_device,
};
use bam_attention::{KeyPrior, KeyPriorScope, Options};
use burn::tensor::{FloatDType, Tensor, TensorData};

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
    if !device.supports_dtype(FloatDType::BF16) {
        let case = case(16);
        let plain = case.tensors(&cpu());
        let narrow = |x: &Tensor<4>| x.clone().cast(FloatDType::BF16).to_device(&device);
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

/// Forget gates over many tokens, the sums of their logarithms made and read there: outputs, and the gradients of values and of the
/// prior, keep 10⁻⁶. In single `f32` numbers, which are 10⁻³ apart there, nothing is left of that.
#[test]
fn long_sums_keep_their_digits() {
    const KEYS: usize = 50_000;
    let mut case = Case::random(&Shape::from([1, 2, 2, 40, KEYS, 8]), 6);
    // The rounding of the content is not the question.
    case.q.iter_mut().for_each(|q| *q *= 0.02);
    case.ln_weights.fill(0.0);
    let ln_f: Vec<f32> = signed_numbers(2 * KEYS, 1.0, 3)
        .iter()
        .map(|x| -x * x)
        .collect();
    let of_head = |ln_f: &[f32]| {
        let sums = ln_f.iter().scan(0.0, |sum, ln_f| {
            *sum -= f64::from(*ln_f);
            Some(*sum)
        });
        sums.collect::<Vec<_>>()
    };
    let u: Vec<f64> = ln_f.chunks(KEYS).flat_map(of_head).collect();
    assert!(u[KEYS - 1] > 1e4);
    let case = case.with_key_numbers(&u, 2, KeyPriorScope::Added);
    let of = oracle_gradients(&case);
    let expected = [oracle(&case), of[2].clone(), of[5].clone()];
    let errors = |in_pairs: bool| {
        let change = |options: Options| Options {
            key_prior: options.key_prior.map(|of| KeyPrior {
                remainders: of.remainders.filter(|_| in_pairs),
                ..of
            }),
            ..options
        };
        let [out, _, _, v, _, _, u] = case.passes(change, Fused).unwrap();
        let all = [out, v, u].into_iter().zip(&expected);
        all.map(|(got, expected)| relative_error(&got, expected))
            .collect::<Vec<_>>()
    };
    let pairs = errors(true);
    assert!(pairs.iter().all(|error| *error < 1e-6), "{pairs:?}");
    // Null control.
    let single = errors(false);
    assert!(single.iter().all(|error| *error > 1e-5), "{single:?}");

    let tensors = case.tensors(&test_device());
    let ln_f = Tensor::from_data(TensorData::new(ln_f, [1, 2, KEYS]), &test_device());
    let options = case.options(&tensors, Fused).unwrap();
    let summed_there = options.with_key_prior(KeyPrior::forgetting(ln_f));
    let out = case.attend_as(&tensors, &summed_there).unwrap().into_data();
    let error = relative_error(out.as_slice().unwrap(), &expected[0]);
    assert!(error < 1e-6, "{error:e}");
}

fn relative_error(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let mut off = got.iter().zip(expected).map(|(a, b)| f64::from(*a) - b);
    norm(&mut off) / norm(&mut expected.iter().copied())
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
