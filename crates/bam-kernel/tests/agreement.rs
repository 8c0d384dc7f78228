//! Outputs against the definition in `f64`: every instruction set, awkward sizes, every option; and
//! impostors, told apart by the same comparison.

use bam_kernel::testing::{AWKWARD_SIZES, Case, Shape, oracle};
use bam_kernel::{Call, Documents, Instructions, KeyPriorScope, LN_SMALLEST_WEIGHT};

/// Every option alone and some together.
fn variants(case: &Case) -> Vec<Case> {
    let case = || case.clone();
    vec![
        case(),
        case().full(),
        case().with_window(1),
        case().with_window(70),
        case().full().with_window(70),
        case().with_documents(1),
        case().with_documents(3),
        case().full().with_documents(9),
        case().with_temperature(false).with_documents(2),
        case().with_temperature(true).with_documents(2),
        case().with_key_prior(false, KeyPriorScope::Added),
        case().full().with_key_prior(true, KeyPriorScope::Added),
        case()
            .with_temperature(true)
            .with_window(70)
            .with_key_prior(true, KeyPriorScope::Scaled),
        case()
            .with_temperature(false)
            .with_documents(3)
            .with_key_prior(false, KeyPriorScope::Added),
    ]
}

fn largest_error(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let errors = got.iter().zip(expected);
    errors
        .map(|(got, expected)| (f64::from(*got) - expected).abs())
        // Not a number is no agreement.
        .fold(
            0.0,
            |largest, error| if error <= largest { largest } else { error },
        )
}

#[test]
fn outputs_are_the_definition() {
    for (seed, sizes) in AWKWARD_SIZES.into_iter().enumerate() {
        for (number, case) in variants(&Case::random(&sizes.into(), seed as u64))
            .iter()
            .enumerate()
        {
            let expected = oracle(case);
            for instructions in Instructions::available() {
                let with = |call| Call {
                    instructions,
                    ..call
                };
                let error = largest_error(&case.forward(with).unwrap().out, &expected);
                let allowed = case.rounding();
                assert!(
                    error <= allowed,
                    "{sizes:?}, variant {number}, {instructions:?}: off by {error:e}, allowed {allowed:e}"
                );
            }
        }
    }
}

/// Null control: an implementation that ignored one thing would fail the comparison above. Ignoring is
/// simulated by changing that thing in the case of the oracle.
#[test]
fn impostors_are_caught() {
    let plain = || Case::random(&[2, 4, 2, 70, 130, 24].into(), 11);
    type Change = fn(&mut Case);
    let with_keys = |by_query_head, scope| {
        let case = plain().with_temperature(false);
        case.with_key_prior(by_query_head, scope)
    };
    fn of_keys(case: &mut Case) -> &mut bam_kernel::testing::KeyNumbers {
        case.key_prior.as_mut().unwrap()
    }
    let impostors: [(&str, Case, Change); 16] = [
        ("prior", plain(), |case| case.ln_weights.fill(0.0)),
        ("lag", plain(), |case| case.ln_weights.rotate_right(1)),
        ("head", plain(), |case| {
            let first = case.ln_weights[..case.lags].to_vec();
            let heads = case.ln_weights.chunks_mut(case.lags);
            heads.for_each(|head| head.copy_from_slice(&first));
        }),
        ("keys", plain(), |case| case.k.fill(0.0)),
        ("key heads", plain(), |case| {
            let size = case.keys * case.dim;
            let pairs = case.k.chunks_mut(2 * size);
            pairs.for_each(|pair| pair.rotate_left(size));
        }),
        ("causality", plain(), |case| case.causal = false),
        ("offset", plain(), |case| case.offset = 0),
        ("window", plain().with_window(9), |case| case.window = None),
        ("documents", plain().with_documents(3), |case| {
            case.documents = None
        }),
        ("temperature", plain().with_temperature(true), |case| {
            case.temperature = None
        }),
        (
            "scope of the temperature",
            plain().with_temperature(true),
            |case| {
                case.temperature.as_mut().unwrap().1 = false;
            },
        ),
        (
            "prior over keys",
            with_keys(true, KeyPriorScope::Added),
            |case| case.key_prior = None,
        ),
        (
            "key of the prior over keys",
            with_keys(false, KeyPriorScope::Added),
            |case| of_keys(case).high.rotate_right(1),
        ),
        (
            "head of the prior over keys",
            with_keys(true, KeyPriorScope::Added),
            |case| of_keys(case).high.rotate_right(130),
        ),
        (
            "scope of the prior over keys: scaled",
            with_keys(false, KeyPriorScope::Added),
            |case| of_keys(case).scope = KeyPriorScope::Scaled,
        ),
        (
            "scope of the prior over keys: added",
            with_keys(true, KeyPriorScope::Scaled),
            |case| of_keys(case).scope = KeyPriorScope::Added,
        ),
    ];
    for (what, honest, change) in impostors {
        let out = honest.forward(|as_it_is| as_it_is).unwrap().out;
        let mut impostor = honest.clone();
        change(&mut impostor);
        let (right, wrong) = (oracle(&honest), oracle(&impostor));
        assert!(largest_error(&out, &right) <= honest.rounding(), "{what}");
        let error = largest_error(&out, &wrong);
        assert!(
            error > 10.0 * honest.rounding(),
            "{what} ignored goes unnoticed: {error:e}"
        );
    }
}

/// `bf16` is widened exactly: the same bits as the same numbers in `f32`, but for AMX, which has tests of
/// its own.
#[test]
fn narrow_numbers_are_widened() {
    for (seed, sizes) in [[2, 6, 2, 63, 65, 17], [1, 1, 1, 3, 9000, 16]]
        .into_iter()
        .enumerate()
    {
        let mut case = Case::random(&sizes.into(), seed as u64).with_documents(2);
        for values in [&mut case.q, &mut case.k, &mut case.v] {
            values
                .iter_mut()
                .for_each(|x| *x = bam_kernel::bf16::from_f32(*x).to_f32());
        }
        let widening = Instructions::available().into_iter();
        for instructions in widening.filter(|one| *one != Instructions::Amx) {
            let with = |call| Call {
                instructions,
                ..call
            };
            let [narrow, wide] = [case.forward_narrow(with), case.forward(with)];
            assert_eq!(
                narrow.unwrap(),
                wide.unwrap(),
                "{sizes:?}, {instructions:?}"
            );
        }
    }
}

/// Rows that have nothing to see give exact zeros, and numbers at padding are not read.
#[test]
fn padding_and_rows_that_see_nothing() {
    for (queries, keys) in [(1, 70), (63, 63), (130, 130), (9, 5000)] {
        let case = Case::random(&[2, 2, 1, queries, keys, 5].into(), 3);
        let case = case.with_documents(2).with_temperature(true);
        let mut case = case.with_key_prior(false, KeyPriorScope::Added);
        let (of_queries, of_keys) = case.documents.as_mut().unwrap();
        for ids in [&mut of_queries[..], &mut of_keys[..]] {
            ids.iter_mut()
                .step_by(7)
                .for_each(|id| *id = Documents::PADDING);
        }
        let (of_queries, of_keys) = case.documents.clone().unwrap();
        let mut poisoned = case.clone();
        for (values, ids, heads) in [
            (&mut poisoned.q, &of_queries, 2),
            (&mut poisoned.k, &of_keys, 1),
            (&mut poisoned.v, &of_keys, 1),
        ] {
            let length = ids.len() / 2;
            for (index, row) in values.chunks_exact_mut(5).enumerate() {
                if ids[index / (length * heads) * length + index % length] == Documents::PADDING {
                    row.fill(f32::NAN);
                }
            }
        }
        let of_prior = &mut poisoned.key_prior.as_mut().unwrap().high;
        for (u, id) in of_prior.iter_mut().zip(&of_keys) {
            if *id == Documents::PADDING {
                *u = f32::NAN;
            }
        }
        let of = |case: &Case| case.forward_backward(|as_it_is| as_it_is).unwrap();
        let (clean, dirty) = (of(&case), of(&poisoned));
        assert_eq!(clean, dirty, "{queries} × {keys}");
        for (index, row) in clean.0.out.chunks_exact(5).enumerate() {
            let id = of_queries[index / (queries * 2) * queries + index % queries];
            assert_eq!(id == Documents::PADDING, row.iter().all(|x| *x == 0.0));
        }
        // A window of 0 hides everything.
        let (nothing, gradients) = of(&case.with_window(0));
        assert!(nothing.out.iter().chain(&gradients.q).all(|x| *x == 0.0));
        assert!(nothing.ln_evidence.iter().all(|x| *x == f32::INFINITY));
    }
}

/// A log-weight of `−∞` hides a key like padding does: in rows that see no other key, in gradients, and whatever the temperature
/// multiplies it with.
#[test]
fn a_log_weight_of_minus_infinity_hides_a_key() {
    let is_hidden = |key: usize| key < 2 || key % 7 == 3;
    for (queries, keys) in [(1, 70), (66, 70), (130, 130), (9, 5000)] {
        for scope in [KeyPriorScope::Added, KeyPriorScope::Scaled] {
            let case = Case::random(&[2, 2, 1, queries, keys, 5].into(), 3);
            let case = case.with_temperature(true).with_key_prior(false, scope);
            let mut hiding = case.clone();
            let of_prior = hiding.key_prior.as_mut().unwrap();
            let values: Vec<f64> = (of_prior.high.iter().zip(&of_prior.low).enumerate())
                .map(|(index, (high, low))| match is_hidden(index % keys) {
                    true => f64::NEG_INFINITY,
                    false => f64::from(*high) + f64::from(*low),
                })
                .collect();
            hiding = hiding.with_key_numbers(&values, 1, scope);
            let mut padded = case;
            let padding = |index| match is_hidden(index % keys) {
                true => Documents::PADDING,
                false => 0,
            };
            let ids = (0..2 * keys).map(padding).collect();
            padded.documents = Some((vec![0; 2 * queries], ids));
            for instructions in Instructions::available() {
                let of = |case: &Case| {
                    let with = |call| Call {
                        instructions,
                        ..call
                    };
                    case.forward_backward(with).unwrap()
                };
                let (got, expected) = (of(&hiding), of(&padded));
                assert!(got == expected, "{queries} × {keys}, {scope:?}");
            }
            // The first rows see hidden keys alone.
            let (got, _) = hiding.forward_backward(|as_it_is| as_it_is).unwrap();
            let sees_nothing = got.ln_evidence.contains(&f32::INFINITY);
            assert_eq!(sees_nothing, queries == keys);
        }
    }
}

/// [`LN_SMALLEST_WEIGHT`] is where a key stops to count: a value so large that it shows what weight is left.
#[test]
fn a_weight_below_the_smallest_is_zero() {
    for queries in [1, 9] {
        let mut case = Case::random(&[1, 1, 1, queries, queries + 1, 1].into(), 1);
        case.q.fill(0.0);
        case.v.fill(0.0);
        case.v[0] = 1e30;
        // The last row alone sees the first key at this distance.
        let mut of_last = |ln_weight: f64| {
            case.ln_weights.fill(0.0);
            case.ln_weights[0] = ln_weight as f32;
            *case
                .forward(|as_it_is| as_it_is)
                .unwrap()
                .out
                .last()
                .unwrap()
        };
        assert!(of_last(LN_SMALLEST_WEIGHT + 1e-4) > 0.0);
        assert_eq!(of_last(LN_SMALLEST_WEIGHT - 1e-4), 0.0);
    }
}

/// A million keys: no length is special. Priors of several shapes that reach to the other end, and a needle
/// there that only they can hide.
#[test]
fn a_million_keys() {
    const KEYS: usize = 1_000_000;
    let shape = Shape::from([1, 4, 1, 2, KEYS, 4]);
    let mut case = Case::random(&shape, 1);
    (case.first_lag, case.lags) = (1 - KEYS as i64, KEYS);
    case.ln_weights = [0.0, 0.3, 1.0, 2.0]
        .into_iter()
        .flat_map(|shape| {
            (0..KEYS)
                .map(move |c| (-8.0 * ((KEYS - 1 - c) as f64 / KEYS as f64).powf(shape)) as f32)
        })
        .collect();
    for q in case.q.chunks_mut(4) {
        q.copy_from_slice(&[4.0, 0.0, 0.0, 0.0]);
    }
    case.v.iter_mut().for_each(|v| *v += 2.0);
    case.k.chunks_mut(4).for_each(|k| k[0] = 0.5 * k[0] - 1.0);
    // A logit of 14 against at most 0 of the others: as much as a million of them hold together.
    case.k[40..44].copy_from_slice(&[7.0, 0.0, 0.0, 0.0]);
    case.v[40..44].copy_from_slice(&[50.0, -40.0, 30.0, -20.0]);
    // A running sum of up to 50 is rounded once a tile, by half a unit in the last place.
    let tolerance = 50.0 * (KEYS / 64) as f64 * f64::from(f32::EPSILON) / 2.0;
    let out = case.forward(|as_it_is| as_it_is).unwrap().out;
    assert!(largest_error(&out, &oracle(&case)) <= tolerance);
    // Null controls, head by head: no prior (of which the first head has none); the nearest 65,536 keys.
    let window = oracle(&case.clone().with_window(65_536));
    case.ln_weights.fill(0.0);
    let no_prior = oracle(&case);
    for (what, impostor, first) in [("no prior", no_prior, 1), ("a window", window, 0)] {
        let heads = out.chunks(8).zip(impostor.chunks(8)).skip(first);
        for (out, impostor) in heads {
            assert!(
                largest_error(out, impostor) > 2.0 * tolerance,
                "{what} goes unnoticed"
            );
        }
    }
}
