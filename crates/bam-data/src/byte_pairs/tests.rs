//! The ids are the library's, for every kind of tokenizer that is understood and any text.

use super::*;
use crate::{
    Document, Tokenizer, TokenizerConfig,
    pretokens::{LLAMA3, QWEN},
};
use proptest::prelude::*;

/// The `tokenizer.json` of a byte-level tokenizer trained on a little of everything.
fn trained(individual_digits: bool) -> Value {
    let text = (0..400)
        .map(|i| {
            format!(
                "the {i} cats' naïve theory isn't it's WE'LL\n\n  東京 is {}  🦀, the end...\r\n",
                i * 37
            )
        })
        .collect();
    let document = Document {
        text,
        origin: "here".to_owned(),
    };
    let config = TokenizerConfig {
        vocabulary: 300,
        individual_digits,
        ..TokenizerConfig::default()
    };
    let tokenizer = Tokenizer::train([Ok(document)].into_iter(), &config, |_| {}).unwrap();
    serde_json::from_str(tokenizer.json()).unwrap()
}

fn split_by(pattern: &str, ignore_merges: bool) -> Value {
    let mut json = trained(false);
    json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]});
    json["model"]["ignore_merges"] = ignore_merges.into();
    if ignore_merges {
        // A word that no merges lead to.
        json["model"]["vocab"]["ĠWE"] = 300.into();
        json["model"]["vocab"]["xyz"] = 301.into();
    }
    json
}

/// SentencePiece's kind: characters, bytes for those that have no token, merges across nothing but `▁`.
fn sentence_pieces() -> Value {
    let mut vocabulary: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    vocabulary.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    vocabulary.extend("▁abcdehinstéT'.0".chars().map(String::from));
    let merges = [
        "▁ t",
        "h e",
        "▁t he",
        "▁ ▁",
        "▁▁ ▁▁",
        "i n",
        "a n",
        "an d",
        "▁ and",
        "s t",
        "▁ a",
        "▁a n",
        "t he",
        "n d",
        "e d",
        "▁ in",
        "in t",
        "e é",
    ];
    for merge in merges {
        let token = merge.replace(' ', "");
        if !vocabulary.contains(&token) {
            vocabulary.push(token);
        }
    }
    let ids = vocabulary
        .into_iter()
        .zip(0..)
        .map(|(token, id): (_, u32)| (token, id.into()));
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": ids.collect::<serde_json::Map<_, _>>(), "merges": merges},
    })
}

fn kinds() -> Vec<(BytePairs, tokenizers::Tokenizer)> {
    let other = r"\d{1,2}|[a-z]+'?| ";
    let mut all = vec![trained(false), trained(true), sentence_pieces()];
    all.extend([GPT2, LLAMA3, QWEN, other].map(|pattern| split_by(pattern, false)));
    all.push(split_by(LLAMA3, true));
    let mut added = trained(false);
    let tokens = added["added_tokens"].as_array_mut().unwrap();
    let mut own = tokens[0].clone();
    (own["id"], own["content"], own["special"]) = (300.into(), "the".into(), false.into());
    tokens.push(own);
    all.push(added);
    let both = |json: Value| {
        let mut library = tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap();
        library.set_encode_special_tokens(true);
        (BytePairs::of(&json).unwrap(), library)
    };
    all.into_iter().map(both).collect()
}

/// Whole, and cut as long texts are wherever that changes nothing.
fn assert_same(kinds: &[(BytePairs, tokenizers::Tokenizer)], text: &str) {
    for (at, (ours, library)) in kinds.iter().enumerate() {
        let right = library.encode_fast(text, false).unwrap();
        for bytes in [1, 7, 40, 1 << 18] {
            match ours.encode_in_parts(text, bytes) {
                Some(got) => assert!(got == right.get_ids(), "kind {at}, {bytes}: {text:?}"),
                None => assert!(at == 8 && text.contains("the"), "kind {at}: {text:?}"),
            }
        }
    }
}

#[test]
fn ids_are_the_librarys() {
    let kinds = kinds();
    let pieces = "['stmdrevlTHEWE \n\t]{1,5}|(the|and|in|xyz| WE|é|ée|▁|</s>|<0x41>| )|[0-9٣½]{1,4}|\\PC{0,3}";
    let texts = proptest::collection::vec(pieces, 0..30).prop_map(|pieces| pieces.concat());
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    runner
        .run(&texts, |text| {
            assert_same(&kinds, &text);
            Ok(())
        })
        .unwrap();
    // Words that were met before, some of them longer than are remembered.
    let again = "the theory of ththeththe… antidisestablishmentarianism 東京東京東京 0123456789 "
        .repeat(50);
    assert_same(&kinds, &again);
    assert_same(&kinds, "");
    // Null control: other merges are other ids.
    let mut impostor = trained(false);
    impostor["model"]["merges"]
        .as_array_mut()
        .unwrap()
        .truncate(9);
    let impostor = BytePairs::of(&impostor).unwrap();
    assert_ne!(impostor.encode(&again), kinds[0].0.encode(&again));
}

#[test]
fn what_is_not_understood_is_left_to_the_library() {
    type Change = fn(&mut Value);
    let changes: [Change; 9] = [
        |json| json["normalizer"] = json!({"type": "NFC"}),
        |json| json["pre_tokenizer"]["add_prefix_space"] = true.into(),
        |json| json["pre_tokenizer"] = json!({"type": "Whitespace"}),
        |json| json["pre_tokenizer"] = Value::Null,
        |json| json["model"]["end_of_word_suffix"] = "</w>".into(),
        |json| json["model"]["continuing_subword_prefix"] = "##".into(),
        |json| json["model"]["dropout"] = 0.1.into(),
        |json| json["model"]["type"] = "Unigram".into(),
        |json| drop(json["model"]["vocab"].as_object_mut().unwrap().remove("Ā")),
    ];
    assert!(BytePairs::of(&trained(false)).is_some());
    for (at, change) in changes.into_iter().enumerate() {
        let mut json = trained(false);
        change(&mut json);
        assert!(BytePairs::of(&json).is_none(), "change {at}");
    }
    let mut json = sentence_pieces();
    json["model"]["vocab"]
        .as_object_mut()
        .unwrap()
        .remove("<0x00>");
    assert!(BytePairs::of(&json).is_none());
}
