//! Evaluations that read through a cache: what they know already, where they stop, what a cache may forget.

use super::passkey::{Depths, LengthPlan, PasskeyPlan, SampleResult, passkey};
use super::perplexity::{PerplexityPlan, WindowRead, by_position, perplexity, tokens_of};
use super::ruler::testing::tokenizer;
use super::watch::Watch;
use bam_attention::Skipping;
use bam_lm::model::{ModelConfig, Transformer};
use bam_lm::testing::{lively, small};
use bam_record::{Passkey, Perplexity};
use burn::tensor::Device;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Mutex;

fn model(encoding: &str) -> Transformer {
    let config = ModelConfig {
        vocabulary: tokenizer().vocabulary_size(),
        ..small(encoding)
    };
    lively(config, 9, &Device::flex())
}

fn plan() -> PasskeyPlan {
    let at = |length, samples| LengthPlan {
        length,
        samples,
        depths: Depths::Equidistant(3),
    };
    PasskeyPlan {
        lengths: vec![at(500, 3), at(1400, 4)],
        given_digits: 1,
        greedy: false,
        patience: None,
        seed: 1,
        skipping: Skipping::Exact,
        certified_cache: None,
    }
}

fn passkeys(
    model: &Transformer,
    plan: &PasskeyPlan,
    watch: Watch<SampleResult>,
) -> Option<Passkey> {
    passkey(model, tokenizer(), plan, || 0.0, watch).unwrap()
}

/// Stopped after two samples and given again it comes to the same, and asks the model for the rest only.
#[test]
fn passkeys_that_are_known_are_not_read_again() {
    let (model, plan) = (model("bam+ssmax"), plan());
    let whole = passkeys(&model, &plan, Watch::nobody()).unwrap();
    let kept = Mutex::new(BTreeMap::new());
    let keep = |asked: &str, found: &SampleResult| {
        let old = kept.lock().unwrap().insert(asked.to_owned(), found.clone());
        assert_eq!(old, None, "{asked}");
    };
    let stop = Watch {
        stop: &|| kept.lock().unwrap().len() == 2,
        known: &|asked| kept.lock().unwrap().get(asked).cloned(),
        found: &keep,
    };
    assert_eq!(passkeys(&model, &plan, stop), None);
    assert_eq!(kept.lock().unwrap().len(), 2);
    let go_on = Watch {
        stop: &|| false,
        ..stop
    };
    assert_eq!(passkeys(&model, &plan, go_on).unwrap(), whole);
    assert_eq!(kept.lock().unwrap().len(), 7);
    // All is known, and it is time to stop: that stops nothing. Another seed asks for other keys.
    let all = Watch {
        stop: &|| true,
        ..stop
    };
    assert_eq!(passkeys(&model, &plan, all).unwrap(), whole);
    let other = PasskeyPlan { seed: 2, ..plan };
    assert_eq!(passkeys(&model, &other, all), None);
}

/// Asked before every piece of a row, not only before every row.
#[test]
fn a_row_is_stopped_in_the_midst_of_it() {
    let (model, plan) = (model("bam+ssmax"), plan());
    let asked = Mutex::new(0);
    let stop = || {
        *asked.lock().unwrap() += 1;
        false
    };
    let watch = Watch {
        stop: &stop,
        ..Watch::nobody()
    };
    passkeys(&model, &plan, watch).unwrap();
    // Once for each sample, and for each piece of up to 1024 tokens.
    assert_eq!(*asked.lock().unwrap(), 3 * 2 + 4 * 3);
}

fn text() -> String {
    let sentence = |n: usize| format!("Then came rain over the old mill on day {}. ", n * n % 97);
    (0..120).map(sentence).collect()
}

fn read(
    model: &Transformer,
    certified_cache: Option<f64>,
    watch: Watch<WindowRead>,
) -> Option<Perplexity> {
    let text = text();
    let plan = PerplexityPlan {
        title: "rain",
        text: &text,
        length: Some(1500),
        window: 400,
        certified_cache,
    };
    perplexity(model, tokenizer(), &plan, |_, _| (), watch).unwrap()
}

#[test]
fn windows_are_means_over_positions_and_found_as_they_are_read() {
    let model = model("bam+ssmax");
    let kept = Mutex::new(Vec::new());
    let keep = |asked: &str, window: &WindowRead| {
        kept.lock().unwrap().push((asked.to_owned(), *window));
    };
    let watch = Watch {
        found: &keep,
        ..Watch::nobody()
    };
    let whole = read(&model, None, watch).unwrap();
    let ids = tokens_of(tokenizer(), &text()).unwrap();
    let go_on = |_| ControlFlow::Continue(());
    let nats = by_position(&model, tokenizer(), ("rain", &ids), 1500, 1, go_on);
    let nats = nats.unwrap().unwrap();
    let ends: Vec<usize> = whole.windows.iter().map(|window| window.end).collect();
    assert_eq!(ends, [400, 800, 1200, nats.len()]);
    for window in &whole.windows {
        let of = &nats[window.start..window.end];
        assert_eq!(
            window.cross_entropy,
            of.iter().sum::<f64>() / of.len() as f64
        );
    }
    // Stopped after the first piece of 1024 tokens, with the windows that are whole.
    let known = kept.into_inner().unwrap();
    assert_eq!(known.len(), 4);
    let found = Mutex::new(0);
    let count = |_: &str, _: &WindowRead| *found.lock().unwrap() += 1;
    let stop = Watch {
        stop: &|| *found.lock().unwrap() > 0,
        known: &|_| None,
        found: &count,
    };
    assert_eq!(read(&model, None, stop), None);
    assert_eq!(*found.lock().unwrap(), 2);
    // Known to the end nothing is read; known in part all of it is.
    let of = |windows: &[(String, WindowRead)], asked: &str| {
        let mut windows = windows.iter();
        windows
            .find(|(other, _)| other == asked)
            .map(|(_, window)| *window)
    };
    let all = Watch {
        stop: &|| true,
        known: &|asked| of(&known, asked),
        ..Watch::nobody()
    };
    assert_eq!(read(&model, None, all), Some(whole));
    let some = Watch {
        known: &|asked| of(&known[..3], asked),
        ..all
    };
    assert_eq!(read(&model, None, some), None);
}

/// A cache that may forget next to nothing of a row's posterior gives the same figures and keeps fewer
/// keys; one that may forget most of it gives others.
#[test]
fn a_certified_cache_keeps_less_and_finds_the_same() {
    // As training starts: content scores are so small that bounds are close, and what is certified to hold
    // at most nine tenths of a row does hold much of it.
    let device = Device::flex();
    device.seed(4);
    let config = ModelConfig {
        vocabulary: tokenizer().vocabulary_size(),
        ..small("alibi")
    };
    let model = config.init(&device);
    let all = read(&model, None, Watch::nobody()).unwrap();
    assert_eq!(all.certified_cache, None);
    let off = |epsilon: f64| {
        let certified = read(&model, Some(epsilon), Watch::nobody()).unwrap();
        let cache = certified.certified_cache.unwrap();
        assert_eq!((cache.epsilon, cache.kept.len()), (epsilon, 1));
        let kept = cache.kept[0];
        assert!(kept.kept < kept.all, "{kept:?}");
        let pairs = certified.windows.iter().zip(&all.windows);
        let off = pairs.map(|(a, b)| (a.cross_entropy - b.cross_entropy).abs());
        (off.fold(0.0, f64::max), kept.kept)
    };
    let (near, more) = off(1e-7);
    let (far, less) = off(0.9);
    assert!(near < 1e-5, "{near}");
    assert!(far > 1e-4 && less < more, "{far}: {less} of {more}");

    let plan = plan();
    let mut expected = passkeys(&model, &plan, Watch::nobody()).unwrap();
    let certified = PasskeyPlan {
        certified_cache: Some(1e-7),
        ..plan
    };
    let found = passkeys(&model, &certified, Watch::nobody()).unwrap();
    assert_eq!(found.cells, expected.cells);
    expected.certified_cache = found.certified_cache.clone();
    let kept = found.certified_cache.unwrap().kept;
    let lengths: Vec<usize> = kept.iter().map(|of| of.length).collect();
    assert_eq!(lengths, [500, 1400]);
    assert!(
        kept[0].kept < kept[1].kept && kept[1].kept < kept[1].all,
        "{kept:?}"
    );
}
