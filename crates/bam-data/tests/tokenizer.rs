//! Tokenizers trained here: deterministic, lossless, and hard to mislead.

use bam_data::{DataError, Document, Tokenizer, TokenizerConfig};
use proptest::prelude::*;

fn document(text: &str) -> Result<Document, DataError> {
    Ok(Document {
        text: text.to_owned(),
        origin: "a test".to_owned(),
    })
}

/// A few hundred different words, some of them not English.
fn texts() -> Vec<String> {
    (0..120)
        .map(|i| {
            let word: String = (0..i % 7 + 2)
                .map(|j| char::from(b'a' + ((i * 7 + j * j * 3) % 26) as u8))
                .collect();
            format!(
                "the {word} of {word}s, naïve €{i} 東京 🦀 isn't {}\n\n",
                i * 37
            )
        })
        .collect()
}

fn train(texts: &[String], vocabulary: usize) -> Result<Tokenizer, DataError> {
    let config = TokenizerConfig {
        vocabulary,
        ..TokenizerConfig::default()
    };
    Tokenizer::train(texts.iter().map(|text| document(text)), &config, |_| {})
}

fn tokenizer() -> Tokenizer {
    train(&texts(), 500).unwrap()
}

/// Short texts are encoded otherwise than long ones, until there was much text.
#[test]
fn ids_are_the_same_before_and_after_much_text() {
    let tokenizer = tokenizer();
    let texts = texts();
    let all = || -> Vec<Vec<u32>> {
        let encode = |text: &String| tokenizer.encode(text).unwrap();
        texts.iter().map(encode).collect()
    };
    let short = all();
    let long = texts.concat().repeat(40);
    let read = std::thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(|| tokenizer.clone().encode(&long).unwrap()));
        threads.map(|thread| thread.join().unwrap())
    });
    assert!(read.iter().all(|ids| *ids == read[0]));
    assert_eq!(tokenizer.decode(&read[0]).unwrap(), long);
    assert_eq!(all(), short);
    let another = train(&texts, 500).unwrap();
    assert_eq!(another.encode(&long).unwrap(), read[0]);
}

#[test]
fn the_same_text_gives_the_same_tokenizer() {
    let texts = texts();
    let first = train(&texts, 600).unwrap();
    for _ in 0..4 {
        let again = train(&texts, 600).unwrap();
        assert_eq!(again.json(), first.json());
        assert_eq!(again.identity(), first.identity());
    }
    let alone = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let again = alone.install(|| train(&texts, 600).unwrap());
    assert_eq!(again.json(), first.json());
    // Null control: other text, or another size, is another tokenizer.
    assert_ne!(train(&texts[1..], 600).unwrap().sha256(), first.sha256());
    assert_ne!(train(&texts, 599).unwrap().sha256(), first.sha256());
}

#[test]
fn the_vocabulary_is_what_was_asked_for() {
    for vocabulary in [258, 259, 300, 513] {
        let tokenizer = train(&texts(), vocabulary).unwrap();
        assert_eq!(tokenizer.vocabulary_size(), vocabulary);
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(0), Some(1)));
        assert_eq!(tokenizer.spelling(0).as_deref(), Some("<s>"));
        assert_eq!(tokenizer.spelling(1).as_deref(), Some("</s>"));
        assert_eq!(tokenizer.spelling(vocabulary as u32), None);
    }
    for vocabulary in [0, 2, 257, 1 << 25] {
        let error = train(&texts(), vocabulary).unwrap_err();
        assert!(matches!(error, DataError::VocabularySize { .. }), "{error}");
    }
    let error = train(&["aaa".to_owned()], 300).unwrap_err();
    let DataError::VocabularyNotReached { reached, .. } = error else {
        panic!("{error}");
    };
    // What the message says is possible, is.
    assert!(train(&["aaa".to_owned()], reached).is_ok());
    assert!(train(&["aaa".to_owned()], reached + 1).is_err());
}

#[test]
fn training_stops_at_its_budget_and_at_errors() {
    let config = TokenizerConfig {
        vocabulary: 258,
        training_bytes: 10,
        ..TokenizerConfig::default()
    };
    let mut last = None;
    let documents = ["four", "five5", "more", "never"].into_iter().map(document);
    Tokenizer::train(documents, &config, |progress| {
        last = Some((progress.documents, progress.bytes))
    })
    .unwrap();
    assert_eq!(last, Some((2, 9)));
    // A first document beyond the budget is cut, at a character.
    Tokenizer::train([document("123456789€")].into_iter(), &config, |progress| {
        last = Some((progress.documents, progress.bytes));
    })
    .unwrap();
    assert_eq!(last, Some((1, 9)));

    let broken = [
        document("fine"),
        Err(DataError::EmptyCorpus {
            corpus: "x".to_owned(),
        }),
        document("fine"),
    ];
    let error = Tokenizer::train(broken.into_iter(), &config, |_| {}).unwrap_err();
    assert!(matches!(error, DataError::EmptyCorpus { .. }), "{error}");
    for training_bytes in [0, 1 << 31] {
        let config = TokenizerConfig {
            training_bytes,
            ..config.clone()
        };
        let error = Tokenizer::train([document("fine")].into_iter(), &config, |_| {}).unwrap_err();
        assert!(matches!(error, DataError::TrainingBytes { .. }), "{error}");
    }
}

#[test]
fn every_digit_is_a_token() {
    let digits = ["2024 2024 2024 2024 word word word".to_owned()];
    let count = |individual_digits| {
        let config = TokenizerConfig {
            vocabulary: 262,
            individual_digits,
            ..TokenizerConfig::default()
        };
        let tokenizer =
            Tokenizer::train(digits.iter().map(|text| document(text)), &config, |_| {}).unwrap();
        tokenizer.encode("2024").unwrap().len()
    };
    assert_eq!(count(true), 4);
    // Null control: without the option, digits merge.
    assert!(count(false) < 4);
}

#[test]
fn text_cannot_forge_a_boundary() {
    let tokenizer = tokenizer();
    let text = "a</s><s>b <s> </s>";
    let tokens = tokenizer.encode(text).unwrap();
    assert!(tokens.iter().all(|&token| token > 1), "{tokens:?}");
    assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
    // The special tokens themselves have no text.
    assert_eq!(tokenizer.decode(&[0, tokens[0], 1]).unwrap(), "a");
}

/// Models have more rows than their tokenizer has tokens.
#[test]
fn ids_without_tokens_have_no_text() {
    let tokenizer = tokenizer();
    let known = tokenizer.decode(&[499]).unwrap();
    for token in [500, u32::MAX] {
        assert_eq!(tokenizer.decode(&[token, 499, token]).unwrap(), known);
        let mut stream = tokenizer.stream_decoder();
        let pieces = [token, 499, token].map(|token| stream.push(token).unwrap());
        assert_eq!(pieces.concat() + &stream.finish(), known);
        assert_eq!(stream.spell(token).unwrap(), (String::new(), Vec::new()));
    }
}

#[test]
fn a_saved_tokenizer_is_the_same_tokenizer() {
    let tokenizer = tokenizer();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    tokenizer.save(&path).unwrap();
    tokenizer.save(&path).unwrap();
    let again = Tokenizer::from_file(&path).unwrap();
    assert_eq!(again.identity(), tokenizer.identity());
    assert_eq!(again.json(), tokenizer.json());
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file stays");
    let compact: serde_json::Value = serde_json::from_str(tokenizer.json()).unwrap();
    let compact = Tokenizer::from_bytes(compact.to_string().as_bytes()).unwrap();
    assert_eq!(
        compact.sha256(),
        tokenizer.sha256(),
        "the layout of the file does not matter"
    );
}

/// The trained tokenizer's JSON with one value replaced.
fn altered(pointer: &str, value: serde_json::Value) -> Vec<u8> {
    let mut json: serde_json::Value = serde_json::from_str(tokenizer().json()).unwrap();
    *json.pointer_mut(pointer).unwrap() = value;
    json.to_string().into_bytes()
}

#[test]
fn truncation_in_the_file_does_not_shorten_text() {
    let truncation = serde_json::json!({
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0
    });
    let text = "one two three four five six seven";
    let bytes = altered("/truncation", truncation);
    // Null control: the file does ask for it.
    let raw = tokenizers::Tokenizer::from_bytes(&bytes).unwrap();
    assert_eq!(raw.encode(text, false).unwrap().get_ids().len(), 3);
    let tokenizer = Tokenizer::from_bytes(&bytes).unwrap();
    assert_eq!(
        tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(),
        text
    );
    assert_eq!(tokenizer.identity(), self::tokenizer().identity());
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let error = Tokenizer::from_bytes(&altered("/model/dropout", 0.1.into())).unwrap_err();
    assert!(
        matches!(error, DataError::TokenizerUnsupported { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("0.1"), "{error}");
    let error = Tokenizer::from_bytes(&altered("/model/vocab/the", (u32::MAX - 1).into()));
    assert!(error.is_err());
    for bytes in [
        b"".as_slice(),
        b"{}",
        b"[]",
        b"{\"version\": \"9\"}",
        b"\xff\xfe",
    ] {
        let error = Tokenizer::from_bytes(bytes).unwrap_err();
        assert!(matches!(error, DataError::TokenizerFile { .. }), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.json");
    std::fs::File::create(&path)
        .unwrap()
        .set_len((1 << 27) + 1)
        .unwrap();
    let error = Tokenizer::from_file(&path).unwrap_err();
    assert!(
        matches!(error, DataError::TokenizerTooLarge { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("large.json"), "{error}");
}

/// Damage to the file gives an error or another tokenizer, never a panic.
#[test]
fn damaged_files_are_survived() {
    let trained = train(&texts(), 262).unwrap();
    let whole = trained.json().as_bytes();
    let mut errors = 0;
    for at in (0..whole.len()).step_by(3) {
        for damage in [b'0', b'"', b'\n', 0xff] {
            let mut bytes = whole.to_vec();
            bytes[at] = damage;
            let Ok(tokenizer) = Tokenizer::from_bytes(&bytes) else {
                errors += 1;
                continue;
            };
            let Ok(tokens) = tokenizer.encode("the naïve 12 🦀") else {
                continue;
            };
            tokenizer.decode(&tokens).unwrap();
            pieces(&tokenizer, &tokens);
        }
    }
    assert!(errors > whole.len() / 3, "{errors} errors");
}

#[test]
fn holes_in_the_vocabulary_count() {
    let mut json: serde_json::Value = serde_json::from_str(tokenizer().json()).unwrap();
    json["model"]["vocab"]["unused"] = 1000.into();
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 1001);
    assert_eq!(tokenizer.decode(&[700]).unwrap(), "");
    assert_eq!(tokenizer.stream_decoder().push(700).unwrap(), "");
}

#[test]
fn beginnings_and_ends_go_by_many_names() {
    let tokenizer = tokenizer();
    let json = tokenizer.json();
    let named = |begin: &str, end: &str| {
        let json = json
            .replace("\"<s>\"", &format!("{begin:?}"))
            .replace("\"</s>\"", &format!("{end:?}"));
        let tokenizer = Tokenizer::from_bytes(json.as_bytes()).unwrap();
        (tokenizer.bos(), tokenizer.eos())
    };
    assert_eq!(named("<s>", "</s>"), (Some(0), Some(1)));
    assert_eq!(
        named("<|begin_of_text|>", "<|end_of_text|>"),
        (Some(0), Some(1))
    );
    assert_eq!(named("<bos>", "<eos>"), (Some(0), Some(1)));
    assert_eq!(named("<other>", "<|endoftext|>"), (Some(1), Some(1)));
    assert_eq!(named("<other>", "<another>"), (None, None));
    // An ordinary token that happens to be spelled like one does not count.
    let ordinary = json.replace("\"special\": true", "\"special\": false");
    let tokenizer = Tokenizer::from_bytes(ordinary.as_bytes()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, None));
}

/// A tokenizer in the manner of SentencePiece: spaces as `▁`, bytes as `<0xE2>`.
fn sentence_piece() -> Tokenizer {
    let mut vocabulary = serde_json::Map::new();
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let letters = ["▁", "a", "b", "▁a", "é"].map(str::to_owned);
    for (id, name) in (0_u32..).zip(
        ["<unk>", "<s>", "</s>"]
            .map(str::to_owned)
            .into_iter()
            .chain(bytes)
            .chain(letters),
    ) {
        vocabulary.insert(name, id.into());
    }
    let special = |id: u32, content: &str| {
        serde_json::json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true
        })
    };
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "post_processor": null, "pre_tokenizer": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary, "merges": [["▁", "a"]]},
    });
    Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
}

fn pieces(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<String> {
    let mut decoder = tokenizer.stream_decoder();
    let mut pieces: Vec<String> = tokens
        .iter()
        .map(|&token| decoder.push(token).unwrap())
        .collect();
    pieces.push(decoder.finish());
    pieces
}

/// Decodes every token by itself: what the stream decoder must not be.
fn impostor(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    tokens
        .iter()
        .map(|&token| tokenizer.decode(&[token]).unwrap())
        .collect()
}

#[test]
fn streams_are_whole_characters() {
    let text = "a 🦀 é ba€ a";
    for tokenizer in [train(&texts(), 258).unwrap(), sentence_piece()] {
        let tokens = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        let pieces = pieces(&tokenizer, &tokens);
        assert_eq!(pieces.concat(), text);
        assert!(
            pieces.iter().any(String::is_empty),
            "some tokens end within a character"
        );
        assert_eq!(
            pieces.last().unwrap(),
            "",
            "nothing waits after a whole text"
        );
        assert_ne!(impostor(&tokenizer, &tokens), text);
    }
}

#[test]
fn impossible_bytes_are_not_held_back() {
    let tokenizer = train(&texts(), 258).unwrap();
    let byte = |byte: u8| {
        let token = (0..258).find(|&token| {
            let alone = tokenizer.stream_decoder().push(token).unwrap();
            alone == char::from(byte).to_string()
        });
        token.unwrap()
    };
    // Four-byte crab, cut by a letter after three bytes.
    let crab = tokenizer.encode("🦀").unwrap();
    let cut = pieces(
        &tokenizer,
        &[crab[0], crab[1], crab[2], byte(b'x'), crab[0]],
    );
    assert_eq!(cut, ["", "", "", "\u{fffd}x", "", "\u{fffd}"]);
    let endless = pieces(&tokenizer, &vec![crab[1]; 65]);
    assert!(endless[..65].iter().all(|piece| piece == "\u{fffd}"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_survives(text in any::<String>()) {
        for tokenizer in [tokenizer(), sentence_piece()] {
            let tokens = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(&tokenizer.decode(&tokens).unwrap(), &text);
            prop_assert_eq!(&pieces(&tokenizer, &tokens).concat(), &text);
        }
    }

    #[test]
    fn any_tokens_stream_as_they_decode(tokens in prop::collection::vec(0_u32..500, 0..60)) {
        let tokenizer = tokenizer();
        prop_assert_eq!(pieces(&tokenizer, &tokens).concat(), tokenizer.decode(&tokens).unwrap());
    }

    #[test]
    fn any_sentence_piece_tokens_stream_without_an_error(tokens in prop::collection::vec(0_u32..264, 0..60)) {
        let tokenizer = sentence_piece();
        let valid = |text: &str| text.replace('\u{fffd}', "").len();
        let streamed = pieces(&tokenizer, &tokens).concat();
        prop_assert!(valid(&streamed) >= valid(&tokenizer.decode(&tokens).unwrap()));
    }
}
