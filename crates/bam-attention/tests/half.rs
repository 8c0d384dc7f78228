//! `bf16` and `f16` inputs. The CPU widens `bf16` exactly: results are those of the same numbers in `f32`,
//! rounded. Matrix units round weights too.

use bam_attention::Implementation::Fused;
use bam_attention::testing::{
    Case, OnTensors, Shape, Tensors, affordable, instructions, on_cpu, oracle, test_device,
};
use bam_attention::{Instructions, KeyPriorScope, Options};
use burn::tensor::{FloatDType, Tensor, TensorData, bf16};

const SHAPES: [[usize; 6]; 6] = [
    // batch, heads, key heads, queries, keys, dim
    [1, 1, 1, 1, 1, 1],
    [2, 6, 2, 63, 65, 17],
    [1, 3, 3, 257, 257, 64],
    [1, 1, 1, 3, 9000, 16],
    [1, 2, 1, 100, 2000, 33],
    [2, 2, 1, 5, 130, 24],
];

/// The instructions that widen; AMX rounds weights too, and has tests of its own.
fn widening() -> Vec<Instructions> {
    let mut all = instructions();
    all.retain(|instructions| *instructions != Instructions::Amx);
    all
}

/// A case whose numbers `bf16` has.
fn case(s: [usize; 6], seed: u64) -> Case {
    let shape = Shape::from(s);
    let mut case = Case::random(&shape, seed)
        .with_documents(2)
        .with_temperature(true);
    for values in [&mut case.q, &mut case.k, &mut case.v] {
        values.iter_mut().for_each(|x| *x = round(*x));
    }
    case
}

fn with_and_without_key_prior(case: Case) -> [Case; 2] {
    let scope = KeyPriorScope::Added;
    [case.clone(), case.with_key_prior(false, scope)]
}

fn round(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().unwrap()
}

/// Output and gradients with q, k, v of that type.
fn passes(case: &Case, dtype: FloatDType, change: impl Fn(Options) -> Options) -> Vec<Vec<f32>> {
    let device = test_device().autodiff();
    let plain = case.tensors(&device);
    let [of_keys, low] = plain.key_prior;
    let tensors = Tensors {
        q: plain.q.cast(dtype).require_grad(),
        k: plain.k.cast(dtype).require_grad(),
        v: plain.v.cast(dtype).require_grad(),
        ln_weights: plain.ln_weights.require_grad(),
        temperature: plain.temperature.require_grad(),
        key_prior: [of_keys.require_grad(), low],
    };
    let options = change(case.options(&tensors, Fused).unwrap());
    let out = case.attend_as(&tensors, &options).unwrap();
    assert_eq!(FloatDType::from(out.dtype()), dtype);
    let weights: Vec<f32> = case.loss_weights().into_iter().map(round).collect();
    let weights = Tensor::<4>::from_data(TensorData::new(weights, out.dims()), &device);
    let of = (out.clone() * weights.cast(dtype)).sum().backward();
    let mut all = vec![
        values(out),
        values(tensors.q.grad(&of).unwrap()),
        values(tensors.k.grad(&of).unwrap()),
        values(tensors.v.grad(&of).unwrap()),
        values(tensors.ln_weights.grad(&of).unwrap()),
        values(tensors.temperature.grad(&of).unwrap()),
    ];
    all.extend(tensors.key_prior[0].grad(&of).map(values));
    all
}

#[test]
fn narrow_inputs_give_the_wide_results_rounded() {
    if !on_cpu() {
        return; // Below.
    }
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let cases = with_and_without_key_prior(case(shape, seed as u64));
        for (case, instructions) in cases
            .iter()
            .flat_map(|case| widening().into_iter().map(move |of| (case, of)))
        {
            let with = |options: Options| options.with_instructions(instructions);
            let narrow = passes(case, FloatDType::BF16, with);
            let wide = passes(case, FloatDType::F32, with);
            for (index, (narrow, wide)) in narrow.iter().zip(wide).enumerate() {
                // The prior and the temperature are wide in both.
                let expected: Vec<f32> = match index {
                    0..4 => wide.into_iter().map(round).collect(),
                    _ => wide,
                };
                assert_eq!(
                    *narrow, expected,
                    "{shape:?}, {instructions:?}, result {index}"
                );
            }
        }
    }
}

#[test]
fn narrow_outputs_are_the_definition_to_their_last_digit() {
    if !on_cpu() {
        return; // Below.
    }
    let best = *widening().last().unwrap();
    let largest_error = |case: &Case, of: &Case| {
        let out = &passes(case, FloatDType::BF16, |options| {
            options.with_instructions(best)
        })[0];
        let errors = out.iter().zip(oracle(of));
        errors
            // Half a unit in the last of eight digits, and the rounding of the sums.
            .map(|(got, expected)| {
                (f64::from(*got) - expected).abs() / (expected.abs() / 256.0 + 1e-4)
            })
            .fold(0.0, f64::max)
    };
    let right = case([1, 3, 3, 257, 257, 64], 2);
    assert!(largest_error(&right, &right) <= 1.01);
    // Null control: one per cent more of the values does not pass.
    let mut wrong = right.clone();
    wrong.v.iter_mut().for_each(|v| *v *= 1.01);
    assert!(largest_error(&right, &wrong) > 1.01);
}

/// On whatever device: the wide results to the digits of the type, a handful of its units off at most.
#[test]
fn narrow_results_are_the_wide_ones_to_their_digits() {
    let device = test_device();
    let types = [(FloatDType::BF16, 8), (FloatDType::F16, 11)];
    let there = types.into_iter().filter(|(dtype, _)| match on_cpu() {
        true => *dtype == FloatDType::BF16,
        false => device.supports_dtype(*dtype),
    });
    for (dtype, digits) in there {
        for shape in SHAPES.into_iter().filter(|shape| affordable(shape[5])) {
            for case in with_and_without_key_prior(case(shape, 5)) {
                let narrow = passes(&case, dtype, |options| options);
                let wide = passes(&case, FloatDType::F32, |options| options);
                for (index, (narrow, wide)) in narrow.iter().zip(&wide).enumerate() {
                    let largest = wide.iter().fold(1.0f32, |m, x| m.max(x.abs()));
                    let errors = narrow.iter().zip(wide).map(|(a, b)| (a - b).abs());
                    let error = errors.fold(0.0, f32::max);
                    let allowed = 4.0 * largest * 2f32.powi(-digits);
                    assert!(
                        error <= allowed,
                        "{dtype:?}, {shape:?}, result {index}: {error:e}, allowed {allowed:e}"
                    );
                }
            }
        }
    }
}
