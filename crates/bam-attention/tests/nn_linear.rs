//! Linear layers of our own against Burn's, gradients included.

use bam_attention::device::cpu;
use bam_attention::nn::{linear, multiplied};
use bam_attention::testing::signed_numbers;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData, module};

fn numbers<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let values = signed_numbers(shape.iter().product(), 1.0, seed);
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn values<const D: usize>(of: Tensor<D>) -> Vec<f32> {
    of.into_data().try_to_vec().unwrap()
}

/// Sums of `terms` numbers of at most 1, in any order.
fn assert_near(got: &[f32], expected: &[f32], terms: usize) {
    assert_eq!(got.len(), expected.len());
    let bound = (terms * terms) as f32 * f32::EPSILON;
    for (got, expected) in got.iter().zip(expected) {
        assert!(
            (got - expected).abs() <= bound,
            "{got}, expected {expected}"
        );
    }
}

fn layer(input: usize, output: usize, bias: bool, device: &Device) -> Linear {
    LinearConfig::new(input, output)
        .with_bias(bias)
        .init(device)
}

#[test]
fn results_are_those_of_burn() {
    for device in [cpu(), cpu().autodiff()] {
        for (rows, input, output, bias) in [(1, 1, 1, true), (3, 5, 7, false), (70, 33, 130, true)]
        {
            let layer = layer(input, output, bias, &device);
            let x = numbers([2, rows, input], 1, &device);
            let got = linear(&layer, x.clone());
            assert_eq!(got.dims(), [2, rows, output]);
            assert_near(&values(got), &values(layer.forward(x.clone())), input + 1);
            // A part of a larger tensor, and one whose axes are swapped.
            let part = x.clone().slice([0..2, rows / 2..rows]);
            assert_near(
                &values(linear(&layer, part.clone())),
                &values(layer.forward(part)),
                input + 1,
            );
            let swapped = x.swap_dims(0, 1);
            assert_near(
                &values(linear(&layer, swapped.clone())),
                &values(layer.forward(swapped)),
                input + 1,
            );
        }
    }
}

#[test]
fn gradients_are_those_of_burn_for_a_matrix_and_its_transpose() {
    let device = cpu().autodiff();
    for (rows, input, output) in [(1, 1, 1), (5, 3, 4), (70, 33, 130)] {
        let weights = numbers([2, rows, output], 3, &device);
        let x = || numbers([2, rows, input], 1, &device).require_grad();
        for transposed in [false, true] {
            let shape = if transposed {
                [output, input]
            } else {
                [input, output]
            };
            let matrix = || numbers(shape, 2, &device).require_grad();
            let of = |with: &dyn Fn(Tensor<3>, Tensor<2>) -> Tensor<3>| {
                let (x, w) = (x(), matrix());
                let used = if transposed {
                    w.clone().transpose()
                } else {
                    w.clone()
                };
                let gradients = (with(x.clone(), used) * weights.clone()).sum().backward();
                (
                    values(x.grad(&gradients).unwrap()),
                    values(w.grad(&gradients).unwrap()),
                )
            };
            let (dx, dw) = of(&|x, w| multiplied(x, w, None));
            let (expected_dx, expected_dw) = of(&|x, w| module::linear(x, w, None));
            assert_near(&dx, &expected_dx, output);
            assert_near(&dw, &expected_dw, 2 * rows);
            let moved = expected_dw.iter().any(|x| x.abs() > 0.1);
            assert!(moved, "gradients that would be near anything");
        }
    }
}

#[test]
fn what_has_no_gradient_gets_none() {
    let device = cpu().autodiff();
    let (x, w) = (
        numbers([1, 4, 3], 1, &device),
        numbers([3, 5], 2, &device).require_grad(),
    );
    let gradients = multiplied(x.clone(), w.clone(), None).sum().backward();
    assert!(x.grad(&gradients).is_none());
    assert!(w.grad(&gradients).is_some());
}
