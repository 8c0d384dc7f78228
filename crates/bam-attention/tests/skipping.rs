//! Skipping on every device: `Exact` gives the bits of `Off` in outputs and gradients, `Certified` drops
//! no more than it says, and what is skipped is counted.

use bam_attention::Implementation::Fused;
use bam_attention::testing::{
    Case, OnTensors, Shape, affordable, oracle, signed_numbers, test_device,
};
use bam_attention::{HeadSkips, KeyNorms, KeyPriorScope, SkipLog, Skipping};
use std::sync::Arc;

/// A prior's `ln w(lag)`, and whether most of its tiles are negligible.
type Prior = (fn(f64) -> f64, bool);

const PRIORS: [Prior; 4] = [
    (|lag| -0.5 * lag.abs(), true),
    (|lag| -0.5 * (lag + 400.0).abs(), true),
    (|_| 0.0, false),
    (|lag| -40.0 * (lag.abs() + 1e-5).powf(-0.2), false),
];

/// A head under each prior.
fn case(queries: usize, keys: usize) -> Case {
    let mut case = Case::random(&Shape::from([2, 4, 1, queries, keys, 16]), 21);
    let (first, lags) = (case.first_lag, case.lags);
    case.ln_weights = PRIORS
        .iter()
        .flat_map(|(ln_w, _)| (0..lags).map(move |c| ln_w((first + c as i64) as f64) as f32))
        .collect();
    case
}

/// A prior over keys as of forget gates, of every query head: whatever lies far before a row is negligible, since a step is steeper
/// than any prior over lags rises.
fn forgetting(case: Case) -> Case {
    let steps = signed_numbers(case.batch * case.heads * case.keys, 2.0, 31);
    let of_head = |steps: &[f32]| {
        let sums = steps.iter().scan(0.0, |sum, step| {
            *sum += f64::from(step.abs());
            Some(*sum)
        });
        sums.collect::<Vec<_>>()
    };
    let values: Vec<f64> = steps.chunks(case.keys).flat_map(of_head).collect();
    let heads = case.heads;
    case.with_key_numbers(&values, heads, KeyPriorScope::Added)
}

fn variants() -> Vec<(&'static str, Case)> {
    let mut variants = vec![
        ("causal", case(1000, 1000)),
        ("decoding", case(3, 9000)),
        ("chunk", case(70, 5000)),
        ("forgetting", forgetting(case(1000, 1000))),
    ];
    // They have kernels of their own.
    if affordable(usize::MAX) {
        variants.push(("documents", case(1000, 1000).with_documents(3)));
        variants.push((
            "forgetting in documents",
            forgetting(case(1000, 1000).with_documents(3)),
        ));
        variants.push(("forgetting, decoding", forgetting(case(3, 9000))));
    }
    variants
}

fn run(case: &Case, skipping: Skipping) -> ([Vec<f32>; 7], Vec<HeadSkips>) {
    let log = Arc::new(SkipLog::default());
    let passes = case
        .passes(
            |options| options.with_skipping(skipping).with_skip_log(log.clone()),
            Fused,
        )
        .unwrap();
    (passes, log.heads())
}

#[test]
fn exact_skipping_gives_the_same_bits() {
    for (name, case) in variants() {
        let (off, off_log) = run(&case, Skipping::Off);
        let (exact, log) = run(&case, Skipping::Exact);
        assert!(off == exact, "{name}: other bits");
        let forgets = case.key_prior.is_some();
        for (head, (_, local)) in PRIORS.iter().enumerate() {
            assert_eq!(off_log[head].skipped_tiles, 0, "{name}");
            assert_eq!(
                off_log[head].visible_tiles, log[head].visible_tiles,
                "{name}"
            );
            assert!(log[head].dropped_mass < 1e-20, "{name}: {log:?}");
            let skipped = log[head].skipped_tiles;
            assert!(
                !(*local || forgets) || skipped > 0,
                "{name}, head {head}: {log:?}"
            );
        }
        assert!(
            forgets || log[2].skipped_tiles == 0,
            "{name}: a flat head has nothing to skip"
        );
    }
}

#[test]
fn certified_skipping_drops_no_more_than_it_says() {
    for (name, case) in variants() {
        let largest = case.v.iter().fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
        let expected = oracle(&case);
        let (_, exact) = run(&case, Skipping::Exact);
        for epsilon in [1e-6, 1e-2, 0.3] {
            let (passes, log) = run(&case, Skipping::Certified { epsilon });
            let allowed = 2.0 * epsilon * largest + case.rounding();
            for (got, expected) in passes[0].iter().zip(&expected) {
                let error = (f64::from(*got) - expected).abs();
                assert!(error <= allowed, "{name}, {epsilon}: {error:e}");
            }
            for (head, skips) in log.iter().enumerate() {
                assert!(skips.dropped_mass <= epsilon * 1.001, "{name}: {skips:?}");
                let tiles = exact[head].skipped_tiles;
                assert!(
                    epsilon < 1e-3 || skips.skipped_tiles >= tiles,
                    "{name}, {epsilon}"
                );
            }
        }
    }
}

/// Norms that a cache keeps, taken in piece by piece, decide as norms that a call finds.
#[test]
fn kept_norms_give_the_same_bits() {
    let case = case(3, 9000);
    let tensors = case.tensors(&test_device());
    let mut norms = KeyNorms::new(case.batch, case.key_heads);
    let mut start = 0;
    for length in [1, 63, 65, 700, 8171] {
        let keys = tensors.k.clone().narrow(2, start, length);
        norms.extend(start, &keys).unwrap();
        start += length;
    }
    let options = case.options(&tensors, Fused).unwrap();
    let found = case.attend_as(&tensors, &options).unwrap();
    let kept = options.with_key_norms(Arc::new(norms));
    let kept = case.attend_as(&tensors, &kept).unwrap();
    assert_eq!(found.into_data(), kept.into_data());
}

/// Null control: with norms that say keys are short, tiles that matter are left out, and it shows.
#[test]
fn wrong_norms_are_told_apart() {
    let mut case = case(3, 9000);
    case.k.iter_mut().for_each(|x| *x *= 100.0);
    let tensors = case.tensors(&test_device());
    let mut norms = KeyNorms::new(case.batch, case.key_heads);
    norms.extend(0, &(tensors.k.clone() * 1e-4)).unwrap();
    let options = case.options(&tensors, Fused).unwrap();
    let right = case.attend_as(&tensors, &options).unwrap();
    let wrong = options.with_key_norms(Arc::new(norms));
    let wrong = case.attend_as(&tensors, &wrong).unwrap();
    assert_ne!(right.into_data(), wrong.into_data());
}
