//! Models whose layers differ, and whose rows have temperatures of their own, through every command.

use crate::program::{INTERRUPTED, MISUSED, Running, args, fail, succeed, succeed_json};
use crate::resume::{Trace, json};
use crate::workshop::{Workshop, passkeys, text};
use std::fs;

const PATTERN: &str = "rotary_local:9,bam+ssmax";

fn setting(encoding: &str) -> String {
    format!("model.encoding=\"{encoding}\"")
}

#[test]
fn a_pattern_goes_through_every_command() {
    let shop = Workshop::new();
    let (run, cut) = (shop.path("run"), shop.path("cut"));
    let pattern = setting(PATTERN);
    let settings = ["train.steps=60", "train.checkpoint_every=5", &pattern];
    succeed(&shop.train("run", &settings));
    // Interrupted, it goes on to the same bits.
    let mut running = Running::start(shop.train("cut", &settings));
    running.until_lines(&cut.join("metrics.jsonl"), 8);
    assert_eq!(running.interrupt(), Some(INTERRUPTED));
    succeed(&args!["train --resume --out {}", cut]);
    Trace::of(&cut).assert_same(&Trace::of(&run));
    assert_eq!(
        json(&run.join("config.json"))["position_embedding_type"],
        PATTERN
    );

    let passkey = succeed_json(&[passkeys(&run, "2"), args!["--json"]].concat());
    assert_eq!(passkey["name"], PATTERN);
    let one = shop.path("corpus/one.txt");
    let read = succeed_json(&args![
        "eval perplexity {} {} --length 200 --json",
        run,
        one
    ]);
    assert_eq!(read["name"], PATTERN);
    let heads = succeed(&args!["inspect heads {} --keys 500", run]);
    assert!(heads.contains("generalized_gaussian"), "{heads}");
    let context = succeed_json(&args!["inspect context {} --length 500 --json", run]);
    let heads = context["heads"].as_array().unwrap();
    for head in heads {
        assert_eq!(head["horizon"] == 8, head["layer"] == 0, "{head}");
    }
    let bytes = context["cache_bytes"].as_u64().unwrap();
    assert!(
        bytes.is_multiple_of(509),
        "{bytes}: nine keys of one layer and all of the other"
    );
    succeed(&args!["doctor {}", run]);
    succeed(&args![
        "generate {} --prompt {} --tokens 40",
        run,
        "the river"
    ]);
    // Only a layer with priors is edited.
    let edited = shop.path("edited");
    succeed(&args![
        "prior edit {} --head 1.0 --scale x0.5 --out {}",
        run,
        edited
    ]);
    assert!(succeed(&args!["prior diff {} {}", run, edited]).contains("1.0"));
    shop.refuses(
        &args![
            "prior edit {} --head 0.0 --scale x0.5 --out {}",
            run,
            shop.path("wrong")
        ],
        &["a layer with priors", PATTERN],
    );
    let page = shop.path("report.html");
    succeed(&args!["report {} --out {}", run, page]);
    assert!(fs::read_to_string(page).unwrap().contains(PATTERN));
    let exported = shop.path("exported");
    succeed(&args!["export hf {} --out {}", run, exported]);
    assert_eq!(
        json(&exported.join("config.json"))["position_embedding_type"],
        PATTERN
    );
    shop.refuses(
        &args!["export gguf {} --out {}", run, shop.path("x.gguf")],
        &["one encoding for all layers", PATTERN],
    );
}

#[test]
fn a_temperature_of_rows_is_trained_read_and_exported() {
    let shop = Workshop::new();
    let run = shop.path("run");
    succeed(&shop.train("run", &["train.steps=4", &setting("bam+adaptive")]));
    let passkey = succeed_json(&[passkeys(&run, "2"), args!["--json"]].concat());
    assert_eq!(passkey["name"], "bam+adaptive");
    let context = succeed_json(&args!["inspect context {} --length 100 --json", run]);
    let heads = context["heads"].as_array().unwrap();
    assert!(heads.iter().all(|head| head["horizon"].is_null()));
    succeed(&args!["inspect heads {} --keys 50", run]);
    succeed(&args!["doctor {}", run]);
    succeed(&args![
        "generate {} --prompt {} --tokens 40",
        run,
        "the river"
    ]);
    succeed(&args!["export hf {} --out {}", run, shop.path("exported")]);
    let words = args!["export gguf {} --out {}", run, shop.path("x.gguf")];
    shop.refuses(&words, &["scalable softmax", "bam+adaptive"]);
}

#[test]
fn patterns_that_are_none_are_refused() {
    let shop = Workshop::new();
    for (encoding, named) in [
        ("rotary_local*3,nope", "a pattern of at most 2 layers"),
        ("rotary_local*0,nope", "\"rotary_local*0\""),
        ("rotary,nop", "\"nop\""),
        ("sinusoidal,nope", "sinusoidal in all layers"),
        ("bam+adaptiv", "bam+adaptiv"),
    ] {
        shop.refuses(&shop.train("wrong", &[&setting(encoding)]), &[named]);
    }
    let global = ["model.prior_scope=global", &setting(PATTERN)];
    shop.refuses(&shop.train("wrong", &global), &["prior_scope", PATTERN]);
    // The quickstart's models have two layers, and nothing is read before that is said.
    let out = shop.path("quick");
    let words = args![
        "quickstart --encodings {} --out {}",
        "rotary_local*3,nope",
        out
    ];
    shop.refuses(&words, &["at most 2 layers"]);
    fail(
        MISUSED,
        &args!["quickstart --encodings {}", "rotary_local*3,nop"],
    );
}

/// All weights learn without rotations, from the model that they were trained in, and it can be resumed.
#[test]
fn rotations_are_dropped() {
    let shop = Workshop::new();
    succeed(&shop.train("rotary", &["train.steps=20", "model.encoding=rotary"]));
    let data = shop.path("data.txt");
    fs::write(&data, text(3)).unwrap();
    let words = |out: &str, more: &str| {
        let mut words = args![
            "upcycle {} --data {} --out {} --rows 4 --lengths 1x,2x --samples 0 --checkpoint-every 5 --drop-rotary",
            shop.path("rotary"),
            data,
            shop.path(out)
        ];
        words.extend(more.split_whitespace().map(Into::into));
        words
    };
    let record = succeed_json(&words("out", "--steps 30 --json"));
    let metrics = &record["metrics"];
    assert_eq!(
        (&metrics["before"], &record["name"]),
        (&"rotary".into(), &"nope".into())
    );
    assert_eq!(
        metrics["learned"], metrics["parameters"],
        "everything learns"
    );
    assert_eq!(
        metrics["length"], metrics["train_length"],
        "rows of the training length"
    );
    for at in metrics["at"].as_array().unwrap() {
        assert_ne!(at["before"], at["start"], "rotations matter: {at}");
        assert_ne!(at["start"], at["after"], "{at}");
    }
    let config = json(&shop.path("out/config.json"));
    assert_eq!(config["history"][0]["arguments"]["drop-rotary"], "");
    // A recipe that begins with those weights and says nope makes the same steps.
    let recipe = fs::read_to_string(shop.path("out/recipe.toml")).unwrap();
    assert!(
        recipe.contains("encoding = \"nope\"") && !recipe.contains("learn ="),
        "{recipe}"
    );
    let mut running = Running::start(words("cut", "--steps 30"));
    running.until_lines(&shop.path("cut/metrics.jsonl"), 8);
    assert_eq!(running.interrupt(), Some(INTERRUPTED));
    succeed(&args!["upcycle --resume --out {}", shop.path("cut")]);
    Trace::of(&shop.path("cut")).assert_same(&Trace::of(&shop.path("out")));
    // With priors that learn, and scalable softmax.
    let table = succeed(&words("bam", "--steps 3 --family bam --ssmax"));
    assert!(table.contains("rotary → bam+ssmax: "), "{table}");
    shop.refuses(
        &words("wrong", "--family laplace"),
        &["laplace", "begin uniform"],
    );
    succeed(&shop.train("alibi", &["train.steps=2", "model.encoding=alibi"]));
    let mut words = args![
        "upcycle {} --data {} --out {}",
        shop.path("alibi"),
        data,
        shop.path("w")
    ];
    words.extend(args!["--drop-rotary --lengths 1x"]);
    shop.refuses(&words, &["layers that rotate", "got alibi"]);
    fail(
        MISUSED,
        &args!["upcycle --resume --drop-rotary --out {}", shop.path("out")],
    );
}
