//! Attention as a module: the operation on its projections, masks, caches, records, and what it refuses.

use bam_attention::nn::{
    BayesianAttention, BayesianAttentionConfig, Family, Mask, PositionalPriorConfig, Role,
};
use bam_attention::testing::{signed_numbers, test_device};
use bam_attention::{
    AttentionError, Documents, Implementation, Lags, LogPrior, Options, Skipping, Temperature,
    TemperatureScope, attend, scalable_softmax,
};
use bam_prior::{GeneralizedGaussian, PositionalPrior as _, Prior};
use burn::config::Config;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::nn::Linear;
use burn::store::ModuleRecord;
use burn::tensor::{Bool, Device, Tensor, TensorData};

const WIDTH: usize = 24;
const HEADS: usize = 6;

/// Fills every parameter with other signed numbers; those of priors are moved a little.
struct Lively(u64);

impl ModuleMapper for Lively {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1;
        let seed = self.0;
        param.map(|old| {
            let (shape, learns) = (old.dims(), old.is_require_grad());
            let matrix = shape.iter().product::<usize>() >= WIDTH;
            let spread = if matrix { 0.5 } else { 0.2 };
            let numbers = signed_numbers(shape.iter().product(), spread, seed);
            let new: Tensor<D> = Tensor::from_data(TensorData::new(numbers, shape), &old.device());
            // A leaf again: `detach` keeps the wish for a gradient, and a sum of such is none.
            let device = old.device();
            let new = match matrix {
                true => new,
                false => new + Tensor::from_data(old.into_data(), &device),
            };
            if learns { new.require_grad() } else { new }
        })
    }
}

fn config() -> BayesianAttentionConfig {
    let prior = PositionalPriorConfig::learned(Family::GeneralizedGaussian, 4);
    let prior = prior.and(PositionalPriorConfig::alibi(2));
    BayesianAttentionConfig::new(WIDTH, prior).with_key_heads(Some(3))
}

fn made(config: &BayesianAttentionConfig, device: &Device) -> BayesianAttention {
    config.init(device).unwrap().map(&mut Lively(100))
}

fn input(batch: usize, length: usize, seed: u64, device: &Device) -> Tensor<3> {
    let numbers = signed_numbers(batch * length * WIDTH, 1.5, seed);
    Tensor::from_data(TensorData::new(numbers, [batch, length, WIDTH]), device)
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter().collect()
}

/// The largest difference, relative to the largest number.
fn difference<const D: usize>(a: &Tensor<D>, b: &Tensor<D>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (numbers(a.clone()), numbers(b.clone()));
    let size = b.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
    let differences = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max) / size
}

/// The difference that another order may make in `f32` sums of some hundred terms.
const ROUNDING: f32 = 2e-5;

fn by_head(linear: &Linear, x: Tensor<3>, heads: usize, clip: Option<f64>) -> Tensor<4> {
    let [batch, length, _] = x.dims();
    let flat = x.reshape([batch * length, WIDTH]);
    let mut y = flat.matmul(linear.weight.val());
    if let Some(bias) = &linear.bias {
        y = y + bias.val().unsqueeze();
    }
    if let Some(limit) = clip {
        y = y.clamp(-limit, limit);
    }
    y.reshape([batch, length, heads, WIDTH / HEADS])
        .swap_dims(1, 2)
}

/// The same by hand: projections, the scalar laws of the heads' distributions, Bayes' rule in full.
fn by_hand(
    attention: &BayesianAttention,
    config: &BayesianAttentionConfig,
    [x, memory]: [Tensor<3>; 2],
    mut options: Options,
    laws: &[Prior],
) -> Tensor<3> {
    let device = x.device();
    let (queries, keys) = (x.dims()[1], memory.dims()[1]);
    let key_heads = config.key_heads.unwrap_or(HEADS);
    let lags = Lags::full(queries, keys);
    let ln_weights: Vec<f32> = laws
        .iter()
        .flat_map(|law| lags.iter().map(|lag| law.ln_weight_f32(lag as f64)))
        .collect();
    let ln_weights = TensorData::new(ln_weights, [HEADS, lags.count()]);
    let prior = LogPrior::new(Tensor::from_data(ln_weights, &device), lags).unwrap();
    options.window = config.window;
    if let (Some(scale), Some(scope)) = (&attention.ssmax_scale, config.scalable_softmax) {
        let values = scalable_softmax(scale.val(), queries, keys, &options).unwrap();
        options.temperature = Some(Temperature { values, scope });
    }
    let clip = config.clip_qkv;
    let q = by_head(&attention.query, x, HEADS, clip);
    let k = by_head(&attention.key, memory.clone(), key_heads, clip);
    let v = by_head(&attention.value, memory, key_heads, clip);
    let out = attend(q, k, v, &prior, &options).unwrap().swap_dims(1, 2);
    let [batch, ..] = out.dims();
    let out = out.reshape([batch, queries, WIDTH]);
    match &attention.output {
        Some(output) => {
            let out = by_head(output, out, HEADS, None).swap_dims(1, 2);
            out.reshape([batch, queries, WIDTH])
        }
        None => out,
    }
}

#[test]
fn it_is_the_operation_on_its_projections() {
    let device = test_device();
    let full = BayesianAttentionConfig::new(WIDTH, config().prior);
    for config in [
        config(),
        config().with_bias(false).with_output_projection(false),
        config().with_clip_qkv(Some(0.7)).with_window(Some(5)),
        config().with_scalable_softmax(Some(TemperatureScope::LikelihoodAndPrior)),
        config().with_scalable_softmax(Some(TemperatureScope::Likelihood)),
        config().with_causal(false),
        full,
    ] {
        let attention = made(&config, &device);
        let laws = attention.prior.priors().unwrap();
        for (batch, length) in [(1, 1), (2, 2), (1, 63), (2, 65)] {
            let x = input(batch, length, 7, &device);
            let options = match config.causal {
                true => Options::causal(Implementation::Reference),
                false => Options::full(Implementation::Reference),
            };
            let both = [x.clone(), x.clone()];
            let expected = by_hand(&attention, &config, both.clone(), options.clone(), &laws);
            let got = attention.forward(x.clone(), None).unwrap();
            assert!(difference(&got, &expected) < ROUNDING, "{config}");
            let reference = attention
                .clone()
                .with_implementation(Implementation::Reference);
            let got = reference.forward(x.clone(), None).unwrap();
            assert!(difference(&got, &expected) < ROUNDING, "{config}");
            if length > 1 {
                // Null control: heads that took each other's priors.
                let swapped: Vec<Prior> = laws.iter().rev().cloned().collect();
                let other = by_hand(&attention, &config, both, options, &swapped);
                assert!(difference(&other, &expected) > 100.0 * ROUNDING, "{config}");
            }
        }
    }
}

/// Key `j` is at the lag `j − i`, ahead or behind: a prior that looks ahead tells the sides apart.
#[test]
fn cross_attention_has_signed_lags() {
    let device = test_device();
    let mut laws = Vec::new();
    for head in 0..HEADS {
        let location = 4.0 * head as f64 - 7.0;
        laws.push(Prior::from(
            GeneralizedGaussian::new(location, 0.5, 1.2).unwrap(),
        ));
    }
    let mirrored: Vec<Prior> = laws.iter().rev().cloned().collect();
    for window in [None, Some(9)] {
        let prior = PositionalPriorConfig::from_priors(&laws).unwrap();
        let config = BayesianAttentionConfig::new(WIDTH, prior).with_window(window);
        let attention = config.init(&device).unwrap();
        for (queries, keys) in [(1, 1), (1, 20), (20, 1), (13, 40), (40, 13)] {
            let x = input(2, queries, 3, &device);
            let memory = input(2, keys, 4, &device);
            let both = [x.clone(), memory.clone()];
            let options = Options::full(Implementation::Reference);
            let expected = by_hand(&attention, &config, both.clone(), options.clone(), &laws);
            let got = attention.forward_cross(x, memory, None).unwrap();
            assert!(
                difference(&got, &expected) < ROUNDING,
                "{queries} and {keys}"
            );
            if queries * keys > 1 && keys > 1 {
                let other = by_hand(&attention, &config, both, options, &mirrored);
                assert!(
                    difference(&got, &other) > 100.0 * ROUNDING,
                    "{queries} and {keys}"
                );
            }
        }
    }
}

fn bools(rows: &[Vec<bool>], device: &Device) -> Tensor<2, Bool> {
    let shape = [rows.len(), rows[0].len()];
    Tensor::from_data(TensorData::new(rows.concat(), shape), device)
}

/// Rows of `tokens` tokens, padded to `length` on one side or both; padding holds NaN.
fn padded(x: &Tensor<3>, left: usize, right: usize) -> (Tensor<3>, Tensor<2, Bool>) {
    let [batch, tokens, _] = x.dims();
    let device = x.device();
    let nan = |length| Tensor::<3>::full([batch, length, WIDTH], f32::NAN, &device);
    let mut parts = vec![x.clone()];
    if left > 0 {
        parts.insert(0, nan(left));
    }
    if right > 0 {
        parts.push(nan(right));
    }
    let row = [vec![true; left], vec![false; tokens], vec![true; right]].concat();
    (Tensor::cat(parts, 1), bools(&vec![row; batch], &device))
}

#[test]
fn padding_on_either_side_changes_nothing() {
    let device = test_device();
    for config in [
        config().with_scalable_softmax(Some(TemperatureScope::LikelihoodAndPrior)),
        config().with_causal(false).with_output_projection(false),
    ] {
        let attention = made(&config, &device);
        for tokens in [1, 5, 63] {
            let x = input(2, tokens, 11, &device);
            let expected = attention.forward(x.clone(), None).unwrap();
            for (left, right) in [(0, 2), (3, 0), (1, 7), (65, 1)] {
                let (rows, padding) = padded(&x, left, right);
                let mask = Mask::padding(padding).unwrap();
                let out = attention.forward(rows, Some(&mask)).unwrap();
                let of_tokens = out.clone().narrow(1, left, tokens);
                assert!(difference(&of_tokens, &expected) < ROUNDING);
                if config.output_projection {
                    continue;
                }
                let of_padding = numbers(out.narrow(1, 0, left.max(1)));
                assert!(left == 0 || of_padding.iter().all(|x| *x == 0.0));
            }
            // Null control: padding that is not said to be any is seen.
            if tokens > 1 && !config.causal {
                let more = Tensor::cat(vec![x.clone(), input(2, 3, 12, &device)], 1);
                let seen = attention.forward(more, None).unwrap().narrow(1, 0, tokens);
                assert!(difference(&seen, &expected) > 100.0 * ROUNDING);
            }
        }
    }
}

#[test]
fn documents_and_padded_memories_are_apart() {
    let device = test_device();
    let attention = made(&config(), &device);
    let (one, other) = (input(1, 9, 1, &device), input(1, 14, 2, &device));
    let alone = [&one, &other].map(|x| attention.forward(x.clone(), None).unwrap());
    let packed = Tensor::cat(vec![one.clone(), other.clone()], 1);
    let ids = [vec![4; 9], vec![-1; 14]].concat();
    let mask = Mask::from(Documents::new(1, ids).unwrap());
    let out = attention.forward(packed.clone(), Some(&mask)).unwrap();
    assert!(difference(&out.clone().narrow(1, 0, 9), &alone[0]) < ROUNDING);
    assert!(difference(&out.narrow(1, 9, 14), &alone[1]) < ROUNDING);
    let joined = attention.forward(packed, None).unwrap().narrow(1, 9, 14);
    assert!(difference(&joined, &alone[1]) > 100.0 * ROUNDING);

    let expected = attention
        .forward_cross(one.clone(), other.clone(), None)
        .unwrap();
    let (memory, none) = padded(&other, 0, 6);
    let mask = Mask::cross_padding(bools(&[vec![false; 9]], &device), none).unwrap();
    let out = attention.forward_cross(one, memory, Some(&mask)).unwrap();
    assert!(difference(&out, &expected) < ROUNDING);
}

/// Pieces of awkward lengths give what one pass gives, and memory is bounded by a window.
/// A call that fails leaves a cache as it was; and the reference has a cache too.
#[test]
fn a_failed_call_leaves_the_cache() {
    let device = test_device();
    for (window, gated) in [
        (None, false),
        (Some(7), false),
        (None, true),
        (Some(7), true),
    ] {
        let config = config()
            .with_window(window)
            .with_forget_gate(gated.then(|| vec![0.0; HEADS]));
        let attention = made(&config, &device).with_implementation(Implementation::Reference);
        let x = input(2, 20, 5, &device);
        let part = |start, count| x.clone().narrow(1, start, count);
        let expected = attention.forward(x.clone(), None).unwrap();
        let mut cache = attention.cache(2, 20).unwrap();
        let mut outs = vec![
            attention
                .forward_cached(part(0, 12), None, &mut cache)
                .unwrap(),
        ];
        // The reference refuses to skip, after the tokens are in.
        let refused = attention.clone().with_skipping(Skipping::Exact);
        assert!(
            refused
                .forward_cached(part(12, 3), None, &mut cache)
                .is_err()
        );
        outs.push(
            attention
                .forward_cached(part(12, 8), None, &mut cache)
                .unwrap(),
        );
        let got = Tensor::cat(outs, 1);
        assert!(difference(&got, &expected) < ROUNDING, "{window:?}");
    }
}

#[test]
fn cached_is_uncached() {
    let device = test_device();
    for config in [
        config(),
        config().with_forget_gate(Some(vec![0.0; HEADS])),
        config()
            .with_window(Some(7))
            .with_forget_gate(Some(vec![0.0; HEADS]))
            .with_scalable_softmax(Some(TemperatureScope::Likelihood)),
        config().with_window(Some(7)),
        config().with_window(Some(1)),
        config().with_scalable_softmax(Some(TemperatureScope::LikelihoodAndPrior)),
        config()
            .with_window(Some(65))
            .with_scalable_softmax(Some(TemperatureScope::Likelihood)),
    ] {
        let attention = made(&config, &device);
        let pieces = [1, 63, 2, 1, 1, 65, 1];
        let length: usize = pieces.iter().sum();
        let x = input(2, length, 5, &device);
        // Row 0 begins with padding, row 1 ends with it, and holds two documents.
        let ids: Vec<i32> = (0..length)
            .map(|j| if j < 4 { Documents::PADDING } else { 0 })
            .chain((0..length).map(|j| match j {
                130.. => Documents::PADDING,
                70.. => 3,
                _ => 0,
            }))
            .collect();
        let piece = |ids: &[i32], start: usize, count: usize| {
            let rows = ids
                .chunks(length)
                .flat_map(|row| row[start..start + count].to_vec());
            Mask::from(Documents::new(2, rows.collect()).unwrap())
        };
        for masked in [false, true] {
            let whole = masked.then(|| piece(&ids, 0, length));
            let expected = attention.forward(x.clone(), whole.as_ref()).unwrap();
            let mut cache = attention.cache(2, length).unwrap();
            let (mut start, mut outs) = (0, Vec::new());
            for count in pieces {
                let mask = masked.then(|| piece(&ids, start, count));
                let new = x.clone().narrow(1, start, count);
                let out = attention
                    .forward_cached(new, mask.as_ref(), &mut cache)
                    .unwrap();
                outs.push(out);
                start += count;
            }
            let got = Tensor::cat(outs, 1);
            assert!(difference(&got, &expected) < ROUNDING, "{config}");
            assert_eq!(cache.length(), length);
            let kept = config.window.map_or(length, |window| window - 1);
            assert_eq!(cache.kept(), kept);
            // Null control: the cache is read.
            let mut empty = attention.cache(2, length).unwrap();
            let last = x.clone().narrow(1, length - 1, 1);
            let alone = attention.forward_cached(last, None, &mut empty).unwrap();
            let expected = expected.narrow(1, length - 1, 1);
            let seen = config.window != Some(1) && !masked;
            assert_eq!(
                difference(&alone, &expected) > 100.0 * ROUNDING,
                seen || masked
            );
        }
    }
}

#[test]
fn caches_forget_and_are_bounded() {
    let device = test_device();
    for gated in [false, true] {
        a_cache_forgets_and_is_bounded(made(
            &config().with_forget_gate(gated.then(|| vec![0.0; HEADS])),
            &device,
        ));
    }
}

fn a_cache_forgets_and_is_bounded(attention: BayesianAttention) {
    let device = test_device();
    let x = input(1, 30, 5, &device);
    let step = |cache: &mut _, start, count| {
        attention.forward_cached(x.clone().narrow(1, start, count), None, cache)
    };
    let mut cache = attention.cache(1, 30).unwrap();
    step(&mut cache, 0, 20).unwrap();
    let before = step(&mut cache, 20, 10).unwrap();
    assert_eq!(cache.skips().len(), HEADS);
    cache.truncate(25);
    assert_eq!((cache.length(), cache.capacity()), (25, 30));
    let again = step(&mut cache, 25, 5).unwrap();
    assert!(difference(&again, &before.narrow(1, 5, 5)) < ROUNDING);
    let error = step(&mut cache, 0, 1).unwrap_err().to_string();
    let text = "tokens for the cache: expected at most 0 more in 1 rows, got 1 in 1 rows";
    assert_eq!(error, text);
    assert_eq!(cache.length(), 30);
    let two = input(2, 1, 5, &device);
    cache.truncate(3);
    assert!(attention.forward_cached(two, None, &mut cache).is_err());
    // A window that is gone can't be read on from.
    let narrow = made(&config().with_window(Some(4)), &device);
    let mut cache = narrow.cache(1, 30).unwrap();
    narrow.forward_cached(x.clone(), None, &mut cache).unwrap();
    cache.truncate(20);
    assert_eq!((cache.length(), cache.kept()), (0, 0));

    let both_ways = config().with_causal(false).init(&device).unwrap();
    let error = both_ways.cache(1, 5).unwrap_err().to_string();
    assert!(error.contains("a causal layer"), "{error}");
    assert!(attention.cache(0, 5).is_err() && attention.cache(1, 0).is_err());
    let training = made(&config(), &test_device().autodiff());
    let mut cache = training.cache(1, 5).unwrap();
    let x = input(1, 1, 5, &test_device().autodiff());
    let error = training.forward_cached(x, None, &mut cache).unwrap_err();
    assert!(
        matches!(error, AttentionError::Unsupported { .. }),
        "{error}"
    );
}

/// The largest gradient of every parameter, in order; `None` without one.
struct Gradients<'a>(&'a burn::tensor::Gradients, Vec<Option<f32>>);

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad(self.0);
        let largest = |g: Tensor<D>| numbers(g).iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        self.1.push(gradient.map(largest));
    }
}

#[test]
fn a_gradient_reaches_every_parameter_that_learns() {
    let device = test_device().autodiff();
    let config = config().with_scalable_softmax(Some(TemperatureScope::LikelihoodAndPrior));
    let fixed = BayesianAttentionConfig {
        prior: config.prior.clone().fixed(&[Role::Location]),
        ..config.clone()
    };
    // Query, key, value, output with biases; location, scale, shape; ALiBi's slopes; the scale.
    for (config, location) in [(config, true), (fixed, false)] {
        let attention = made(&config, &device);
        let x = input(2, 33, 9, &device);
        let out = attention.forward(x, None).unwrap();
        let weights = input(2, 33, 10, &device);
        let gradients = (out * weights).sum().backward();
        let mut found = Gradients(&gradients, Vec::new());
        attention.visit(&mut found);
        let moves: Vec<bool> = found.1.iter().map(|g| g.is_some_and(|g| g > 0.0)).collect();
        let mut expected = vec![true; 8];
        // A bias of the keys moves all logits of a row alike, unless a temperature is at work; it is
        // still in the graph.
        expected.extend([location, true, true, false, true]);
        assert_eq!(moves, expected, "{:?}", found.1);
    }
}

#[test]
fn records_and_configurations_come_back() {
    let device = test_device();
    let config = config().with_scalable_softmax(Some(TemperatureScope::Likelihood));
    let saved = made(&config, &device);
    let x = input(1, 40, 13, &device);
    let expected = numbers(saved.forward(x.clone(), None).unwrap());
    let bytes = saved.into_record().into_bytes().unwrap();
    let text = config.to_string();
    let read = BayesianAttentionConfig::load_binary(text.as_bytes()).unwrap();
    assert_eq!(read.to_string(), text);
    let fresh = read.init(&device).unwrap();
    assert_ne!(numbers(fresh.forward(x.clone(), None).unwrap()), expected);
    let loaded = fresh.load_record(ModuleRecord::from_bytes(bytes).unwrap());
    assert_eq!(numbers(loaded.forward(x, None).unwrap()), expected);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let device = test_device();
    for (config, text) in [
        (
            BayesianAttentionConfig {
                d_model: 25,
                ..config()
            },
            "d_model: expected a multiple of 6 heads, got 25",
        ),
        (
            BayesianAttentionConfig {
                d_model: 0,
                ..config()
            },
            "d_model: expected a multiple of 6 heads, got 0",
        ),
        (
            config().with_key_heads(Some(4)),
            "key_heads: expected a divisor of 6 heads, got 4",
        ),
        (
            config().with_key_heads(Some(0)),
            "key_heads: expected a divisor of 6 heads, got 0",
        ),
        (
            config().with_window(Some(0)),
            "window: expected at least 1 token, the own one, got 0",
        ),
        (
            config().with_clip_qkv(Some(f64::NAN)),
            "clip_qkv: expected a number above 0 that f32 holds, got NaN",
        ),
        (
            config().with_clip_qkv(Some(1e39)),
            "clip_qkv: expected a number above 0 that f32 holds, got 1000000000000000000000000000000000000000",
        ),
        (
            BayesianAttentionConfig::new(8, PositionalPriorConfig::uniform(0)),
            "heads of a prior: expected at least 1, got 0",
        ),
    ] {
        assert_eq!(config.init(&device).unwrap_err().to_string(), text);
    }
    let attention = config().init(&device).unwrap();
    let narrow = Tensor::<3>::zeros([1, 5, 23], &device);
    let error = attention
        .forward(narrow.clone(), None)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "queries: expected shape [1, 5, 24], got [1, 5, 23]");
    let x = input(2, 5, 1, &device);
    assert!(attention.forward_cross(x.clone(), narrow, None).is_err());
    let mask = Mask::padding(bools(&[vec![false; 5]], &device)).unwrap();
    assert!(attention.forward(x.clone(), Some(&mask)).is_err());
    let other = bools(&vec![vec![false; 4]; 2], &device);
    let own = bools(&[vec![false; 5]], &device);
    assert!(Mask::cross_padding(own, other).is_err());
    let reference = attention
        .clone()
        .with_implementation(Implementation::Reference);
    let reference = reference.with_skipping(Skipping::Certified { epsilon: 1e-6 });
    let error = reference.forward(x, None).unwrap_err();
    assert!(
        matches!(error, AttentionError::Unsupported { .. }),
        "{error}"
    );
}
