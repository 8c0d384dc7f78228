//! What clients send, checked: a request that exists can be handed to the scheduler.
//!
//! A field that is not known, or known and not supported, is an error: what a client asks for is never
//! ignored. Names, defaults and ranges are OpenAI's.

mod fields;

use super::error::ApiError;
use bam_lm::engine::generate::Sampling;
pub use fields::{Fields, Prompts};
use fields::{Object, PROMPTS, Whole};
use serde::Deserialize;
use serde::de::{self, Deserializer};

/// Most completions of one request, prompts times choices.
pub const MOST_CHOICES: usize = 128;
const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 250;
/// Tokens that are generated if a completion does not say.
const USUAL_TOKENS: usize = 16;

/// How answers are drawn, ended and sent: what completions and chats have in common.
#[derive(Debug)]
pub struct Generation {
    /// With the seed if one is given.
    sampling: Sampling,
    seeded: bool,
    pub choices: usize,
    pub stops: Vec<String>,
    pub stream: bool,
    /// Whether a stream ends with the numbers of tokens.
    pub stream_usage: bool,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "another kind of JSON")]
enum Stops {
    One(String),
    Many(Vec<String>),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    include_usage: Option<bool>,
    include_obfuscation: Option<bool>,
}

impl Generation {
    /// How a choice of a prompt is drawn. Choices differ, and the same request with a seed has the same ones;
    /// without, every row is drawn by itself.
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

    fn take(fields: &mut Fields<'_>) -> Result<Self, ApiError> {
        let mut real = |name, most: f64, usual: f64| {
            let expected = format!("a number from 0 to {most}");
            let value = fields.take::<f64>(name, &expected)?.unwrap_or(usual);
            match (0.0..=most).contains(&value) {
                true => Ok(value),
                false => Err(ApiError::expected(name, &expected, value)),
            }
        };
        let temperature = real("temperature", 2.0, 1.0)?;
        let top_p = real("top_p", 1.0, 1.0)?;
        let seed: Option<Whole> = fields.take("seed", "a whole number of 64 bits")?;
        let sampling = Sampling {
            temperature,
            // None of the mass is the most probable token.
            top_p: top_p.max(f64::MIN_POSITIVE),
            top_k: fields.number("top_k", 1..=u64::MAX)?,
            seed: seed.as_ref().map_or(0, |Whole(seed)| *seed as u64),
        };
        let expected = format!("a string or up to {MOST_STOPS} strings");
        let stops = match fields.take("stop", &expected)? {
            None => Vec::new(),
            Some(Stops::One(stop)) => vec![stop],
            Some(Stops::Many(stops)) => stops,
        };
        if stops.len() > MOST_STOPS {
            return Err(ApiError::expected("stop", &expected, stops.len()));
        }
        if let Some(length) = stops
            .iter()
            .map(|stop| stop.chars().count())
            .find(|length| !(1..=LONGEST_STOP).contains(length))
        {
            let expected = format!("strings of 1 to {LONGEST_STOP} characters");
            return Err(ApiError::expected("stop", &expected, length));
        }
        let stream = fields.flag("stream")?;
        let options = fields.take("stream_options", "an object with include_usage")?;
        if options.is_some() && !stream {
            let expected = "stream with it";
            return Err(ApiError::expected("stream_options", expected, "none"));
        }
        let options = options.map_or_else(StreamOptions::default, |Object(options)| options);
        if options.include_obfuscation == Some(true) {
            let expected = "include_obfuscation false: it is not supported";
            return Err(ApiError::expected("stream_options", expected, "true"));
        }
        let choices = fields.number("n", 1..=MOST_CHOICES as u64)?.unwrap_or(1);
        for (name, nothing) in [
            ("presence_penalty", &["0", "0.0"][..]),
            ("frequency_penalty", &["0", "0.0"]),
            ("logit_bias", &["{}"]),
            ("repetition_penalty", &["1", "1.0"]),
            ("min_tokens", &["0"]),
            ("ignore_eos", &["false"]),
        ] {
            fields.refuse(name, nothing)?;
        }
        // Who the client's user is changes nothing here.
        fields.take::<String>("user", "a string")?;
        Ok(Self {
            sampling,
            seeded: seed.is_some(),
            choices,
            stops,
            stream,
            stream_usage: options.include_usage.unwrap_or(false),
        })
    }
}

/// The body of `/v1/completions`.
#[derive(Debug)]
pub struct Completion {
    pub model: Option<String>,
    pub prompts: Prompts,
    pub tokens: usize,
    pub echo: bool,
    /// How many of the most probable tokens are named, where log-probabilities are wanted.
    pub logprobs: Option<usize>,
    /// Whether the ids of the tokens are sent too, as vLLM does.
    pub token_ids: bool,
    /// Whether text begins with the token that begins documents.
    pub begin: bool,
    pub generation: Generation,
}

impl Completion {
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::of(body)?;
        let completion = Self {
            model: fields.take("model", "a string")?,
            prompts: fields.need("prompt", PROMPTS)?,
            tokens: fields
                .number("max_tokens", 0..=u64::MAX)?
                .unwrap_or(USUAL_TOKENS),
            echo: fields.flag("echo")?,
            logprobs: fields.number("logprobs", 0..=5)?,
            token_ids: fields.flag("return_token_ids")?,
            begin: fields
                .take("add_special_tokens", "true or false")?
                .unwrap_or(true),
            generation: Generation::take(&mut fields)?,
        };
        let best_of = fields.number("best_of", 1..=MOST_CHOICES as u64)?;
        if best_of.is_some_and(|best_of| best_of != completion.generation.choices) {
            return Err(ApiError::expected(
                "best_of",
                "the same as n",
                best_of.unwrap_or(0),
            ));
        }
        fields.refuse("suffix", &["\"\""])?;
        fields.finish()?;
        let count = completion.prompts.count() * completion.generation.choices;
        if count > MOST_CHOICES {
            let expected = format!("at most {MOST_CHOICES} prompts times n");
            return Err(ApiError::expected("prompt", &expected, count));
        }
        Ok(completion)
    }
}

/// A message of a chat.
#[derive(Debug, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    pub role: String,
    #[serde(deserialize_with = "content")]
    pub content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The text of a message: a string, or parts that are text.
fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Part {
        r#type: String,
        text: String,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Content {
        Text(String),
        Parts(Vec<Object<Part>>),
    }
    let wrong = || de::Error::custom("content: expected a string or parts of type text");
    match Content::deserialize(deserializer).map_err(|_| wrong())? {
        Content::Text(text) => Ok(text),
        Content::Parts(parts) if parts.iter().all(|Object(part)| part.r#type == "text") => {
            Ok(parts.into_iter().map(|Object(part)| part.text).collect())
        }
        Content::Parts(_) => Err(wrong()),
    }
}

/// The body of `/v1/chat/completions`.
#[derive(Debug)]
pub struct Chat {
    pub model: Option<String>,
    pub messages: Vec<Message>,
    /// As many as there is room for if not given.
    pub tokens: Option<usize>,
    pub logprobs: Option<usize>,
    pub generation: Generation,
}

impl Chat {
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::of(body)?;
        let messages: Vec<Object<Message>> =
            fields.need("messages", "an array of objects with role and content")?;
        let messages: Vec<Message> = messages
            .into_iter()
            .map(|Object(message)| message)
            .collect();
        if messages.is_empty() {
            return Err(ApiError::expected("messages", "at least one", "none"));
        }
        let newer = fields.number("max_completion_tokens", 1..=u64::MAX)?;
        let older = fields.number("max_tokens", 1..=u64::MAX)?;
        let wanted = fields.flag("logprobs")?;
        let top = fields.number("top_logprobs", 0..=20)?;
        if top.is_some() && !wanted {
            return Err(ApiError::expected(
                "top_logprobs",
                "logprobs with it",
                "none",
            ));
        }
        let chat = Self {
            model: fields.take("model", "a string")?,
            messages,
            tokens: newer.or(older),
            logprobs: wanted.then_some(top.unwrap_or(0)),
            generation: Generation::take(&mut fields)?,
        };
        fields.finish()?;
        Ok(chat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(body: &str) -> Result<Completion, String> {
        Completion::parse(body.as_bytes()).map_err(|error| error.message)
    }

    #[test]
    fn prompts_come_in_four_forms() {
        let prompts = |json: &str| {
            completion(&format!(r#"{{"prompt": {json}}}"#)).map(|completion| completion.prompts)
        };
        assert_eq!(prompts(r#""a""#), Ok(Prompts::Texts(vec!["a".into()])));
        assert_eq!(
            prompts(r#"["a", ""]"#),
            Ok(Prompts::Texts(vec!["a".into(), String::new()]))
        );
        assert_eq!(prompts("[1, 2.0]"), Ok(Prompts::Tokens(vec![vec![1, 2]])));
        assert_eq!(
            prompts("[[1], [2, -3]]"),
            Ok(Prompts::Tokens(vec![vec![1], vec![2, -3]]))
        );
        for wrong in [
            "[]",
            r#"[1, "a"]"#,
            "[[1], 2]",
            "1",
            "{}",
            "[1.5]",
            "[[[1]]]",
            "null",
        ] {
            let message = prompts(wrong).unwrap_err();
            assert!(
                message.contains("prompt: expected a string"),
                "{wrong}: {message}"
            );
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
            (r#""stop": [""]"#, "stop: expected strings of 1"),
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
                "stop: expected a string or up to 16 strings, got 5",
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
    }

    #[test]
    fn rows_are_drawn_apart_unless_there_is_a_seed() {
        let seeds = |body: &str| {
            let generation = completion(body).unwrap().generation;
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
        assert!(Completion::parse(b"{\"prompt\": \"\xff\"}").is_err());
    }
}
