//! Gradients: the reference's against finite differences of the `f64` oracle, the fused ones
//! against the reference's, and the same bits for any number of threads.

use bam_attention::Implementation::{self, Fused, Reference};
use bam_attention::testing::{
    Case, OnTensors, Shape, gradient_cases, instructions, on_cpu, oracle, test_device,
};
use bam_attention::{KeyPriorScope, Options};

const NAMES: [&str; 6] = ["q", "k", "v", "ln_weights", "temperature", "key_prior"];

fn gradients(case: &Case, implementation: Implementation) -> [Vec<f32>; 6] {
    let [_, rest @ ..] = case.passes(|as_it_is| as_it_is, implementation).unwrap();
    rest
}

/// Relative to the gradient's norm; where that vanishes (rows of one key), to the size of the terms
/// that cancel.
fn relative_error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(
        &mut got
            .iter()
            .zip(expected)
            .map(|(a, b)| f64::from(*a) - f64::from(*b)),
    );
    difference / norm(&mut expected.iter().map(|x| f64::from(*x))).max(0.1)
}

#[test]
fn fused_equal_the_references() {
    for (number, case) in gradient_cases().iter().enumerate() {
        let reference = gradients(case, Reference);
        for instructions in instructions() {
            let with = |options: Options| options.with_instructions(instructions);
            let fused = case.passes(with, Fused).unwrap();
            for ((name, fused), reference) in NAMES.iter().zip(&fused[1..]).zip(&reference) {
                let error = relative_error(fused, reference);
                assert!(
                    error < 2e-5,
                    "case {number}, {instructions:?}: gradient of {name} is off by {error:e}"
                );
            }
        }
    }
}

/// No atomics, no order that a scheduler decides.
#[test]
fn two_runs_give_the_same_bits() {
    let shape = Shape::from([2, 6, 3, 300, 300, 16]);
    let case = Case::random(&shape, 8)
        .with_documents(3)
        .with_temperature(true)
        .with_key_prior(false, KeyPriorScope::Scaled);
    let run = || case.passes(|options| options, Fused).unwrap();
    assert!(run() == run());
}

#[test]
fn the_references_equal_finite_differences() {
    let case = Case::random(&Shape::from([2, 2, 1, 4, 7, 3]), 3)
        .with_documents(2)
        .with_temperature(true);
    let weights = case.loss_weights();
    let loss = |case: &Case| -> f64 {
        oracle(case)
            .iter()
            .zip(&weights)
            .map(|(out, w)| out * f64::from(*w))
            .sum()
    };
    let of: [fn(&mut Case) -> &mut Vec<f32>; 5] = [
        |case| &mut case.q,
        |case| &mut case.k,
        |case| &mut case.v,
        |case| &mut case.ln_weights,
        |case| &mut case.temperature.as_mut().unwrap().0,
    ];
    for implementation in [Reference, Fused] {
        for ((name, of), got) in NAMES.iter().zip(of).zip(gradients(&case, implementation)) {
            let expected: Vec<f32> = (0..got.len())
                .map(|index| {
                    let at = |step: f32| {
                        let mut moved = case.clone();
                        of(&mut moved)[index] += step;
                        (loss(&moved), f64::from(of(&mut moved)[index]))
                    };
                    let ((high, x1), (low, x0)) = (at(1e-3), at(-1e-3));
                    ((high - low) / (x1 - x0)) as f32
                })
                .collect();
            let error = relative_error(&got, &expected);
            assert!(
                error < 1e-4,
                "{implementation:?}: gradient of {name} is off by {error:e}"
            );
            // Null control: the gradient of another loss must not pass.
            let wrong: Vec<f32> = got.iter().map(|g| g * 1.01).collect();
            assert!(
                relative_error(&wrong, &expected) > 1e-3,
                "{name}: 1 % goes unnoticed"
            );
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    if !on_cpu() {
        return;
    }
    let grouped = Case::random(&Shape::from([2, 3, 1, 200, 200, 16]), 9);
    // One head: its rows are shared out, and in decoding its keys.
    let alone = Case::random(&Shape::from([1, 1, 1, 1000, 1000, 16]), 10);
    let decoding = Case::random(&Shape::from([1, 1, 1, 3, 9000, 16]), 11);
    for case in [grouped.with_documents(3), alone, decoding] {
        let case = case.with_temperature(true);
        let with_threads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| case.passes(|as_it_is| as_it_is, Fused).unwrap())
        };
        let one = with_threads(1);
        for threads in [2, 3, 8] {
            assert_eq!(one, with_threads(threads), "{threads} threads");
        }
    }
}

/// An operand without gradient gets none, and the others stay right.
#[test]
fn constants_stay_constant() {
    let case = Case::random(&Shape::from([1, 2, 2, 30, 30, 8]), 4);
    let device = test_device().autodiff();
    let mut tensors = case.tensors(&device);
    tensors.v = tensors.v.require_grad();
    let gradients = case.attend(&tensors, Fused).unwrap().sum().backward();
    assert!(tensors.v.grad(&gradients).is_some());
    assert!(tensors.q.grad(&gradients).is_none());
}
