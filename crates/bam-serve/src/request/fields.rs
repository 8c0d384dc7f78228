//! Every field of every request: null, values that say nothing or what is done anyway, and values that would change
//! the answer.

use super::super::json;
use super::super::text::tests::tokenizer;
use super::*;

/// A field, values that are taken besides null, and one that is refused.
type Row = (&'static str, &'static [&'static str], &'static str);

const BOTH: &[Row] = &[
    ("model", &[r#""a""#], "5"),
    ("temperature", &["1", "0", "0.5"], "3"),
    ("top_p", &["1", "0.5"], "2"),
    ("top_k", &["0", "-1", "5"], "-2"),
    ("n", &["1", "1.0"], "0"),
    ("seed", &["-1", "7"], "0.5"),
    ("stop", &["[]", r#""""#, "[null]", r#"["a", null]"#], "5"),
    ("stop_token_ids", &["[]", "[1]"], "[-1]"),
    ("stream", &["false", "true"], r#""yes""#),
    (
        "stream_options",
        &[
            "{}",
            r#"{"include_usage": false, "include_obfuscation": true}"#,
            r#"{"include_usage": null, "wings": null}"#,
        ],
        r#"{"include_usage": true}"#,
    ),
    ("user", &[r#""me""#, r#""""#], "5"),
    ("presence_penalty", &["0", "0.0"], "1"),
    ("frequency_penalty", &["0"], "-1"),
    ("logit_bias", &["{}", r#"{"50256": 0}"#], r#"{"1": 2}"#),
    ("repetition_penalty", &["1", "1.0"], "1.2"),
    ("min_tokens", &["0"], "1"),
    ("ignore_eos", &["false"], "true"),
    ("min_p", &["0"], "0.1"),
    ("include_stop_str_in_output", &["false"], "true"),
    ("skip_special_tokens", &["true"], "false"),
];

const COMPLETION: &[Row] = &[
    ("max_tokens", &["16", "0"], "-1"),
    ("echo", &["false", "true"], "0"),
    ("logprobs", &["0", "5"], "6"),
    ("return_token_ids", &["false", "true"], "0"),
    ("add_special_tokens", &["true", "false"], "0"),
    ("best_of", &["1"], "2"),
    ("suffix", &[r#""""#], r#""x""#),
];

const CHAT: &[Row] = &[
    ("max_tokens", &["16"], "0"),
    ("max_completion_tokens", &["16"], "0"),
    ("logprobs", &["false", "true"], "5"),
    ("top_logprobs", &["0"], "1"),
    ("tools", &["[]"], r#"[{"type": "function"}]"#),
    ("tool_choice", &[r#""none""#, r#""auto""#], r#""required""#),
    ("parallel_tool_calls", &["true", "false"], "5"),
    ("functions", &["[]"], r#"[{"name": "f"}]"#),
    (
        "function_call",
        &[r#""none""#, r#""auto""#],
        r#"{"name": "f"}"#,
    ),
    ("chat_template_kwargs", &["{}", r#"{"a": 1}"#], "5"),
    (
        "response_format",
        &[
            r#"{"type": "text"}"#,
            r#"{"type": "text", "json_schema": null}"#,
        ],
        r#"{"type": "json_object"}"#,
    ),
    ("modalities", &["[]", r#"["text"]"#], r#"["text", "audio"]"#),
    ("audio", &[], r#"{"voice": "a", "format": "wav"}"#),
    ("prediction", &[], r#"{"type": "content", "content": "a"}"#),
    // Nothing in it asks for a search all the same.
    ("web_search_options", &[], "{}"),
    (
        "reasoning_effort",
        &[r#""none""#, r#""medium""#],
        r#""high""#,
    ),
    ("verbosity", &[r#""medium""#], r#""low""#),
    ("service_tier", &[r#""auto""#, r#""default""#], r#""flex""#),
    ("store", &["false"], "true"),
    ("metadata", &["{}", r#"{"a": "b"}"#], "5"),
    ("moderation", &[], r#"{"model": "a"}"#),
    ("prompt_cache_key", &[r#""a""#], "5"),
    ("prompt_cache_retention", &[r#""24h""#], "5"),
    (
        "prompt_cache_options",
        &["{}", r#"{"mode": "explicit"}"#],
        "5",
    ),
    ("safety_identifier", &[r#""a""#], "5"),
];

/// Of an assistant's message with a content.
const MESSAGE: &[Row] = &[
    ("name", &[r#""a""#], "5"),
    ("tool_calls", &["[]", r#"[{"index": 0, "id": "1"}]"#], "5"),
    ("tool_call_id", &[r#""1""#], "5"),
    ("function_call", &[r#"{"name": "f", "arguments": ""}"#], "5"),
    ("refusal", &[r#""""#, r#""no""#], "5"),
    ("reasoning", &[r#""so""#], "5"),
    ("reasoning_content", &[r#""so""#], "5"),
    ("annotations", &["[]", r#"[{"type": "url_citation"}]"#], "5"),
    ("parsed", &["{}", r#"{"a": 1}"#, "5"], ""),
    ("id", &[r#""msg_1""#], "5"),
    ("status", &[r#""completed""#], "5"),
    ("cache_control", &["{}", r#"{"type": "ephemeral"}"#], "5"),
    ("audio", &[], r#"{"id": "a"}"#),
    ("prefix", &["false"], "true"),
    ("type", &[r#""message""#, r#""text""#], r#""file""#),
    (
        "provider_specific_fields",
        &["{}", r#"{"refusal": null}"#],
        r#"{"a": 1}"#,
    ),
    ("thinking_blocks", &["[]"], r#"[{"thinking": "so"}]"#),
];

/// Of a part of a content.
const PART: &[Row] = &[
    ("annotations", &["[]"], r#"[{"type": "url_citation"}]"#),
    ("cache_control", &[r#"{"type": "ephemeral"}"#], "5"),
    (
        "prompt_cache_breakpoint",
        &["{}", r#"{"mode": "explicit"}"#],
        "5",
    ),
    ("refusal", &[], "5"),
    ("image_url", &["{}"], r#"{"url": "a"}"#),
];

/// Of any request: what is not known is taken where it is empty, also deep inside, but neither false nor 0.
const UNKNOWN: &[Row] = &[
    (
        "wings",
        &[r#""""#, "[]", "{}", r#"{"a": [null, {"b": ""}]}"#],
        "2",
    ),
    ("add_generation_prompt", &[], "false"),
    ("draft", &[], "0"),
    ("guided_regex", &[], r#"[{"a": "b"}]"#),
];

fn check(rows: &[Row], taken: impl Fn(&str) -> Result<(), ApiError>) {
    for (name, values, refused) in rows {
        for value in ["null"].iter().chain(*values) {
            let told = taken(&format!(r#", "{name}": {value}"#));
            assert_eq!(told, Ok(()), "{name}: {value}");
        }
        if !refused.is_empty() {
            let error = taken(&format!(r#", "{name}": {refused}"#)).unwrap_err();
            assert!(
                error.to_string().contains(name),
                "{name}: {refused}: {error}"
            );
        }
    }
}

fn check_all<T: JsonSchema>(rows: &[&[Row]], required: &[&str]) {
    let schema = schemars::schema_for!(T).to_value();
    let named = rows.iter().flat_map(|rows| rows.iter().map(|row| row.0));
    let named: Vec<&str> = named.chain(required.iter().copied()).collect();
    for field in schema["properties"].as_object().unwrap().keys() {
        assert!(named.contains(&field.as_str()), "{field}: no row has it");
    }
}

#[test]
fn fields_of_a_completion() {
    let taken = |more: &str| {
        let body = format!(r#"{{"prompt": "a"{more}}}"#);
        let completion: Completion = json::parse(body.as_bytes())?;
        completion.generation().map(drop)
    };
    check_all::<Completion>(&[BOTH, COMPLETION], &["prompt"]);
    for rows in [BOTH, COMPLETION, UNKNOWN] {
        check(rows, taken);
    }
}

fn chat(body: &str) -> Result<(), ApiError> {
    let chat: Chat = json::parse(body.as_bytes())?;
    chat.generation()?;
    chat.read(&tokenizer()).map(drop)
}

#[test]
fn fields_of_a_chat() {
    let said = r#""messages": [{"role": "user", "content": "a"}]"#;
    check_all::<Chat>(&[BOTH, CHAT], &["messages"]);
    for rows in [BOTH, CHAT, UNKNOWN] {
        check(rows, |more| chat(&format!("{{{said}{more}}}")));
    }
}

#[test]
fn fields_of_a_message_and_of_its_parts() {
    check_all::<Message>(&[MESSAGE], &["role", "content"]);
    for rows in [MESSAGE, UNKNOWN] {
        check(rows, |more| {
            chat(&format!(
                r#"{{"messages": [{{"role": "assistant", "content": "a"{more}}}]}}"#
            ))
        });
    }
    for rows in [PART, UNKNOWN] {
        check(rows, |more| {
            chat(&format!(
                r#"{{"messages": [{{"role": "user", "content": [{{"type": "text", "text": "a"{more}}}]}}]}}"#
            ))
        });
    }
}

#[test]
fn fields_of_the_other_requests() {
    fn taken<T: serde::de::DeserializeOwned>(body: String) -> Result<(), ApiError> {
        json::parse::<T>(body.as_bytes()).map(drop)
    }
    let tokenize: &[Row] = &[
        ("add_special_tokens", &["true", "false"], "0"),
        ("return_token_strs", &["true", "false"], "0"),
        ("model", &[r#""a""#], "5"),
    ];
    check_all::<Tokenize>(&[tokenize], &["prompt"]);
    check_all::<Detokenize>(&[&tokenize[2..]], &["tokens"]);
    check_all::<Inspect>(&[], &["tokens"]);
    for rows in [tokenize, UNKNOWN] {
        check(rows, |more| {
            taken::<Tokenize>(format!(r#"{{"prompt": "a"{more}}}"#))
        });
    }
    check(UNKNOWN, |more| {
        taken::<Detokenize>(format!(r#"{{"tokens": []{more}}}"#))
    });
    check(UNKNOWN, |more| {
        taken::<Inspect>(format!(r#"{{"tokens": [1]{more}}}"#))
    });
}

/// Null control of all the rows: what has to be there is missed, and null is not it.
#[test]
fn nothing_is_no_value_of_what_has_to_be_there() {
    for (body, expected) in [
        (r#"{"messages": null}"#, "messages: expected"),
        (
            r#"{"messages": [null]}"#,
            "messages[0]: expected an object, got null",
        ),
        (
            r#"{"messages": [{"role": null, "content": "a"}]}"#,
            "messages[0].role: expected",
        ),
        (
            r#"{"messages": [{"content": "a"}]}"#,
            "messages[0].role: expected a value",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": null}]}]}"#,
            "text: expected a value",
        ),
    ] {
        let error = chat(body).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn bodies_may_begin_with_a_byte_order_mark() {
    let said = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
    assert_eq!(chat(&format!("\u{feff}{said}")), Ok(()));
    assert!(chat(&format!("\u{feff}\u{feff}{said}")).is_err());
}
