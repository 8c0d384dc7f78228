//! A device and the processor compute the same, and runs move between them. `BAM_TEST_DEVICE` names the
//! device, such as `wgpu`; without it the processor takes its place. Few shapes: each costs a device seconds.

use bam_attention::Implementation::Fused;
use bam_attention::Skipping;
use bam_attention::testing::test_device;
use bam_data::{Document, TokenStore, Tokenizer, TokenizerConfig};
use bam_lm::device::self_test::self_test;
use bam_lm::device::{cpu, is_cpu};
use bam_lm::engine::generate::{Generator, Sampling};
use bam_lm::interop::parity::{Comparison, compare};
use bam_lm::interop::reference::Case;
use bam_lm::model::{Transformer, host_values};
use bam_lm::testing::{lively, small};
use bam_lm::train::{Outcome, Recipe, RunFolder, Trainer, Workers};
use burn::tensor::Device;
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// Between two orders of summation in `f32`, of numbers of some units after some steps.
const ROUNDING: f64 = 1e-4;

fn assert_close(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (index, (a, b)) in got.iter().zip(expected).enumerate() {
        assert!(
            (a - b).abs() <= ROUNDING * b.abs().max(1.0),
            "{index}: {a} and {b}"
        );
    }
}

#[test]
fn known_answers() {
    for check in self_test(&test_device()).unwrap() {
        assert!(check.passes(), "{check:?}");
    }
}

fn comparisons(case: &str) -> Vec<Comparison> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let case = Case::open(&fixtures.join(case)).unwrap();
    let device = test_device();
    compare(&case, Fused, &device).unwrap()
}

/// Logits, loss and every gradient of the reference program.
#[test]
fn the_references_gradients() {
    let all = comparisons("bam_ssmax_layer_prior-scaled");
    let wrong = all.iter().find(|of| !of.passes());
    assert!(wrong.is_none(), "{wrong:?}");
}

/// Forty steps of it: every loss, and the weights at the end.
#[test]
fn the_reference_trajectory() {
    let mut all = comparisons("training_bam_ssmax");
    if !is_cpu(&test_device()) {
        // Locations start at 0, where the prior has a kink and `exp(θ) − exp(−θ)` is what is left of rounding:
        // the last bit of a device's `exp` decides the sign of their first gradients.
        all.retain(|of| !of.what.ends_with("prior.loc"));
    }
    assert!(all.len() > 40);
    let wrong = all.iter().find(|of| !of.passes());
    assert!(wrong.is_none(), "{wrong:?}");
}

#[test]
fn decoding_equals_the_processors() {
    assert_decoding("bam+ssmax");
    assert_decoding("fox+bam");
}

/// Prompts, one at a time and several at once, and what is generated after them.
fn assert_decoding(encoding: &str) {
    let device = test_device();
    let [host, other] = [cpu(), device.clone()].map(|d| lively(small(encoding), 7, &d));
    let prompt: Vec<i32> = (0..12).map(|i| i * 7 % 31).collect();
    let logits = |model: &Transformer| -> Vec<f64> {
        let mut caches = [0, 1].map(|_| model.cache(1, 16).unwrap());
        let mut all = Vec::new();
        for cache in &mut caches {
            all.extend(model.prefill_to_logits(&prompt, cache).unwrap());
        }
        let mut both: Vec<_> = caches.iter_mut().collect();
        all.extend(host_values(model.decode_step(&[3, 4], &mut both).unwrap()));
        all.into_iter().map(f64::from).collect()
    };
    assert_close(&logits(&other), &logits(&host));
    let greedy = Sampling {
        temperature: 0.0,
        ..Sampling::default()
    };
    let text = |model: &Transformer| -> Vec<i32> {
        let generator = Generator::new(model, &prompt, 4, greedy, Skipping::Exact).unwrap();
        generator.map(Result::unwrap).collect()
    };
    assert_eq!(text(&other), text(&host));

    if is_cpu(&device) {
        return;
    }
    // Neither a cache nor priors of one device serve a model on the other.
    let mut cache = host.cache(1, 16).unwrap();
    let error = other.prefill_to_logits(&prompt, &mut cache).unwrap_err();
    assert!(error.to_string().starts_with("cache: expected"), "{error}");
    let priors = host.priors(16).unwrap();
    let error = other.cache_with(1, 16, &priors, None).unwrap_err();
    assert!(error.to_string().starts_with("priors: expected"), "{error}");
}

const RECIPE: &str = r#"
    [model]
    encoding = "ENCODING"
    dim = 16
    layers = 1
    heads = 2
    [data]
    tokens = "in memory"
    [train]
    length = 16
    rows = 4
    parts = 2
    steps = 12
    learning_rate = 1e-2
    validate_every = 6
    validation_rows = 4
"#;

/// A run that stops after step 6 on the first device and goes on from its checkpoint on the second.
fn losses(encoding: &str, devices: [&Device; 2]) -> Vec<f64> {
    let words = "the river bends around a quiet town where lanterns burn until morning ".repeat(40);
    let document = Document {
        text: words.clone(),
        origin: "a test".into(),
    };
    let config = TokenizerConfig {
        vocabulary: 270,
        ..TokenizerConfig::default()
    };
    let tokenizer = Tokenizer::train(std::iter::once(Ok(document)), &config, |_| ()).unwrap();
    let tokens = vec![tokenizer.encode(&words).unwrap()];
    let store = TokenStore::in_memory(tokenizer.identity(), &tokens, words.len() as u64);
    let (tokenizer, store) = (Arc::new(tokenizer), Arc::new(store.unwrap()));
    let recipe = RECIPE.replace("ENCODING", encoding);
    let recipe = Recipe::from_toml(&recipe, &[], Path::new("recipe.toml")).unwrap();
    let dir = TempDir::new().unwrap();
    let folder = RunFolder::create(dir.path(), &recipe, &tokenizer).unwrap();
    for (device, outcome) in devices
        .into_iter()
        .zip([Outcome::Stopped, Outcome::Finished])
    {
        let mut trainer = Trainer::new(
            recipe.clone(),
            tokenizer.clone(),
            store.clone(),
            Some(store.clone()),
            &Workers::alone(device, 1),
        )
        .unwrap();
        folder.restore(&mut trainer).unwrap();
        let step = Cell::new(trainer.step());
        let stop = || outcome == Outcome::Stopped && step.get() == 6;
        let ended = folder.train(&mut trainer, || 0.0, stop, |line| step.set(line.step));
        assert_eq!(ended.unwrap(), outcome);
        let state = std::fs::read_to_string(dir.path().join("recipe.toml")).unwrap();
        assert!(!state.contains("device"), "{state}");
    }
    let lines = folder.metrics().unwrap();
    assert_eq!(lines.len(), 12);
    let numbers = lines.iter().flat_map(|line| {
        [
            Some(line.loss),
            Some(line.gradient_norm),
            line.validation_loss,
        ]
    });
    numbers.flatten().collect()
}

#[test]
fn runs_move_between_devices() {
    let (host, other) = (cpu(), test_device());
    for encoding in ["bam+ssmax", "fox"] {
        let expected = losses(encoding, [&host, &host]);
        assert!(expected[0] > expected[expected.len() - 3], "it learns");
        assert_close(&losses(encoding, [&other, &host]), &expected);
        assert_close(&losses(encoding, [&host, &other]), &expected);
    }
}
