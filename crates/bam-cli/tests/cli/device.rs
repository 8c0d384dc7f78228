//! Devices: named, listed, checked, and from text to a report on one. `BAM_TEST_DEVICE` names it, such as
//! `wgpu`; without it the processor takes its place.

use crate::program::{FAILED, MISUSED, Running, args, fail, succeed, succeed_json};
use crate::workshop::Workshop;
use serde_json::Value;
use std::path::Path;

fn test_device() -> String {
    std::env::var("BAM_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned())
}

/// The names that `bam devices` lists.
fn listed() -> Vec<String> {
    let devices = succeed_json(&args!["devices --json"]);
    let name = |device: &Value| device["name"].as_str().unwrap().to_owned();
    devices.as_array().unwrap().iter().map(name).collect()
}

#[test]
fn devices_are_listed_and_checked() {
    assert!(listed().contains(&"cpu".to_owned()));
    let device = test_device();
    let checked = succeed_json(&args!["devices --check --json --device {}", device]);
    let of = &checked[0];
    assert!(
        of["float_types"]
            .as_array()
            .unwrap()
            .contains(&"f32".into()),
        "{of}"
    );
    let checks = of["checks"].as_array().unwrap();
    assert!(
        checks.len() == 8 && checks.iter().all(|check| check["passes"] == true),
        "{of}"
    );
    let text = succeed(&args!["devices --check --device cpu"]);
    assert!(
        text.contains("a loop of 100,000 steps") && !text.contains("WRONG"),
        "{text}"
    );
}

#[test]
fn a_device_that_can_not_be_used_is_named() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let message = fail(MISUSED, &args!["doctor {} --device gpu", model]);
    assert!(message.contains("expected cpu, auto, cuda"), "{message}");
    let there = listed();
    for runtime in ["cuda", "metal", "rocm", "vulkan", "wgpu"] {
        let missing = format!("{runtime}:99");
        let message = fail(FAILED, &args!["doctor {} --device {}", model, missing]);
        assert!(message.contains(&format!("device {runtime}")), "{message}");
        if there.iter().all(|name| !name.starts_with(runtime)) {
            shop.refuses(
                &shop.train("run", &[&format!("train.device={runtime}")]),
                &[runtime],
            );
        }
    }
    // There is always one that `auto` is.
    succeed(&args!["doctor {} --device auto", model]);
}

/// A device's whole name.
fn name_of(device: &str) -> String {
    match device.contains(':') {
        true => device.to_owned(),
        false => format!("{device}:0"),
    }
}

/// Every step's numbers.
fn numbers(run: &Path) -> Vec<f64> {
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = metrics.lines().flat_map(|line| {
        let step: Value = serde_json::from_str(line).unwrap();
        ["loss", "gradient_norm", "validation_loss"].map(|name| step[name].as_f64())
    });
    lines.flatten().collect()
}

fn assert_close(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (a, b) in got.iter().zip(expected) {
        assert!((a - b).abs() <= 1e-3 * b.abs().max(1.0), "{a} and {b}");
    }
}

/// Forty steps on the device, killed in the middle and gone on with on the processor; then perplexity and a
/// report, all as on the processor.
#[test]
fn from_text_to_a_report() {
    let shop = Workshop::new();
    let settings = ["train.steps=40", "model.layers=1"];
    succeed(&shop.train("host", &settings));
    let (host, run, device) = (shop.path("host"), shop.path("run"), test_device());
    let words = [shop.train("run", &settings), args!["--device {}", device]].concat();
    let mut running = Running::start(words);
    running.until_lines(&run.join("metrics.jsonl"), 7);
    running.kill();
    succeed(&args!["train --resume --out {} --device cpu", run]);
    assert_eq!(numbers(&host).len(), 40 * 2 + 4);
    assert_close(&numbers(&run), &numbers(&host));
    // The folder says where it was begun; a checkpoint does not.
    let recipe = std::fs::read_to_string(run.join("recipe.toml")).unwrap();
    assert_eq!(recipe.contains("device = "), device != "cpu", "{recipe}");

    let text = shop.path("corpus/one.txt");
    let perplexity = |device: &str| {
        let words = args![
            "eval perplexity {} {} --length 64 --window 32 --json --device {}",
            host,
            text,
            device
        ];
        let record = succeed_json(&words);
        let elsewhere = (device != "cpu").then(|| name_of(device));
        assert_eq!(record["device"].as_str(), elsewhere.as_deref());
        let windows = record["metrics"]["windows"].as_array().unwrap().clone();
        let values = windows
            .iter()
            .map(|window| window["cross_entropy"].as_f64().unwrap());
        values.collect::<Vec<f64>>()
    };
    assert_close(&perplexity(&device), &perplexity("cpu"));
    let page = shop.path("report.html");
    succeed(&args!["report {} --out {}", host, page]);
    assert!(
        std::fs::read_to_string(page)
            .unwrap()
            .contains("perplexity")
    );
}
