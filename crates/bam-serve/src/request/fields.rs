//! The JSON of a request, read field by field, so that an error names the field.

use crate::error::ApiError;
use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// The fields of a JSON object, each still to be read.
pub struct Fields<'b>(BTreeMap<String, &'b RawValue>);

impl<'b> Fields<'b> {
    pub fn of(body: &'b [u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(body).map_err(|error| {
            let got = match error.to_string() {
                kind if kind.starts_with("invalid type") => "another kind of JSON".to_owned(),
                other => other,
            };
            ApiError::new(
                StatusCode::BAD_REQUEST,
                format!("the body: expected a JSON object, got {got}"),
            )
        })
    }

    /// A field, if it is there and not null.
    pub fn take<T: Deserialize<'b>>(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Result<Option<T>, ApiError> {
        let Some(raw) = self.0.remove(name).filter(|raw| raw.get() != "null") else {
            return Ok(None);
        };
        let wrong = |error: serde_json::Error| {
            let mut shown: String = raw.get().chars().take(60).collect();
            if shown.len() < raw.get().len() {
                shown.push('…');
            }
            // What a number or a text is shows by itself; of what has parts, the wrong one is named.
            if raw.get().starts_with(['[', '{']) {
                let error = error.to_string();
                let error = error.split(" at line ").next().unwrap_or_default();
                shown = format!("{shown} ({error})");
            }
            ApiError::expected(name, expected, shown)
        };
        serde_json::from_str(raw.get()).map(Some).map_err(wrong)
    }

    /// Token ids.
    pub fn tokens(&mut self, name: &'static str) -> Result<Vec<i64>, ApiError> {
        let tokens: Vec<Whole> = self.need(name, "an array of token ids")?;
        Ok(tokens.into_iter().map(|Whole(id)| id).collect())
    }

    /// A field that must be there.
    pub fn need<T: Deserialize<'b>>(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Result<T, ApiError> {
        self.take(name, expected)?
            .ok_or_else(|| ApiError::expected(name, expected, "nothing"))
    }

    /// A whole number in a range.
    pub fn number(
        &mut self,
        name: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<usize>, ApiError> {
        let expected = match *range.end() {
            u64::MAX => format!("a whole number from {} up", range.start()),
            end => format!("a whole number from {} to {end}", range.start()),
        };
        let Some(Whole(value)) = self.take(name, &expected)? else {
            return Ok(None);
        };
        match u64::try_from(value) {
            Ok(value) if range.contains(&value) => {
                Ok(Some(usize::try_from(value).unwrap_or(usize::MAX)))
            }
            _ => Err(ApiError::expected(name, &expected, value)),
        }
    }

    pub fn flag(&mut self, name: &'static str) -> Result<bool, ApiError> {
        Ok(self.take(name, "true or false")?.unwrap_or(false))
    }

    /// A field that is known and can only say nothing.
    pub fn refuse(&mut self, name: &'static str, nothing: &[&str]) -> Result<(), ApiError> {
        match self.0.remove(name) {
            Some(raw) if raw.get() != "null" && !nothing.contains(&raw.get()) => {
                let shown: String = raw.get().chars().take(60).collect();
                Err(ApiError::expected(
                    name,
                    "nothing: it is not supported",
                    shown,
                ))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what is left.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => {
                let name: String = name.chars().take(60).collect();
                let message = format!("unrecognized request argument: {name}");
                Err(ApiError::new(StatusCode::BAD_REQUEST, message))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = pairs.next_entry::<String, &RawValue>()? {
                    if fields.contains_key(&name) {
                        let name: String = name.chars().take(60).collect();
                        return Err(de::Error::custom(format!("two fields {name}")));
                    }
                    fields.insert(name, value);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

/// Prompts as text or as tokens.
#[derive(Debug, PartialEq)]
pub enum Prompts {
    Texts(Vec<String>),
    Tokens(Vec<Vec<i64>>),
}

impl Prompts {
    pub fn count(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Tokens(rows) => rows.len(),
        }
    }
}

/// What a prompt can be.
pub const PROMPTS: &str =
    "a string, an array of strings, an array of token ids, or an array of those";

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Prompt;
        impl<'de> Visitor<'de> for Prompt {
            type Value = Prompts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(PROMPTS)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Prompts, E> {
                Ok(Prompts::Texts(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Prompts, A::Error> {
                let mut texts = Vec::new();
                let mut rows = Vec::new();
                let mut row = Vec::new();
                while let Some(item) = items.next_element()? {
                    match item {
                        Item::Text(text) => texts.push(text),
                        Item::Row(tokens) => rows.push(tokens),
                        Item::Token(token) => row.push(token),
                    }
                }
                match (texts.is_empty(), rows.is_empty(), row.is_empty()) {
                    (false, true, true) => Ok(Prompts::Texts(texts)),
                    (true, false, true) => Ok(Prompts::Tokens(rows)),
                    (true, true, false) => Ok(Prompts::Tokens(vec![row])),
                    _ => Err(de::Error::custom("empty, or of several kinds")),
                }
            }
        }
        deserializer.deserialize_any(Prompt)
    }
}

/// A JSON object, and nothing else: serde takes an array for a struct too.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields))
            }
        }
        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// A whole number, also as JSON writes it in some languages: `16.0`.
pub struct Whole(pub i64);

fn whole<E: de::Error>(number: f64) -> Result<i64, E> {
    match number.fract() == 0.0 && number.abs() < 9e15 {
        true => Ok(number as i64),
        false => Err(E::custom(format!("{number} is not a whole number"))),
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Item::deserialize(deserializer)? {
            Item::Token(number) => Ok(Self(number)),
            _ => Err(de::Error::custom("not a number")),
        }
    }
}

/// What an array of prompts can hold.
enum Item {
    Text(String),
    Token(i64),
    Row(Vec<i64>),
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
                Ok(Item::Token(token))
            }

            fn visit_u64<E: de::Error>(self, token: u64) -> Result<Item, E> {
                let wrong = |_| E::custom(format!("{token} is larger than {}", i64::MAX));
                i64::try_from(token).map(Item::Token).map_err(wrong)
            }

            fn visit_f64<E: de::Error>(self, token: f64) -> Result<Item, E> {
                whole(token).map(Item::Token)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Item, A::Error> {
                let mut row = Vec::new();
                while let Some(Whole(token)) = items.next_element()? {
                    row.push(token);
                }
                Ok(Item::Row(row))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
