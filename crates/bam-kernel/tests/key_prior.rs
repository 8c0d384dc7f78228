//! A prior over keys: it is the Forgetting Transformer's bias, it keeps its digits over long sums, its gradient is a
//! column's.

use bam_kernel::testing::{Case, oracle, oracle_gradients, signed_numbers};
use bam_kernel::{Instructions, KeyPriorScope};

/// Logarithms of forget gates, from almost 0 to −0.4.
fn ln_gates(count: usize) -> Vec<f64> {
    let numbers = signed_numbers(count, 1.0, 3);
    numbers
        .into_iter()
        .map(|x| -0.4 * f64::from(x).powi(2))
        .collect()
}

/// The numbers of a running sum times `factor`, head after head.
fn running_sums(steps: &[f64], keys: usize, factor: f64) -> Vec<f64> {
    let of_head = |steps: &[f64]| {
        let mut sum = 0.0;
        let add = |step: &f64| {
            sum += step;
            factor * sum
        };
        steps.iter().map(add).collect::<Vec<f64>>()
    };
    steps.chunks(keys).flat_map(of_head).collect()
}

fn relative_error(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let off = got.iter().zip(expected).map(|(a, b)| f64::from(*a) - b);
    norm(&mut off.into_iter()) / norm(&mut expected.iter().copied())
}

/// `u_j = −c_j`, `c` the running sum of the logarithms of gates, is the bias `Σ_{j < l ≤ i} ln f_l` of arXiv 2503.02130,
/// written out pair by pair.
#[test]
fn the_forgetting_transformer_is_a_prior_over_keys() {
    let (length, dim) = (70, 8);
    let mut case = Case::random(&[1, 2, 2, length, length, dim].into(), 4);
    case.ln_weights.fill(0.0);
    let ln_f = ln_gates(2 * length);
    let u = running_sums(&ln_f, length, -1.0);
    let case = case.with_key_numbers(&u, 2, KeyPriorScope::Added);
    let mut expected = Vec::new();
    for head in 0..2 {
        let of_head = head * length;
        for i in 0..length {
            let q = &case.q[(of_head + i) * dim..][..dim];
            let weights: Vec<f64> = (0..=i)
                .map(|j| {
                    let k = &case.k[(of_head + j) * dim..][..dim];
                    let products = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k));
                    let forgotten: f64 = ln_f[of_head + j + 1..of_head + i + 1].iter().sum();
                    (products.sum::<f64>() / (dim as f64).sqrt() + forgotten).exp()
                })
                .collect();
            let evidence: f64 = weights.iter().sum();
            expected.extend((0..dim).map(|t| {
                let values = (0..=i).map(|j| f64::from(case.v[(of_head + j) * dim + t]));
                let terms = values.zip(&weights).map(|(v, weight)| v * weight);
                terms.sum::<f64>() / evidence
            }));
        }
    }
    let out = case.forward(|as_it_is| as_it_is).unwrap().out;
    assert!(relative_error(&out, &expected) < 2e-6);
    // Null control: gates that are one token late.
    let mut late = case.clone();
    late.key_prior.as_mut().unwrap().high.rotate_right(1);
    let out = late.forward(|as_it_is| as_it_is).unwrap().out;
    assert!(relative_error(&out, &expected) > 1e-2);
}

/// Sums over a hundred thousand tokens, up to 13,000 of either sign: outputs and gradients keep 10⁻⁶. In single `f32`
/// numbers, which are 10⁻³ apart there, nothing is left of that.
#[test]
fn long_sums_keep_their_digits() {
    const KEYS: usize = 100_000;
    for (queries, factor) in [(200, -1.0), (200, 1.0), (3, -1.0), (3, 1.0)] {
        let mut case = Case::random(&[1, 2, 2, queries, KEYS, 8].into(), 6);
        // The rounding of the content is not the question.
        case.q.iter_mut().for_each(|q| *q *= 0.02);
        case.ln_weights.fill(0.0);
        let mut u = running_sums(&ln_gates(2 * KEYS), KEYS, factor);
        assert!(u[KEYS - 1].abs() > 1e4);
        if factor > 0.0 {
            // Where the sum falls the heaviest keys come first; a constant changes nothing, but makes their numbers large.
            u.iter_mut().for_each(|u| *u += 13_000.0);
        }
        let case = case.with_key_numbers(&u, 2, KeyPriorScope::Added);
        let (expected, gradients) = (oracle(&case), oracle_gradients(&case));
        for instructions in Instructions::available() {
            let with = |call| bam_kernel::Call {
                instructions,
                ..call
            };
            let errors = |case: &Case| {
                let (posterior, back) = case.forward_backward(with).unwrap();
                let out = relative_error(&posterior.out, &expected);
                let of = [&back.v, &back.key_prior].into_iter().zip([2, 5]);
                let of = of.map(|(got, name)| relative_error(got, &gradients[name]));
                [out].into_iter().chain(of).collect::<Vec<f64>>()
            };
            let pairs = errors(&case);
            assert!(
                pairs.iter().all(|error| *error < 1e-6),
                "{queries} rows, {factor}, {instructions:?}: {pairs:?}"
            );
            // Null control.
            let mut single = case.clone();
            single.key_prior.as_mut().unwrap().low.fill(0.0);
            let single = errors(&single);
            assert!(single.iter().all(|error| *error > 1e-5), "{single:?}");
        }
    }
}

/// The gradients that a row gives its keys add up to nothing: a constant cancels. So do those of all rows.
#[test]
fn gradients_of_all_keys_cancel() {
    for by_query_head in [false, true] {
        let case = Case::random(&[2, 4, 2, 300, 300, 16].into(), 8)
            .with_key_prior(by_query_head, KeyPriorScope::Added);
        let (_, back) = case.forward_backward(|as_it_is| as_it_is).unwrap();
        for keys in back.key_prior.chunks(300) {
            let sum: f64 = keys.iter().map(|x| f64::from(*x)).sum();
            let size: f64 = keys.iter().map(|x| f64::from(x.abs())).sum();
            assert!(sum.abs() < 1e-5 * size, "{sum} of {size}");
        }
    }
}
