//! `upcycle`: the priors of a trained model learn on, and nothing else changes.

use crate::program::{INTERRUPTED, MISUSED, Running, args, fail, succeed, succeed_json};
use crate::tensors::{self, Tensors};
use crate::workshop::{Workshop, text};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// A workshop with an ALiBi model of two layers, and a text.
fn shop(encoding: &str) -> (Workshop, PathBuf) {
    let shop = Workshop::new();
    let encoding = format!("model.encoding={encoding}");
    succeed(&shop.train("alibi", &["train.steps=20", &encoding]));
    let data = shop.path("data.txt");
    fs::write(&data, text(3)).unwrap();
    (shop, data)
}

fn upcycle(shop: &Workshop, data: &Path, out: &str, more: &[&str]) -> Vec<OsString> {
    let mut words = args![
        "upcycle {} --data {} --out {}",
        shop.path("alibi"),
        data,
        shop.path(out)
    ];
    for (flag, usual) in [
        ("--length", "40"),
        ("--rows", "4"),
        ("--lengths", "1x,2x"),
        ("--samples", "2"),
        ("--checkpoint-every", "5"),
    ] {
        if !more.contains(&flag) {
            words.extend(args!["{} {}", flag, usual]);
        }
    }
    words.extend(crate::program::words(more));
    words
}

fn weights(dir: &Path) -> Tensors {
    tensors::read(&dir.join("model.safetensors"))
}

fn learned(name: &str) -> bool {
    name.contains("prior.") || name.ends_with("seq_scale")
}

#[test]
fn only_priors_and_temperatures_change() {
    let (shop, data) = shop("alibi");
    let (before, out) = (weights(&shop.path("alibi")), shop.path("out"));
    let mut words = upcycle(&shop, &data, "out", &["--steps", "12", "--ssmax"]);
    words.extend(args!["--json"]);
    // What belongs to the model stays with it.
    fs::write(shop.path("alibi/chat_template.jinja"), "{{ messages }}").unwrap();
    let record = succeed_json(&words);
    for dir in [&out, &out.join("start")] {
        let template = fs::read_to_string(dir.join("chat_template.jinja"));
        assert_eq!(template.unwrap(), "{{ messages }}");
        let tokenizer = |dir: &Path| fs::read(dir.join("tokenizer.json")).unwrap();
        assert_eq!(tokenizer(dir), tokenizer(&shop.path("alibi")));
    }
    let after = weights(&out);
    let mut learning = 0;
    for (name, tensor) in &after {
        match before.get(name) {
            Some(before) => assert!(tensor == before, "{name} changed"),
            None => {
                assert!(learned(name), "{name}");
                let start = &weights(&out.join("start"))[name];
                assert!(tensor != start, "{name} did not learn");
                learning += 1;
            }
        }
    }
    // Location, scale and shape in both layers, the temperature in the second.
    assert_eq!(learning, 7);
    assert_eq!(before.len() + 7, after.len());
    // No optimizer state for what does not learn.
    let moments = tensors::read(&out.join("checkpoint-00000012/optimizer.safetensors"));
    assert_eq!(moments.len(), 14);
    assert!(moments.keys().all(|name| learned(name)));
    let metrics = &record["metrics"];
    assert_eq!(metrics["before"], "alibi");
    assert_eq!(record["name"], "bam+ssmax");
    assert_eq!(metrics["learned"], 14);
    let at = metrics["at"].as_array().unwrap();
    assert_eq!(at.len(), 2);
    for at in at {
        for when in ["before", "start", "after"] {
            let nats = at[when].as_f64().unwrap();
            assert!((2.0..7.0).contains(&nats), "{at}");
        }
        assert_ne!(
            at["before"], at["start"],
            "the temperature does nothing: {at}"
        );
    }
    // The prompt of a passkey does not fit into two training lengths of 32.
    assert!(at.iter().all(|at| at["passkey"].is_null()));
    let written: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("upcycle.json")).unwrap()).unwrap();
    assert_eq!(written, record);
    succeed(&args![
        "generate {} --prompt {} --tokens 3",
        out,
        "the river"
    ]);
    succeed(&args!["report {} --out {}", out, shop.path("report.html")]);
    let config = fs::read_to_string(out.join("config.json")).unwrap();
    assert!(config.contains("\"train_length\": 40"), "{config}");
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let [event] = config["history"].as_array().unwrap().as_slice() else {
        panic!("{config}");
    };
    assert_eq!(event["what"], "upcycle");
    assert_eq!(event["arguments"]["ssmax"], "both");
    assert_eq!(event["from"].as_str().unwrap().len(), 64);
}

/// Without scalable softmax it starts as the model that it was; what learns makes the text more probable.
#[test]
fn it_starts_where_the_model_was() {
    let (shop, data) = shop("alibi");
    let words = upcycle(
        &shop,
        &data,
        "out",
        &["--steps", "30", "--samples", "0", "--rate", "0.05"],
    );
    let table = succeed(&words);
    assert!(table.contains("alibi → bam: 12 of "), "{table}");
    let record = fs::read(shop.path("out/upcycle.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    for at in record["metrics"]["at"].as_array().unwrap() {
        let nats = |when: &str| at[when].as_f64().unwrap();
        assert!((nats("before") - nats("start")).abs() < 1e-5, "{at}");
        assert!((nats("before") - nats("after")).abs() > 1e-5, "{at}");
    }
    let losses = fs::read_to_string(shop.path("out/metrics.jsonl")).unwrap();
    assert_eq!(losses.lines().count(), 30);
}

#[test]
fn interrupted_runs_go_on_to_the_same_bits() {
    let (shop, data) = shop("alibi");
    let more = ["--steps", "60", "--samples", "0"];
    succeed(&upcycle(&shop, &data, "whole", &more));
    let cut = shop.path("cut");
    let mut running = Running::start(upcycle(&shop, &data, "cut", &more));
    running.until_lines(&cut.join("metrics.jsonl"), 8);
    assert_eq!(running.interrupt(), Some(INTERRUPTED));
    assert!(!cut.join("upcycle.json").exists());
    let resume = args!["upcycle --resume --out {}", cut];
    succeed(&resume);
    assert!(weights(&cut) == weights(&shop.path("whole")));
    let at = |dir: &str| {
        let record = fs::read(shop.path(dir).join("upcycle.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        record["metrics"]["at"].clone()
    };
    assert_eq!(at("cut"), at("whole"));
    // What is finished stays as it is.
    succeed(&resume);
    assert!(weights(&cut) == weights(&shop.path("whole")));
    let mut words = resume;
    words.extend(args!["--steps 9"]);
    fail(MISUSED, &words);
}

/// Tokens that were prepared, another family, and the same by a recipe.
#[test]
fn other_ways_there() {
    let (shop, data) = shop("alibi");
    let tokens = shop.path("tokens");
    let more = [
        "--steps",
        "3",
        "--samples",
        "0",
        "--family",
        "laplace",
        "--held-out",
        data.to_str().unwrap(),
    ];
    let table = succeed(&upcycle(&shop, &tokens, "laplace", &more));
    assert!(table.contains("alibi → laplace: 4 of "), "{table}");
    assert!(!shop.path("laplace/tokens").exists());
    let more = ["--steps", "3", "--samples", "0", "--family", "same"];
    shop.refuses(&upcycle(&shop, &data, "out", &more), &["priors that learn"]);
    let start = shop.path("laplace");
    let start = format!("model.start={:?}", start.to_str().unwrap());
    let settings = [
        &start,
        "model.encoding=laplace",
        "train.learn=[\"prior\"]",
        "train.length=40",
        "train.steps=4",
    ];
    succeed(&shop.train("recipe", &settings));
    let (before, after) = (
        weights(&shop.path("laplace")),
        weights(&shop.path("recipe")),
    );
    for (name, tensor) in &after {
        assert_eq!(*tensor != before[name], learned(name), "{name}");
    }
    for (setting, named) in [
        ("train.learn=[]", &["at least one of"][..]),
        ("train.learn=[\"priors\"]", &["priors"]),
        ("train.learn=[\"ssmax\"]", &["train.learn"]),
        (
            "model.heads=4",
            &[
                "the recipe's model, num_attention_heads = 4",
                "num_attention_heads = 2",
            ],
        ),
        (
            "model.design.final_norm=false",
            &[
                "the recipe's model",
                "design.final_norm = false",
                "design.final_norm as by default",
            ],
        ),
        ("model.design.last_norm=false", &["last_norm"]),
        ("model.start=\"nowhere\"", &["nowhere"]),
    ] {
        let settings = [&start, "model.encoding=laplace", setting];
        shop.refuses(&shop.train("wrong", &settings), named);
    }
}

#[test]
fn what_can_not_go_on_is_refused() {
    let (shop, data) = shop("rotary");
    shop.refuses(
        &upcycle(&shop, &data, "out", &[]),
        &["positions are priors", "rotary"],
    );
    let (shop, data) = self::shop("alibi");
    for (more, named) in [
        (
            &["--lengths", "100000"][..],
            &["--lengths", "tokens of the last tenth"][..],
        ),
        (&["--length", "9000000"], &["tokens"]),
        (&["--ssmax", "--ssmax-from", "2"], &["below 2"]),
    ] {
        shop.refuses(&upcycle(&shop, &data, "out", more), named);
    }
    shop.refuses(
        &upcycle(&shop, &shop.path("corpus"), "out", &[]),
        &["--held-out"],
    );
    shop.refuses(
        &upcycle(&shop, &shop.path("nowhere.txt"), "out", &[]),
        &["nowhere.txt"],
    );
    shop.refuses(
        &upcycle(&shop, &data, "alibi", &[]),
        &["expected a new folder"],
    );
    shop.refuses(
        &args!["upcycle --resume --out {}", shop.path("out")],
        &["recipe.toml"],
    );
}
