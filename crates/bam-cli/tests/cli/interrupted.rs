//! Evaluations at Ctrl-C: what was found is kept, and the same command goes on to the same figures.

use crate::evaluations::facts;
use crate::program::{INTERRUPTED, Running, args, run, succeed, tree};
use crate::resume::{json, json_without};
use crate::workshop::{Workshop, passkeys};
use serde_json::Value;
use std::ffi::OsString;
use std::path::Path;

/// Everything but when it was and how long it took.
fn figures(record: &Path) -> Value {
    json_without(record, &["created", "seconds"])
}

/// Stops a command in the midst of it, whose record goes to `out`, and gives it again; it must come to the
/// same figures as without. What it said when it was stopped, and the file that it had left.
fn stopped_and_given_again(shop: &Workshop, line: &[OsString]) -> (String, String) {
    let to = |name: &str| [line, &args!["--out {}", shop.path(name)]].concat();
    let kept = shop.path("out.unfinished.jsonl");
    let before = tree(shop.dir());
    // On a busy machine a command may be done before it hears of Ctrl-C.
    let stopped = (0..ATTEMPTS).find_map(|_| {
        let mut running = Running::start(to("out.json"));
        let in_time = running.comes_to_lines(&kept, 2);
        let ended = in_time.then(|| running.interrupt_and_listen());
        let stopped = ended.filter(|(code, _)| *code != Some(0));
        if stopped.is_none() {
            std::fs::remove_file(shop.path("out.json")).expect("it was done");
        }
        stopped
    });
    let (code, said) = stopped.expect("a command in whose midst there is time for Ctrl-C");
    assert_eq!(code, Some(INTERRUPTED), "{said}");
    let left = std::fs::read_to_string(&kept).unwrap();
    let mut after = tree(shop.dir());
    after.retain(|path| *path != kept);
    assert_eq!(
        after, before,
        "a part of a record can't be mistaken for one"
    );
    let told = format!(
        "stopped; {} results kept in {}",
        left.lines().count(),
        kept.display()
    );
    assert!(said.contains(&told), "{said}");

    // The end of a line that was being written when the machine went off is no harm.
    std::fs::write(&kept, format!("{left}{{\"run\": \"")).unwrap();
    let again = run(&to("out.json"));
    assert!(again.status.success(), "{again:?}");
    let took_up = format!(
        "{} results from a run that was stopped",
        left.lines().count()
    );
    let errors = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(errors.contains(&took_up), "{errors}");
    assert!(!kept.exists(), "all is done");
    succeed(&to("whole.json"));
    assert_eq!(
        figures(&shop.path("out.json")),
        figures(&shop.path("whole.json"))
    );
    (said, left)
}

/// Attempts at stopping a command in its midst.
const ATTEMPTS: usize = 20;

const GOES_ON: &str = "the same command goes on from there";

#[test]
fn passkeys_go_on() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let line = passkeys(&model, "300");
    // Sevenths, which are no short numbers: a depth that is read back is still the same cell's.
    let line = [line, args!["--depth-count 8"]].concat();
    let (said, left) = stopped_and_given_again(&shop, &line);
    assert!(said.contains(GOES_ON), "{said}");

    // Only what was asked of this model in this way is taken up: null control.
    let kept = shop.path("other.unfinished.jsonl");
    std::fs::write(&kept, left).unwrap();
    let small = passkeys(&model, "2");
    let out = args!["--out {}", shop.path("other.json")];
    let other = run(&[small, args!["--skip off"], out].concat());
    let errors = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(errors.contains("is not used"), "{errors}");
}

#[test]
fn answers_and_likelihoods_go_on() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let ruler = args![
        "eval ruler {} --tasks niah_single_1,fwe --lengths 1k --samples 40",
        model
    ];
    let babilong = args![
        "eval babilong {} --facts {} --tasks qa1 --lengths 16k,32k --haystack {}",
        model,
        facts(&shop),
        shop.path("corpus").join("one.txt")
    ];
    let requests = shop.path("requests.jsonl");
    let request = |n: usize| {
        let context = "the quiet town ".repeat(30);
        format!(
            "{{\"context\": \"{context}{n}\", \"continuations\": [\" river\", \" birds\"], \"label\": 1}}\n"
        )
    };
    std::fs::write(&requests, (0..600).map(request).collect::<String>()).unwrap();
    let loglikelihood = args!["eval loglikelihood {} --requests {}", model, requests];
    for line in [ruler, babilong, loglikelihood] {
        let (said, _) = stopped_and_given_again(&shop, &line);
        assert!(said.contains(GOES_ON), "{said}");
    }
}

#[test]
fn documents_are_begun_anew() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let document = shop.path("corpus").join("one.txt");
    let text = std::fs::read_to_string(&document).unwrap().repeat(6);
    std::fs::write(&document, text).unwrap();
    let line = args!["eval perplexity {} {} --window 512", model, document];
    let (said, left) = stopped_and_given_again(&shop, &line);
    assert!(said.contains("begins it anew"), "{said}");
    // What was read is what the record says of it.
    let windows = json(&shop.path("out.json"))["metrics"]["windows"].clone();
    for (line, window) in left.lines().zip(windows.as_array().unwrap()) {
        let found = serde_json::from_str::<Value>(line).unwrap()["found"].clone();
        assert_eq!(found["end"], window["end"]);
        let nats: f64 = found["cross_entropy"].as_str().unwrap().parse().unwrap();
        assert!((nats - window["cross_entropy"].as_f64().unwrap()).abs() < 1e-12);
    }
}

/// A second Ctrl-C does not wait for anything: here for priors over millions of lags.
#[test]
fn the_second_ends_it_at_once() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let line = args![
        "eval passkey {} --lengths 4M --samples 1 --certified-cache 0.1",
        model
    ];
    let at_once = (0..ATTEMPTS).any(|_| {
        let mut running = Running::start(line.clone());
        running.until_says("passkey: 0 of 1");
        running.press_interrupt();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let (code, said) = running.interrupt_and_listen();
        assert_eq!(code, Some(INTERRUPTED));
        // On a busy machine it may have come to where the first is heard.
        !said.contains("stopped")
    });
    assert!(at_once);
}

/// Ctrl-C before anything is found: nothing is left behind, not even the folders that were made for files.
#[test]
fn stopped_before_there_is_a_result_nothing_is_left() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let (saved, lm) = (
        shop.path("saved"),
        format!("lm-eval:{}", shop.path("lm").display()),
    );
    let before = tree(shop.dir());
    let line = args![
        "eval ruler {} --tasks niah_single_1 --lengths 64k --samples 500",
        model
    ];
    let running =
        Running::start([line, args!["--save-samples {} --export {}", saved, lm]].concat());
    let start = std::time::Instant::now();
    while !shop.path("lm").exists() {
        assert!(start.elapsed().as_secs() < 60, "it makes its folders first");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let (code, said) = running.interrupt_and_listen();
    assert_eq!(code, Some(INTERRUPTED));
    assert!(said.contains("stopped before there was a result"), "{said}");
    assert_eq!(tree(shop.dir()), before);
}
