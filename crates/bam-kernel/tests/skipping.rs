//! Skipping is safe: `Exact` gives the same bits, `Certified` drops no more than it says, what is
//! skipped is not read; and bounds that leave something out are caught by the same assertions.

use bam_kernel::testing::{Case, Shape, oracle, signed_numbers};
use bam_kernel::{
    Call, Gradients, HeadSkips, KeyNorms, KeyPriorScope, Posterior, Rows, SkipLog, Skipping,
};
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

/// A prior over keys of every kind: spread far, with keys that stand out; running sums that rise, as of forget gates,
/// and that fall.
fn with_key_prior(case: Case, kind: &str, scope: KeyPriorScope) -> Case {
    let heads = if kind == "rising" { case.heads } else { 1 };
    let numbers = signed_numbers(case.batch * heads * case.keys, 1.0, 31);
    let values: Vec<f64> = numbers
        .chunks(case.keys)
        .flat_map(|keys| {
            let mut sum = 0.0;
            keys.iter().map(move |x| {
                let x = f64::from(*x);
                sum += x.abs();
                match kind {
                    "spread" => 300.0 * x * x * x,
                    "rising" => sum,
                    _ => -sum,
                }
            })
        })
        .collect();
    case.with_key_numbers(&values, heads, scope)
}

fn run(case: &Case, skipping: Skipping) -> ((Posterior, Gradients), Vec<HeadSkips>) {
    let log = Arc::new(SkipLog::default());
    let with = |call| Call {
        skipping,
        skip_log: Some(log.clone()),
        ..call
    };
    (case.forward_backward(with).unwrap(), log.heads())
}

/// The norms of a case's keys.
fn norms(case: &Case) -> KeyNorms {
    let mut norms = KeyNorms::new(case.batch, case.key_heads);
    norms.extend(0, &keys(case, &case.k)).unwrap();
    norms
}

fn keys<'a>(case: &Case, values: &'a Vec<f32>) -> Rows<'a> {
    Rows::new(values, [case.batch, case.key_heads, case.keys, case.dim]).unwrap()
}

fn variants() -> Vec<(&'static str, Case)> {
    let long = || case(1000, 1000, 16);
    let keys = |case, kind| with_key_prior(case, kind, KeyPriorScope::Added);
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
        ("spread keys", keys(long(), "spread")),
        ("forgetting keys", keys(long(), "rising")),
        ("fading keys both ways", keys(long().full(), "falling")),
        (
            "forgetting keys in documents",
            keys(long().with_documents(3), "rising"),
        ),
        (
            "spread keys under a temperature",
            with_key_prior(
                long().with_temperature(true),
                "spread",
                KeyPriorScope::Scaled,
            ),
        ),
        (
            "forgetting keys, decoding",
            keys(case(3, 9000, 16), "rising"),
        ),
        ("spread keys, chunk", keys(case(70, 5000, 16), "spread")),
    ]
}

/// The most that so many keys can weigh of a row and be exactly 0: less than `2⁻¹⁰⁰` each of the heaviest.
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
        if name.contains("keys") {
            // Forget gates leave every head few keys, a flat one too.
            let of_flat = skipped(3) > 0 || !name.contains("forgetting");
            assert!(of_flat, "{name}: nothing was skipped: {log:?}");
            continue;
        }
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
fn dropped_mass(case: &Case, change: impl Fn(Call) -> Call) -> f64 {
    let out = case.forward(change).unwrap().out;
    out.chunks_exact(case.dim)
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
        for epsilon in [1e-1, 1e-3, 1e-6] {
            let log = Arc::new(SkipLog::default());
            let dropped = dropped_mass(&case, |call| Call {
                skipping: Skipping::Certified { epsilon },
                skip_log: Some(log.clone()),
                ..call
            });
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
    let honest = |call| Call {
        skipping: Skipping::Certified { epsilon: 1e-3 },
        ..call
    };
    let nothing = vec![0.0; case.k.len()];
    let mut blind = KeyNorms::new(2, 1);
    blind.extend(0, &keys(&case, &nothing)).unwrap();
    let blind = Arc::new(blind);
    let impostor = |call| Call {
        key_norms: Some(blind.clone()),
        ..honest(call)
    };
    assert!(dropped_mass(&case, honest) <= 1e-3);
    assert!(dropped_mass(&case, impostor) > 0.1);
}

/// A window around the row drops too much, however far it reaches: the usual way to skip under ALiBi, on
/// priors that it was not made for.
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

/// A bound that takes a tile's mean prior over keys for its largest drops the one key that stands out.
#[test]
fn an_impostor_that_ignores_the_largest_of_a_tile_is_caught() {
    let mut honest = with_values_that_name_their_tile(case(200, 1000, 16));
    let at = (honest.keys - 1) as f64;
    let values: Vec<f64> = (0..2 * honest.keys)
        .map(|index| match index % honest.keys {
            // Only this key's number makes up for its lag.
            50 => 0.5 * (at - 50.0),
            _ => 0.0,
        })
        .collect();
    honest = honest.with_key_numbers(&values, 1, KeyPriorScope::Added);
    let certified = |call| Call {
        skipping: Skipping::Certified { epsilon: 1e-3 },
        ..call
    };
    assert!(dropped_mass(&honest, certified) <= 1e-3);
    // What the impostor drops: its output is that without the key's number.
    let mut impostor = honest.clone();
    impostor.key_prior = None;
    let out = impostor.forward(certified).unwrap().out;
    let masses = oracle(&honest);
    let dropped = out.iter().zip(&masses).filter(|(out, _)| **out == 0.0);
    let largest = dropped.map(|(_, mass)| *mass).fold(0.0, f64::max);
    assert!(largest > 0.1, "{largest}");
}

/// The case with NaN wherever a key is in one of the first `tiles` tiles.
fn poisoned(case: &Case, tiles: usize) -> Case {
    let mut poisoned = case.clone();
    let of_head = case.keys * case.dim;
    for values in [&mut poisoned.k, &mut poisoned.v] {
        for head in values.chunks_exact_mut(of_head) {
            head[..tiles * TILE * case.dim].fill(f32::NAN);
        }
    }
    poisoned
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
        let norms = Arc::new(norms(&case));
        let of = |case: &Case, skipping| {
            let with = |call| Call {
                skipping,
                key_norms: Some(norms.clone()),
                ..call
            };
            let (posterior, gradients) = case.forward_backward(with).unwrap();
            [posterior.out, gradients.q, gradients.ln_weights]
        };
        let dirty = poisoned(&case, 20);
        for skipping in [Skipping::Exact, Skipping::Certified { epsilon: 1e-4 }] {
            let (clean, dirty) = (of(&case, skipping), of(&dirty, skipping));
            assert_eq!(clean, dirty, "{queries} queries, {skipping:?}");
        }
        // Null control: without skipping the poison is read.
        let read = of(&dirty, Skipping::Off);
        assert!(read[0].iter().any(|x| x.is_nan()));
    }
}

#[test]
fn norms_grow_with_the_cache() {
    let case = local(1, 500);
    let whole = norms(&case);
    let mut pieces = KeyNorms::new(1, 1);
    for (start, length) in [(0, 1), (1, 130), (131, 369)] {
        let piece = &case.k[start * case.dim..][..length * case.dim];
        let piece = Rows::new(piece, [1, 1, length, case.dim]).unwrap();
        pieces.extend(start, &piece).unwrap();
    }
    assert_eq!(whole, pieces);
    let two = vec![0.0f32; 2 * 5 * 16];
    let error = pieces.extend(0, &Rows::new(&two, [2, 1, 5, 16]).unwrap());
    assert_eq!(
        error.unwrap_err().to_string(),
        "keys of the norms: expected shape [1, 1, length, dim], got [2, 1, 5, 16]"
    );
}

#[test]
fn norms_with_a_gap_are_refused() {
    let mut norms = KeyNorms::new(1, 1);
    let error = norms.extend(500, &Rows::new(&vec![0.0f32; 80], [1, 1, 5, 16]).unwrap());
    assert_eq!(
        error.unwrap_err().to_string(),
        "keys of the norms: expected shape to start at 0 or before, got a start at 500"
    );
}

#[test]
fn what_can_not_be_asked_is_refused() {
    let case = local(3, 200);
    let refused = |change: &dyn Fn(Call) -> Call| case.forward(change).unwrap_err().to_string();
    for epsilon in [0.0, 1.0, -1.0, f64::NAN] {
        let skipping = Skipping::Certified { epsilon };
        let message = refused(&|call| Call { skipping, ..call });
        let expected = "epsilon of skipping: expected a number above 0 and below 1, got";
        assert_eq!(message, format!("{expected} {epsilon}"));
    }
    let mut short = KeyNorms::new(1, 1);
    let keys = Rows::new(&case.k[..96 * case.dim], [1, 1, 96, case.dim]).unwrap();
    short.extend(0, &keys).unwrap();
    let short = Some(Arc::new(short));
    assert_eq!(
        refused(&|call| Call {
            key_norms: short.clone(),
            ..call
        }),
        "key norms (batch, key heads, keys): expected shape [1, 1, at least 200], got [1, 1, 96]"
    );
}

/// A NaN anywhere in a tile, in a key alone, is never skipped over: the row that sees it shows it.
#[test]
fn a_tile_that_holds_nan_is_read() {
    for (queries, keys) in [(1, 3000), (3, 9000), (200, 3000)] {
        for index in [0, 50, 95] {
            let mut case = local(queries, keys);
            case.k[index * case.dim + 3] = f32::NAN;
            for skipping in [Skipping::Exact, Skipping::Certified { epsilon: 1e-4 }] {
                let out = case.forward(|call| Call { skipping, ..call }).unwrap().out;
                let shown = out.iter().all(|x| x.is_nan());
                assert!(shown, "{queries} queries, NaN at key {index}, {skipping:?}");
            }
        }
    }
}

/// The same in the priors.
#[test]
fn a_prior_that_is_nan_is_read() {
    let mut over_keys = with_key_prior(local(2, 3000), "spread", KeyPriorScope::Added);
    over_keys.key_prior.as_mut().unwrap().high[40] = f32::NAN;
    let out = over_keys.forward(|as_it_is| as_it_is).unwrap().out;
    assert!(out.iter().all(|x| x.is_nan()));

    let mut case = local(2, 3000);
    case.ln_weights[40] = f32::NAN;
    let out = case.forward(|as_it_is| as_it_is).unwrap().out;
    assert!(out.iter().all(|x| x.is_nan()));
}
