//! Devices: named, listed, checked, and from text to a report on one. `BAM_TEST_DEVICE` names it, such as
//! `wgpu`; without it the processor takes its place.

use crate::program::{FAILED, MISUSED, Running, args, command, fail, succeed, succeed_json};
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
        checks.len() == 9 && checks.iter().all(|check| check["passes"] == true),
        "{of}"
    );
    assert!(of["attention"]["f32"].is_string(), "{of}");
    let json = succeed(&args!["devices --json --device cpu"]);
    assert_eq!(json.matches("\"name\"").count(), 1, "{json}");
    let cpu: Value = serde_json::from_str(&json).unwrap();
    assert!(cpu[0]["memory"].as_u64().unwrap() > 1 << 28, "{cpu}");
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
                &[runtime, "--device names another"],
            );
        }
    }
    // There is always one that `auto` is.
    succeed(&args!["doctor {} --device auto", model]);
}

/// Without a Vulkan driver wgpu takes OpenGL's, which has too few buffers for going back.
#[test]
fn a_driver_with_too_few_buffers_is_refused_before_any_work() {
    if !test_device().starts_with("wgpu") {
        return;
    }
    let shop = Workshop::new();
    let without_vulkan = |words: &[std::ffi::OsString]| {
        let mut command = command(words);
        let output = command
            .env("VK_DRIVER_FILES", "/nonexistent")
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (code, listed, _) = without_vulkan(&args!["devices --json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    for device in listed.as_array().unwrap() {
        let error = device["error"].as_str();
        assert!(
            device["name"] == "cpu" || error.unwrap().contains("buffers"),
            "{device}"
        );
    }
    assert_eq!(code, Some(0));
    let words = [shop.train("run", &[]), args!["--device wgpu"]].concat();
    let (code, _, said) = without_vulkan(&words);
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("wgpu"), "{said}");
    assert!(!shop.path("run").exists());
}

#[test]
fn a_recipe_that_the_device_can_not_do_leaves_nothing() {
    let (shop, device) = (Workshop::new(), test_device());
    let wide = ["model.dim=320", "model.heads=1"];
    let words = [shop.train("run", &wide), args!["--device {}", device]].concat();
    if device == "cpu" {
        succeed(&[shop.train("run", &[&wide[..], &["train.steps=1"]].concat())].concat());
    } else {
        let named = ["model.dim over model.heads", &device, "at most 256"];
        shop.refuses(&words, &named);
        shop.refuses(&[words.clone(), args!["--plan"]].concat(), &named);
    }
}

/// A device's whole name.
fn name_of(device: &str) -> String {
    match device == "cpu" || device.contains(':') {
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

/// Forty steps on the device, stopped in the middle and gone on with on the processor; then perplexity and a
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
    // The way on is that device's.
    let (code, said) = running.interrupt_and_listen();
    let hint = format!("--out {} --device {}", run.display(), name_of(&device));
    assert!(code == Some(130) && said.contains(&hint), "{said}");
    let named = said.contains(&format!("training on {}", name_of(&device)));
    assert_eq!(named, device != "cpu", "{said}");
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
        assert_eq!(record["device"], name_of(device));
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
