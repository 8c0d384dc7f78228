//! Runs that are killed or interrupted go on to the same bits.

use crate::program::{FAILED, INTERRUPTED, Running, args, fail, succeed};
use crate::tensors;
use crate::workshop::Workshop;
use std::path::Path;

const STEPS: usize = 120;
const SETTINGS: [&str; 2] = ["train.steps=120", "train.checkpoint_every=5"];

/// The part that must be the same: every loss as it is written, the validation losses among them, and the
/// final weights.
pub struct Trace {
    losses: Vec<String>,
    weights: tensors::Tensors,
}

impl Trace {
    pub fn of(run: &Path) -> Self {
        let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let losses = metrics.lines().enumerate().map(|(index, line)| {
            let step: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(step["step"], index + 1);
            format!(
                "{} {}",
                text_of("loss", line),
                text_of("validation_loss", line)
            )
        });
        Self {
            losses: losses.collect(),
            weights: tensors::read(&run.join("model.safetensors")),
        }
    }

    /// Says where the first difference is; the whole of both would be pages.
    pub fn assert_same(&self, other: &Self) {
        assert_eq!(self.losses.len(), other.losses.len());
        for (index, (ours, theirs)) in self.losses.iter().zip(&other.losses).enumerate() {
            assert_eq!(ours, theirs, "loss of step {}", index + 1);
        }
        assert!(self.weights.keys().eq(other.weights.keys()));
        for (name, tensor) in &self.weights {
            assert!(*tensor == other.weights[name], "{name} differs");
        }
    }
}

/// A field's number as it stands in the line: equal texts are equal bits.
fn text_of<'a>(field: &str, line: &'a str) -> &'a str {
    let name = format!("\"{field}\":");
    let after = line.find(&name).map_or("", |at| &line[at + name.len()..]);
    &after[..after.find([',', '}']).unwrap_or(0)]
}

pub fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A record but for some fields, wherever they stand.
pub fn json_without(path: &Path, names: &[&str]) -> serde_json::Value {
    fn forget(value: &mut serde_json::Value, names: &[&str]) {
        match value {
            serde_json::Value::Object(fields) => {
                fields.retain(|name, _| !names.contains(&name.as_str()));
                fields.values_mut().for_each(|value| forget(value, names));
            }
            serde_json::Value::Array(items) => {
                items.iter_mut().for_each(|item| forget(item, names));
            }
            _ => {}
        }
    }
    let mut record = json(path);
    forget(&mut record, names);
    record
}

/// A record without the times and the threads of its making.
pub fn record(path: &Path) -> serde_json::Value {
    json_without(path, &["created", "seconds", "threads"])
}

fn resume(run: &Path) {
    succeed(&args!["train --resume --out {}", run]);
}

#[test]
fn runs_in_bf16_resume_to_the_same_bits() {
    let shop = Workshop::new();
    let settings = [&SETTINGS[..], &["train.products=bf16"]].concat();
    succeed(&shop.train("whole", &settings));
    let whole = Trace::of(&shop.path("whole"));
    let killed = shop.path("killed");
    let mut running = Running::start(shop.train("killed", &settings));
    running.until_lines(&killed.join("metrics.jsonl"), 23);
    running.kill();
    resume(&killed);
    Trace::of(&killed).assert_same(&whole);
    succeed(&shop.train("exact", &SETTINGS));
    assert_ne!(Trace::of(&shop.path("exact")).losses, whole.losses);
}

#[test]
fn killed_runs_resume_to_the_same_bits() {
    let shop = Workshop::new();
    succeed(&shop.train("whole", &SETTINGS));
    let whole = Trace::of(&shop.path("whole"));
    assert_eq!(whole.losses.len(), STEPS);
    assert_ne!(whole.losses[0], whole.losses[1]);

    let once = shop.path("once");
    let mut running = Running::start(shop.train("once", &SETTINGS));
    running.until_lines(&once.join("metrics.jsonl"), 23);
    running.kill();
    assert!(!once.join("model.safetensors").exists());
    resume(&once);
    Trace::of(&once).assert_same(&whole);

    let twice = shop.path("twice");
    let mut running = Running::start(shop.train("twice", &SETTINGS));
    // Before the first checkpoint, or right after it.
    running.until_lines(&twice.join("metrics.jsonl"), 2);
    running.kill();
    // A kill can leave half a line; make sure that there is one.
    let metrics = twice.join("metrics.jsonl");
    let mut text = std::fs::read_to_string(&metrics).unwrap();
    text += "{\"step\":9,\"lo";
    std::fs::write(&metrics, text).unwrap();
    // Or part of a checkpoint.
    let part = twice.join(".checkpoint-00000007.12345.tmp");
    std::fs::create_dir(&part).unwrap();
    std::fs::write(part.join("config.json"), "{").unwrap();
    let mut again = args!["train --resume --out {}", twice];
    // Another number of threads is no other run.
    again.extend(args!["--threads 1"]);
    let mut running = Running::start(again);
    running.until_lines(&metrics, 61);
    running.kill();
    assert!(!part.exists());
    resume(&twice);
    Trace::of(&twice).assert_same(&whole);

    // What is finished stays as it is.
    resume(&twice);
    Trace::of(&twice).assert_same(&whole);

    // Null control: the comparison tells runs apart.
    let mut other_seed = SETTINGS.to_vec();
    other_seed.push("train.seed=1");
    succeed(&shop.train("other", &other_seed));
    let other = Trace::of(&shop.path("other"));
    assert!(other.losses != whole.losses);
    assert!(other.weights != whole.weights);
}

#[test]
fn interrupted_runs_leave_a_checkpoint() {
    let shop = Workshop::new();
    // No checkpoint is due before the end: the one that is there is the interruption's.
    let settings = ["train.steps=120", "train.checkpoint_every=1000"];
    succeed(&shop.train("whole", &settings));
    let run = shop.path("interrupted");
    let mut running = Running::start(shop.train("interrupted", &settings));
    running.until_lines(&run.join("metrics.jsonl"), 10);
    assert_eq!(running.interrupt(), Some(INTERRUPTED));
    let lines = std::fs::read_to_string(run.join("metrics.jsonl"))
        .unwrap()
        .lines()
        .count();
    assert!((11..STEPS).contains(&lines), "{lines}");
    let state = run.join(format!("checkpoint-{lines:08}/state.json"));
    assert_eq!(json(&state)["step"], lines);
    resume(&run);
    Trace::of(&run).assert_same(&Trace::of(&shop.path("whole")));
}

/// A run that goes on keeps its recipe: another one is refused, the same one is fine.
#[test]
fn resuming_is_no_place_for_another_recipe() {
    let shop = Workshop::new();
    let mut words = shop.train("run", &["train.steps=3"]);
    succeed(&words);
    words.extend(args!["--resume"]);
    succeed(&words);
    let mut other = shop.train("run", &["train.steps=4"]);
    other.extend(args!["--resume"]);
    let message = fail(FAILED, &other);
    let named = "begun with, train.steps = 3; got train.steps = 4";
    assert!(message.contains(named), "{message}");
}

/// A half-written line does not hide the rest.
#[test]
fn reports_show_runs_that_were_killed() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let metrics = model.join("metrics.jsonl");
    let text = std::fs::read_to_string(&metrics).unwrap() + "{\"step\":3,\"to";
    std::fs::write(&metrics, text).unwrap();
    succeed(&args![
        "report {} --out {}",
        model,
        shop.path("report.html")
    ]);
}
