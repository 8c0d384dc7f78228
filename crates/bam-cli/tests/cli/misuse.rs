//! Command lines that make no sense, and places that can't be written: known before anything is read.

use crate::program::{FAILED, MISUSED, args, fail, tree};
use crate::workshop::Workshop;

/// None of these models and files exists, and yet it is the option that is named.
#[test]
fn options_outside_their_range_are_named() {
    for (line, option) in [
        ("generate m --top-p 0", "--top-p"),
        ("generate m --top-p 1.5", "--top-p"),
        ("generate m --top-k 0", "--top-k"),
        ("generate m --temperature nan", "--temperature"),
        ("generate m --temperature inf", "--temperature"),
        ("generate m --temperature=-1", "--temperature"),
        ("eval passkey a b --out x.json", "--out"),
        ("eval perplexity a b text --out x.json", "--out"),
        ("eval ruler a b --out x.json", "--out"),
        ("eval babilong a b --facts f --out x.json", "--out"),
        ("eval loglikelihood a b --requests r.jsonl --out x", "--out"),
        (
            "eval loglikelihood a a --requests r --export lm-eval:x",
            "--export",
        ),
        (
            "eval loglikelihood a --requests r.jsonl --limit 0",
            "--limit",
        ),
        (
            "eval passkey m --depths end --depth-count 3",
            "--depth-count",
        ),
        ("eval perplexity m text --window 0", "--window"),
        ("eval perplexity m text --length 0", "--length"),
        ("inspect heads m --text t --keys 10", "--keys"),
        ("export gguf m --out o --name ", "--name"),
        ("train r --out o --tokenizer t --threads 0", "--threads"),
        ("upcycle m --data d --out o --rate nan", "--rate"),
        ("upcycle m --data d --out o --rate -1", "--rate"),
        ("upcycle m --data d --out o --rate 0", "--rate"),
        (
            "upcycle m --data d --out o --passkey-rows 1.5",
            "--passkey-rows",
        ),
        (
            "upcycle m --data d --out o --ssmax --ssmax-scale 0",
            "--ssmax-scale",
        ),
        ("upcycle m --data d --out o --rows 0", "--rows"),
        ("upcycle m --data d --out o --rows 3 --parts 2", "--rows"),
        ("upcycle m --data d --out o --threads 0", "--threads"),
    ] {
        let message = fail(MISUSED, &args![line]);
        assert!(
            message.contains(option) && message.starts_with("error: "),
            "{line}: {message}"
        );
    }
}

/// The models do not exist either, but what can't be written is known before them.
#[test]
fn what_can_not_be_written_is_known_before_the_work() {
    let shop = Workshop::new();
    let before = tree(shop.dir());
    let (absent, folder) = (shop.path("absent/x.json"), shop.path("corpus"));
    for line in [
        "eval passkey m --out",
        "eval perplexity m text --out",
        "eval loglikelihood m --requests r.jsonl --out",
        "eval ruler m --out",
        "eval babilong m --facts f --out",
        "inspect heads m --html",
        "inspect text m text --html",
        "export gguf m --out",
        "logits m --tokens t --out",
        "tokenizer train corpus --out",
        "report m --out",
    ] {
        for (place, named) in [
            (&absent, &["absent/x.json", "could not write it"][..]),
            (&folder, &["corpus", "name of a file", "a folder"]),
        ] {
            let message = fail(FAILED, &args![&format!("{line} {{}}"), place]);
            assert!(
                named.iter().all(|part| message.contains(part)),
                "{line}: {message}"
            );
        }
    }
    assert_eq!(tree(shop.dir()), before);
}

/// Files that are missing, empty or of another kind are called what they are.
#[test]
fn wrong_files_are_called_what_they_are() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let write = |name: &str, text: &[u8]| {
        std::fs::write(shop.path(name), text).unwrap();
        shop.path(name)
    };
    let empty = write("empty.txt", b"");
    let other = write("requests.json", b"{}");
    let none = write("none.jsonl", b"");
    let latin = write("latin.txt", b"caf\xE9");
    let (nowhere, out) = (shop.path("nowhere"), shop.path("out"));
    let perplexity = |document| args!["eval perplexity {} {}", model, document];
    let loglikelihood = |path| args!["eval loglikelihood {} --requests {}", model, path];
    let upcycle = |data| {
        let held_out = shop.path("corpus/one.txt");
        args![
            "upcycle {} --data {} --held-out {} --out {}",
            model,
            data,
            held_out,
            out
        ]
    };
    for (words, named, unsaid) in [
        (
            perplexity(&empty),
            &["expected at least 2 tokens in empty, got 0"][..],
            "from 2",
        ),
        (perplexity(&nowhere), &["nowhere", "No such file"], "UTF-8"),
        (perplexity(&latin), &["latin.txt", "UTF-8"], "No such"),
        (
            loglikelihood(&other),
            &["requests.json", "JSON lines", ".jsonl.zst"],
            ".parquet",
        ),
        (
            loglikelihood(&none),
            &["--requests", "at least one question"],
            "limit",
        ),
        (
            args!["eval babilong {} --facts {}", model, nowhere],
            &["nowhere", "No such file"],
            "UTF-8",
        ),
        (
            upcycle(&nowhere),
            &["--data", "nowhere", "No such file"],
            "--held-out",
        ),
        (
            args!["upcycle {} --data {} --out {}", model, empty, out],
            &["empty.txt", "expected at least 2 tokens", "got 0"],
            "--lengths",
        ),
    ] {
        shop.refuses(&words, named);
        let message = fail(FAILED, &words);
        assert!(!message.contains(unsaid), "{message}");
    }
}
