//! Priors as a module: the laws of their families, learned or fixed, to distributions and back.

use bam_attention::nn::{Family, PositionalPrior, PositionalPriorConfig, PriorGroupConfig, Role};
use bam_attention::testing::test_device;
use bam_attention::{AttentionError, Lags};
use bam_prior::{GeneralizedGaussian, KerplePower, Laplace, PositionalPrior as _, Prior, StudentT};
use burn::config::Config;
use burn::module::Module;
use burn::store::ModuleRecord;

/// Six heads of four kinds, two of which do not learn, and a seventh without parameters.
fn mixed() -> PositionalPriorConfig {
    let bam = PositionalPriorConfig::learned(Family::GeneralizedGaussian, 2);
    PositionalPriorConfig::alibi(2)
        .and(bam.fixed(&[Role::Location]))
        .and(PositionalPriorConfig::learned(Family::T5Buckets, 1))
        .and(PositionalPriorConfig::learned(Family::LaplaceSlab, 1))
        .and(PositionalPriorConfig::uniform(1))
}

fn ln_weights(prior: &PositionalPrior, lags: Lags) -> Vec<f32> {
    let ln_weights = prior.forward(lags).ln_weights().clone();
    assert_eq!(ln_weights.dims(), [prior.heads(), lags.count()]);
    ln_weights.into_data().iter().collect()
}

/// The largest difference to distributions, relative to the size of what they say.
fn difference(got: &[f32], priors: &[Prior], lags: Lags) -> f64 {
    let expected = priors.iter().flat_map(|prior| {
        lags.iter()
            .map(|lag| prior.ln_weight(lag as f64))
            .collect::<Vec<_>>()
    });
    let errors = got
        .iter()
        .zip(expected)
        .map(|(got, expected)| (f64::from(*got) - expected).abs() / (1.0 + expected.abs()));
    errors.fold(0.0, f64::max)
}

fn some_priors() -> Vec<Prior> {
    vec![
        Laplace::new(0.3).unwrap().into(),
        Laplace::new(0.004).unwrap().into(),
        GeneralizedGaussian::new(-3.5, 0.7, 0.4).unwrap().into(),
        // Between two lags: at its location a law of shape −1 is as steep as `f32` can't follow.
        GeneralizedGaussian::new(12.5, 0.1, -1.0).unwrap().into(),
        StudentT::new(-2.0, 3.0, 1.5).unwrap().into(),
        KerplePower::new(0.2, 1.25).unwrap().into(),
    ]
}

#[test]
fn heads_weigh_what_their_distributions_say() {
    let start = mixed().init(&test_device()).unwrap();
    let given = PositionalPriorConfig::from_priors(&some_priors()).unwrap();
    assert_eq!(given.groups.len(), 4);
    let given = given.init(&test_device()).unwrap();
    for lags in [
        Lags::causal(1),
        Lags::causal(257),
        Lags::starting_at(-100_000, 65),
    ] {
        for prior in [&start, &given] {
            let got = ln_weights(prior, lags);
            let priors = prior.priors().unwrap();
            assert!(difference(&got, &priors, lags) < 1e-5);
        }
        assert!(difference(&ln_weights(&given, lags), &some_priors(), lags) < 1e-5);
    }
    // Null control: the heads in another order.
    let lags = Lags::causal(257);
    let reversed: Vec<Prior> = some_priors().into_iter().rev().collect();
    assert!(difference(&ln_weights(&given, lags), &reversed, lags) > 0.1);
    // Both directions: the location is on one side.
    let lags = Lags::full(20, 20);
    assert!(difference(&ln_weights(&given, lags), &some_priors(), lags) < 1e-5);
}

#[test]
fn distributions_go_in_and_come_out() {
    let device = test_device().autodiff();
    let kinds = PositionalPriorConfig::from_priors(&some_priors()).unwrap();
    let mut bare = kinds.clone().fixed(&[Role::Shape]);
    bare.groups.iter_mut().for_each(|group| group.start = None);
    let before = bare.init(&device).unwrap();
    let after = before.clone().with_priors(&some_priors()).unwrap();
    for (got, expected) in after.priors().unwrap().iter().zip(some_priors()) {
        assert_eq!(Family::of(got), Family::of(&expected));
        for (got, expected) in got.parameters().iter().zip(expected.parameters()) {
            assert_eq!(got.name, expected.name);
            // What f32 makes of a logarithm of at most 6.
            let error = (got.value - expected.value).abs();
            assert!(
                error <= 1e-6 * expected.value.abs(),
                "{got:?}, not {expected:?}"
            );
        }
    }
    for (before, after) in before.groups.iter().zip(&after.groups) {
        for (before, after) in before.theta.iter().zip(&after.theta) {
            assert_eq!(before.id, after.id);
            assert_eq!(
                before.val().is_require_grad(),
                after.val().is_require_grad()
            );
        }
    }
    let error = |priors: &[Prior]| before.clone().with_priors(priors).unwrap_err();
    let text = error(&some_priors()[1..]).to_string();
    assert_eq!(text, "priors: expected one for each of 6 heads, got 5");
    let mut swapped = some_priors();
    swapped.swap(0, 4);
    assert!(
        matches!(error(&swapped), AttentionError::Prior(_)),
        "{}",
        error(&swapped)
    );
    let mut wide = some_priors();
    wide[2] = GeneralizedGaussian::new(0.0, 1.0, 1e300).unwrap().into();
    assert!(error(&wide).to_string().contains("f32 can hold"));
}

#[test]
fn a_gradient_reaches_what_learns_and_nothing_else() {
    let prior = mixed().init(&test_device().autodiff()).unwrap();
    let lags = Lags::causal(100);
    let log_prior = prior.forward(lags);
    let gradients = log_prior.ln_weights().clone().sum().backward();
    for group in &prior.groups {
        for (spec, theta) in group.family().parameters(1).iter().zip(&group.theta) {
            let gradient = theta.val().grad(&gradients);
            let moves = gradient.is_some_and(|g| g.abs().sum().into_scalar::<f32>() > 0.0);
            assert_eq!(
                moves,
                group.learns(spec.role),
                "{} {}",
                group.family(),
                spec.name
            );
        }
    }
    let learned = |group: usize| prior.groups[group].learns(Role::Scale);
    assert_eq!([0, 1, 2, 3].map(learned), [false, true, true, true]);
    // Between validation and training, and on a device without autodiff, nothing is lost.
    let back = prior.valid().train();
    assert!(!prior.valid().forward(lags).ln_weights().is_autodiff());
    assert!(back.forward(lags).ln_weights().is_autodiff());
    let learns = |prior: &PositionalPrior| -> Vec<bool> {
        let theta = prior.groups.iter().flat_map(|group| &group.theta);
        theta.map(|theta| theta.val().is_require_grad()).collect()
    };
    assert_eq!(learns(&back), learns(&prior));
    let alone = PositionalPriorConfig::uniform(3)
        .init(&test_device().autodiff())
        .unwrap();
    assert!(alone.forward(lags).ln_weights().is_autodiff());
    assert!(!alone.valid().forward(lags).ln_weights().is_autodiff());
    assert_eq!(ln_weights(&alone, lags), [0.0; 300]);
}

#[test]
fn records_and_configurations_come_back() {
    let device = test_device();
    let config = PositionalPriorConfig::from_priors(&some_priors()).unwrap();
    let saved = config.init(&device).unwrap();
    let bytes = saved.clone().into_record().into_bytes().unwrap();
    let mut bare = config.clone();
    bare.groups.iter_mut().for_each(|group| group.start = None);
    let fresh = bare.init(&device).unwrap();
    let lags = Lags::causal(65);
    assert_ne!(ln_weights(&fresh, lags), ln_weights(&saved, lags));
    let loaded = fresh.load_record(ModuleRecord::from_bytes(bytes).unwrap());
    assert_eq!(ln_weights(&loaded, lags), ln_weights(&saved, lags));

    for config in [config, mixed()] {
        let text = config.to_string();
        let back = PositionalPriorConfig::load_binary(text.as_bytes()).unwrap();
        assert_eq!(back, config);
    }
    let typo = mixed().to_string().replace("laplace_slab", "laplace_slap");
    assert!(PositionalPriorConfig::load_binary(typo.as_bytes()).is_err());
}

#[test]
fn what_does_not_fit_is_an_error() {
    let device = test_device();
    let error = |config: PositionalPriorConfig| config.init(&device).unwrap_err().to_string();
    let none = "heads of a prior: expected at least 1, got 0";
    assert_eq!(error(PositionalPriorConfig::new(Vec::new())), none);
    assert_eq!(error(PositionalPriorConfig::alibi(0)), none);
    let started = |family, heads, priors: &[Prior]| {
        let group = PriorGroupConfig::new(family, heads).with_start(Some(priors.to_vec()));
        error(PositionalPriorConfig::new(vec![group]))
    };
    let two = &some_priors()[..2];
    let text = started(Family::Laplace, 3, two);
    assert_eq!(
        text,
        "starting priors: expected one for each of 3 heads, got 2"
    );
    let text = started(Family::KerpleLog, 2, two);
    assert!(
        text.starts_with("prior: expected one that kerple_log heads can have"),
        "{text}"
    );
    let whole = [Prior::from(KerplePower::new(1.0, 2.0).unwrap())];
    let text = started(Family::KerplePower, 1, &whole);
    assert!(
        text.contains("exponent: expected a number between 0 and 2, got 2"),
        "{text}"
    );
    let odd = bam_prior::Table::new(vec![0.0; 3]).unwrap();
    let error = PositionalPriorConfig::from_priors(&[odd.into()]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("prior: expected one of a family"),
        "{error}"
    );
    let group = PriorGroupConfig::new(Family::Laplace, 2);
    let error = group.init_at(vec![vec![0.0; 3]], &device).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("[2] numbers for 2 heads of laplace, got [3]")
    );
}
