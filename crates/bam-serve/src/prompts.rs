//! Texts and tokens in the several forms that a field may have.

use super::json::{Any, Object, Whole, Word};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Unexpected, Visitor};
use std::borrow::Cow;
use std::fmt;

/// Prompts as text or as tokens.
#[derive(Debug, PartialEq)]
pub enum Prompts {
    Texts(Vec<String>),
    Tokens(Vec<Vec<Whole<0>>>),
}

impl Prompts {
    pub fn count(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Tokens(prompts) => prompts.len(),
        }
    }
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Prompt;
        impl<'de> Visitor<'de> for Prompt {
            type Value = Prompts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a string, an array of strings, an array of token ids, or an array of those",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Prompts, E> {
                Ok(Prompts::Texts(vec![text.to_owned()]))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Prompts, E> {
                self.visit_str("")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Prompts, A::Error> {
                let (mut texts, mut prompts, mut prompt) = (Vec::new(), Vec::new(), Vec::new());
                while let Some(item) = items.next_element()? {
                    match item {
                        Item::Text(text) => texts.push(text),
                        Item::Prompt(tokens) => prompts.push(tokens),
                        Item::Token(token) => prompt.push(token),
                    }
                }
                let wrong = |got| Err(de::Error::invalid_value(Unexpected::Other(got), &self));
                match (texts.is_empty(), prompts.is_empty(), prompt.is_empty()) {
                    (false, true, true) => Ok(Prompts::Texts(texts)),
                    (true, false, true) => Ok(Prompts::Tokens(prompts)),
                    (true, true, false) => Ok(Prompts::Tokens(vec![prompt])),
                    (true, true, true) => wrong("an empty array"),
                    _ => wrong("an array of several kinds"),
                }
            }
        }
        deserializer.deserialize_any(Prompt)
    }
}

impl JsonSchema for Prompts {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Prompts".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let some = |items: Schema| json_schema!({"type": "array", "minItems": 1, "items": items});
        let text = generator.subschema_for::<String>();
        let tokens = some(generator.subschema_for::<Whole<0>>());
        json_schema!({"anyOf": [text, some(text.clone()), tokens, some(tokens.clone()), {"type": "null"}]})
    }
}

/// An element of an array of prompts, or of a prompt.
enum Item {
    Text(String),
    Token(Whole<0>),
    Prompt(Vec<Whole<0>>),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id or an array of token ids")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Item, E> {
                Ok(Item::Text(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, token: i64) -> Result<Item, E> {
                Whole::deserialize(de::value::I64Deserializer::new(token)).map(Item::Token)
            }

            fn visit_u64<E: de::Error>(self, token: u64) -> Result<Item, E> {
                Whole::deserialize(de::value::U64Deserializer::new(token)).map(Item::Token)
            }

            fn visit_f64<E: de::Error>(self, token: f64) -> Result<Item, E> {
                Whole::deserialize(de::value::F64Deserializer::new(token)).map(Item::Token)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Item, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(items)).map(Item::Prompt)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 250;

/// Strings that an answer ends before.
#[derive(Debug)]
pub struct Stops(pub Vec<String>);

impl<'de> Deserialize<'de> for Stops {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Few;
        impl<'de> Visitor<'de> for Few {
            type Value = Vec<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(
                    f,
                    "a string or up to {MOST_STOPS} strings, of at most {LONGEST_STOP} characters"
                )
            }

            fn visit_str<E: de::Error>(self, stop: &str) -> Result<Vec<String>, E> {
                match stop.chars().count() {
                    // Nothing is no place to stop at.
                    0 => Ok(Vec::new()),
                    1..=LONGEST_STOP => Ok(vec![stop.to_owned()]),
                    length => Err(E::invalid_value(
                        Unexpected::Other(&format!("{length} characters")),
                        &self,
                    )),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<String>, A::Error> {
                let (mut stops, mut came) = (Vec::new(), 0..MOST_STOPS);
                while let Some(stop) = items.next_element::<Option<String>>()? {
                    if came.next().is_none() {
                        return Err(de::Error::invalid_value(Unexpected::Other("more"), &self));
                    }
                    stops.append(&mut Few.visit_str(&stop.unwrap_or_default())?);
                }
                Ok(stops)
            }
        }
        deserializer.deserialize_any(Few).map(Self)
    }
}

impl JsonSchema for Stops {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Stops".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let stop = json_schema!({"type": ["string", "null"], "maxLength": LONGEST_STOP});
        json_schema!({"anyOf": [stop, {"type": "array", "maxItems": MOST_STOPS, "items": stop.clone()}]})
    }
}

/// The text of a message: a string, or parts that are text.
#[derive(Debug, Serialize)]
pub struct Content(pub String);

/// A part of a message.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct Part {
    r#type: Word<PartType>,
    /// Of a part of type text.
    text: Option<String>,
    /// Of a part of type refusal, as an assistant has it.
    refusal: Option<String>,
    /// Prefixes are kept whoever asks.
    #[serde(rename = "cache_control")]
    _cache_control: Option<Any>,
    #[serde(rename = "prompt_cache_breakpoint")]
    _prompt_cache_breakpoint: Option<Any>,
}

#[derive(serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum PartType {
    Text,
    Refusal,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = String;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or parts of type text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
                Ok(text.to_owned())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<String, A::Error> {
                let mut text = String::new();
                while let Some(Object(part)) = parts.next_element::<Object<Part>>()? {
                    let (name, said) = match part.r#type.0 {
                        PartType::Text => ("text", part.text),
                        PartType::Refusal => ("refusal", part.refusal),
                    };
                    text += &said.ok_or_else(|| de::Error::missing_field(name))?;
                }
                Ok(text)
            }
        }
        deserializer.deserialize_any(Texts).map(Self)
    }
}

impl JsonSchema for Content {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Content".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let forms = [
            generator.subschema_for::<String>(),
            generator.subschema_for::<Vec<Part>>(),
        ];
        json_schema!({"anyOf": forms})
    }
}
