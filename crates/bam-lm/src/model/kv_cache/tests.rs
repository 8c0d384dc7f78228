use super::*;
use crate::model::{Attended, TokenRows, Transformer, host_values};
use crate::testing::{lively, small};
use bam_attention::attend;
use bam_attention::testing::signed_numbers;
use burn::tensor::{Device, Tensor, TensorData};
use std::cell::RefCell;

const LENGTH: usize = 300;
/// Pieces of awkward lengths, the last ones token by token.
const PIECES: [usize; 8] = [1, 63, 65, 100, 2, 67, 1, 1];

fn tokens() -> Vec<i32> {
    let numbers = signed_numbers(LENGTH, 15.0, 3);
    numbers.iter().map(|x| (x + 15.0) as i32).collect()
}

/// The logits after every token, read in pieces.
fn logits(model: &Transformer, cache: &mut KvCache) -> Vec<f32> {
    let tokens = tokens();
    let (mut start, mut logits) = (0, Vec::new());
    for length in PIECES {
        let piece = tokens[start..start + length].to_vec();
        let piece = TokenRows::new(1, piece, 31).unwrap();
        let read = model.forward_cached(&piece, cache, 0..length).unwrap();
        logits.extend(host_values(read.unwrap()));
        start += length;
    }
    assert_eq!(start, LENGTH);
    logits
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

fn mixed() -> Transformer {
    lively(
        small("laplace:3,student_t:1,laplace:2+ssmax"),
        21,
        &Device::flex(),
    )
}

/// With next to nothing given away the logits are those of the full cache up to rounding, though the
/// local heads keep few tokens; much shorter windows give others.
#[test]
fn what_is_not_kept_is_not_missed() {
    for encoding in [
        "laplace",
        "bam+ssmax",
        "laplace+ssmax",
        "rotary,laplace+ssmax",
    ] {
        let model = lively(small(encoding), 22, &Device::flex());
        let horizons = model.horizons(LENGTH, 1e-9).unwrap();
        let mut full = model.cache(1, LENGTH).unwrap();
        let expected = logits(&model, &mut full);
        let mut certified = model.certified_cache(1, LENGTH, &horizons).unwrap();
        let got = logits(&model, &mut certified);
        let size = expected.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        let off = largest_difference(&got, &expected);
        assert!(off < 1e-4 * size, "{encoding}: {off} of {size}");
        assert_eq!(full.kept_keys(), model.config().cached_keys(LENGTH, None));
        assert!(certified.kept_keys() < full.kept_keys(), "{encoding}");

        let short = shortened(&horizons);
        let mut short = model.certified_cache(1, LENGTH, &short).unwrap();
        let off = largest_difference(&logits(&model, &mut short), &expected);
        assert!(off > 1e-3 * size, "{encoding}: {off} of {size}");
    }
}

/// A layer with a window keeps the tokens within, beside one that keeps all; logits are those of one pass without
/// a cache. Null control: without the windows they are others.
#[test]
fn layers_keep_what_they_show() {
    let tokens = TokenRows::new(1, tokens(), 31).unwrap();
    for (encoding, open, kept) in [
        ("rotary_local+ssmax", "rotary+ssmax", [15, 15]),
        ("rotary_local:9,nope", "rotary,nope", [8, LENGTH]),
        ("rotary_local:1,bam+ssmax", "rotary,bam+ssmax", [0, LENGTH]),
        (
            "alibi+ssmax,rotary_local:65",
            "alibi+ssmax,rotary",
            [LENGTH, 64],
        ),
        (
            "rotary_local:9+adaptive,bam+adaptive-content",
            "rotary+adaptive,bam+adaptive-content",
            [8, LENGTH],
        ),
        (
            "rotary_local:301,rotary_local:300",
            "rotary",
            [LENGTH, LENGTH],
        ),
    ] {
        let model = lively(small(encoding), 24, &Device::flex());
        let one_pass = |model: &Transformer| {
            let logits = model.forward(&tokens, None, bam_attention::Implementation::Reference);
            host_values(logits.unwrap())
        };
        let mut cache = model.cache(1, LENGTH).unwrap();
        let (got, expected) = (logits(&model, &mut cache), one_pass(&model));
        let size = expected.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        let off = largest_difference(&got, &expected);
        assert!(off < 1e-4 * size, "{encoding}: {off} of {size}");
        let layers = cache
            .layers
            .iter()
            .map(|layer| layer.groups[0].kept(LENGTH));
        assert_eq!(layers.collect::<Vec<_>>(), kept, "{encoding}");
        // A row's own token is kept by nobody, and read by all.
        let read = |kept: usize| 3 * (kept + usize::from(kept < LENGTH));
        let config = model.config();
        let read: usize = kept.into_iter().map(read).sum();
        assert_eq!(config.cached_keys(LENGTH, None), read);
        let other = small(open).init(&Device::flex());
        let other = other.with_tensors(model.to_tensors(), std::path::Path::new("open"));
        let off = largest_difference(&one_pass(&other.unwrap()), &expected);
        let hides = config.cached_keys(LENGTH, None) < 6 * LENGTH;
        assert_eq!(off > 1e-3 * size, hides, "{encoding}: {off} of {size}");

        // One token of several sequences at a time, and room that grows past the windows.
        let priors = model.priors(LENGTH).unwrap();
        let mut grown = model.cache_with(1, 4, &priors, None).unwrap();
        let ids = self::tokens();
        model.prefill_to_logits(&ids[..3], &mut grown).unwrap();
        for (at, id) in ids[..70].iter().enumerate().skip(3) {
            if at == grown.capacity() {
                model.grow(&mut grown, 2 * at, &priors, None).unwrap();
            }
            let step = model.decode_step(&[*id], &mut [&mut grown]).unwrap();
            let off = largest_difference(&host_values(step), &expected[at * 31..][..31]);
            assert!(off < 1e-4 * size, "{encoding} {at}: {off} of {size}");
        }
    }
}

/// Every head's output in the first layer, where queries, keys and values are those of the full cache,
/// for made-up values: `[rows, heads, dim]`.
fn outputs(model: &Transformer, cache: &mut KvCache, values: &Tensor<4>) -> Vec<f32> {
    let [_, key_heads, _, dim] = values.dims();
    let group = model.config().heads / key_heads;
    let tokens = tokens();
    let (mut start, mut outputs) = (0, Vec::new());
    for length in PIECES {
        let piece = TokenRows::new(1, tokens[start..start + length].to_vec(), 31).unwrap();
        let groups = RefCell::new(Vec::new());
        let observer = |attended: &Attended| {
            let keys = attended.call.k.dims()[2];
            let heads = attended.call.heads.start / group..attended.call.heads.end / group;
            let v = values.clone().narrow(1, heads.start, heads.len());
            let v = v.narrow(2, start + length - keys, keys);
            let (q, k) = (attended.call.q.clone(), attended.call.k.clone());
            let out = attend(q, k, v, &attended.call.log_prior, &attended.call.options);
            groups.borrow_mut().push(out.unwrap());
        };
        model.observe(&piece, cache, 0..length, &observer).unwrap();
        let out = Tensor::cat(groups.into_inner(), 1).swap_dims(1, 2);
        outputs.extend(host_values(out.reshape([length, group * key_heads * dim])));
        start += length;
    }
    outputs
}

/// They differ by at most `2ε` times the largest value, for every row and head; with windows that are
/// shorter than certified, by more.
#[test]
fn outputs_differ_by_at_most_what_is_certified() {
    let config = ModelConfig {
        layers: 1,
        ..small("laplace+ssmax")
    };
    let model = lively(config, 23, &Device::flex());
    let values = signed_numbers(3 * LENGTH * 4, 1.0, 77);
    let values = TensorData::new(values, [1, 3, LENGTH, 4]);
    let values = Tensor::from_data(values, &Device::flex());
    let expected = outputs(&model, &mut model.cache(1, LENGTH).unwrap(), &values);
    for epsilon in [0.3, 0.1, 1e-2, 1e-4] {
        let horizons = model.horizons(LENGTH, epsilon).unwrap();
        assert!(horizons.layers()[0].iter().any(Option::is_some));
        let of = |horizons: &Horizons| {
            let mut cache = model.certified_cache(1, LENGTH, horizons).unwrap();
            let got = outputs(&model, &mut cache, &values);
            f64::from(largest_difference(&got, &expected))
        };
        let off = of(&horizons);
        assert!(off <= 2.0 * epsilon + 1e-5, "{epsilon}: {off}");
        let off = of(&shortened(&horizons));
        assert!(off > 2.0 * epsilon || epsilon > 0.05, "{epsilon}: {off}");
    }
}

/// A ninth of the horizons.
fn shortened(horizons: &Horizons) -> Horizons {
    let layers = horizons.layers().iter();
    let layers = layers.map(|heads| heads.iter().map(|h| h.map(|r| r / 9)).collect());
    Horizons::new(horizons.keys(), horizons.epsilon(), layers.collect())
}

/// Memory is bounded by the windows, however much is read.
#[test]
fn kept_keys_are_counted() {
    let model = mixed();
    let horizons = Horizons::new(
        LENGTH,
        0.5,
        vec![
            // Key heads of two query heads each.
            vec![Some(4), Some(9), Some(0), Some(0), None, Some(3)],
            vec![Some(49); 6],
        ],
    );
    let mut cache = model.certified_cache(1, LENGTH, &horizons).unwrap();
    let groups: Vec<usize> = cache
        .layers
        .iter()
        .map(|layer| layer.groups.len())
        .collect();
    assert_eq!(groups, [3, 1], "equal windows share a group");
    let read = |cache: &mut KvCache, length: usize| {
        let piece = TokenRows::new(1, vec![7; length], 31).unwrap();
        model
            .forward_cached(&piece, cache, length - 1..length)
            .unwrap();
    };
    read(&mut cache, 5);
    // A window's own token is the next one: 10 keeps 9, 1 keeps none.
    assert_eq!(cache.kept_keys(), 5 + 5 + 3 * 5);
    for (length, all) in [(63, 68), (1, 69), (231, 300)] {
        read(&mut cache, length);
        assert_eq!(cache.length(), all);
        assert_eq!(cache.kept_keys(), 9 + all + 3 * 49);
    }
    assert_eq!(
        model.config().cached_keys(LENGTH, Some(&horizons)),
        10 + 1 + 300 + 3 * 50
    );
    let heads: Vec<usize> = cache.skips().iter().map(Vec::len).collect();
    assert_eq!(heads, [6, 6]);
}

/// A truncated cache reads on as one that never read further; where a window has moved on it says so.
#[test]
fn truncated_caches_read_on_or_begin_again() {
    let model = mixed();
    let assumed = |horizon| Horizons::new(LENGTH, 0.5, vec![vec![Some(horizon); 6]; 2]);
    let read =
        |cache: &mut KvCache, tokens: &[i32]| model.prefill_to_logits(tokens, cache).unwrap();
    let tokens = tokens();
    for horizons in [None, Some(assumed(100)), Some(assumed(4))] {
        let fresh = || match &horizons {
            None => model.cache(1, LENGTH).unwrap(),
            Some(horizons) => model.certified_cache(1, LENGTH, horizons).unwrap(),
        };
        let mut cache = fresh();
        read(&mut cache, &tokens[..40]);
        cache.truncate(99);
        assert_eq!(cache.length(), 40);
        cache.truncate(25);
        let left = cache.length();
        let moved_on = horizons
            .as_ref()
            .is_some_and(|h| h.layers()[0][0] == Some(4));
        assert_eq!(left, if moved_on { 0 } else { 25 });
        let again = read(&mut cache, &tokens[left..30]);
        let mut other = fresh();
        read(&mut other, &tokens[..25]);
        let expected = read(&mut other, &tokens[25..30]);
        assert!(largest_difference(&again, &expected) < 1e-4);
        assert_eq!(cache.kept_keys(), other.kept_keys());
    }
}

#[test]
fn horizons_of_other_models_are_refused() {
    let model = mixed();
    let horizons = model.horizons(50, 1e-3).unwrap();
    assert!(model.certified_cache(1, 50, &horizons).is_ok());
    let error = model.certified_cache(1, 51, &horizons).unwrap_err();
    assert_eq!(
        error.to_string(),
        "horizons: expected those of 2 layers of 6 heads in rows of at least 51 keys, got 2 layers \
         of 6 heads in rows of 50 keys"
    );
    let other = Horizons::new(50, 1e-3, vec![vec![None; 5]; 2]);
    assert!(model.certified_cache(1, 9, &other).is_err());
}

/// Windows of many sizes, so that caches of different capacities share out their heads differently.
fn many_windows() -> Horizons {
    let layers = vec![
        // Key heads of two query heads each.
        vec![Some(4), Some(9), Some(0), Some(0), None, Some(3)],
        vec![Some(30), Some(49), Some(49), Some(20), Some(99), None],
    ];
    Horizons::new(LENGTH, 0.5, layers)
}

/// A cache that grows is what it would have been with all the room at once. Null control: the tokens before
/// matter.
#[test]
fn caches_grow() {
    let model = mixed();
    let priors = model.priors(LENGTH).unwrap();
    let tokens = tokens();
    for horizons in [None, Some(many_windows())] {
        let horizons = horizons.as_ref();
        let read = |cache: &mut KvCache, to: usize| {
            let piece = &tokens[cache.length()..to];
            model.prefill_to_logits(piece, cache).unwrap()
        };
        let mut grown = model.cache_with(1, 1, &priors, horizons).unwrap();
        let mut whole = model.cache_with(1, LENGTH, &priors, horizons).unwrap();
        for capacity in [2, 7, 31, 32, 60, 257, LENGTH] {
            let to = grown.capacity();
            let (a, b) = (read(&mut grown, to), read(&mut whole, to));
            assert!(largest_difference(&a, &b) < 1e-4, "{to}");
            model.grow(&mut grown, capacity, &priors, horizons).unwrap();
            assert_eq!((grown.capacity(), grown.length()), (capacity, to));
        }
        let (a, b) = (read(&mut grown, LENGTH), read(&mut whole, LENGTH));
        assert!(largest_difference(&a, &b) < 1e-4);
        assert_eq!(grown.kept_keys(), whole.kept_keys());
        let mut other = model.cache_with(1, LENGTH, &priors, horizons).unwrap();
        let other = model.prefill_to_logits(&tokens[257..], &mut other).unwrap();
        assert!(largest_difference(&a, &other) > 1e-3);
        assert!(model.grow(&mut grown, LENGTH, &priors, horizons).is_err());
    }
}

/// Tokens are taken over between caches that share out their heads differently; what was dropped can't be.
#[test]
fn caches_take_over_whatever_their_windows() {
    let model = mixed();
    let priors = model.priors(LENGTH).unwrap();
    let tokens = tokens();
    let windows = many_windows();
    let of = |capacity, horizons| model.cache_with(1, capacity, &priors, horizons).unwrap();
    let read = |cache: &mut KvCache, to: usize| {
        let piece = &tokens[cache.length()..to];
        model.prefill_to_logits(piece, cache).unwrap()
    };
    let (all, some) = (None, Some(&windows));
    for (capacity, from, into, length, given) in [
        (LENGTH, all, some, 70, 40),
        (LENGTH, all, some, 70, 70),
        (LENGTH, some, some, 44, 44),
        (LENGTH, some, some, 200, 200),
        (45, some, some, 44, 44),
    ] {
        let mut donor = of(capacity, from);
        read(&mut donor, length);
        for receiving in [given + 1, LENGTH] {
            let mut cache = of(receiving, into);
            cache.take_over(&donor, given).unwrap();
            let mut alone = of(receiving, into);
            read(&mut alone, given);
            assert_eq!(cache.kept_keys(), alone.kept_keys());
            let after = [&mut cache, &mut alone].map(|cache| read(cache, given + 1));
            // Where the giving cache read all keys, those of the second layer are others.
            let same = largest_difference(&after[0], &after[1]) < 1e-4;
            assert!(same || from.is_none(), "{given} into {receiving}");
        }
    }
    let mut donor = of(LENGTH, some);
    read(&mut donor, 44);
    assert!(!donor.can_give(43) && !donor.holds_all());
    let error = of(LENGTH, all).take_over(&donor, 44).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tokens to take over: expected from 0 on, got from 35 on"
    );
}
