//! Every family has two forms: a tensor that is learned, a scalar law that is inspected. They are
//! one formula, at every lag to a million and in every parameter.
//!
//! The tolerance is derived: the roundings of a handful of `f32` operations, each weighed by what it
//! moves. A relative error `δ` of a parameter `p` moves the log-weight by `|∂p|·|p|·δ`, one of the
//! lag by `|∂d|·|d|·δ`, one inside the exponent of a power by `|ln w|·|ln|ln w||·δ`.

use bam_attention::Lags;
use bam_attention::log_prior::{LagGrid, ln_weight};
use bam_attention::testing::{signed_numbers, test_device};
use bam_prior::{Direction, Family, PositionalPrior, Prior, T5Buckets};
use burn::tensor::{Device, Tensor, TensorData};
use proptest::prelude::*;

const EPSILON: f64 = f32::EPSILON as f64;
const ROUNDINGS: f64 = 8.0;
/// The saturation of a steep power's tensor form; no likelihood reaches it.
const SATURATED: f64 = 1e26;

/// Per head, per parameter: the numbers of `θ`.
type Theta = Vec<Vec<Vec<f64>>>;

/// `θ` around the family's start, different for every head; numbers that are exact in `f32`.
fn theta(family: Family, heads: usize, seed: u64) -> Theta {
    let specs = family.parameters(heads);
    (0..heads)
        .map(|head| {
            let of_head = specs.iter().enumerate().map(|(index, spec)| {
                let stream = seed * 100 + (head * 10 + index) as u64;
                let start = &spec.initial[head * spec.width..][..spec.width];
                let moves = signed_numbers(spec.width, 1.2, stream);
                let moved = start.iter().zip(moves);
                moved.map(|(x, y)| f64::from(*x as f32 + y)).collect()
            });
            of_head.collect()
        })
        .collect()
}

/// The heads' parameters as the family's tensors, `[heads, width]` each.
fn tensors(theta: &Theta, device: &Device) -> Vec<Tensor<2>> {
    let parameters = theta[0].len();
    (0..parameters)
        .map(|index| {
            let width = theta[0][index].len();
            let values: Vec<f32> = theta
                .iter()
                .flat_map(|head| head[index].iter().map(|x| *x as f32))
                .collect();
            Tensor::from_data(TensorData::new(values, [theta.len(), width]), device)
        })
        .collect()
}

fn evaluate(family: Family, theta: &Theta, lags: Lags) -> Vec<f32> {
    let device = test_device();
    let grid = LagGrid {
        heads: theta.len(),
        lags,
        device: device.clone(),
    };
    let ln_weights = ln_weight(family, &tensors(theta, &device), &grid);
    assert_eq!(ln_weights.dims(), [theta.len(), lags.count()]);
    ln_weights.into_data().as_slice::<f32>().unwrap().to_vec()
}

/// The error that `f32` may make in a law's log-weight at a lag.
fn allowed(law: &Prior, lag: f64, value: f64) -> f64 {
    let parameters = law.parameters();
    let moved = parameters.iter().zip(law.ln_weight_gradient(lag));
    let by_parameters: f64 = moved
        .map(|(p, slope)| {
            // The location is a difference e^θ − e^−θ, and is taken from the lag.
            let of_terms = if p.name == "location" {
                lag.abs() + 2.0
            } else {
                0.0
            };
            slope.abs() * (p.value.abs() + of_terms)
        })
        .sum();
    let in_exponent = value.abs() * value.abs().max(f64::MIN_POSITIVE).ln().abs();
    ROUNDINGS * EPSILON * (1.0 + value.abs() + in_exponent + by_parameters)
}

/// The largest error as a multiple of what is allowed: at most 1 where the two forms agree.
fn disagreement(family: Family, of_tensor: &Theta, of_law: &Theta, lags: Lags) -> f64 {
    let got = evaluate(family, of_tensor, lags);
    let mut largest: f64 = 0.0;
    for (row, theta) in got.chunks_exact(lags.count()).zip(of_law) {
        let law = family.prior(theta).unwrap();
        for (got, lag) in row.iter().zip(lags.iter()) {
            assert!(got.is_finite(), "{} at lag {lag}: {got}", family);
            let lag = lag as f64;
            let expected = law.ln_weight(lag);
            let error = (f64::from(*got) - expected).abs();
            let excess = error / allowed(&law, lag, expected);
            let both_saturated = expected <= -SATURATED && f64::from(*got) <= -SATURATED;
            if !both_saturated {
                largest = largest.max(excess);
            }
        }
    }
    largest
}

/// Near, middle, and around a million; the family's law is that of causal rows.
fn windows() -> [Lags; 4] {
    [
        Lags::causal(3000),
        Lags::starting_at(-66_000, 1000),
        Lags::starting_at(-1_000_000, 1000),
        Lags::causal(1),
    ]
}

#[test]
fn tensor_and_law_are_one_formula() {
    for family in Family::ALL {
        for seed in 0..4 {
            let theta = theta(family, 3, seed);
            for lags in windows() {
                let excess = disagreement(family, &theta, &theta, lags);
                assert!(
                    excess <= 1.0,
                    "{}, lags from {}: {excess} times the allowed error",
                    family,
                    lags.first()
                );
            }
        }
    }
}

/// Null control: a law with any number of any parameter off by 0.01 is told apart.
#[test]
fn parameters_that_are_off_are_told_apart() {
    for family in Family::ALL {
        let honest = theta(family, 1, 7);
        for parameter in 0..honest[0].len() {
            for entry in 0..honest[0][parameter].len() {
                let mut impostor = honest.clone();
                impostor[0][parameter][entry] += 0.01;
                let told_apart = windows()
                    .into_iter()
                    .any(|lags| disagreement(family, &impostor, &honest, lags) > 3.0);
                assert!(
                    told_apart,
                    "{}: parameter {parameter}, entry {entry} goes unnoticed",
                    family
                );
            }
        }
    }
}

#[test]
fn both_directions_to_a_million_are_finite() {
    for family in Family::ALL {
        let theta = theta(family, 2, 3);
        let lags = Lags::starting_at(-1_000_000, 2_000_001);
        for (column, value) in evaluate(family, &theta, lags).iter().enumerate() {
            assert!(value.is_finite(), "{}: {value} at {column}", family);
        }
    }
}

/// Shapes that no `f32` can hold the weights of saturate; gradients stay numbers.
#[test]
fn steep_shapes_saturate() {
    let bam = Family::GeneralizedGaussian;
    for shape in [-20.0, -8.0, 7.0, 8.0, 50.0] {
        for theta_location in [0.0, -3.0, 0.4] {
            let theta = vec![vec![vec![theta_location], vec![-0.5], vec![shape]]];
            let lags = Lags::starting_at(-1_000_000, 1_000_001);
            for value in evaluate(bam, &theta, lags) {
                assert!(value.is_finite(), "shape {shape}: {value}");
            }
            for gradient in gradients(bam, &theta, Lags::causal(100_000)) {
                assert!(
                    gradient.iter().all(|x| x.is_finite()),
                    "shape {shape}, location {theta_location}: {gradient:?}"
                );
            }
        }
    }
}

#[test]
fn t5_tells_past_from_future_where_rows_see_both() {
    let t5 = Family::T5Buckets;
    let theta = theta(t5, 1, 2);
    let law = T5Buckets::new(theta[0][0].clone(), 128, Direction::Bidirectional).unwrap();
    let lags = Lags::full(500, 500);
    for (got, lag) in evaluate(t5, &theta, lags).iter().zip(lags.iter()) {
        assert_eq!(f64::from(*got), law.ln_weight(lag as f64), "lag {lag}");
    }
}

/// The signed weights of the loss whose gradients are compared.
fn loss_weights(lags: Lags) -> Vec<f32> {
    signed_numbers(lags.count(), 1.0, 21)
}

/// Gradients of `Σ_d c_d·ln w(d)` by every parameter of one head.
fn gradients(family: Family, theta: &Theta, lags: Lags) -> Vec<Vec<f64>> {
    let device = test_device().autodiff();
    let parameters: Vec<Tensor<2>> = tensors(theta, &device)
        .into_iter()
        .map(Tensor::require_grad)
        .collect();
    let grid = LagGrid {
        heads: 1,
        lags,
        device: device.clone(),
    };
    let weights = TensorData::new(loss_weights(lags), [1, lags.count()]);
    let loss = ln_weight(family, &parameters, &grid) * Tensor::from_data(weights, &device);
    let gradients = loss.sum().backward();
    parameters
        .iter()
        .map(|parameter| {
            let data = parameter.grad(&gradients).unwrap().into_data();
            let values = data.as_slice::<f32>().unwrap();
            values.iter().map(|x| f64::from(*x)).collect()
        })
        .collect()
}

/// The same of the scalar law by central differences, and the size of the terms they sum.
fn differences(
    family: Family,
    theta: &Theta,
    lags: Lags,
    parameter: usize,
    entry: usize,
) -> (f64, f64) {
    const STEP: f64 = 1e-5;
    let moved = |step: f64| {
        let mut theta = theta[0].clone();
        theta[parameter][entry] += step;
        family.prior(&theta).unwrap()
    };
    let (high, low) = (moved(STEP), moved(-STEP));
    let weights = loss_weights(lags);
    let terms = lags.iter().zip(weights).map(|(lag, c)| {
        let rise = high.ln_weight(lag as f64) - low.ln_weight(lag as f64);
        f64::from(c) * rise / (2.0 * STEP)
    });
    terms.fold((0.0, 0.0), |(sum, size), term| {
        (sum + term, size + term.abs())
    })
}

#[test]
fn gradients_are_those_of_the_law() {
    // f32 rounds each term by a few units and carries the exponent's rounding into it.
    const TOLERANCE: f64 = 200.0 * EPSILON;
    for family in Family::ALL.into_iter().filter(|f| *f != Family::Uniform) {
        for seed in [0, 1, 2] {
            let theta = theta(family, 1, seed);
            for lags in [
                Lags::causal(65),
                Lags::causal(1),
                Lags::starting_at(-1_000_000, 50),
            ] {
                let got = gradients(family, &theta, lags);
                for (parameter, got) in got.iter().enumerate() {
                    for (entry, got) in got.iter().enumerate() {
                        let (expected, size) = differences(family, &theta, lags, parameter, entry);
                        let allowed = TOLERANCE * size + 1e-7;
                        let error = (got - expected).abs();
                        assert!(
                            error <= allowed,
                            "{}: parameter {parameter}, entry {entry}, lags from {}: {got}, not \
                             {expected}",
                            family,
                            lags.first()
                        );
                        // Null control: 1 % of the terms' size would not pass.
                        assert!(0.01 * size <= 1e-6 || 0.01 * size > 10.0 * allowed);
                    }
                }
            }
        }
    }
}

/// ALiBi is where learned families start that can: slope by slope.
#[test]
fn bam_and_laplace_start_as_alibi() {
    let lags = Lags::causal(100);
    for family in [Family::Laplace, Family::GeneralizedGaussian] {
        let specs = family.parameters(6);
        let start: Theta = (0..6)
            .map(|head| specs.iter().map(|spec| vec![spec.initial[head]]).collect())
            .collect();
        let slopes = bam_prior::alibi_slopes(6).unwrap();
        let got = evaluate(family, &start, lags);
        for (row, slope) in got.chunks(lags.count()).zip(slopes) {
            for (got, lag) in row.iter().zip(lags.iter()) {
                let expected = slope * lag as f64;
                let error = (f64::from(*got) - expected).abs();
                assert!(error < 2e-5 * expected.abs().max(1.0), "{family} at {lag}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 4,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_parameters_at_any_lag(
        index in 0..Family::ALL.len(),
        seed in 0u64..1_000_000,
        first in -1_000_000i64..=0,
        count in 1usize..130,
    ) {
        let family = Family::ALL[index];
        let theta = theta(family, 2, seed);
        let lags = Lags::starting_at(first, count.min(first.unsigned_abs() as usize + 1));
        prop_assert!(disagreement(family, &theta, &theta, lags) <= 1.0);
    }
}
