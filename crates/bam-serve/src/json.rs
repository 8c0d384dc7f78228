//! JSON of requests: values that know their range and say it, and serde's errors in the protocol's words.

use super::error::ApiError;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Unexpected,
    Visitor,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// Characters of a value that a message shows.
const SHOWN: usize = 60;

/// A request of a body.
///
/// # Errors
/// If the body is no JSON, or not this request's: the error names the field.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // Some programs begin UTF-8 with a byte order mark, which is no JSON and may be ignored (RFC 8259, 8.1).
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut json = serde_json::Deserializer::from_slice(body);
    let Object(request) = serde_path_to_error::deserialize(&mut json).map_err(refused)?;
    let got = |error: serde_json::Error| ApiError::NotJson {
        got: error.to_string(),
    };
    json.end().map_err(got)?;
    Ok(request)
}

/// The beginning of a text that a client sent.
pub fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Serde's error as the protocol has it.
fn refused(error: serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let path = error.path().to_string();
    let error = error.into_inner();
    let text = error.to_string();
    if !error.is_data() {
        return ApiError::NotJson { got: text };
    }
    let text = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(text, _)| text);
    let inside = |name: &str| match path.as_str() {
        "." => shown(name),
        path => format!("{path}.{}", shown(name)),
    };
    let name = text.split('`').nth(1).unwrap_or_default();
    if text.starts_with("unknown field ") {
        return ApiError::Unknown {
            field: inside(name),
        };
    }
    if text.starts_with("duplicate field ") {
        return ApiError::Twice {
            field: inside(name),
        };
    }
    if text.starts_with("missing field ") {
        return ApiError::Missing {
            field: inside(name),
        };
    }
    let told = match text.rsplit_once(", expected ") {
        Some((wrong, expected)) => {
            let wrong = ["invalid type: ", "invalid value: ", "unknown variant "]
                .iter()
                .find_map(|kind| wrong.strip_prefix(kind))
                .unwrap_or(wrong);
            (expected, got(wrong))
        }
        None => match text
            .strip_prefix("expected ")
            .and_then(|text| text.split_once(", got "))
        {
            Some((expected, got)) => (expected, got.to_owned()),
            None => ("something else", text.to_owned()),
        },
    };
    match path.as_str() {
        "." => ApiError::NotJson { got: told.1 },
        path if told.0 == UNSUPPORTED => ApiError::Unsupported {
            field: path.into(),
            got: told.1,
        },
        path => ApiError::expected(path, told.0, told.1),
    }
}

/// A value as JSON writes it, of serde's words for it.
fn got(serde: &str) -> String {
    let value = match serde {
        "map" => "an object",
        "sequence" => "an array",
        other => ["integer ", "floating point ", "boolean ", "string "]
            .iter()
            .find_map(|kind| other.strip_prefix(kind))
            .unwrap_or(other)
            .trim_matches('`'),
    };
    shown(value)
}

/// A JSON object, and nothing else: serde takes an array for a struct too. Fields that `T` does not know and that
/// say nothing are left out.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ordered::deserialize(deserializer).map(|of| Self(of.value))
    }
}

/// Types that are described as what they hold.
macro_rules! described_by_value {
    ($($of:ident),*) => {$(
        impl<T: JsonSchema> JsonSchema for $of<T> {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                T::schema_name()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                generator.subschema_for::<T>()
            }
        }
    )*};
}

described_by_value!(Object, Ordered);

/// One of several words: serde takes anything else than a text for no JSON at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Word<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        T::deserialize(word.into_deserializer()).map(Self)
    }
}

/// An object as [`Object`] reads it, with the names of its known fields in the order that they came in.
#[derive(Debug)]
pub struct Ordered<T> {
    pub value: T,
    pub keys: Vec<String>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Ordered<T>, A::Error> {
                let mut keys = Vec::new();
                let value = T::deserialize(Fields {
                    fields,
                    known: &[],
                    keys: &mut keys,
                })?;
                Ok(Ordered { value, keys })
            }
        }
        deserializer.deserialize_map(Object(PhantomData))
    }
}

/// Fields of an object on their way to a struct: the names of known ones are kept, unknown ones that say nothing go
/// no further.
struct Fields<'k, A> {
    fields: A,
    known: &'static [&'static str],
    keys: &'k mut Vec<String>,
}

impl<'de, A: MapAccess<'de>> Deserializer<'de> for Fields<'_, A> {
    type Error = A::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        visitor.visit_map(Self { known, ..self })
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_map(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.fields.next_key::<String>()? {
            if self.known.contains(&key.as_str()) {
                self.keys.push(key.clone());
            } else if says_nothing(self.fields.next_value()?) {
                continue;
            }
            return seed.deserialize(key.into_deserializer()).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.fields.next_value_seed(seed)
    }
}

/// An object that templates read and nobody else.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Any(pub minijinja::Value);

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = minijinja::Value::deserialize(deserializer)?;
        match value.kind() {
            minijinja::value::ValueKind::Map => Ok(Self(value)),
            kind => Err(de::Error::custom(format!("expected an object, got {kind}"))),
        }
    }
}

impl JsonSchema for Any {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Any".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object"})
    }
}

/// Null, an empty text, and arrays and objects of nothing else. False and 0 are answers to a question.
pub struct Nothing;

fn says_nothing(raw: &RawValue) -> bool {
    fn is_nothing(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.iter().all(is_nothing),
            Value::Object(fields) => fields.values().all(is_nothing),
            Value::Bool(_) | Value::Number(_) => false,
        }
    }
    let value = || serde_json::from_str(raw.get());
    raw.get().len() <= LONGEST_DEFAULT && value().is_ok_and(|value| is_nothing(&value))
}

impl JsonSchema for Nothing {
    fn schema_name() -> Cow<'static, str> {
        "Nothing".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let nothing = generator.subschema_for::<Self>();
        json_schema!({"anyOf": [
            {"type": "null"},
            {"type": "string", "maxLength": 0},
            {"type": "array", "items": nothing},
            {"type": "object", "additionalProperties": nothing},
        ]})
    }
}

/// A whole number in a range, also as JSON writes it in some languages: `16.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<const MIN: i64, const MAX: i64 = { i64::MAX }>(pub i64);

impl<const MIN: i64, const MAX: i64> Whole<MIN, MAX> {
    /// The number, of things that are counted.
    pub fn count(self) -> usize {
        usize::try_from(self.0.max(0)).unwrap_or(usize::MAX)
    }
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Range<const MIN: i64, const MAX: i64>;
        impl<const MIN: i64, const MAX: i64> Visitor<'_> for Range<MIN, MAX> {
            type Value = i64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match (MIN, MAX) {
                    (i64::MIN, i64::MAX) => f.write_str("a whole number of 64 bits"),
                    (_, i64::MAX) => write!(f, "a whole number from {MIN} up"),
                    _ => write!(f, "a whole number from {MIN} to {MAX}"),
                }
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<i64, E> {
                match (MIN..=MAX).contains(&number) {
                    true => Ok(number),
                    false => Err(E::invalid_value(Unexpected::Signed(number), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<i64, E> {
                match i64::try_from(number) {
                    Ok(number) => self.visit_i64(number),
                    Err(_) => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
                }
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<i64, E> {
                match number.fract() == 0.0 && number.abs() < 9e15 {
                    true => self.visit_i64(number as i64),
                    false => Err(E::invalid_value(Unexpected::Float(number), &self)),
                }
            }
        }
        deserializer.deserialize_any(Range::<MIN, MAX>).map(Self)
    }
}

impl<const MIN: i64, const MAX: i64> JsonSchema for Whole<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Whole".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A number from 0 to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number<const MAX: u8>(pub f64);

impl<'de, const MAX: u8> Deserialize<'de> for Number<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Range<const MAX: u8>;
        impl<const MAX: u8> Visitor<'_> for Range<MAX> {
            type Value = f64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number from 0 to {MAX}")
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<f64, E> {
                match (0.0..=f64::from(MAX)).contains(&number) {
                    true => Ok(number),
                    false => Err(E::invalid_value(Unexpected::Float(number), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<f64, E> {
                self.visit_f64(number as f64)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<f64, E> {
                self.visit_f64(number as f64)
            }
        }
        deserializer.deserialize_any(Range::<MAX>).map(Self)
    }
}

impl<const MAX: u8> JsonSchema for Number<MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Number".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": 0, "maximum": MAX})
    }
}

/// A field that is known and can only say its default, which changes nothing.
#[derive(Debug)]
pub struct Unsupported<T>(PhantomData<T>);

/// A type of which one value says nothing: its default.
pub trait Neutral: DeserializeOwned + Default + PartialEq {
    /// Its schema.
    fn schema() -> Value;
}

/// Types of fields that are known and not supported, each with the JSON of its default.
macro_rules! neutral {
    ($($of:ty: $default:expr;)*) => {$(
        impl Neutral for $of {
            fn schema() -> Value {
                serde_json::json!({"enum": [$default]})
            }
        }
    )*};
}

/// A switch that is on.
#[derive(Debug, PartialEq, Deserialize)]
pub struct On(bool);

impl Default for On {
    fn default() -> Self {
        Self(true)
    }
}

/// The one factor that changes nothing.
#[derive(Debug, PartialEq, Deserialize)]
pub struct One(f64);

impl Default for One {
    fn default() -> Self {
        Self(1.0)
    }
}

/// Biases of tokens, of which none is one.
#[derive(Debug, Default, Deserialize)]
pub struct NoBias(BTreeMap<String, f64>);

impl PartialEq for NoBias {
    fn eq(&self, other: &Self) -> bool {
        let none = |of: &Self| of.0.values().all(|bias| *bias == 0.0);
        none(self) && none(other)
    }
}

impl Neutral for NoBias {
    fn schema() -> Value {
        serde_json::json!({"type": "object", "additionalProperties": {"const": 0}})
    }
}

neutral! {
    (): Value::Null;
    bool: false;
    u64: 0;
    f64: 0;
    String: "";
    Vec<()>: Value::Array(Vec::new());
    On: true;
    One: 1;
}

/// Longer values than this many bytes are no defaults.
const LONGEST_DEFAULT: usize = 1024;
const UNSUPPORTED: &str = "nothing: it is not supported";

impl<'de, T: Neutral> Deserialize<'de> for Unsupported<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        let is_default = raw.len() <= LONGEST_DEFAULT
            && serde_json::from_str::<T>(raw).is_ok_and(|value| value == T::default());
        let wrong = || de::Error::custom(format!("expected {UNSUPPORTED}, got {}", shown(raw)));
        is_default.then_some(Self(PhantomData)).ok_or_else(wrong)
    }
}

impl<T: Neutral> JsonSchema for Unsupported<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Unsupported".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = T::schema();
        schema["description"] = "Nothing else is supported.".into();
        Schema::try_from(schema).unwrap_or_default()
    }
}
