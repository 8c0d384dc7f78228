//! Roles of special tokens: by the files beside a tokenizer.json, then by its post-processor, then by name.

use bam_data::{TOKENIZER_FILE, Tokenizer};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// A byte-level tokenizer with these special tokens, then the letters a to e.
fn json_of(special: &[&str], post_processor: Value) -> Value {
    let letters = ["a", "b", "c", "d", "e"];
    let vocabulary = special.iter().chain(&letters).zip(0..);
    let vocabulary: serde_json::Map<String, Value> = vocabulary
        .map(|(token, id): (_, u32)| ((*token).to_owned(), id.into()))
        .collect();
    let added = special.iter().zip(0..).map(|(token, id): (_, u32)| {
        json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added.collect::<Vec<_>>(), "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": post_processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocabulary, "merges": []},
    })
}

const CHATML: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

struct Folder(TempDir);

impl Folder {
    fn new(tokenizer: &Value, files: &[(&str, Value)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let path = folder.0.path();
        std::fs::write(path.join(TOKENIZER_FILE), tokenizer.to_string()).unwrap();
        for (name, value) in files {
            std::fs::write(path.join(name), value.to_string()).unwrap();
        }
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read(&self) -> Result<Tokenizer, String> {
        let read = Tokenizer::from_file(&self.path().join(TOKENIZER_FILE));
        read.map_err(|error| error.to_string())
    }
}

/// The tokenizer of a folder with ChatML's tokens and these files.
fn chatml(files: &[(&str, Value)]) -> Tokenizer {
    let folder = Folder::new(&json_of(&CHATML, Value::Null), files);
    folder.read().unwrap()
}

#[test]
fn ends_come_from_files_in_every_form() {
    let end = |file: &'static str, value: Value| {
        let tokenizer = chatml(&[(file, value)]);
        (tokenizer.eos(), tokenizer.special().ends.clone())
    };
    let expected = (Some(2), vec![2]);
    for file in ["config.json", "generation_config.json"] {
        assert_eq!(end(file, json!({"eos_token_id": 2})), expected, "{file}");
        assert_eq!(end(file, json!({"eos_token_id": [2]})), expected);
        assert_eq!(
            end(file, json!({"eos_token_id": [2, 0, 2]})),
            (Some(2), vec![2, 0])
        );
    }
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        assert_eq!(
            end(file, json!({"eos_token": "<|im_end|>"})),
            expected,
            "{file}"
        );
        let object = json!({"eos_token": {"__type": "AddedToken", "content": "<|im_end|>"}});
        assert_eq!(end(file, object), expected);
    }
    // Null control: nothing said, and the names decide; null and -1 say nothing.
    let usual = (Some(0), vec![0]);
    assert_eq!(end("notes.json", json!({"eos_token_id": 2})), usual);
    assert_eq!(
        end(
            "config.json",
            json!({"eos_token_id": null, "pad_token_id": -1})
        ),
        usual
    );
    assert_eq!(end("config.json", json!({"eos_token_id": -1})), usual);
    assert_eq!(
        end("tokenizer_config.json", json!({"eos_token": null})),
        usual
    );
    // Of several files every end counts, and the tokenizer's own is the first.
    let all = chatml(&[
        ("tokenizer_config.json", json!({"eos_token": "<|im_end|>"})),
        ("generation_config.json", json!({"eos_token_id": [0, 2]})),
        ("config.json", json!({"eos_token_id": 700})),
    ]);
    assert_eq!(all.special().ends, [2, 0, 700]);
    assert_eq!(all.eos(), Some(2));
    assert!(all.is_end(700) && !all.is_end(1));
    // An id without a token ends an answer and no document.
    assert_eq!(
        end("config.json", json!({"eos_token_id": 700})),
        (Some(0), vec![700, 0])
    );
}

#[test]
fn texts_begin_as_their_tokenizer_begins_them() {
    const NAMED: [&str; 3] = ["[PAD]", "[BOS]", "[EOS]"];
    let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let template = |parts: &[Value]| {
        let token = |id: &str, at: u32| json!({"id": id, "ids": [at], "tokens": [id]});
        json!({"type": "TemplateProcessing", "single": parts, "pair": parts,
            "special_tokens": {"[BOS]": token("[BOS]", 1), "[EOS]": token("[EOS]", 2)}})
    };
    let both = template(&[special("[BOS]"), text.clone(), special("[EOS]")]);
    let after = template(&[text, special("[EOS]")]);
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let sequence = json!({"type": "Sequence", "processors": [bytes, both.clone()]});
    let says = |bos: &str| json!({"bos_token": bos, "eos_token": "[EOS]"});
    let adds = |add: bool| json!({"bos_token": "[BOS]", "add_bos_token": add});
    let none = json!({});
    for (processor, config, begins, named) in [
        (&both, &none, Some(1), Some(1)),
        (&sequence, &none, Some(1), Some(1)),
        (&after, &none, None, None),
        (&Value::Null, &none, None, None),
        // The tokenizer has one, and nothing puts it there; or something does.
        (&Value::Null, &says("[BOS]"), None, Some(1)),
        (&Value::Null, &adds(true), Some(1), Some(1)),
        (&both, &adds(false), None, Some(1)),
        (&both, &says("[BOS]"), Some(1), Some(1)),
    ] {
        let tokenizer = Folder::new(
            &json_of(&NAMED, processor.clone()),
            &[("tokenizer_config.json", config.clone())],
        );
        let tokenizer = tokenizer.read().unwrap();
        let found = (tokenizer.bos(), tokenizer.special().bos);
        assert_eq!(found, (begins, named), "{processor} {config}");
        // What the post-processor adds is not added by encoding too.
        assert_eq!(tokenizer.encode("ab").unwrap(), [3, 4]);
        let ends = processor.is_object() || !config["eos_token"].is_null();
        assert_eq!(tokenizer.eos(), ends.then_some(2), "{processor} {config}");
    }
    // A file that says that there is no beginning is taken at its word.
    let tokenizer = chatml(&[("tokenizer_config.json", json!({"bos_token": null}))]);
    assert_eq!((tokenizer.bos(), tokenizer.special().bos), (None, None));
    assert_eq!(chatml(&[]).bos(), Some(0));
    assert_eq!(tokenizer.nothing(), Some(0), "its end");
}

#[test]
fn names_of_all_roles_are_known() {
    let tokenizer = chatml(&[
        (
            "tokenizer_config.json",
            json!({"pad_token": "<|endoftext|>", "unk_token": "<|im_start|>",
                "additional_special_tokens": ["<|im_start|>", {"content": "<|im_end|>"}]}),
        ),
        (
            "config.json",
            json!({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1}),
        ),
    ]);
    let special = tokenizer.special();
    let name = |role: &str| special.name(role);
    assert_eq!(name("bos_token"), Some("<|im_start|>"));
    assert_eq!(name("eos_token"), Some("<|im_end|>"));
    assert_eq!(
        (name("pad_token"), special.pad),
        (Some("<|endoftext|>"), Some(0))
    );
    assert_eq!(tokenizer.unknown().as_deref(), Some("<|im_start|>"));
    let further = json!(["<|im_start|>", "<|im_end|>"]);
    assert_eq!(special.names["additional_special_tokens"], further);
}

/// A tokenizer that is saved into a folder has its roles there; what other files say is kept.
#[test]
fn roles_are_kept() {
    let from = Folder::new(
        &json_of(&CHATML, Value::Null),
        &[
            (
                "config.json",
                json!({"eos_token_id": [2, 0], "pad_token_id": 1, "vocab_size": 9}),
            ),
            (
                "tokenizer_config.json",
                json!({"bos_token": null, "chat_template": "x"}),
            ),
        ],
    );
    let tokenizer = from.read().unwrap();
    let to = tempfile::tempdir().unwrap();
    let config = to.path().join("tokenizer_config.json");
    std::fs::copy(from.path().join("tokenizer_config.json"), &config).unwrap();
    tokenizer.save_into(to.path()).unwrap();
    let again = Tokenizer::from_file(&to.path().join(TOKENIZER_FILE)).unwrap();
    assert_eq!(again.identity(), tokenizer.identity());
    assert_eq!(again.special().ends, [2, 0]);
    assert_eq!(again.special().pad, Some(1));
    let config: Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    assert_eq!(config["chat_template"], "x");
    // A tokenizer whose file says all itself needs no other.
    let plain =
        Tokenizer::from_bytes(json_of(&CHATML, Value::Null).to_string().as_bytes()).unwrap();
    let alone = tempfile::tempdir().unwrap();
    plain.save_into(alone.path()).unwrap();
    assert_eq!(std::fs::read_dir(alone.path()).unwrap().count(), 1);
}

#[test]
fn a_file_of_another_name_stands_for_itself() {
    let folder = Folder::new(
        &json_of(&CHATML, Value::Null),
        &[("config.json", json!({"eos_token_id": 2}))],
    );
    let other = folder.path().join("chatml.json");
    std::fs::rename(folder.path().join(TOKENIZER_FILE), &other).unwrap();
    let tokenizer = Tokenizer::from_file(&other).unwrap();
    assert_eq!(tokenizer.eos(), Some(0));
    let tokenizer = tokenizer.with_roles_of(folder.path()).unwrap();
    assert_eq!(tokenizer.eos(), Some(2));
}

#[test]
fn what_is_no_role_is_refused_with_its_place() {
    for (file, value, expected) in [
        (
            "config.json",
            json!({"eos_token_id": "two"}),
            "config.json: eos_token_id: expected a token's id or a list of them, got \"two\"",
        ),
        (
            "generation_config.json",
            json!({"eos_token_id": [2, 1.5]}),
            "got [2,1.5]",
        ),
        (
            "tokenizer_config.json",
            json!({"eos_token": 7}),
            "eos_token: expected a token's text",
        ),
        (
            "tokenizer_config.json",
            json!({"add_bos_token": "yes"}),
            "add_bos_token: expected true or false",
        ),
        (
            "tokenizer_config.json",
            json!([]),
            "tokenizer_config.json: expected a JSON object",
        ),
    ] {
        let folder = Folder::new(&json_of(&CHATML, Value::Null), &[(file, value)]);
        let error = folder.read().unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    // As tools of Windows write it.
    let folder = Folder::new(&json_of(&CHATML, Value::Null), &[]);
    let marked = "\u{feff}{\"eos_token_id\": 2}";
    std::fs::write(folder.path().join("config.json"), marked).unwrap();
    assert_eq!(folder.read().unwrap().eos(), Some(2));
}
