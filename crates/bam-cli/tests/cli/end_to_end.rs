//! From text to a report, command by command.

use crate::program::{args, succeed, succeed_json};
use crate::workshop::{PROMPT_LENGTH, Workshop, passkeys, text};

#[test]
fn text_becomes_a_report() {
    let shop = Workshop::new();
    let run = shop.path("run");
    succeed(&shop.train("run", &["train.steps=6", "model.encoding=\"bam+ssmax\""]));
    for file in [
        "recipe.toml",
        "tokenizer.json",
        "config.json",
        "model.safetensors",
        "metrics.jsonl",
        "metrics.csv",
        "checkpoint-00000006/state.json",
    ] {
        assert!(run.join(file).is_file(), "{file}");
    }
    assert_eq!(
        std::fs::read_to_string(run.join("metrics.csv"))
            .unwrap()
            .lines()
            .count(),
        7
    );

    let passkey = succeed_json(&[passkeys(&run, "4"), args!["--depth-count 2 --json"]].concat());
    assert_eq!(passkey["name"], "bam+ssmax");
    let cells = passkey["metrics"]["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 2);
    for (cell, depth) in cells.iter().zip([0.0, 1.0]) {
        assert_eq!(cell["length"].to_string(), PROMPT_LENGTH);
        assert_eq!(
            (&cell["depth"], &cell["samples"]),
            (&depth.into(), &2.into())
        );
    }
    assert_eq!(crate::resume::json(&run.join("passkey.json")), passkey);
    assert_eq!(passkey["metrics"]["skipping"], "exact");

    // The same answers however keys are skipped, and a line a head of what was.
    for skip in ["off", "1e-3"] {
        let out = shop.path("skipping.json");
        let words = [
            passkeys(&run, "4"),
            args!["--depth-count 2 --skip {} --out {}", skip, out],
        ]
        .concat();
        let text = succeed(&words);
        assert!(text.contains("Keys left unread"), "{text}");
        let record = crate::resume::json(&out);
        assert_eq!(record["metrics"]["skipping"], skip);
        let heads = record["metrics"]["heads"].as_array().unwrap();
        assert!(
            heads
                .iter()
                .all(|head| head["visible_tiles"].as_u64() > Some(0))
        );
        let right = |record: &serde_json::Value| -> Vec<serde_json::Value> {
            let cells = record["metrics"]["cells"].as_array().unwrap();
            cells
                .iter()
                .map(|cell| cell["correct_digits"].clone())
                .collect()
        };
        assert_eq!(right(&record), right(&passkey));
    }

    std::fs::write(shop.path("Held out.txt"), text(7)).unwrap();
    let perplexity = succeed_json(&args![
        "eval perplexity {} {} --length 100 --window 40 --json",
        run,
        shop.path("Held out.txt")
    ]);
    assert_eq!(perplexity["metrics"]["document"], "Held out");
    let windows = perplexity["metrics"]["windows"].as_array().unwrap();
    assert_eq!(
        windows
            .iter()
            .map(|w| w["end"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [40, 80, 100]
    );
    let nats = windows[0]["cross_entropy"].as_f64().unwrap();
    assert!((1.0..7.0).contains(&nats), "{nats}");
    assert_eq!(
        crate::resume::json(&run.join("perplexity.json")),
        perplexity
    );

    let page = shop.path("report.html");
    succeed(&args!["report {} --out {}", run, page]);
    let html = std::fs::read_to_string(page).unwrap();
    assert!(html.contains("bam+ssmax") && html.contains("<svg"));
    assert_asks_for_nothing(&html);
}

/// The page loads nothing: no source, link target or style from elsewhere.
pub fn assert_asks_for_nothing(html: &str) {
    for request in [
        "src=\"http",
        "src='http",
        "src=\"//",
        "<link",
        "@import",
        "url(http",
        "fetch(",
    ] {
        assert!(!html.contains(request), "{request}");
    }
    for (at, _) in html.match_indices("href=\"") {
        let target = &html[at + 6..];
        assert!(
            !target.starts_with("http"),
            "{}",
            &target[..40.min(target.len())]
        );
    }
}

#[test]
fn a_seed_decides_the_text() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let generate = |seed: &str, temperature: &str| {
        succeed(&args![
            "generate {} --prompt {} --tokens 30 --temperature {} --top-p 1 --seed {}",
            model,
            "the river",
            temperature,
            seed
        ])
    };
    let text = generate("1", "1");
    assert!(text.starts_with("the river") && text.len() > 20, "{text:?}");
    assert_eq!(generate("1", "1"), text);
    assert_ne!(generate("2", "1"), text);
    // The most probable tokens need no seed.
    assert_eq!(generate("1", "0"), generate("2", "0"));
    let narrowed = succeed(&args![
        "generate {} --prompt {} --tokens 30 --temperature 1 --top-k 1",
        model,
        "the river"
    ]);
    assert_eq!(narrowed, generate("1", "0"));
}

/// Other digits given, other depths, token by token: the answers of one model do not depend on how
/// they are read off.
#[test]
fn greedy_finds_what_teacher_forcing_finds() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let correct = |more: &[&str]| {
        let mut words = [
            passkeys(&model, "5"),
            args![
                "--depths random --given 0 --json --out {}",
                shop.path("passkey.json")
            ],
        ]
        .concat();
        words.extend(crate::program::words(more));
        let record = succeed_json(&words);
        assert_eq!(record["metrics"]["given_digits"], 0);
        let cells = record["metrics"]["cells"].as_array().unwrap().clone();
        cells
            .iter()
            .map(|cell| cell["correct"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(correct(&["--greedy"]), correct(&[]));
    assert!(
        !model.join("passkey.json").exists(),
        "--out names another place"
    );
}
