//! Priors over keys in modules: forget gates by hand, priors beside the keys of a cache, and what is refused.

use bam_attention::nn::{
    BayesianAttention, BayesianAttentionConfig, HeadGroupCache, Mask, PositionalPriorConfig,
    Projected,
};
use bam_attention::testing::{signed_numbers, test_device};
use bam_attention::{
    Implementation, KeyPrior, KeyPriorScope, Lags, LogPrior, Options, TemperatureScope, attend,
};
use burn::module::Param;
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor, TensorData};

const WIDTH: usize = 24;
const HEADS: usize = 6;
const KEY_HEADS: usize = 3;

fn tensor<const D: usize>(shape: [usize; D], spread: f32, seed: u64) -> Tensor<D> {
    let numbers = signed_numbers(shape.iter().product(), spread, seed);
    Tensor::from_data(TensorData::new(numbers, shape), &test_device())
}

fn config() -> BayesianAttentionConfig {
    let prior = PositionalPriorConfig::alibi(HEADS);
    BayesianAttentionConfig::new(WIDTH, prior).with_key_heads(Some(KEY_HEADS))
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter().collect()
}

fn difference<const D: usize>(a: &Tensor<D>, b: &Tensor<D>) -> f32 {
    let (a, b) = (numbers(a.clone()), numbers(b.clone()));
    let size = b.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
    let differences = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max) / size
}

/// A module with forget gates is [`attend`] with a running sum that is made by hand, and its gates learn.
#[test]
fn forget_gates_are_a_prior_over_keys() {
    let ssmax = Some(TemperatureScope::LikelihoodAndPrior);
    let device = test_device().autodiff();
    let config = config()
        .with_forget_gate(Some(vec![0.0; HEADS]))
        .with_scalable_softmax(ssmax);
    let mut attention = config.init(&device).unwrap();
    let gate = attention.forget.as_mut().unwrap();
    assert!(gate.bias.is_some() && gate.weight.dims() == [WIDTH, HEADS]);
    let bias = Tensor::from_inner(tensor([HEADS], 2.0, 3)).require_grad();
    gate.bias = Some(Param::from_tensor(bias));
    let x = Tensor::<3>::from_inner(tensor([2, 70, WIDTH], 1.0, 4));
    let out = attention.forward(x.clone(), None).unwrap();

    let gate = attention.forget.as_ref().unwrap();
    let f = x.clone().reshape([140, WIDTH]).matmul(gate.weight.val());
    let f = sigmoid(f + gate.bias.as_ref().unwrap().val().unsqueeze());
    let sums = f.log().reshape([2, 70, HEADS]).swap_dims(1, 2).cumsum(2);
    let mut without = attention.clone();
    without.forget = None;
    let heads = without.project(x.clone(), x).unwrap();
    let prior = without.prior.forward(Lags::causal(70));
    let by_hand = |u: Tensor<3>| {
        let options = without.options();
        let options = options.with_key_prior(KeyPrior::new(u, KeyPriorScope::Added));
        let out = without.attend(heads.clone(), &prior, options).unwrap();
        without.project_out(out)
    };
    assert!(difference(&out, &by_hand(-sums.clone())) < 2e-5);
    // Null control: a sum that is a token late.
    let late = Tensor::cat(vec![sums.clone().narrow(2, 0, 1), sums.narrow(2, 0, 69)], 2);
    assert!(difference(&out, &by_hand(-late)) > 1e-3);

    let gradients = out.powf_scalar(2.0).sum().backward();
    for parameter in [gate.weight.val().grad(&gradients), None] {
        let Some(gradient) = parameter else { continue };
        assert!(numbers(gradient).iter().any(|x| x.abs() > 1e-4));
    }
    let of_bias = gate.bias.as_ref().unwrap().val().grad(&gradients).unwrap();
    assert!(numbers(of_bias).iter().all(|x| x.abs() > 1e-6));
}

/// Groups of heads as a cache may hold them.
fn groups(attention: &BayesianAttention, cuts: &[usize], capacity: usize) -> Vec<HeadGroupCache> {
    let prior = attention.prior.forward(Lags::causal(capacity));
    let shape = [2, KEY_HEADS, capacity, WIDTH / HEADS];
    cuts.windows(2)
        .map(|cut| {
            HeadGroupCache::new(cut[0]..cut[1], None, shape, &prior, &test_device()).unwrap()
        })
        .collect()
}

/// A prior over keys of the new tokens is kept beside their keys: read in pieces, through one cache or several groups'
/// and taken over by another, is read at once.
#[test]
fn a_cache_keeps_the_prior_beside_its_keys() {
    let attention = config().init(&test_device()).unwrap();
    let x = tensor([2, 40, WIDTH], 1.0, 5);
    for heads in [KEY_HEADS, HEADS] {
        let u = tensor([2, heads, 40], 3.0, 6);
        let of = |start: usize, count: usize| {
            let u = u.clone().narrow(2, start, count);
            let options = attention.options().with_query_offset(start);
            options.with_key_prior(KeyPrior::new(u, KeyPriorScope::Added))
        };
        let project = |start: usize, count: usize| -> Projected {
            let x = x.clone().narrow(1, start, count);
            attention.project(x.clone(), x).unwrap()
        };
        let prior = attention.prior.forward(Lags::causal(40));
        let whole = attention.attend(project(0, 40), &prior, of(0, 40)).unwrap();
        let mut caches = groups(&attention, &[0, 1, KEY_HEADS], 40);
        let mut outs = Vec::new();
        for (start, count) in [(0, 20), (20, 1), (21, 9)] {
            let heads = project(start, count);
            let step = attention.attend_cached(heads, &mut caches, start, of(start, count), None);
            outs.push(step.unwrap());
        }
        // A cache whose tokens have a prior takes no token without one, and is as it was.
        let without = attention.options().with_query_offset(30);
        let refused = attention.attend_cached(project(30, 1), &mut caches, 30, without, None);
        assert_eq!(
            refused.unwrap_err().to_string(),
            "prior over keys of the new tokens: expected one if those in the cache have one, else none, got none"
        );
        let mut taken = groups(&attention, &[0, 2, KEY_HEADS], 40);
        for group in &mut taken {
            group.take_over(&caches, 30, 30).unwrap();
        }
        let rest = attention.attend_cached(project(30, 10), &mut taken, 30, of(30, 10), None);
        outs.push(rest.unwrap());
        let got = Tensor::cat(outs, 1);
        assert!(difference(&got, &whole) < 2e-5, "{heads} heads");
        // Null control: it counts.
        let none = attention
            .attend(project(0, 40), &prior, attention.options())
            .unwrap();
        assert!(difference(&got, &none) > 1e-2);
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let device: Device = test_device();
    let both_ways = config()
        .with_forget_gate(Some(vec![0.0; HEADS]))
        .with_causal(false);
    assert_eq!(
        both_ways.init(&device).unwrap_err().to_string(),
        "forget_gate: expected none in a layer that is not causal, got one"
    );
    let short = config().with_forget_gate(Some(vec![0.0; 2]));
    assert_eq!(
        short.init(&device).unwrap_err().to_string(),
        format!("forget_gate: expected {HEADS} finite numbers, got [0.0, 0.0]")
    );
    let attention = config()
        .with_forget_gate(Some(vec![0.0; HEADS]))
        .init(&device)
        .unwrap();
    let x = tensor([2, 5, WIDTH], 1.0, 5);
    let crossing = attention.forward_cross(x.clone(), x.clone(), None);
    assert_eq!(
        crossing.unwrap_err().to_string(),
        "forget_gate: expected none in cross-attention, got one"
    );
    let heads = attention.project(x.clone(), x).unwrap();
    let options = attention.options();
    let u = KeyPrior::new(tensor([2, HEADS, 5], 1.0, 1), KeyPriorScope::Added);
    let prior = attention.prior.forward(Lags::causal(5));
    let refused = attention.attend(heads, &prior, options.with_key_prior(u));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "key_prior: expected none beside forget gates, got one"
    );
    let [q, k] = [6, 3].map(|heads| tensor([2, heads, 5, 4], 1.0, 2));
    let with = |prior: KeyPrior| {
        let options: Options = attention.options().with_key_prior(prior);
        let by_lag = attention.prior.forward(Lags::causal(5));
        let out = attend(q.clone(), k.clone(), k.clone(), &by_lag, &options);
        out.unwrap_err().to_string()
    };
    let fitting = KeyPrior::new(tensor([2, 3, 5], 1.0, 1), KeyPriorScope::Added);
    let wrong = KeyPrior {
        values: tensor([2, 2, 5], 1.0, 1),
        ..fitting.clone()
    };
    assert_eq!(
        with(wrong),
        "prior over keys: expected shape [2, 6, 5], got [2, 2, 5]"
    );
    let wrong = KeyPrior {
        remainders: Some(tensor([2, 6, 5], 1.0, 1)),
        ..fitting
    };
    assert_eq!(
        with(wrong),
        "remainders of the prior over keys: expected shape [2, 3, 5], got [2, 6, 5]"
    );
}

/// Under a uniform prior, tokens attend as if padding between them were not there: it forgets nothing.
#[test]
fn padding_forgets_nothing() {
    const BEFORE: usize = 8;
    const NONE: usize = 5;
    let config = BayesianAttentionConfig::new(WIDTH, PositionalPriorConfig::uniform(HEADS));
    let attention = config
        .with_forget_gate(Some(vec![0.0; HEADS]))
        .init(&test_device())
        .unwrap();
    let x = tensor([1, 20, WIDTH], 1.0, 8);
    let expected = attention.forward(x.clone(), None).unwrap();
    let [first, rest] = [0..BEFORE, BEFORE..20].map(|of| x.clone().narrow(1, of.start, of.len()));
    let length = 20 + NONE;
    let none = tensor([1, NONE, WIDTH], 9.0, 9);
    let padded = Tensor::cat(vec![first, none, rest], 1);
    let padding: Vec<bool> = (0..length)
        .map(|at| (BEFORE..BEFORE + NONE).contains(&at))
        .collect();
    let mask = |range: std::ops::Range<usize>| {
        let padding = TensorData::new(padding[range.clone()].to_vec(), [1, range.len()]);
        Mask::padding(Tensor::from_data(padding, &test_device())).unwrap()
    };
    let tokens = |out: Tensor<3>| {
        let parts = [0..BEFORE, BEFORE + NONE..length];
        let parts = parts.map(|of| out.clone().narrow(1, of.start, of.len()));
        Tensor::cat(parts.to_vec(), 1)
    };
    let whole = attention
        .forward(padded.clone(), Some(&mask(0..length)))
        .unwrap();
    assert!(difference(&tokens(whole), &expected) < 1e-5);
    for cut in [BEFORE + 2, BEFORE + NONE] {
        let mut cache = attention.cache(1, length).unwrap();
        let pieces = [0..cut, cut..length].map(|of| {
            let x = padded.clone().narrow(1, of.start, of.len());
            attention
                .forward_cached(x, Some(&mask(of)), &mut cache)
                .unwrap()
        });
        assert!(difference(&tokens(Tensor::cat(pieces.to_vec(), 1)), &expected) < 1e-5);
    }
    // Null control: as tokens they count.
    let read = attention.forward(padded, None).unwrap();
    assert!(difference(&tokens(read), &expected) > 1e-2);
}

/// Also with every score in memory, what all keys have in common cancels before it is rounded.
#[test]
fn the_reference_keeps_the_digits_of_long_sums() {
    let [q, k, v] = [1, 2, 3].map(|seed| tensor([1, HEADS, 40, 4], 1.0, seed));
    let prior = LogPrior::uniform(HEADS, Lags::causal(40), &test_device());
    let steps = tensor([1, HEADS, 40], 0.1, 4);
    let out = |start: f32, summed: &dyn Fn(Tensor<3>) -> KeyPrior| {
        let first = Tensor::full([1, HEADS, 1], start, &test_device());
        let steps = Tensor::cat(vec![first, steps.clone().narrow(2, 1, 39)], 2);
        let options = Options::causal(Implementation::Reference).with_key_prior(summed(steps));
        attend(q.clone(), k.clone(), v.clone(), &prior, &options).unwrap()
    };
    let pairs = |steps| KeyPrior::running_sum(steps, KeyPriorScope::Added);
    assert!(difference(&out(12_345.678, &pairs), &out(0.0, &pairs)) < 1e-6);
    // Null control: one number for each sum.
    let single = |steps: Tensor<3>| KeyPrior::new(steps.cumsum(2), KeyPriorScope::Added);
    assert!(difference(&out(12_345.678, &single), &out(0.0, &pairs)) > 1e-5);
}
