//! Gradients are the slopes of the log-weight, for every family and every parameter.

mod families;
mod null_control;

use bam_prior::{PositionalPrior, Prior, softmax, softmax_pullback};
use families::*;
use null_control::{holds, near, refuted};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

/// The step of a parameter for a difference quotient, and the unit of its derivative.
fn step(name: &str, value: f64) -> (f64, f64) {
    let on_the_whole_line = ["location", "shape"].contains(&name) || name.starts_with("ln_weight");
    if on_the_whole_line {
        (1e-4, 1.0)
    } else {
        (1e-4 * value, value)
    }
}

/// Central difference of fourth order of `ln w` along `direction` in parameter space.
fn difference_quotient(prior: &Prior, lag: f64, step: f64, direction: &[(usize, f64)]) -> f64 {
    let values: Vec<f64> = prior.parameters().iter().map(|p| p.value).collect();
    let at = |steps: f64| {
        let mut moved = values.clone();
        for &(i, sign) in direction {
            moved[i] += sign * steps * step;
        }
        prior.with_parameters(&moved).unwrap().ln_weight(lag)
    };
    (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * step)
}

type Gradient<'a> = &'a dyn Fn(&Prior, f64) -> Vec<f64>;

/// Truncation (step/unit)⁴ and cancellation ε·|ln w|/step are both below 10⁻¹⁰ of the natural
/// size of a derivative, |ln w|/unit, except for the curvature of a mixture: hence 10⁻⁶.
fn gradient_is_slope(gradient: Gradient, (prior, lag): (Prior, f64)) -> TestCaseResult {
    let claimed = gradient(&prior, lag);
    let parameters = prior.parameters();
    prop_assert_eq!(claimed.len(), parameters.len());
    for (i, parameter) in parameters.iter().enumerate() {
        let name = parameter.name.rsplit('.').next().unwrap();
        if name.starts_with("weight_") {
            continue; // not free: see mixture_gradient_follows_the_softmax
        }
        let (step, unit) = step(name, parameter.value);
        let slope = difference_quotient(&prior, lag, step, &[(i, 1.0)]);
        let size = slope.abs() + prior.ln_weight(lag).abs() / unit;
        near(claimed[i], slope, 1e-6 * size)
            .map_err(|e| TestCaseError::fail(format!("{} of {prior:?}: {e}", parameter.name)))?;
    }
    Ok(())
}

#[test]
fn gradients_are_slopes() {
    let families: [BoxedStrategy<Prior>; 9] = [
        laplace().boxed(),
        gaussian().boxed(),
        generalized_gaussian(-2.0..2.0).boxed(),
        kerple_log(0.1..4.0).boxed(),
        kerple_power().boxed(),
        student_t().boxed(),
        table().boxed(),
        t5_buckets().boxed(),
        mixture().boxed(),
    ];
    for family in families {
        let cases = (family, lags());
        holds(&cases, |case| {
            gradient_is_slope(&|prior, lag| prior.ln_weight_gradient(lag), case)
        });
        // One entry off by a thousandth, whichever it is; and the mirror image of the lag.
        for entry in 0..3 {
            refuted(&cases, |case| {
                let impostor = |prior: &Prior, lag| {
                    let mut gradient = prior.ln_weight_gradient(lag);
                    let last = gradient.len() - 1;
                    gradient[last - entry.min(last)] *= 1.001;
                    gradient
                };
                gradient_is_slope(&impostor, case)
            });
        }
    }
    let located = (generalized_gaussian(-2.0..2.0), lags());
    let no_location = |prior: &Prior, lag| prior.ln_weight_gradient(lag + location_of(prior));
    refuted(&located, |case| gradient_is_slope(&no_location, case));
}

#[test]
fn mixture_gradient_follows_the_softmax() {
    let cases = (
        prop::collection::vec(-2.0..2.0, 3),
        prop::collection::vec(simple(), 3),
        lags(),
    );
    type Case = (Vec<f64>, Vec<Prior>, f64);
    type Pullback = fn(&[f64], &[f64]) -> Vec<f64>;
    let law = |pullback: Pullback, (theta, priors, lag): Case| {
        let weights = softmax(&theta);
        let gradient = mix(&weights, priors.clone()).ln_weight_gradient(lag);
        let claimed = pullback(&weights, &gradient[..3]);
        for k in 0..3 {
            let at = |move_by: f64| {
                let mut theta = theta.clone();
                theta[k] += move_by;
                mix(&softmax(&theta), priors.clone()).ln_weight(lag)
            };
            let slope = (8.0 * (at(1e-3) - at(-1e-3)) - (at(2e-3) - at(-2e-3))) / 12e-3;
            near(claimed[k], slope, 1e-10 * (1.0 + at(0.0).abs()))?;
        }
        Ok(())
    };
    holds(&cases, |case| {
        law(|weights, g| softmax_pullback(weights, g).unwrap(), case)
    });
    refuted(&cases, |case| law(|_, g| g.to_vec(), case));
}
