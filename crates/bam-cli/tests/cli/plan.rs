//! `bam train --plan`: counts, memory against what a run takes, time, and a plan that leaves nothing behind.

use crate::program::{FAILED, MISUSED, Running, args, command, fail, succeed, succeed_json, tree};
use crate::workshop::{VOCABULARY, Workshop};
use serde_json::Value;
use std::ffi::OsString;
use std::path::Path;

/// `bam train --plan` of the workshop's recipe with these values, and more words.
fn plan(shop: &Workshop, settings: &[&str], more: &str) -> Vec<OsString> {
    [shop.train("none", settings), args![more]].concat()
}

#[test]
fn the_plan_of_the_papers_model() {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/fineweb-120m.toml");
    let words = |more: &str| {
        let base = args!["train {} --plan --vocabulary 32768 --threads 1", recipe];
        [base, args![more]].concat()
    };
    let of = succeed_json(&words("--memory 80 --tflops 100 --json"));
    let [embeddings, layer] = [32_768 * 768, 4 * 768 * 768 + 3 * 768 * 1536];
    let priors = 12 * 16 * 3;
    let parameters = 2 * embeddings + 12 * (layer + 2 * 768) + 768 + priors + 12 * 16;
    assert_eq!(of["parameters"], parameters);
    assert_eq!(of["learned"], parameters - 12 * 16, "locations stay");
    assert_eq!(of["step_tokens"], 589_824);
    assert_eq!(of["tokens"], 20_000_u64 * 589_824);
    let pairs = 1152.0 * 512.0 * 513.0 / 2.0;
    let flops = 6.0 * f64::from(embeddings + 12 * layer) * 589_824.0 + 12.0 * 12.0 * 768.0 * pairs;
    assert_eq!(of["step_flops"], flops);
    let seconds = of["time"]["step_seconds"].as_f64().unwrap();
    assert!((seconds - flops / 1e14).abs() < 1e-9);
    // As the recipe says.
    let total = |memory: &Value| memory["total"].as_u64().unwrap();
    assert!(total(&of["memory"]) < 16_000_000_000, "{}", of["memory"]);
    let fits = |memory: &&Value| total(memory) <= 80 << 30;
    let by_parts = of["by_parts"].as_array().unwrap();
    assert_eq!(
        of["fewest_parts"],
        by_parts.iter().find(fits).unwrap()["parts"]
    );

    let text = succeed(&words("--memory 80 --tflops 100"));
    for said in ["121,130,496", "589,824 tokens", "train.parts=", "as given"] {
        assert!(text.contains(said), "{text}");
    }
    let text = succeed(&words("--memory 1"));
    assert!(text.contains("too small for any train.parts"), "{text}");
}

#[test]
fn a_plan_is_made_and_nothing_else() {
    let shop = Workshop::new();
    let before = tree(shop.dir());
    let of = succeed_json(&plan(
        &shop,
        &["train.products=bf16"],
        "--plan --measure --json",
    ));
    assert!(of["time"]["step_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(of["step_tokens"], 4 * 32);
    assert!(of["device_memory"].as_u64().unwrap() > 1 << 28);
    assert!(of["fewest_parts"].as_u64().is_some());
    let vocabulary = VOCABULARY.to_string();
    let recipe = shop.path("recipe.toml");
    let again = args!["train {} --plan --vocabulary {} --json", recipe, vocabulary];
    assert_eq!(succeed_json(&again)["parameters"], of["parameters"]);
    // For a device of another machine, whose memory is given.
    let elsewhere = succeed_json(&plan(
        &shop,
        &["train.device=cuda:99"],
        "--plan --memory 80 --json",
    ));
    assert_eq!(elsewhere["device_memory"], 80_u64 << 30);
    let refused = [
        (
            vec!["train.attention=reference"],
            "train.attention: expected fused",
        ),
        (vec!["train.parts=3"], "equal parts"),
        (
            vec!["train.steps=9223372036854775807"],
            "train.steps: expected",
        ),
        (vec!["model.heads=5"], "heads"),
    ];
    for (settings, named) in refused {
        shop.refuses(&plan(&shop, &settings, "--plan"), &[named]);
    }
    shop.refuses(&plan(&shop, &["train.device=cuda:99"], "--plan"), &["cuda"]);
    assert_eq!(tree(shop.dir()), before);
    for more in [
        "--tflops 1",
        "--measure",
        "--json",
        "--memory 1",
        "--plan --tflops 0",
        "--plan --memory nan",
        "--plan --measure --tflops 1",
        "--plan --resume",
        "--plan --vocabulary 9",
    ] {
        fail(MISUSED, &plan(&shop, &[], more));
    }
    fail(MISUSED, &args!["train {} --plan", recipe]);
    fail(MISUSED, &args!["train --plan --vocabulary 9"]);
    fail(MISUSED, &args!["train {} --plan --vocabulary 0", recipe]);
    fail(
        FAILED,
        &args!["train {} --plan --vocabulary 99999999", recipe],
    );
    assert_eq!(tree(shop.dir()), before);
}

/// The peak of a run in one part beside that of one in eight: the program itself is in both.
#[cfg(target_os = "linux")]
#[test]
fn the_memory_of_a_run_is_the_plans() {
    let shop = Workshop::new();
    for (products, encoding) in [
        ("f32", "bam+ssmax"),
        ("bf16", "bam+ssmax"),
        ("f32", "fox+bam+adaptive"),
        ("bf16", "fox+bam+adaptive"),
    ] {
        let name = format!("run-{products}-{encoding}");
        let products = format!("train.products={products}");
        let encoding = format!("model.encoding={encoding}");
        let [most, least] = ["1", "8"].map(|parts| {
            let name = format!("{name}-{parts}");
            let parts = format!("train.parts={parts}");
            let settings = [
                products.as_str(),
                encoding.as_str(),
                parts.as_str(),
                "train.rows=32",
                "train.length=128",
                "train.validate_every=9",
                "model.dim=128",
                "model.layers=4",
            ];
            let planned = succeed_json(&plan(&shop, &settings, "--plan --threads 1 --json"));
            let planned = planned["memory"]["total"].as_f64().unwrap();
            let words = [shop.train(&name, &settings), args!["--threads 1"]].concat();
            // Memory that was let go of is not kept for a while, whose length would be in the peak.
            let mut command = command(&words);
            command.env("MIMALLOC_PURGE_DELAY", "0");
            let mut running = Running::of(command, words);
            running.until_lines(&shop.path(&name).join("metrics.jsonl"), 2);
            let got = running.peak_memory();
            running.kill();
            (planned, got)
        });
        let (planned, got) = (most.0 - least.0, most.1 - least.1);
        assert!(
            0.9 * got <= planned && planned <= 1.2 * got,
            "{products}, {encoding}: {planned} {got}"
        );
    }
}
