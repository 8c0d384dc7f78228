//! Help, completions, and readers that go away.

use crate::program::{MISUSED, args, assert_no_panic, command, fail, succeed};
use crate::reference::cases_dir;
use crate::workshop::Workshop;
use std::ffi::OsString;
use std::process::{Output, Stdio};

const COMMANDS: [&str; 24] = [
    "",
    "quickstart",
    "tokenizer",
    "tokenizer train",
    "prepare",
    "train",
    "eval",
    "eval passkey",
    "eval perplexity",
    "eval loglikelihood",
    "eval ruler",
    "eval babilong",
    "generate",
    "inspect",
    "inspect heads",
    "inspect context",
    "inspect text",
    "doctor",
    "report",
    "import",
    "import reference",
    "logits",
    "parity",
    "completions",
];

#[test]
fn every_command_explains_itself() {
    for name in COMMANDS {
        let mut words: Vec<OsString> = name.split_whitespace().map(OsString::from).collect();
        words.push("--help".into());
        let help = succeed(&words);
        assert!(help.contains("Usage: bam"), "{name}: {help}");
    }
    assert!(succeed(&args!["--version"]).starts_with("bam "));
}

#[test]
fn completions_for_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let script = succeed(&args!["completions {}", shell]);
        assert!(script.contains("quickstart"), "{shell}");
    }
}

#[test]
fn misuse_is_told_apart_from_failure() {
    for (words, named) in [
        (
            args!["quickstart --encodings bam+ssmax,nonsense"],
            "nonsense",
        ),
        (args!["quickstart --all --encodings alibi"], "--all"),
        (
            args!["quickstart --encodings bam,alibi,bam"],
            "expected each once, got bam twice",
        ),
        (args!["quickstart --steps 0"], "--steps"),
        (args!["quickstart --stepz 3"], "--stepz"),
        (args!["eval passkey model --lengths 0x"], "0x"),
        (args!["eval passkey model --lengths 1x,-3"], "-3"),
        (args!["eval passkey model --given 2"], "--given"),
        (args!["eval passkey model --samples 0"], "--samples"),
        (args!["eval passkey model --patience 0"], "--patience"),
        (
            args!["eval passkey model --skip 2"],
            "expected off, exact, or a number above 0 and below 1, got 2",
        ),
        (args!["generate model --skip all"], "got all"),
        (
            args!["generate model --certified-cache 1"],
            "expected a number above 0 and below 1, got 1",
        ),
        (args!["inspect model"], "model"),
        (args!["inspect heads model --rows 3"], "--text"),
        (args!["inspect heads model --text t --rows 0"], "--rows"),
        (args!["inspect context model --length 12K"], "got 12K"),
        (
            args!["inspect context model --epsilon 0"],
            "above 0 and below 1",
        ),
        (args!["inspect text model file --color red"], "red"),
        (args!["doctor model --length 0"], "got 0"),
        (args!["train --out run"], "<RECIPE>"),
        (
            args!["train --resume --out run --set train.steps=3"],
            "<RECIPE>",
        ),
        (
            args!["logits model --tokens t --out o --attention x"],
            "--attention",
        ),
        (args!["report"], "<RUNS>"),
        (args!["nonsense"], "nonsense"),
        (args![""], "Usage"),
    ] {
        let message = fail(MISUSED, &words);
        assert!(message.contains(named), "{words:?}: {message}");
    }
}

/// `bam … | head -1`, where `head` has gone before the first line.
fn into_a_closed_pipe(words: &[OsString]) -> Output {
    let mut child = command(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    child.wait_with_output().unwrap()
}

#[test]
fn a_reader_that_went_away_is_no_panic() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let case = cases_dir().join("bam_layer");
    let out = shop.path("logits.safetensors");
    let text = shop.path("corpus").join("one.txt");
    let imported = shop.path("imported");
    succeed(&args!["import reference {} {}", case, imported]);
    for words in [
        args!["inspect heads {}", model],
        args!["inspect heads {} --json", model],
        args!["inspect context {}", model],
        args!["inspect text {} {}", model, text],
        args!["doctor {}", model],
        args!["generate {} --prompt the --tokens 5", model],
        args!["parity {}", case],
        args!["parity {} --json", case],
        args!["completions bash"],
        args![
            "logits {} --tokens {} --out {}",
            imported,
            case.join("io.safetensors"),
            out
        ],
    ] {
        let output = into_a_closed_pipe(&words);
        assert_no_panic(&output, &words);
        assert!(output.status.success(), "{words:?}: {output:?}");
    }
}
