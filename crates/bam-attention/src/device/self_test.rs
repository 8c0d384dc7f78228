//! A device computes what it should: answers that are known beforehand, and attention against the definition.

use crate::AttentionError as Error;
use crate::Implementation::Fused;
use crate::KeyPriorScope;
use crate::testing::{Case, OnTensors, Shape, Tensors, oracle, oracle_gradients};
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData, Transaction};
use serde::Serialize;

/// An answer and how far it is from the right one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// The thing computed.
    pub what: &'static str,
    /// The largest absolute error.
    pub error: f64,
    /// The largest that passes.
    pub tolerance: f64,
}

impl Check {
    /// Whether the answer is right. NaN is not.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.error <= self.tolerance
    }

    fn new(what: &'static str, got: &[f32], expected: &[f64], tolerance: f64) -> Self {
        let errors = got
            .iter()
            .zip(expected)
            .map(|(a, b)| (f64::from(*a) - b).abs());
        // `f64::max` would drop a NaN.
        let largest = |a: f64, b: f64| if b > a || b.is_nan() { b } else { a };
        let error = match got.len() == expected.len() {
            true => errors.fold(0.0, largest),
            false => f64::INFINITY,
        };
        Self {
            what,
            error,
            tolerance,
        }
    }
}

/// Steps of the longest loop: some drivers stop at 2¹⁶ without a word (Mesa 22.3).
const STEPS: usize = 100_000;

/// Everything that is checked, on a plain device.
///
/// # Errors
/// If attention is not supported there. A device that fails at work panics.
pub fn self_test(device: &Device) -> Result<Vec<Check>, Error> {
    let mut checks = vec![long_loop(device), product(device)];
    checks.extend(attention(device)?);
    Ok(checks)
}

/// `Σ 1` over all steps, one after the other in one thread: a device adds into the same place that way.
fn long_loop(device: &Device) -> Check {
    let places = Tensor::<1, Int>::zeros([STEPS], device);
    let ones = Tensor::<1>::ones([STEPS], device);
    let sum = Tensor::<1>::zeros([1], device);
    let sum = sum.select_assign(0, places, ones, IndexingUpdateOp::Add);
    Check::new(
        "a loop of 100,000 steps",
        &numbers(sum),
        &[STEPS as f64],
        0.0,
    )
}

/// Whole numbers, so that every order of summation gives the same.
fn product(device: &Device) -> Check {
    const SIZE: usize = 65;
    let left = |row: usize, column: usize| (row * 7 + column * 3) % 11;
    let right = |row: usize, column: usize| (row * 5 + column) % 13;
    let tensor = |of: &dyn Fn(usize, usize) -> usize| {
        let values: Vec<f32> = (0..SIZE * SIZE)
            .map(|at| of(at / SIZE, at % SIZE) as f32)
            .collect();
        Tensor::<2>::from_data(TensorData::new(values, [SIZE, SIZE]), device)
    };
    let expected: Vec<f64> = (0..SIZE * SIZE)
        .map(|at| {
            let terms = (0..SIZE).map(|inner| left(at / SIZE, inner) * right(inner, at % SIZE));
            terms.sum::<usize>() as f64
        })
        .collect();
    let got = tensor(&left).matmul(tensor(&right));
    Check::new("a matrix product", &numbers(got), &expected, 0.0)
}

/// Documents, shared key heads, a temperature and a prior over keys, forward and backward, against the definition in `f64`.
fn attention(device: &Device) -> Result<Vec<Check>, Error> {
    const NAMES: [&str; 6] = [
        "gradient by queries",
        "gradient by keys",
        "gradient by values",
        "gradient by the log-prior",
        "gradient by the temperature",
        "gradient by the prior over keys",
    ];
    let case = Case::random(&Shape::from([2, 2, 1, 33, 33, 16]), 1);
    let case = case.with_documents(3).with_temperature(true);
    let case = case.with_key_prior(false, KeyPriorScope::Scaled);
    let plain = case.tensors(&device.clone().autodiff());
    let [of_keys, low] = plain.key_prior;
    let tensors = Tensors {
        q: plain.q.require_grad(),
        k: plain.k.require_grad(),
        v: plain.v.require_grad(),
        ln_weights: plain.ln_weights.require_grad(),
        temperature: plain.temperature.require_grad(),
        key_prior: [of_keys.require_grad(), low],
    };
    let out = case.attend(&tensors, Fused)?;
    let weights = TensorData::new(case.loss_weights(), out.dims());
    let weights = Tensor::from_data(weights, &out.device());
    let gradients = (out.clone() * weights).sum().backward();
    let missing = "every operand of attention has a gradient";
    let read = Transaction::default()
        .register(out.inner())
        .register(tensors.q.grad(&gradients).expect(missing))
        .register(tensors.k.grad(&gradients).expect(missing))
        .register(tensors.v.grad(&gradients).expect(missing))
        .register(tensors.ln_weights.grad(&gradients).expect(missing))
        .register(tensors.temperature.grad(&gradients).expect(missing))
        .register(tensors.key_prior[0].grad(&gradients).expect(missing));
    let mut got = read.execute().into_iter().map(|data| {
        let values = data.convert::<f32>().try_into_vec();
        values.expect("data that was converted to f32 holds f32")
    });
    let mut check = |what, expected: &[f64], tolerance| {
        let got: Vec<f32> = got.next().unwrap_or_default();
        Check::new(what, &got, expected, tolerance)
    };
    let mut checks = vec![check("attention", &oracle(&case), case.rounding())];
    for (name, expected) in NAMES.into_iter().zip(oracle_gradients(&case)) {
        let largest = expected.iter().fold(1.0f64, |a, b| a.max(b.abs()));
        checks.push(check(name, &expected, GRADIENT_TOLERANCE * largest));
    }
    Ok(checks)
}

/// Of the largest gradient, or of 1: rounding comes to a tenth of it, a wrong formula to far more.
const GRADIENT_TOLERANCE: f64 = 1e-4;

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let values = tensor.into_data().convert::<f32>().try_into_vec();
    values.expect("a tensor that was converted to f32 holds f32")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_passes() {
        let checks = self_test(&super::super::cpu()).unwrap();
        assert_eq!(checks.len(), 9);
        for check in &checks {
            assert!(check.passes(), "{check:?}");
        }
    }

    #[test]
    fn a_wrong_answer_does_not_pass() {
        for got in [f32::NAN, 65_535.0, f32::INFINITY] {
            assert!(!Check::new("a loop", &[1.0, got], &[1.0, 1e5], 0.0).passes());
        }
        assert!(!Check::new("a loop", &[], &[1e5], 0.0).passes());
    }
}
