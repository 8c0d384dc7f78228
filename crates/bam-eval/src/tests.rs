//! The runner, and evaluations that read through a cache: what they know already, where they stop, what a
//! cache may forget.

use super::evaluation::{Context, Evaluation, Found, Stop, Subject, Work, evaluate};
use super::journal::Journal;
use super::passkey::{Depths, LengthPlan, PasskeyEvaluation, PasskeyPlan};
use super::perplexity::{PerplexityEvaluation, PerplexityPlan, WindowRead, by_position, tokens_of};
use super::ruler::testing::tokenizer;
use super::stopping::Stopping;
use bam_attention::Skipping;
use bam_lm::Error;
use bam_lm::model::{ModelConfig, Transformer};
use bam_lm::testing::{lively, small};
use bam_record::{Passkey, Perplexity};
use burn::tensor::Device;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;

/// Two cells of numbers whose squares are found; the second has none where the first one's sum is odd.
struct Squares {
    cells: [Vec<i32>; 2],
    worked: Mutex<Vec<i32>>,
    /// Given up while at work.
    too_hard: i32,
}

impl Evaluation for Squares {
    type Cell = Vec<i32>;
    type Set = Vec<i32>;
    type Ready = ();
    type Finding = i32;
    type Score = i32;
    type Metrics = Vec<i32>;

    const NAME: &'static str = "squares";

    fn settings(&self) -> Value {
        json!({})
    }

    fn grid(&self) -> Vec<Vec<i32>> {
        self.cells.to_vec()
    }

    fn steps(&self, cell: &Vec<i32>) -> u64 {
        cell.len() as u64
    }

    fn set(&self, cell: &Vec<i32>, before: &[i32], _: Stop) -> Found<Vec<i32>> {
        let begun = before.iter().all(|sum| sum % 2 == 0);
        Ok(Some(if begun { cell.clone() } else { Vec::new() }))
    }

    fn names(&self, set: &Vec<i32>) -> Vec<String> {
        set.iter().map(i32::to_string).collect()
    }

    fn prepare(&self, set: &Vec<i32>) -> Result<(), Error> {
        assert!(!set.is_empty(), "only where there is something to find");
        Ok(())
    }

    fn find(&self, set: &Vec<i32>, (): &(), at: usize, _: &Work) -> Found<i32> {
        self.worked.lock().unwrap().push(set[at]);
        Ok((set[at] != self.too_hard).then_some(set[at] * set[at]))
    }

    fn message(&self, set: &Vec<i32>, latest: Option<&i32>) -> String {
        format!("{latest:?} of {}", set.len())
    }

    fn score(&self, _: &Vec<i32>, squares: Vec<i32>, _: f64) -> i32 {
        squares.iter().sum()
    }

    fn record(&self, scores: Vec<i32>) -> Result<Vec<i32>, Error> {
        Ok(scores)
    }
}

fn journal(path: &Path) -> Journal {
    Journal::open(path.to_owned(), "run".into(), 0.0).unwrap()
}

/// The lines of a journal.
fn entries(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

#[test]
fn what_is_known_is_not_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("squares.jsonl");
    let told = Mutex::new(Vec::new());
    let run = |cells: [&[i32]; 2], too_hard: i32, stop: Stop| {
        let squares = Squares {
            cells: cells.map(<[i32]>::to_vec),
            worked: Mutex::default(),
            too_hard,
        };
        let progress = |done, of, message: &str| {
            told.lock().unwrap().push(format!("{done}/{of} {message}"));
        };
        let context = Context {
            stop,
            progress: &progress,
            ..Context::default()
        };
        let found = evaluate(&squares, &context, Some(&journal(&path)), |_, _| Ok(()));
        let metrics = found.unwrap().map(|(metrics, _)| metrics);
        (metrics, squares.worked.into_inner().unwrap())
    };
    let on = || false;
    // Given up while at work, and stopped before: what was found until then is kept.
    assert_eq!(run([&[2, 4], &[5]], 4, &on), (None, vec![2, 4]));
    let kept = || entries(&path).len() == 2;
    assert_eq!(run([&[4, 2], &[6]], 0, &kept), (None, vec![4]));
    assert_eq!(
        *told.lock().unwrap(),
        [
            "0/3 ",
            "1/3 Some(4) of 2",
            "0/3 ",
            "1/3 Some(4) of 2",
            "2/3 Some(16) of 2"
        ]
    );
    // Other cells in another order take it up. A stop that comes when all is known stops nothing.
    let whole = (Some(vec![20, 25]), vec![5]);
    assert_eq!(run([&[4, 2], &[5]], 0, &on), whole);
    assert_eq!(run([&[2, 4], &[5]], 0, &|| true), (whole.0, vec![]));
    // A cell may be left out for the scores before it; what is not made is done too.
    told.lock().unwrap().clear();
    assert_eq!(run([&[5], &[7, 9]], 0, &on), (Some(vec![25, 0]), vec![]));
    assert_eq!(
        *told.lock().unwrap(),
        ["0/3 ", "1/3 Some(25) of 1", "3/3 None of 0"]
    );
}

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
        after: None,
    };
    PasskeyPlan {
        lengths: vec![at(500, 3), at(1400, 4)],
        given_digits: 1,
        greedy: false,
        patience: None,
        stopping: None,
        seed: 1,
        skipping: Skipping::Exact,
        certified_cache: None,
    }
}

fn of<'a>(model: &'a Transformer) -> Subject<'a> {
    Subject {
        model,
        tokenizer: tokenizer(),
    }
}

fn passkeys(
    model: &Transformer,
    plan: &PasskeyPlan,
    context: &Context,
    journal: Option<&Journal>,
) -> Option<Passkey> {
    let evaluation = PasskeyEvaluation::new(of(model), plan).unwrap();
    let found = evaluate(&evaluation, context, journal, |_, _| Ok(())).unwrap();
    found.map(|(passkey, _)| passkey)
}

/// Stopped after two samples and given again it comes to the same, and asks the model for the rest only.
#[test]
fn passkeys_that_are_known_are_not_read_again() {
    let (model, plan) = (model("bam+ssmax"), plan());
    let go_on = Context::default();
    let whole = passkeys(&model, &plan, &go_on, None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passkey.jsonl");
    let again = |plan: &PasskeyPlan, stop: Stop| {
        let context = Context { stop, ..go_on };
        passkeys(&model, plan, &context, Some(&journal(&path)))
    };
    assert_eq!(again(&plan, &|| entries(&path).len() == 2), None);
    assert_eq!(entries(&path).len(), 2);
    assert_eq!(again(&plan, &|| false).unwrap(), whole);
    let mut asked: Vec<String> = entries(&path)
        .iter()
        .map(|of| of["asked"].to_string())
        .collect();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!((asked.len(), entries(&path).len()), (7, 7));
    // All is known, and it is time to stop: that stops nothing. Another seed asks for other keys.
    assert_eq!(again(&plan, &|| true).unwrap(), whole);
    assert_eq!(again(&PasskeyPlan { seed: 2, ..plan }, &|| true), None);
}

/// A share of 0 is always reached, any other never by a model that finds nothing.
#[test]
fn a_length_waits_for_the_one_before() {
    let model = model("bam+ssmax");
    for (least, cells) in [(Some(0.0), 6), (Some(0.01), 3), (None, 6)] {
        let mut plan = plan();
        plan.lengths[1].after = least;
        let found = passkeys(&model, &plan, &Context::default(), None).unwrap();
        assert_eq!(found.cells.len(), cells, "{least:?}");
        let reasons: Vec<_> = found
            .not_run
            .iter()
            .map(|of| (of.length, &*of.reason))
            .collect();
        let expected = (
            1400,
            "0 of 3 right at 500 tokens, and 0.01 of them were wanted",
        );
        assert_eq!(reasons, if cells == 3 { vec![expected] } else { vec![] });
    }
}

/// A model that is always wrong is asked until that is decided, and its samples are the first of those of a plan without the
/// test, also where it is stopped in between.
#[test]
fn a_sequential_test_ends_the_samples_of_a_length() {
    let (model, plain) = (model("bam+ssmax"), plan());
    let with = |samples, stopping| {
        let mut plan = plain.clone();
        plan.lengths.iter_mut().for_each(|at| at.samples = samples);
        PasskeyPlan { stopping, ..plan }
    };
    let go_on = Context::default();
    let tested = with(25, Some(Stopping::new(&[0.5], 5).unwrap()));
    let found = passkeys(&model, &tested, &go_on, None).unwrap();
    let first = passkeys(&model, &with(10, None), &go_on, None).unwrap();
    assert_eq!(found.cells, first.cells);
    let decided: Vec<_> = found
        .decided
        .iter()
        .map(|of| (of.samples, of.planned))
        .collect();
    assert_eq!(decided, [(10, 25), (10, 25)]);
    assert!(first.decided.is_empty(), "the null control");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passkey.jsonl");
    for kept in [3, 13] {
        let stop: Stop = &|| entries(&path).len() == kept;
        let context = Context { stop, ..go_on };
        assert_eq!(
            passkeys(&model, &tested, &context, Some(&journal(&path))),
            None
        );
    }
    let again = passkeys(&model, &tested, &go_on, Some(&journal(&path)));
    assert_eq!((again.unwrap(), entries(&path).len()), (found, 20));
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
    let context = Context {
        stop: &stop,
        ..Context::default()
    };
    passkeys(&model, &plan, &context, None).unwrap();
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
    context: &Context,
    journal: Option<&Journal>,
) -> Option<Perplexity> {
    let text = text();
    let plan = PerplexityPlan {
        title: "rain",
        text: &text,
        length: Some(1500),
        window: 400,
        certified_cache,
    };
    let evaluation = PerplexityEvaluation::new(of(model), plan).unwrap();
    let found = evaluate(&evaluation, context, journal, |_, _| Ok(())).unwrap();
    found.map(|(perplexity, _)| perplexity)
}

#[test]
fn windows_are_means_over_positions_and_found_as_they_are_read() {
    let model = model("bam+ssmax");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let told = Mutex::new(Vec::new());
    let progress = |done, of, _: &str| told.lock().unwrap().push((done, of));
    let context = Context {
        progress: &progress,
        ..Context::default()
    };
    let whole = read(&model, None, &context, Some(&journal(&path("whole")))).unwrap();
    let ids = tokens_of(tokenizer(), &text()).unwrap();
    let go_on = |_| ControlFlow::Continue(());
    let nats = by_position(&model, tokenizer(), ("rain", &ids), 1500, 1, go_on);
    let nats = nats.unwrap().unwrap();
    let ends: Vec<usize> = whole.windows.iter().map(|window| window.end).collect();
    assert_eq!(ends, [400, 800, 1200, nats.len()]);
    let all = nats.len() as u64;
    assert_eq!(*told.lock().unwrap(), [(0, all), (1024, all), (all, all)]);
    for window in &whole.windows {
        let of = &nats[window.start..window.end];
        assert_eq!(
            window.cross_entropy,
            of.iter().sum::<f64>() / of.len() as f64
        );
    }
    // Stopped after the first piece of 1024 tokens, with the windows that are whole.
    let kept = entries(&path("whole"));
    assert_eq!(kept.len(), 4);
    let again = |name: &str, stop: Stop| {
        let context = Context {
            stop,
            ..Context::default()
        };
        read(&model, None, &context, Some(&journal(&path(name))))
    };
    let stopped = path("stopped");
    assert_eq!(again("stopped", &|| !entries(&stopped).is_empty()), None);
    let found = entries(&stopped);
    assert_eq!(found.len(), 2);
    let window: WindowRead = serde_json::from_value(found[1]["found"].clone()).unwrap();
    assert_eq!((window.start, window.end), (400, 800));
    // Known to the end nothing is read; known in part all of it is.
    assert_eq!(again("whole", &|| true).as_ref(), Some(&whole));
    let lines: Vec<String> = kept[..3].iter().map(Value::to_string).collect();
    std::fs::write(path("some"), lines.join("\n")).unwrap();
    assert_eq!(again("some", &|| true), None);
    assert_eq!(again("some", &|| false), Some(whole));
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
    let nobody = Context::default();
    let all = read(&model, None, &nobody, None).unwrap();
    assert_eq!(all.certified_cache, None);
    let off = |epsilon: f64| {
        let certified = read(&model, Some(epsilon), &nobody, None).unwrap();
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
    let mut expected = passkeys(&model, &plan, &nobody, None).unwrap();
    let certified = PasskeyPlan {
        certified_cache: Some(1e-7),
        ..plan
    };
    let found = passkeys(&model, &certified, &nobody, None).unwrap();
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
