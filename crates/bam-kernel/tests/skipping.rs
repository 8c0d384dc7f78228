//! Skipping is safe: `Exact` gives the same bits, `Certified` drops no more than it says, what is
//! skipped is not read; and bounds that leave something out are caught by the same assertions.

use bam_attention::Implementation::{Fused, Reference};
use bam_attention::testing::{Case, OnTensors, Shape, Tensors, oracle};
use bam_attention::{HeadSkips, KeyNorms, Options, SkipLog, Skipping};
use burn::tensor::{Device, Tensor};
use std::sync::Arc;

/// Keys of a tile; a test may know it, a caller need not.
const TILE: usize = 96;

/// A prior's name and its `ln w(lag)`.
type Named = (&'static str, fn(f64) -> f64);

/// A prior of every class, and some that a window would get wrong.
const PRIORS: [Named; 7] = [
    ("local", |lag| -0.5 * lag.abs()),
    ("wide", |lag| -0.02 * lag.abs()),
    ("bent", |lag| -2.0 * (lag.abs() + 1e-5).powf(0.3)),
    ("flat", |_| 0.0),
    ("anti-local", |lag| -40.0 * (lag.abs() + 1e-5).powf(-0.2)),
    ("located", |lag| -0.5 * (lag + 400.0).abs()),
    ("two peaks", |lag| {
        (-0.5 * lag.abs()).max(-0.5 * (lag + 700.0).abs())
    }),
];

/// A head under each prior.
fn case(queries: usize, keys: usize, dim: usize) -> Case {
    let shape = Shape {
        batch: 2,
        heads: PRIORS.len(),
        key_heads: 1,
        queries,
        keys,
        dim,
    };
    let mut case = Case::random(&shape, 21);
    let first = case.first_lag;
    let lags = case.lags;
    case.ln_weights = PRIORS
        .iter()
        .flat_map(|(_, ln_w)| (0..lags).map(move |c| ln_w((first + c as i64) as f64) as f32))
        .collect();
    case
}

fn run(case: &Case, skipping: Skipping) -> ([Vec<f32>; 6], Vec<HeadSkips>) {
    let log = Arc::new(SkipLog::default());
    let with = |options: Options| options.with_skipping(skipping).with_skip_log(log.clone());
    (case.passes(with, Fused).unwrap(), log.heads())
}

fn variants() -> Vec<(&'static str, Case)> {
    let long = || case(1000, 1000, 16);
    let mut negative = long().with_temperature(true);
    let tau = &mut negative.temperature.as_mut().unwrap().0;
    tau.iter_mut().for_each(|tau| *tau = -tau.abs());
    vec![
        ("causal", long()),
        ("both ways", long().full()),
        ("window", long().with_window(300)),
        ("documents", long().with_documents(3)),
        ("temperature of either sign", long().with_temperature(true)),
        (
            "temperature of the likelihood",
            long().with_temperature(false),
        ),
        ("negative temperature", negative),
        ("decoding", case(3, 9000, 16)),
        ("chunk", case(70, 5000, 16)),
    ]
}

/// What so many keys can weigh of a row and be exactly 0: less than `2⁻¹⁰⁰` each of the heaviest.
fn zeros(keys: usize) -> f64 {
    keys as f64 * (-100f64).exp2()
}

#[test]
fn exact_skipping_gives_the_same_bits() {
    for (name, case) in variants() {
        let (off, off_log) = run(&case, Skipping::Off);
        let (exact, log) = run(&case, Skipping::Exact);
        assert_eq!(off, exact, "{name}");
        assert!(off_log.iter().all(|head| head.skipped_tiles == 0));
        let skipped = |head: usize| log[head].skipped_tiles;
        assert!(
            log.iter().all(|head| head.dropped_mass < zeros(case.keys)),
            "{name}: {log:?}"
        );
        assert_eq!(skipped(3), 0, "{name}: a flat head has nothing to skip");
        // Under a temperature of either sign every row has its own idea of what is near.
        if !name.contains("temperature") && name != "window" {
            assert!(
                skipped(0) > 0 && skipped(5) > 0,
                "{name}: nothing was skipped: {log:?}"
            );
        }
    }
}

/// The largest posterior mass of a row on tiles that its output shows no trace of. Values name their
/// tile, so an output is the mass tile by tile; what was dropped is exactly 0.
fn dropped_mass(case: &Case, options: &Options) -> f64 {
    let tensors = case.tensors(&Device::flex());
    let out = case.attend_as(&tensors, options).unwrap().into_data();
    out.as_slice::<f32>()
        .unwrap()
        .chunks_exact(case.dim)
        .zip(oracle(case).chunks_exact(case.dim))
        .map(|(kept, mass)| {
            let dropped = kept.iter().zip(mass).filter(|(kept, _)| **kept == 0.0);
            dropped.map(|(_, mass)| *mass).sum::<f64>()
        })
        .fold(0.0, f64::max)
}

fn with_values_that_name_their_tile(mut case: Case) -> Case {
    for (index, v) in case.v.chunks_exact_mut(case.dim).enumerate() {
        v.fill(0.0);
        v[index % case.keys / TILE] = 1.0;
    }
    case
}

#[test]
fn certified_skipping_drops_no_more_than_it_says() {
    for (name, mut case) in variants() {
        case.dim = case.keys.div_ceil(TILE);
        let shape = Shape {
            batch: case.batch,
            heads: case.heads,
            key_heads: case.key_heads,
            queries: case.queries,
            keys: case.keys,
            dim: case.dim,
        };
        let random = Case::random(&shape, 5);
        let case = Case {
            q: random.q.iter().map(|q| q * 0.5).collect(),
            k: random.k.iter().map(|k| k * 0.5).collect(),
            v: random.v,
            ..case
        };
        let case = with_values_that_name_their_tile(case);
        let tensors = case.tensors(&Device::flex());
        for epsilon in [1e-1, 1e-3, 1e-6] {
            let log = Arc::new(SkipLog::default());
            let options = case
                .options(&tensors, Fused)
                .unwrap()
                .with_skipping(Skipping::Certified { epsilon })
                .with_skip_log(log.clone());
            let dropped = dropped_mass(&case, &options);
            let heads = log.heads();
            let said = heads
                .iter()
                .map(|head| head.dropped_mass)
                .fold(0.0, f64::max);
            // Weights that are 0 are no trace either.
            let said_or_zero = said + zeros(case.keys);
            assert!(dropped <= said_or_zero, "{name}: {dropped:e} > {said:e}");
            assert!(said <= epsilon, "{name}: {said:e} > {epsilon:e}");
            if name == "causal" || name == "decoding" {
                assert!(heads[0].skipped_tiles > 0, "{name}: {heads:?}");
            }
        }
    }
}

/// A far key that only its content makes heavy: whoever bounds without its norm drops it.
fn heavy_far_key() -> Case {
    let mut case = with_values_that_name_their_tile(case(200, 1000, 16));
    case.ln_weights.iter_mut().for_each(|w| *w *= 0.1);
    case.q.iter_mut().for_each(|q| *q = q.abs());
    case.k[50 * 16..51 * 16].fill(30.0);
    case
}

#[test]
fn an_impostor_that_ignores_the_keys_is_caught() {
    let case = heavy_far_key();
    let tensors = case.tensors(&Device::flex());
    let honest = case
        .options(&tensors, Fused)
        .unwrap()
        .with_skipping(Skipping::Certified { epsilon: 1e-3 });
    let mut blind = KeyNorms::new(2, 1);
    blind.extend(0, &tensors.k.clone().mul_scalar(0.0)).unwrap();
    let impostor = honest.clone().with_key_norms(Arc::new(blind));
    assert!(dropped_mass(&case, &honest) <= 1e-3);
    assert!(dropped_mass(&case, &impostor) > 0.1);
}

/// What a window around the row would drop, however far it reaches: the usual way to skip under
/// ALiBi, on priors that it was not made for.
#[test]
fn an_impostor_that_trusts_a_window_is_caught() {
    let mass_beyond_window = |head: usize, tau: f32| {
        let mut case = with_values_that_name_their_tile(case(1, 1000, 16));
        case.temperature = Some((vec![tau; case.batch * case.heads], true));
        let mass = oracle(&case);
        // All but the last two tiles: more than 96 keys around the row.
        mass[head * case.dim..][..case.keys.div_ceil(TILE) - 2]
            .iter()
            .sum::<f64>()
    };
    assert!(mass_beyond_window(0, 1.0) < 1e-6, "a local head");
    assert!(mass_beyond_window(4, 1.0) > 0.1, "an anti-local head");
    assert!(mass_beyond_window(5, 1.0) > 0.1, "a located head");
    assert!(mass_beyond_window(0, -1.0) > 0.1, "a negative temperature");
}

/// The tensors with NaN wherever a key is in one of the first `tiles` tiles.
fn poisoned(case: &Case, tiles: usize, device: &Device) -> Tensors {
    let mut poisoned = case.clone();
    let of_head = case.keys * case.dim;
    for values in [&mut poisoned.k, &mut poisoned.v] {
        for head in values.chunks_exact_mut(of_head) {
            head[..tiles * TILE * case.dim].fill(f32::NAN);
        }
    }
    poisoned.tensors(device)
}

/// One local head; rows at the end of the keys.
fn local(queries: usize, keys: usize) -> Case {
    let shape = Shape {
        batch: 1,
        heads: 1,
        key_heads: 1,
        queries,
        keys,
        dim: 16,
    };
    let mut case = Case::random(&shape, 4);
    let first = case.first_lag;
    for (c, weight) in case.ln_weights.iter_mut().enumerate() {
        *weight = -((first + c as i64).abs() as f32);
    }
    case
}

#[test]
fn what_is_skipped_is_not_read() {
    // Decoding, a chunk of a prefill: the norms are known from the cache.
    for (queries, keys) in [(1, 3000), (5, 9000), (200, 3000)] {
        let case = local(queries, keys);
        let device = Device::flex().autodiff();
        let gradients = |tensors: Tensors, skipping| {
            let mut norms = KeyNorms::new(1, 1);
            norms.extend(0, &case.tensors(&device).k).unwrap();
            let tensors = Tensors {
                q: tensors.q.require_grad(),
                ln_weights: tensors.ln_weights.require_grad(),
                ..tensors
            };
            let options = case
                .options(&tensors, Fused)
                .unwrap()
                .with_skipping(skipping)
                .with_key_norms(Arc::new(norms));
            let out = case.attend_as(&tensors, &options).unwrap();
            let of = out.clone().sum().backward();
            let values = |data: burn::tensor::TensorData| data.try_into_vec::<f32>().unwrap();
            [
                values(out.into_data()),
                values(tensors.q.grad(&of).unwrap().into_data()),
                values(tensors.ln_weights.grad(&of).unwrap().into_data()),
            ]
        };
        for skipping in [Skipping::Exact, Skipping::Certified { epsilon: 1e-4 }] {
            let clean = gradients(case.tensors(&device), skipping);
            let dirty = gradients(poisoned(&case, 20, &device), skipping);
            assert_eq!(clean, dirty, "{queries} queries, {skipping:?}");
        }
        // Null control: without skipping the poison is read.
        let read = gradients(poisoned(&case, 20, &device), Skipping::Off);
        assert!(read[0].iter().any(|x| x.is_nan()));
    }
}

#[test]
fn norms_grow_with_the_cache() {
    let case = local(1, 500);
    let k = case.tensors(&Device::flex()).k;
    let mut whole = KeyNorms::new(1, 1);
    whole.extend(0, &k).unwrap();
    let mut pieces = KeyNorms::new(1, 1);
    for (start, length) in [(0, 1), (1, 130), (131, 369)] {
        let piece = k.clone().narrow(2, start, length);
        pieces.extend(start, &piece).unwrap();
    }
    assert_eq!(whole, pieces);
    let error = pieces.extend(0, &Tensor::zeros([2, 1, 5, 16], &Device::flex()));
    assert_eq!(
        error.unwrap_err().to_string(),
        "keys of the norms: expected shape [1, 1, length, dim], got [2, 1, 5, 16]"
    );
}

#[test]
fn what_can_not_be_asked_is_refused() {
    let case = local(3, 200);
    let tensors = case.tensors(&Device::flex());
    let refused = |options: Options| case.attend_as(&tensors, &options).unwrap_err().to_string();
    let fused = || case.options(&tensors, Fused).unwrap();
    for epsilon in [0.0, 1.0, -1.0, f64::NAN] {
        let message = refused(fused().with_skipping(Skipping::Certified { epsilon }));
        let expected = "epsilon of skipping: expected a number above 0 and below 1, got";
        assert_eq!(message, format!("{expected} {epsilon}"));
    }
    let mut short = KeyNorms::new(1, 1);
    short
        .extend(0, &tensors.k.clone().narrow(2, 0, 96))
        .unwrap();
    assert_eq!(
        refused(fused().with_key_norms(Arc::new(short))),
        "key norms (batch, key heads, keys): expected shape [1, 1, at least 200], got [1, 1, 96]"
    );
    let reference = case.options(&tensors, Reference).unwrap();
    assert_eq!(
        refused(reference.with_skipping(Skipping::Exact)),
        "reference attention: expected no skipping, key norms or skip log, got Exact"
    );
}

/// A NaN anywhere in a tile, in a key alone, is never skipped over: the row that sees it shows it.
#[test]
fn a_tile_that_holds_nan_is_read() {
    for (queries, keys) in [(1, 3000), (3, 9000), (200, 3000)] {
        for index in [0, 50, 95] {
            let mut case = local(queries, keys);
            case.k[index * case.dim + 3] = f32::NAN;
            let tensors = case.tensors(&Device::flex());
            for skipping in [Skipping::Exact, Skipping::Certified { epsilon: 1e-4 }] {
                let options = case.options(&tensors, Fused).unwrap();
                let out = case.attend_as(&tensors, &options.with_skipping(skipping));
                let out = out.unwrap().into_data();
                let shown = out.as_slice::<f32>().unwrap().iter().all(|x| x.is_nan());
                assert!(shown, "{queries} queries, NaN at key {index}, {skipping:?}");
            }
        }
    }
}

/// The same in the prior.
#[test]
fn a_prior_that_is_nan_is_read() {
    let mut case = local(2, 3000);
    case.ln_weights[40] = f32::NAN;
    let out = case.attend(&case.tensors(&Device::flex()), Fused);
    let out = out.unwrap().into_data();
    assert!(out.as_slice::<f32>().unwrap().iter().all(|x| x.is_nan()));
}

#[test]
fn norms_with_a_gap_are_refused() {
    let mut norms = KeyNorms::new(1, 1);
    let error = norms.extend(500, &Tensor::zeros([1, 1, 5, 16], &Device::flex()));
    assert_eq!(
        error.unwrap_err().to_string(),
        "keys of the norms: expected shape to start at 0 or before, got a start at 500"
    );
}
