//! Gradients against those of the definition in `f64`, which are checked against finite differences; and
//! the same bits for any number of threads.

use bam_kernel::testing::{Case, gradient_cases, in_order, oracle, oracle_gradients};
use bam_kernel::{Call, Gradients, Instructions, KeyPriorScope};

const NAMES: [&str; 6] = ["q", "k", "v", "ln_weights", "temperature", "key_prior"];

/// Relative to the gradient's norm; where that vanishes (rows of one key), to the size of the terms
/// that cancel.
fn relative_error(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(expected).map(|(a, b)| a - b));
    difference / norm(&mut expected.iter().copied()).max(0.1)
}

fn widened(of: Gradients) -> [Vec<f64>; 6] {
    in_order(of).map(|values| values.into_iter().map(f64::from).collect())
}

#[test]
fn gradients_are_the_definitions() {
    for (number, case) in gradient_cases().iter().enumerate() {
        let expected = oracle_gradients(case);
        for instructions in Instructions::available() {
            let with = |call| Call {
                instructions,
                ..call
            };
            let (_, got) = case.forward_backward(with).unwrap();
            for ((name, got), expected) in NAMES.iter().zip(widened(got)).zip(&expected) {
                let error = relative_error(&got, expected);
                assert!(
                    error < 2e-5,
                    "case {number}, {instructions:?}: gradient of {name} is off by {error:e}"
                );
            }
        }
    }
}

#[test]
fn the_definitions_are_finite_differences() {
    for on_prior in [false, true] {
        let case = Case::random(&[2, 2, 1, 4, 7, 3].into(), 3)
            .with_documents(2)
            .with_temperature(on_prior);
        let scope = match on_prior {
            true => KeyPriorScope::Scaled,
            false => KeyPriorScope::Added,
        };
        let case = case.with_key_prior(on_prior, scope);
        let weights = case.loss_weights();
        let loss = |case: &Case| -> f64 {
            let terms = oracle(case).into_iter().zip(&weights);
            terms.map(|(out, w)| out * f64::from(*w)).sum()
        };
        let of: [fn(&mut Case) -> &mut Vec<f32>; 6] = [
            |case| &mut case.q,
            |case| &mut case.k,
            |case| &mut case.v,
            |case| &mut case.ln_weights,
            |case| &mut case.temperature.as_mut().unwrap().0,
            |case| &mut case.key_prior.as_mut().unwrap().high,
        ];
        for ((name, of), got) in NAMES.iter().zip(of).zip(oracle_gradients(&case)) {
            let difference = |index: usize| {
                let at = |step: f32| {
                    let mut moved = case.clone();
                    of(&mut moved)[index] += step;
                    (loss(&moved), f64::from(of(&mut moved)[index]))
                };
                let ((high, x1), (low, x0)) = (at(1e-3), at(-1e-3));
                (high - low) / (x1 - x0)
            };
            let expected: Vec<f64> = (0..got.len()).map(difference).collect();
            let error = relative_error(&got, &expected);
            assert!(error < 1e-4, "gradient of {name} is off by {error:e}");
            // Null control: the gradient of another loss must not pass.
            let wrong: Vec<f64> = got.iter().map(|g| g * 1.01).collect();
            assert!(
                relative_error(&wrong, &expected) > 1e-3,
                "{name}: 1 % goes unnoticed"
            );
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let grouped = Case::random(&[2, 3, 1, 200, 200, 16].into(), 9);
    // One head: its rows are shared out, and in decoding its keys.
    let alone = Case::random(&[1, 1, 1, 1000, 1000, 16].into(), 10);
    let decoding = Case::random(&[1, 1, 1, 3, 9000, 16].into(), 11);
    for case in [grouped.with_documents(3), alone, decoding] {
        let case = case
            .with_temperature(true)
            .with_key_prior(false, KeyPriorScope::Scaled);
        let with_threads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pass = || case.forward_backward(|as_it_is| as_it_is).unwrap();
            pool.unwrap().install(pass)
        };
        let one = with_threads(1);
        for threads in [2, 3, 8] {
            assert_eq!(one, with_threads(threads), "{threads} threads");
        }
    }
}

/// A temperature that serves the whole batch has the sum of its rows' gradients.
#[test]
fn a_shared_temperature_has_the_sum() {
    use bam_kernel::{Operands, Plan, Rows, Temperature, TemperatureScope};
    let case = Case::random(&[3, 2, 1, 40, 40, 8].into(), 5);
    let tau = bam_kernel::testing::signed_numbers(80, 2.0, 7);
    let weights = case.loss_weights();
    let gradient = |batches: usize| {
        let values = tau.repeat(batches);
        let scope = TemperatureScope::LikelihoodAndPrior;
        let operands = Operands {
            temperature: Some(Temperature::new(&values, [batches, 2, 40], scope).unwrap()),
            ..case
                .operands([&case.q, &case.k, &case.v].map(Into::into))
                .unwrap()
        };
        let plan = Plan::new(case.call().unwrap(), operands.shapes()).unwrap();
        let of = plan.forward(&operands).unwrap();
        let weights = Rows::new(&weights, plan.shapes().q).unwrap();
        let gradients = plan.backward(&operands, &of.out, &of.ln_evidence, &weights);
        gradients.unwrap().temperature
    };
    let (shared, each) = (gradient(1), gradient(3));
    for (index, shared) in shared.iter().enumerate() {
        let sum: f32 = [0, 80, 160].map(|first| each[first + index]).iter().sum();
        assert!(
            (shared - sum).abs() <= 1e-4 * sum.abs().max(1.0),
            "{shared} {sum}"
        );
    }
}
