//! Whatever is wrong ends in one clear sentence and leaves nothing half-written.

use crate::program::{FAILED, args, command, succeed};
use crate::reference::copy_of;
use crate::tensors;
use crate::workshop::Workshop;
use std::time::{Duration, Instant};

#[test]
fn recipes() {
    let shop = Workshop::new();
    for (setting, named) in [
        ("train.stepz=3", &["recipe.toml", "stepz", "expected"][..]),
        (
            "model.heads=3",
            &["heads", "divisor of the width 16", "got 3"][..],
        ),
        (
            "model.key_heads=3",
            &["key heads", "divisor of the 2 heads", "got 3"][..],
        ),
        ("model.encoding=\"bamm\"", &["encoding", "bamm"][..]),
        (
            "model.encoding=\"alibi:1,bam:2\"",
            &["priors for 2 heads"][..],
        ),
        (
            "train.parts=3",
            &["train.rows", "equal parts", "3 parts"][..],
        ),
        ("train.learning_rate=-1", &["learning rate", "-1"][..]),
        ("train.steps=\"many\"", &["many"][..]),
        (
            "train.length=10000000",
            &["expected at least 10000001 tokens"][..],
        ),
        ("data.mix.passkey=1", &["passkey rows", "got 32"][..]),
        ("data.tokens=\"nowhere\"", &["nowhere"][..]),
        ("data.validation=\"nowhere\"", &["nowhere"][..]),
    ] {
        shop.refuses(&shop.train("run", &[setting]), named);
    }
    let words = shop.train("run", &[]);
    std::fs::write(shop.path("recipe.toml"), "this is [no recipe").unwrap();
    shop.refuses(&words, &["recipe.toml", "expected a training recipe"]);
    std::fs::remove_file(shop.path("recipe.toml")).unwrap();
    shop.refuses(&words, &["recipe.toml", "No such file"]);
}

#[test]
fn corpora() {
    let shop = Workshop::new();
    let (empty, out) = (shop.path("empty"), shop.path("out"));
    let tokenizer = shop.path("tokenizer.json");
    std::fs::create_dir(&empty).unwrap();
    std::fs::write(shop.path("blank.txt"), "").unwrap();
    std::fs::write(
        shop.path("broken.jsonl"),
        "{\"text\": \"fine\"}\n{\"text\": 7}\n",
    )
    .unwrap();
    std::fs::write(shop.path("broken.parquet"), "PAR1 is not enough").unwrap();
    std::fs::write(shop.path("latin.txt"), b"caf\xE9").unwrap();
    for (corpus, named) in [
        ("empty", &["empty", "at least one document"][..]),
        ("blank.txt", &["blank.txt", "at least one document"][..]),
        ("broken.jsonl", &["broken.jsonl", "line 2", "string"][..]),
        ("broken.parquet", &["broken.parquet", "parquet"][..]),
        ("latin.txt", &["latin.txt", "UTF-8", "byte 3"][..]),
        ("nowhere.txt", &["nowhere.txt"][..]),
        ("recipe.toml", &["recipe.toml", ".txt"][..]),
    ] {
        let corpus = shop.path(corpus);
        let words = args!["prepare {} --tokenizer {} --out {}", corpus, tokenizer, out];
        shop.refuses(&words, named);
        let words = args!["tokenizer train {} --vocabulary 300 --out {}", corpus, out];
        shop.refuses(&words, named);
    }
    let corpus = shop.path("corpus");
    let words = args![
        "prepare {} --tokenizer {} --out {}",
        corpus,
        corpus.join("one.txt"),
        out
    ];
    shop.refuses(&words, &["one.txt", "tokenizer.json"]);
    let words = args![
        "tokenizer train {} --vocabulary 9999999 --out {}",
        corpus,
        out
    ];
    shop.refuses(&words, &["vocabulary", "9999999"]);
}

/// Without a network the message names the dataset, soon.
#[test]
fn hub_without_a_network() {
    let shop = Workshop::new();
    let words = args![
        "tokenizer train hf://datasets/x/y/z.parquet --cache {} --out {}",
        shop.path("hub"),
        shop.path("hub.json")
    ];
    let start = Instant::now();
    // Nothing listens there, whether or not this machine has a network.
    let mut offline = command(&words);
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        offline.env(name, "http://127.0.0.1:9");
    }
    let output = offline.output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(FAILED), "{message}");
    assert!(
        message.contains("dataset x/y") && message.contains("local folder"),
        "{message}"
    );
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(!shop.path("hub.json").exists());
}

/// A place that is taken stays as it is.
#[test]
fn occupied_folders() {
    let shop = Workshop::new();
    let case = copy_of("alibi");
    let taken = shop.path("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("diary.txt"), "dear").unwrap();
    let (corpus, tokenizer) = (shop.path("corpus"), shop.path("tokenizer.json"));
    let named = &["taken", "expected", "not empty"][..];
    shop.refuses(&shop.train("taken", &[]), named);
    shop.refuses(&args!["import reference {} {}", case.path(), taken], named);
    let prepare = args![
        "prepare {} --tokenizer {} --out {}",
        corpus,
        tokenizer,
        taken
    ];
    shop.refuses(
        &prepare,
        &[
            "taken",
            "expected an empty folder",
            "diary.txt",
            "--replace",
        ],
    );
    let replace = [prepare, args!["--replace"]].concat();
    shop.refuses(&replace, &["taken", "diary.txt"]);
    shop.refuses(
        &args!["quickstart --out {}", taken],
        &["taken", "expected a new folder"],
    );
    shop.refuses(
        &args!["train --resume --out {}", taken],
        &["taken", "recipe.toml"],
    );
    assert_eq!(
        std::fs::read_to_string(taken.join("diary.txt")).unwrap(),
        "dear"
    );
    // The program's own tokens may be replaced.
    let tokens = shop.path("tokens");
    let again = args![
        "prepare {} --tokenizer {} --out {}",
        corpus,
        tokenizer,
        tokens
    ];
    shop.refuses(&again, &["tokens", "expected an empty folder"]);
    succeed(&[again, args!["--replace"]].concat());
}

/// A path below a regular file can't be written, not even by root.
#[test]
fn places_that_cannot_be_written() {
    let shop = Workshop::new();
    let case = copy_of("alibi");
    let model = shop.trained_model();
    let (corpus, tokenizer) = (shop.path("corpus"), shop.path("tokenizer.json"));
    let below = shop.path("recipe.toml").join("below");
    let document = corpus.join("one.txt");
    let io = case.path().join("io.safetensors");
    let imported = shop.path("imported");
    succeed(&args!["import reference {} {}", case.path(), imported]);
    for words in [
        args![
            "tokenizer train {} --vocabulary 300 --out {}",
            corpus,
            below
        ],
        args![
            "prepare {} --tokenizer {} --out {}",
            corpus,
            tokenizer,
            below
        ],
        shop.train("recipe.toml/below", &[]),
        args![
            "eval passkey {} --lengths 600 --samples 1 --out {}",
            model,
            below
        ],
        args![
            "eval perplexity {} {} --length 40 --out {}",
            model,
            document,
            below
        ],
        args!["report {} --out {}", model, below],
        args!["inspect heads {} --html {}", model, below],
        args!["inspect text {} {} --html {}", model, document, below],
        args!["import reference {} {}", case.path(), below],
        args!["logits {} --tokens {} --out {}", imported, io, below],
        args!["quickstart --encodings alibi --out {}", below],
    ] {
        shop.refuses(&words, &["below", "Not a directory"]);
    }
    // A folder stands where the file should go.
    let words = args!["report {} --out {}", model, corpus];
    shop.refuses(&words, &["corpus", "got a folder"]);
}

#[test]
fn lengths() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let document = shop.path("corpus").join("one.txt");
    let passkey = |length: &str| args!["eval passkey {} --lengths {}", model, length];
    shop.refuses(
        &passkey("1x"),
        &["passkey length", "at least the", "got 32"],
    );
    shop.refuses(
        &passkey("600,20"),
        &["passkey length", "at least the", "got 20"],
    );
    let longest = "at most 16777216";
    shop.refuses(&passkey("1e15x"), &["length", longest]);
    shop.refuses(
        &passkey("99999999999"),
        &["length", longest, "got 99999999999"],
    );
    let inspect = |keys: &str| args!["inspect heads {} --keys {}", model, keys];
    shop.refuses(&inspect("0.001x"), &["keys", "at least 1", "got 0"]);
    shop.refuses(&inspect("99999999999"), &["length", longest]);
    for command in ["inspect context", "doctor"] {
        let words = |length: &str| args![&format!("{command} {{}} --length {length}"), model];
        shop.refuses(&words("0.001x"), &["length", "at least 1", "got 0"]);
        shop.refuses(&words("99999999999"), &["length", longest]);
    }
    let text = |length: &str| args!["inspect text {} {} --length {}", model, document, length];
    shop.refuses(&text("9M"), &["one.txt", "from 1 to its", "got 9437184"]);
    shop.refuses(&text("0.001x"), &["one.txt", "got 0"]);
    let generate = |tokens: &str| args!["generate {} --prompt a --tokens {}", model, tokens];
    shop.refuses(&generate("99999999999"), &["length", longest]);
    shop.refuses(&generate("18446744073709551615"), &["length", longest]);
    let certified = [generate("99999999999"), args!["--certified-cache 0.1"]].concat();
    shop.refuses(&certified, &["length", longest]);
    let perplexity =
        |length: &str| args!["eval perplexity {} {} --length {}", model, document, length];
    shop.refuses(&perplexity("1"), &["perplexity length", "from 2", "got 1"]);
    shop.refuses(&perplexity("9999999"), &["perplexity length", "9999999"]);
}

#[test]
fn a_model_without_its_tokenizer() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    std::fs::remove_file(model.join("tokenizer.json")).unwrap();
    let words = args!["generate {} --prompt a", model];
    shop.refuses(&words, &["tokenizer.json", "No such file"]);
}

#[test]
fn cases_and_records() {
    let shop = Workshop::new();
    let case = copy_of("alibi");
    let words = args!["parity {}", case.path()];
    let mut io = tensors::read(&case.path().join("io.safetensors"));
    io.remove("logits");
    tensors::write(&case.path().join("io.safetensors"), &io);
    shop.refuses(&words, &["io.safetensors", "logits", "none of that name"]);
    shop.refuses(
        &args!["parity {}", shop.path("corpus")],
        &["config.json", "No such file"],
    );
    let words = args![
        "import reference {} {}",
        shop.path("corpus"),
        shop.path("imported")
    ];
    shop.refuses(&words, &["config.json", "No such file"]);

    let page = shop.path("report.html");
    let words = args!["report {} --out {}", shop.path("corpus"), page];
    shop.refuses(&words, &["corpus", "expected records", "got none"]);
    let words = args!["report {} --out {}", shop.path("nowhere"), page];
    shop.refuses(&words, &["nowhere", "expected the folder of a run"]);
    let model = shop.trained_model();
    std::fs::write(model.join("passkey.json"), "{\"name\": 1}").unwrap();
    let words = args!["report {} --out {}", model, page];
    shop.refuses(&words, &["passkey.json", "expected a record"]);
}
