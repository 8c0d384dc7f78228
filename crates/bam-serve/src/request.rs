//! Requests, as serde reads them and the server's description tells of them.
//!
//! A field that is not known, or known and not supported, is an error: what a client asks for is never
//! ignored. Names, defaults and ranges are OpenAI's.

use super::error::ApiError;
use super::json::{NoBias, Nothing, Number, Object, On, One, Ordered, Unsupported, Whole};
use super::message::{Any, Message, check_value};
use super::prompts::{Prompts, Stops};
use super::template;
use bam_data::Tokenizer;
use bam_lm::engine::generate::Sampling;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most completions of one request, prompts times choices.
const MOST_CHOICES: i64 = 128;
/// Tokens that are generated if a completion does not say.
pub const USUAL_TOKENS: usize = 16;

/// Drawing, ending and sending of answers: common to completions and chats.
#[derive(Debug)]
pub struct Generation {
    /// With the seed if one is given.
    sampling: Sampling,
    seeded: bool,
    pub choices: usize,
    pub stops: Arc<[String]>,
    /// Tokens that end an answer besides those of the model.
    pub stop_tokens: Vec<Whole<0>>,
    pub stream: bool,
    /// Whether a stream ends with the numbers of tokens.
    pub stream_usage: bool,
}

impl Generation {
    /// The drawing of a choice of a prompt. Choices differ, and the same request with a seed has the same ones;
    /// without, every sequence is drawn by itself.
    pub fn sampling(&self, choice: usize) -> Sampling {
        let seed = match self.seeded {
            true => self.sampling.seed.wrapping_add(choice as u64),
            false => rand::random(),
        };
        Sampling {
            seed,
            ..self.sampling
        }
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct StreamOptions {
    include_usage: Option<bool>,
    /// It would change lengths of events only, and events here have theirs.
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

/// Bodies with the fields of every generation: serde takes no common struct where it refuses what is unknown.
macro_rules! generating {
    ($(#[$about:meta])* pub struct $name:ident { $($own:tt)* }) => {
        $(#[$about])*
        #[derive(Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($own)*
            pub model: Option<String>,
            #[schemars(extend("default" = 1))]
            temperature: Option<Number<2>>,
            #[schemars(extend("default" = 1))]
            top_p: Option<Number<1>>,
            /// All tokens where it is 0 or -1.
            top_k: Option<Whole<-1>>,
            #[schemars(extend("default" = 1))]
            n: Option<Whole<1, MOST_CHOICES>>,
            /// The same request with a seed has the same answers; without, every choice is drawn by itself.
            seed: Option<Whole<{ i64::MIN }>>,
            stop: Option<Stops>,
            /// Tokens that end an answer besides those of the model, as vLLM has them.
            stop_token_ids: Option<Vec<Whole<0>>>,
            #[schemars(extend("default" = false))]
            stream: Option<bool>,
            /// Only with stream.
            stream_options: Option<Object<StreamOptions>>,
            /// Anybody: it changes nothing here.
            #[serde(rename = "user")]
            _user: Option<String>,
            #[serde(rename = "presence_penalty")]
            _presence_penalty: Option<Unsupported<f64>>,
            #[serde(rename = "frequency_penalty")]
            _frequency_penalty: Option<Unsupported<f64>>,
            #[serde(rename = "logit_bias")]
            _logit_bias: Option<Unsupported<NoBias>>,
            #[serde(rename = "repetition_penalty")]
            _repetition_penalty: Option<Unsupported<One>>,
            #[serde(rename = "min_tokens")]
            _min_tokens: Option<Unsupported<u64>>,
            #[serde(rename = "ignore_eos")]
            _ignore_eos: Option<Unsupported<bool>>,
            #[serde(rename = "min_p")]
            _min_p: Option<Unsupported<f64>>,
            #[serde(rename = "include_stop_str_in_output")]
            _include_stop_str_in_output: Option<Unsupported<bool>>,
            #[serde(rename = "skip_special_tokens")]
            _skip_special_tokens: Option<Unsupported<On>>,
        }

        impl $name {
            fn common(&self) -> Result<Generation, ApiError> {
                let stream = self.stream.unwrap_or(false);
                let options = self.stream_options.as_ref();
                let usage = options.and_then(|Object(of)| of.include_usage).unwrap_or(false);
                if usage && !stream {
                    return Err(ApiError::expected("stream_options", "stream with it", "none"));
                }
                Ok(Generation {
                    sampling: Sampling {
                        temperature: self.temperature.map_or(1.0, |Number(x)| x),
                        // None of the mass is the most probable token.
                        top_p: self.top_p.map_or(1.0, |Number(x)| x.max(f64::MIN_POSITIVE)),
                        top_k: self.top_k.map(Whole::count).filter(|k| *k > 0),
                        seed: self.seed.map_or(0, |Whole(seed)| seed as u64),
                    },
                    seeded: self.seed.is_some(),
                    choices: self.n.map_or(1, Whole::count),
                    stops: self.stop.as_ref().map_or(&[][..], |Stops(stops)| stops).into(),
                    stop_tokens: self.stop_token_ids.clone().unwrap_or_default(),
                    stream,
                    stream_usage: usage,
                })
            }
        }
    };
}

generating! {
    /// The body of `/v1/completions`.
    pub struct Completion {
        pub prompt: Prompts,
        #[schemars(extend("default" = USUAL_TOKENS))]
        pub max_tokens: Option<Whole<0>>,
        #[schemars(extend("default" = false))]
        pub echo: Option<bool>,
        /// The number of most probable tokens that are named, where log-probabilities are wanted.
        pub logprobs: Option<Whole<0, 5>>,
        /// Whether the ids of the tokens are sent too, as vLLM does.
        #[schemars(extend("default" = false))]
        pub return_token_ids: Option<bool>,
        /// Whether text begins with the token that begins documents.
        #[schemars(extend("default" = true))]
        pub add_special_tokens: Option<bool>,
        /// Only the same as n.
        best_of: Option<Whole<1, MOST_CHOICES>>,
        #[serde(rename = "suffix")]
        _suffix: Option<Unsupported<String>>,
    }
}

impl Completion {
    pub fn generation(&self) -> Result<Generation, ApiError> {
        let generation = self.common()?;
        if let Some(Whole(best_of)) = self.best_of
            && best_of as usize != generation.choices
        {
            return Err(ApiError::expected("best_of", "the same as n", best_of));
        }
        let count = self.prompt.count() * generation.choices;
        if count > MOST_CHOICES as usize {
            let expected = format!("at most {MOST_CHOICES} prompts times n");
            return Err(ApiError::expected("prompt", &expected, count));
        }
        Ok(generation)
    }
}

generating! {
    /// The body of `/v1/chat/completions`.
    pub struct Chat {
        #[schemars(length(min = 1))]
        pub messages: Vec<Ordered<Message>>,
        max_tokens: Option<Whole<1>>,
        /// Instead of max_tokens; as many as there is room for, at most 4096, if neither is given.
        max_completion_tokens: Option<Whole<1>>,
        #[schemars(extend("default" = false))]
        logprobs: Option<bool>,
        /// Only with logprobs.
        top_logprobs: Option<Whole<0, 20>>,
        /// Tools that the chat template tells of. Calls are not read out of answers, so only with tool_choice none.
        tools: Option<Vec<Any>>,
        tool_choice: Option<ToolChoice>,
        /// Of calls, which there are none of.
        #[serde(rename = "parallel_tool_calls")]
        _parallel_tool_calls: Option<bool>,
        #[serde(rename = "functions")]
        _functions: Option<Unsupported<Vec<()>>>,
        #[serde(rename = "function_call")]
        _function_call: Option<NoCall>,
        /// Variables of the model's chat template, as vLLM has them.
        chat_template_kwargs: Option<Any>,
        #[serde(rename = "response_format")]
        _response_format: Option<Object<ResponseFormat>>,
        #[serde(rename = "modalities")]
        _modalities: Option<Vec<TextOnly>>,
        #[serde(rename = "audio")]
        #[schemars(with = "Option<()>")]
        _audio: Option<Unsupported<Nothing>>,
        #[serde(rename = "prediction")]
        #[schemars(with = "Option<()>")]
        _prediction: Option<Unsupported<Nothing>>,
        #[serde(rename = "web_search_options")]
        #[schemars(with = "Option<()>")]
        _web_search_options: Option<Unsupported<Nothing>>,
        #[serde(rename = "reasoning_effort")]
        _reasoning_effort: Option<ReasoningEffort>,
        #[serde(rename = "verbosity")]
        _verbosity: Option<Verbosity>,
        #[serde(rename = "service_tier")]
        _service_tier: Option<ServiceTier>,
        #[serde(rename = "store")]
        _store: Option<Unsupported<bool>>,
        /// Anything: it is for those who store answers.
        #[serde(rename = "metadata")]
        _metadata: Option<Any>,
        /// Prefixes are kept whoever asks.
        #[serde(rename = "prompt_cache_key")]
        _prompt_cache_key: Option<String>,
        #[serde(rename = "prompt_cache_retention")]
        _prompt_cache_retention: Option<String>,
        /// Anybody: it changes nothing here.
        #[serde(rename = "safety_identifier")]
        _safety_identifier: Option<String>,
    }
}

/// Fields of which some values change nothing here; others are refused with the names of these.
macro_rules! only {
    ($($(#[$about:meta])* $name:ident { $($value:ident),* })*) => {$(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
        #[serde(rename_all = "lowercase")]
        #[schemars(inline)]
        enum $name { $($value),* }
    )*};
}

only! {
    /// Whether tools may be called.
    ToolChoice { None, Auto }
    /// The same, before there were tools.
    NoCall { None, Auto }
    /// The one form of answers.
    TextOnly { Text }
    /// The effort of models that do not reason, and OpenAI's default.
    ReasoningEffort { None, Medium }
    /// OpenAI's default.
    Verbosity { Medium }
    /// The tiers that change nothing.
    ServiceTier { Auto, Default }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct ResponseFormat {
    #[serde(rename = "type")]
    _type: TextOnly,
}

impl Chat {
    pub fn generation(&self) -> Result<Generation, ApiError> {
        if self.messages.is_empty() {
            return Err(ApiError::expected("messages", "at least one", "none"));
        }
        let differ = |(a, b)| a != b;
        if self
            .max_tokens
            .zip(self.max_completion_tokens)
            .is_some_and(differ)
        {
            return Err(ApiError::expected(
                "max_tokens",
                "the same as max_completion_tokens, or only one of both",
                "another",
            ));
        }
        let named = self.top_logprobs.is_some_and(|Whole(top)| top > 0);
        if named && self.top().is_none() {
            return Err(ApiError::expected(
                "top_logprobs",
                "logprobs with it",
                "none",
            ));
        }
        let tools = self.tools.as_ref().is_some_and(|tools| !tools.is_empty());
        if tools && self.tool_choice != Some(ToolChoice::None) {
            return Err(ApiError::Unsupported {
                field: "tools".into(),
                got: "some without tool_choice none".into(),
            });
        }
        self.common()
    }

    /// The chat as its template reads it.
    pub fn read(&self, tokenizer: &Tokenizer) -> Result<template::Chat, ApiError> {
        let messages = self.messages.iter().enumerate();
        let messages = messages.map(|(at, message)| message.read(at, tokenizer));
        let tools = self.tools.as_ref().filter(|tools| !tools.is_empty());
        let tools = tools.map(|tools| {
            tools
                .iter()
                .map(|Any(tool)| tool.clone())
                .collect::<Vec<_>>()
        });
        for tool in tools.iter().flatten() {
            check_value("tools", tokenizer, tool)?;
        }
        let mut further = BTreeMap::new();
        if let Some(Any(variables)) = &self.chat_template_kwargs {
            check_value("chat_template_kwargs", tokenizer, variables)?;
            let names = variables.try_iter().into_iter().flatten();
            further.extend(names.filter_map(|name| {
                let value = variables.get_item(&name).ok()?;
                Some((name.as_str()?.to_owned(), value))
            }));
        }
        Ok(template::Chat {
            messages: messages.collect::<Result<_, _>>()?,
            tools,
            further,
        })
    }

    pub fn tokens(&self) -> Option<usize> {
        self.max_completion_tokens
            .or(self.max_tokens)
            .map(Whole::count)
    }

    /// The number of most probable tokens that are named, where log-probabilities are wanted.
    pub fn top(&self) -> Option<usize> {
        let wanted = self.logprobs.unwrap_or(false);
        wanted.then(|| self.top_logprobs.map_or(0, Whole::count))
    }
}

/// The body of `/tokenize`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tokenize {
    pub prompt: String,
    /// Whether the token that begins documents comes first. If false, a prompt that is exactly the name of a
    /// special token is that token.
    #[schemars(extend("default" = true))]
    pub add_special_tokens: Option<bool>,
    #[schemars(extend("default" = false))]
    pub return_token_strs: Option<bool>,
    pub model: Option<String>,
}

/// The body of `/detokenize`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Detokenize {
    pub tokens: Vec<Whole<0>>,
    pub model: Option<String>,
}

/// The body of `/inspect`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inspect {
    #[schemars(length(min = 1))]
    pub tokens: Vec<Whole<0>>,
}

#[cfg(test)]
mod tests {
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
        let prompts = |json: &str| {
            completion(&format!(r#"{{"prompt": {json}}}"#)).map(|(prompts, _)| prompts)
        };
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
}
