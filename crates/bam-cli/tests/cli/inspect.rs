//! Looking into a model.

use crate::end_to_end::assert_asks_for_nothing;
use crate::program::{self, FAILED, args, command, fail, run, succeed, succeed_json};
use crate::tensors;
use crate::workshop::{Workshop, passkeys, text};
use serde_json::Value;
use std::path::PathBuf;

/// A workshop, its model, and a text that the model has not read.
fn model() -> (Workshop, PathBuf, PathBuf) {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let document = shop.path("Held out.txt");
    std::fs::write(&document, text(7)).unwrap();
    (shop, model, document)
}

#[test]
fn heads_before_and_after_reading() {
    let (shop, model, document) = model();
    let heads = succeed_json(&args!["inspect heads {} --keys 500 --json", model]);
    assert_eq!(heads["row_keys"], 500);
    assert_eq!(heads["heads"].as_array().unwrap().len(), 2);
    assert_eq!(heads["heads"][0]["family"], "generalized_gaussian");
    assert!(heads.get("measured").is_none());
    let table = succeed(&args!["inspect heads {} --curves", model]);
    assert!(table.contains("generalized_gaussian") && table.contains("16,000 keys"));
    assert!(table.contains("0.1  0:"), "{table}");

    let page = shop.path("heads.html");
    let on_text = |more: &[&str]| {
        let line = "inspect heads {} --text {} --length 3x --rows 5 --html {}";
        [args![line, model, document, page], program::words(more)].concat()
    };
    let table = succeed(&on_text(&[]));
    assert!(
        table.contains("Held out") && table.contains("posterior 50 %"),
        "{table}"
    );
    let heads = succeed_json(&on_text(&["--json"]));
    // Without --keys priors are taken over as many keys as are read.
    assert_eq!(heads["row_keys"], 96);
    let measured = &heads["measured"];
    assert_eq!(
        (&measured["length"], &measured["rows"]),
        (&96.into(), &5.into())
    );
    for head in measured["heads"].as_array().unwrap() {
        let number = |name: &str| head[name].as_f64().unwrap();
        assert!(number("divergence") >= 0.0);
        assert!((0.0..=96_f64.ln()).contains(&number("entropy")));
        assert!(number("mean_distance") < 96.0);
    }
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(
        html.contains("<svg") && html.contains("class=\"sortable") && html.contains("Held out")
    );
    assert_asks_for_nothing(&html);
}

#[test]
fn contexts_are_known_before_they_are_read() {
    let (shop, model, _) = model();
    let words = |length: &str| args!["inspect context {} --length {}", model, length];
    let said = succeed(&words("4k"));
    assert!(said.contains("rows of up to 4,096 keys"), "{said}");
    assert!(
        said.contains("predicted:") && said.contains("no passkey record"),
        "{said}"
    );
    let context = succeed_json(&[words("10x"), args!["--epsilon 1e-3 --json"]].concat());
    assert_eq!(
        (&context["length"], &context["epsilon"]),
        (&320.into(), &1e-3.into())
    );
    assert_eq!(context["measured"], Value::Null);
    let heads = context["heads"].as_array().unwrap();
    let certified: Vec<u64> = heads
        .iter()
        .filter_map(|head| head["horizon"].as_u64())
        .collect();
    // The recipe starts with slopes 1/16 and 1/256 at shape 1, and content is small after two steps.
    assert_eq!(certified.len(), 2);
    assert!(certified[0] < 128 && certified[1] >= 256, "{certified:?}");
    assert!(heads[0]["prior_horizon"].as_u64() <= Some(certified[0]));
    let beyond = context["beyond"].as_array().unwrap();
    assert_eq!(beyond.len(), 9);
    assert_eq!((&beyond[0][0], &beyond[0][1]), (&1.into(), &2.into()));
    assert_eq!(beyond[8][1], 1);
    let bytes = |name: &str| context[name].as_u64().unwrap();
    assert!(bytes("certified_cache_bytes") < bytes("cache_bytes"));

    let passkey = shop.path("found.json");
    succeed(&[passkeys(&model, "2"), args!["--out {}", passkey]].concat());
    let compare = [words("1k"), args!["--passkey {}", passkey]].concat();
    let said = succeed(&compare);
    assert!(said.contains("at no length are more than half"), "{said}");
    // A record of another model says nothing of this one, given or beside it.
    let mut record: Value = serde_json::from_slice(&std::fs::read(&passkey).unwrap()).unwrap();
    record["model"]["position_embedding_type"] = "alibi".into();
    for path in [&passkey, &model.join("passkey.json")] {
        std::fs::write(path, record.to_string()).unwrap();
    }
    let message = fail(FAILED, &compare);
    assert!(
        message.contains("found.json: expected a record of this model"),
        "{message}"
    );
    assert!(message.contains("\"alibi\""), "{message}");
    let said = succeed(&words("1k"));
    assert!(said.contains("no passkey record"), "{said}");
    let message = fail(
        FAILED,
        &[words("1k"), args!["--passkey {}", shop.path("nowhere")]].concat(),
    );
    assert!(message.contains("nowhere"), "{message}");
}

#[test]
fn a_text_is_read_token_by_token() {
    let (shop, model, document) = model();
    let words = |more: &[&str]| {
        [
            args!["inspect text {} {} --length 40", model, document],
            program::words(more),
        ]
        .concat()
    };
    let reading = succeed_json(&words(&["--json"]));
    let tokens = reading["tokens"].as_array().unwrap();
    assert_eq!(
        (tokens.len(), reading["heads"].as_array().unwrap().len()),
        (40, 2)
    );
    let pieces: Vec<&str> = tokens
        .iter()
        .map(|token| token["text"].as_str().unwrap())
        .collect();
    let whole = pieces.concat();
    assert!(
        text(7).starts_with(whole.trim_start_matches(pieces[0])) || text(7).starts_with(&whole)
    );
    // The first row sees its own token and nothing else.
    assert_eq!(tokens[0]["mean"]["mean_distance"], 0.0);
    let one = succeed_json(&words(&["--json", "--layer", "0", "--head", "1"]));
    assert_eq!(one["heads"], serde_json::json!([[0, 1]]));
    assert_eq!(one["tokens"][39]["mean"], tokens[39]["heads"][1]);
    let message = fail(FAILED, &words(&["--head", "2"]));
    assert!(
        message.contains("head: expected from 0 to 1, got 2"),
        "{message}"
    );

    let listed = succeed(&words(&[]));
    assert!(
        !listed.contains('\u{1b}') && listed.contains("mean distance"),
        "{listed}"
    );
    let coloured = succeed(&words(&["--color", "always"]));
    assert!(coloured.contains("\u{1b}[48;5;"));
    let mut quiet = command(&words(&["--color", "auto"]));
    let output = quiet.env("NO_COLOR", "1").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), listed);

    let page = shop.path("text.html");
    let said = succeed(&[words(&[]), args!["--html {}", page]].concat());
    assert!(said.is_empty(), "the page is what was asked for: {said}");
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("id=\"glances\"") && html.contains("Held out"));
    assert_asks_for_nothing(&html);
}

/// A certified cache that gives next to nothing away generates the same text.
#[test]
fn generation_from_a_certified_cache() {
    let (_shop, model, _) = model();
    let words = args![
        "generate {} --prompt {} --tokens 60 --temperature 0",
        model,
        "the river bends"
    ];
    let expected = succeed(&words);
    let output = run(&[words, args!["--certified-cache 1e-9"]].concat());
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    let note = String::from_utf8(output.stderr).unwrap();
    assert!(note.contains("certified cache: keeps at most"), "{note}");
}

#[test]
fn a_doctor_sees_what_is_wrong_before_it_runs() {
    let (_shop, model, _) = model();
    let words = |length: &str| args!["doctor {} --length {}", model, length];
    let well = succeed(&words("64k"));
    assert!(
        well.contains("65,536 keys") && well.contains("2 ok"),
        "{well}"
    );
    let path = model.join("model.safetensors");
    let right = tensors::read(&path);
    let spoil = |name: &str, index: usize, value: f32| {
        let mut spoiled = right.clone();
        spoiled.get_mut(name).unwrap().set_float(index, value);
        tensors::write(&path, &spoiled);
    };
    spoil("layers.0.attention.prior.shape", 1, -0.25);
    let warned = succeed_json(&[words("1k"), args!["--json"]].concat());
    assert_eq!(warned["heads"][0]["verdict"], "ok");
    assert_eq!(warned["heads"][1]["verdict"], "warning");
    // What can't be loaded is examined all the same.
    spoil("layers.0.attention.prior.scale", 0, f32::NAN);
    let output = run(&words("1k"));
    assert_eq!(output.status.code(), Some(FAILED));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("error: layers.0.attention.prior.scale is NaN"),
        "{said}"
    );
    spoil("output.weight", 5, f32::INFINITY);
    let output = run(&[words("1k"), args!["--json"]].concat());
    assert_eq!(output.status.code(), Some(FAILED));
    let checkup: Value = serde_json::from_slice(&output.stdout).unwrap();
    let broken = checkup["broken"][0].as_str().unwrap();
    assert!(
        broken.starts_with("output.weight: inf at index 5"),
        "{broken}"
    );
    assert_eq!(checkup["heads"][0]["verdict"], "ok");
}
