use super::super::error::Code;
use super::super::json;
use super::*;

fn parse(body: &[u8]) -> Result<(Prompts, Generation), ApiError> {
    let completion: Completion = json::parse(body)?;
    let generation = completion.generation()?;
    Ok((completion.prompt, generation))
}

fn completion(body: &str) -> Result<(Prompts, Generation), String> {
    parse(body.as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn prompts_come_in_four_forms() {
    let prompts =
        |json: &str| completion(&format!(r#"{{"prompt": {json}}}"#)).map(|(prompts, _)| prompts);
    let tokens = |ids: &[i64]| ids.iter().map(|id| Whole(*id)).collect::<Vec<_>>();
    assert_eq!(prompts(r#""a""#), Ok(Prompts::Texts(vec!["a".into()])));
    assert_eq!(
        prompts(r#"["a", ""]"#),
        Ok(Prompts::Texts(vec!["a".into(), String::new()]))
    );
    assert_eq!(
        prompts("[1, 2.0]"),
        Ok(Prompts::Tokens(vec![tokens(&[1, 2])]))
    );
    assert_eq!(
        prompts("[[1], [2, 3]]"),
        Ok(Prompts::Tokens(vec![tokens(&[1]), tokens(&[2, 3])]))
    );
    // Nothing is the beginning of a document.
    assert_eq!(prompts("null"), prompts(r#""""#));
    for wrong in ["[]", r#"[1, "a"]"#, "[[1], 2]", "1", "{}"] {
        let message = prompts(wrong).unwrap_err();
        assert!(
            message.contains("prompt: expected a string"),
            "{wrong}: {message}"
        );
    }
    for (wrong, expected) in [
        (
            "[1.5]",
            "prompt[0]: expected a whole number from 0 up, got 1.5",
        ),
        (
            "[[1, -3]]",
            "prompt[0][1]: expected a whole number from 0 up, got -3",
        ),
        (
            "[[[1]]]",
            "prompt[0][0]: expected a whole number from 0 up, got an array",
        ),
        ("[true]", "prompt[0]: expected a string, a token id"),
    ] {
        let message = prompts(wrong).unwrap_err();
        assert!(message.contains(expected), "{wrong}: {message}");
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (field, expected) in [
        (
            r#""temperature": 2.5"#,
            "temperature: expected a number from 0 to 2",
        ),
        (r#""temperature": "hot""#, "temperature: expected a number"),
        (r#""top_p": -0.1"#, "top_p: expected a number from 0 to 1"),
        (r#""n": 0"#, "n: expected a whole number from 1 to 128"),
        (
            r#""logprobs": 6"#,
            "logprobs: expected a whole number from 0 to 5",
        ),
        (r#""best_of": 2"#, "best_of: expected the same as n"),
        (r#""suffix": "x""#, "suffix: expected nothing"),
        (r#""logit_bias": {"1": 2}"#, "logit_bias: expected nothing"),
        (
            r#""presence_penalty": 1"#,
            "presence_penalty: expected nothing",
        ),
        (
            r#""max_tokens": 1.5"#,
            "max_tokens: expected a whole number",
        ),
        (
            r#""repetition_penalty": 1.2"#,
            "repetition_penalty: expected nothing",
        ),
        (
            r#""max_tokens": -1"#,
            "max_tokens: expected a whole number from 0 up",
        ),
        (
            r#""stream_options": {"include_usage": true}"#,
            "stream_options: expected stream with it",
        ),
        (r#""seed": 1, "seed": 2"#, "got two fields seed"),
        (
            r#""stop": 5"#,
            "stop: expected a string or up to 16 strings, of at most 250 characters, got 5",
        ),
        (
            r#""stream_options": [null, null]"#,
            "stream_options: expected an object",
        ),
        (
            r#""seed": 9223372036854775808"#,
            "seed: expected a whole number of 64 bits",
        ),
        (r#""pormpt": "x""#, "unrecognized request argument: pormpt"),
    ] {
        let message = completion(&format!(r#"{{"prompt": "a", {field}}}"#)).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    // Null control: what says nothing is taken.
    let nothing = r#"{"prompt": "a", "suffix": null, "logit_bias": {}, "presence_penalty": 0,
        "frequency_penalty": 0.0, "best_of": 1, "user": "me", "stop": [], "seed": -1,
        "max_tokens": 16.0, "n": 1.0, "stream": true, "stream_options": {"include_usage": true}}"#;
    assert!(completion(nothing).is_ok());
    let nothing = r#"{"prompt": "a", "suffix": "", "logit_bias": {"50256": 0}, "top_k": -1, "min_p": 0,
        "stream": false, "stream_options": {"include_usage": false}, "stop_token_ids": [],
        "skip_special_tokens": true}"#;
    assert!(completion(nothing).is_ok());
}

#[test]
fn rows_are_drawn_apart_unless_there_is_a_seed() {
    let seeds = |body: &str| {
        let generation = completion(body).unwrap().1;
        [0, 0, 1].map(|choice| generation.sampling(choice).seed)
    };
    assert_eq!(seeds(r#"{"prompt": "a", "seed": 7}"#), [7, 7, 8]);
    let [first, second, third] = seeds(r#"{"prompt": "a"}"#);
    assert!(first != second && second != third);
}

#[test]
fn messages_have_nothing_of_the_parser_in_them() {
    for body in [
        r#"{"prompt": "a", "stop": 5}"#,
        r#"{"prompt": "a", "stop": {"a": 1}}"#,
        r#"{"prompt": "a", "temperature": "hot"}"#,
        r#"{"prompt": {"a": 1}}"#,
        r#"[1]"#,
    ] {
        let message = completion(body).unwrap_err();
        for inner in ["variant", "enum", "f64", "struct", "at line 1", "sequence"] {
            assert!(!message.contains(inner), "{message}");
        }
    }
}

#[test]
fn too_many_choices_are_refused() {
    let prompts = vec!["\"a\""; 65].join(",");
    let message = completion(&format!(r#"{{"prompt": [{prompts}], "n": 2}}"#)).unwrap_err();
    assert!(message.contains("at most 128"), "{message}");
}

#[test]
fn deep_json_and_other_bodies_are_refused() {
    let deep = format!(
        r#"{{"prompt": {}{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    for body in [
        deep.as_str(),
        "",
        "[]",
        "{",
        "\u{0}",
        r#"{"prompt": "a", "prompt": "b"} x"#,
    ] {
        assert!(completion(body).is_err());
    }
    assert!(parse(b"{\"prompt\": \"\xff\"}").is_err());
}

/// Of every kind of failure its code and parameter; only what is too long is said to be.
#[test]
fn each_failure_has_its_code() {
    use Code::*;
    for (more, code, param) in [
        (r#", "temperature": 3"#, InvalidValue, Some("temperature")),
        (r#", "stop": [5]"#, InvalidValue, Some("stop")),
        (r#", "best_of": 2"#, InvalidValue, Some("best_of")),
        (r#", "max_tokens": -1"#, InvalidValue, Some("max_tokens")),
        (
            r#", "logit_bias": {"1": 2}"#,
            UnsupportedParameter,
            Some("logit_bias"),
        ),
        (r#", "pormpt": "x""#, UnknownParameter, None),
        (
            r#", "stream": true, "stream_options": {"wings": 2}"#,
            UnknownParameter,
            Some("stream_options"),
        ),
        (r#", "seed": 1, "seed": 2"#, DuplicateParameter, None),
        (", 5", InvalidJson, None),
    ] {
        let error = parse(format!(r#"{{"prompt": "a"{more}}}"#).as_bytes()).unwrap_err();
        let body = error.body().error;
        assert_eq!(
            (body.code, body.param.as_deref()),
            (Some(code), param),
            "{error}"
        );
        assert_eq!(error.status(), 400);
    }
    let missing = parse(b"{}").unwrap_err().body().error;
    assert_eq!(missing.code, Some(MissingRequiredParameter));
    assert_eq!(missing.param.as_deref(), Some("prompt"));
    assert_eq!(
        parse(b"[]").unwrap_err().body().error.code,
        Some(InvalidJson)
    );
    // The scheduler's own refusals: its variant decides.
    let of = |error: bam_lm::Error| ApiError::sequence("prompt", &error).body().error.code;
    let (longest, prompt, max_tokens) = (8, 9, 1);
    assert_eq!(
        of(bam_lm::Error::TooLong {
            longest,
            prompt,
            max_tokens
        }),
        Some(ContextLengthExceeded)
    );
    let (index, vocabulary, got) = (0, 2, 5);
    assert_eq!(
        of(bam_lm::Error::Token {
            index,
            vocabulary,
            got
        }),
        Some(InvalidValue)
    );
}

/// The description names the fields that serde knows, and no others.
#[test]
fn schemas_have_the_fields_that_are_read() {
    fn check<T: serde::de::DeserializeOwned + JsonSchema>() {
        let error = serde_json::from_str::<T>(r#"{"?": 0}"#)
            .err()
            .unwrap()
            .to_string();
        let mut known: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
        known.sort_unstable();
        let schema = schemars::schema_for!(T).to_value();
        assert_eq!(schema["additionalProperties"], false);
        let properties = schema["properties"].as_object().unwrap();
        let mut described: Vec<&str> = properties.keys().map(String::as_str).collect();
        described.sort_unstable();
        assert_eq!(described, known);
    }
    check::<Completion>();
    check::<Chat>();
    check::<Tokenize>();
    check::<Detokenize>();
    check::<Inspect>();
}
