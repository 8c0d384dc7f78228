//! lm-eval's `results_<time>.json` and `samples_<task>_<time>.jsonl`.
//!
//! Keys and their meaning are those of its `result_schema.py`, 0.4.13. What lm-eval would say of itself is
//! `null`: this was another program.

pub mod samples;

use super::run::{Run, folder_name};
use crate::babilong::prompt::BUDGET;
use crate::ruler::task::Task;
use bam_record::{Babilong, Loglikelihood, Record, Ruler, RulerCell};
use samples::arguments;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Digests of tasks' samples, by lm-eval's names.
pub type TaskHashes = BTreeMap<String, String>;

/// One task's part of the file.
struct Scores {
    name: String,
    /// Names with their filter, `acc,none`, values, and whether higher is better.
    metrics: Vec<(String, Value, Option<bool>)>,
    samples: usize,
    config: Value,
}

/// RULER's results: a metric for each length, named by its tokens, from 0 to 1; −1 where there is none.
pub fn ruler(record: &Record<Ruler>, run: &Run, hashes: &TaskHashes) -> Value {
    let cells = &record.metrics.cells;
    let lengths: BTreeSet<usize> = cells.iter().map(|cell| cell.length).collect();
    let tasks = Task::ALL.into_iter().filter_map(|task| {
        let of: Vec<&RulerCell> = cells
            .iter()
            .filter(|cell| cell.task == task.name())
            .collect();
        let (last, name) = (of.last()?, task.lm_eval_name().to_owned());
        let mut metrics = Vec::new();
        for length in &lengths {
            let cell = of.iter().find(|cell| cell.length == *length);
            let score = cell.and_then(|cell| cell.score);
            let mean = score.map_or(-1.0, |(mean, _)| mean);
            metrics.push((format!("{length},none"), json!(mean), Some(true)));
            let error = score.map_or(json!("N/A"), |(_, error)| json!(error));
            metrics.push((format!("{length}_stderr,none"), error, None));
        }
        Some(Scores {
            metrics,
            samples: of.iter().map(|cell| cell.answers.len()).sum(),
            config: generation(&name, task.budget(), &last.task),
            name,
        })
    });
    let tasks: Vec<Scores> = tasks.collect();
    let mut group = Map::new();
    group.insert("name".into(), "ruler".into());
    group.insert("alias".into(), "ruler".into());
    for length in &lengths {
        let key = format!("{length},none");
        let values = tasks.iter().flat_map(|task| &task.metrics);
        let values = values.filter(|(name, _, _)| *name == key);
        let values: Vec<f64> = values.filter_map(|(_, value, _)| value.as_f64()).collect();
        // A mean over fewer tasks would be another figure.
        let mean = match values.contains(&-1.0) {
            true => -1.0,
            false => values.iter().sum::<f64>() / values.len().max(1) as f64,
        };
        group.insert(key, json!(mean));
        group.insert(format!("{length}_stderr,none"), json!("N/A"));
    }
    file(record, run, tasks, hashes, Some(("ruler", group)))
}

/// Log-likelihood tasks: `acc`, `acc_norm` of several continuations, `perplexity` of single ones.
pub fn loglikelihood(record: &Record<Loglikelihood>, run: &Run, hashes: &TaskHashes) -> Value {
    let tasks = record.metrics.tasks.iter().map(|task| {
        let mut metrics = Vec::new();
        let mut add = |name: &str, value: f64, error: Option<f64>, better: bool| {
            metrics.push((format!("{name},none"), json!(value), Some(better)));
            let error = error.map_or(json!("N/A"), |error| json!(error));
            metrics.push((format!("{name}_stderr,none"), error, None));
        };
        add("acc", task.accuracy.0, Some(task.accuracy.1), true);
        if let Some((mean, error)) = task.accuracy_per_character {
            add("acc_norm", mean, Some(error), true);
        }
        if let Some(perplexity) = task.perplexity {
            add("perplexity", perplexity, None, false);
        }
        add("bits_per_byte", task.bits_per_byte, None, false);
        let kind = match task.accuracy_per_character {
            Some(_) => "multiple_choice",
            None => "loglikelihood",
        };
        Scores {
            name: task.task.clone(),
            metrics,
            samples: task.questions,
            config: json!({"task": task.task, "output_type": kind, "num_fewshot": 0}),
        }
    });
    file(record, run, tasks.collect(), hashes, None)
}

/// BABILong's results of one length: lm-eval takes one at a time.
pub fn babilong(record: &Record<Babilong>, label: &str, run: &Run, hashes: &TaskHashes) -> Value {
    let cells = record
        .metrics
        .cells
        .iter()
        .filter(|cell| cell.label == label);
    let tasks: Vec<Scores> = cells
        .map(|cell| {
            let asked = cell.answers.len();
            let n = asked as f64;
            let mean = cell.correct as f64 / n;
            // √(p(1 − p) / (n − 1)), as for any mean.
            let error = (mean * (1.0 - mean) / (n - 1.0).max(1.0)).sqrt();
            let [mean, error] = match asked {
                0 => [json!(-1.0), json!("N/A")],
                _ => [json!(mean), json!(error)],
            };
            let name = format!("babilong_{}", cell.task);
            let mut config = generation(&name, BUDGET, &cell.task);
            config["metadata"]["max_seq_lengths"] = label.into();
            Scores {
                metrics: vec![
                    ("acc,none".into(), mean, Some(true)),
                    ("acc_stderr,none".into(), error, None),
                ],
                samples: asked,
                config,
                name,
            }
        })
        .collect();
    let scored = tasks.iter().filter(|task| task.samples > 0);
    let weighted = scored.map(|task| {
        let mean = task.metrics[0].1.as_f64().unwrap_or(0.0);
        (mean * task.samples as f64, task.samples)
    });
    let (right, asked) = weighted.fold((0.0, 0), |(a, b), (c, d)| (a + c, b + d));
    let mean = match asked {
        0 => -1.0,
        asked => right / asked as f64,
    };
    let mut group = Map::new();
    group.insert("name".into(), "babilong".into());
    group.insert("alias".into(), "babilong".into());
    group.insert("acc,none".into(), json!(mean));
    group.insert("acc_stderr,none".into(), json!("N/A"));
    file(record, run, tasks, hashes, Some(("babilong", group)))
}

fn generation(name: &str, budget: usize, alias: &str) -> Value {
    json!({
        "task": name,
        "task_alias": alias,
        "output_type": "generate_until",
        "generation_kwargs": arguments(budget),
        "num_fewshot": 0,
        "metadata": {},
    })
}

/// The file, with `group` for the mean over its tasks.
fn file<M>(
    record: &Record<M>,
    run: &Run,
    tasks: Vec<Scores>,
    hashes: &TaskHashes,
    group: Option<(&str, Map<String, Value>)>,
) -> Value {
    let mut sections: [Map<String, Value>; 6] = std::array::from_fn(|_| Map::new());
    let [results, configs, versions, shots, better, counts] = &mut sections;
    let mut subtasks = Map::new();
    for task in &tasks {
        let mut result = Map::new();
        result.insert("name".into(), task.name.as_str().into());
        result.insert("alias".into(), task.name.as_str().into());
        result.insert("sample_len".into(), task.samples.into());
        let mut directions = Map::new();
        for (name, value, higher) in &task.metrics {
            result.insert(name.clone(), value.clone());
            let short = name.split(',').next().unwrap_or_default();
            if let Some(higher) = higher {
                directions.insert(short.to_owned(), (*higher).into());
            }
        }
        results.insert(task.name.clone(), result.into());
        configs.insert(task.name.clone(), task.config.clone());
        versions.insert(task.name.clone(), Value::Null);
        shots.insert(task.name.clone(), 0.into());
        better.insert(task.name.clone(), directions.into());
        let count = json!({"original": task.samples, "effective": task.samples});
        counts.insert(task.name.clone(), count);
        subtasks.insert(task.name.clone(), json!([]));
    }
    let mut groups = Map::new();
    if let Some((name, group)) = group {
        let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
        subtasks.insert(name.into(), names.into());
        results.insert(name.into(), group.clone().into());
        groups.insert(name.into(), group.into());
    }
    let commit = record
        .commit
        .split_once(" (")
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    let [results, configs, versions, shots, better, counts] = sections;
    json!({
        "results": results,
        "groups": groups,
        "group_subtasks": subtasks,
        "configs": configs,
        "versions": versions,
        "n-shot": shots,
        "higher_is_better": better,
        "n-samples": counts,
        "config": {
            "model": "bam",
            "model_args": {"pretrained": run.folder, "encoding": record.name},
            "batch_size": 1,
            "device": "cpu",
            "limit": null,
            "bootstrap_iters": 0,
            "gen_kwargs": {},
            "random_seed": record.seed,
        },
        "git_hash": commit,
        "date": run.began.seconds,
        "bam_version": record.commit,
        "lm_eval_version": null,
        "transformers_version": null,
        "max_length": null,
        "task_hashes": hashes,
        "model_source": "bam",
        "model_name": run.folder,
        "model_name_sanitized": folder_name(run.folder),
        "system_instruction": null,
        "system_instruction_sha": null,
        "fewshot_as_multiturn": null,
        "chat_template": null,
        "chat_template_sha": null,
        "total_evaluation_time_seconds": record.seconds.to_string(),
    })
}
