//! Requests, as serde reads them and the server's description tells of them.
//!
//! A field that is not known, or known and not supported, is an error: what a client asks for is never
//! ignored. Names, defaults and ranges are OpenAI's.

use super::error::ApiError;
use super::json::{Any, NoBias, Number, Object, On, One, Ordered, Unsupported, Whole, Word};
use super::message::{Message, check_value};
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
        tool_choice: Option<Word<ToolChoice>>,
        /// Of calls, which there are none of.
        #[serde(rename = "parallel_tool_calls")]
        _parallel_tool_calls: Option<bool>,
        #[serde(rename = "functions")]
        _functions: Option<Unsupported<Vec<()>>>,
        #[serde(rename = "function_call")]
        _function_call: Option<Word<NoCall>>,
        /// Variables of the model's chat template, as vLLM has them.
        chat_template_kwargs: Option<Any>,
        #[serde(rename = "response_format")]
        _response_format: Option<Object<ResponseFormat>>,
        #[serde(rename = "modalities")]
        _modalities: Option<Vec<Word<TextOnly>>>,
        #[serde(rename = "audio")]
        _audio: Option<Unsupported<()>>,
        #[serde(rename = "prediction")]
        _prediction: Option<Unsupported<()>>,
        #[serde(rename = "web_search_options")]
        _web_search_options: Option<Unsupported<()>>,
        #[serde(rename = "reasoning_effort")]
        _reasoning_effort: Option<Word<ReasoningEffort>>,
        #[serde(rename = "verbosity")]
        _verbosity: Option<Word<Verbosity>>,
        #[serde(rename = "service_tier")]
        _service_tier: Option<Word<ServiceTier>>,
        #[serde(rename = "store")]
        _store: Option<Unsupported<bool>>,
        /// Anything: it is for those who store answers.
        #[serde(rename = "metadata")]
        _metadata: Option<Any>,
        #[serde(rename = "moderation")]
        _moderation: Option<Unsupported<()>>,
        /// Prefixes are kept whoever asks.
        #[serde(rename = "prompt_cache_key")]
        _prompt_cache_key: Option<String>,
        #[serde(rename = "prompt_cache_retention")]
        _prompt_cache_retention: Option<String>,
        #[serde(rename = "prompt_cache_options")]
        _prompt_cache_options: Option<Any>,
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
    _type: Word<TextOnly>,
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
        if tools && self.tool_choice != Some(Word(ToolChoice::None)) {
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
mod fields;
#[cfg(test)]
mod tests;
