//! Values as Python's `str` and `repr` write them; tuples, which the engine has none of.

use minijinja::value::{DynObject, Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::fmt::{Formatter, Result as Written, Write};
use std::sync::Arc;

/// The widest that a text is filled up to.
pub const WIDEST: usize = 1 << 16;

pub fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// A value as `str` writes it.
pub fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            let mut out = String::new();
            repr(value, &mut out);
            out
        }
        _ => value.to_string(),
    }
}

/// A value as `repr` writes it.
pub fn repr(value: &Value, out: &mut String) {
    let items = || value.try_iter().into_iter().flatten();
    match value.kind() {
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Number => number(value, out),
        ValueKind::Map => {
            out.push('{');
            for (index, key) in items().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                repr(&key, out);
                out.push_str(": ");
                repr(&value.get_item(&key).unwrap_or_default(), out);
            }
            out.push('}');
        }
        ValueKind::Seq if value.downcast_object_ref::<Tuple>().is_some() => {
            out.push_str(&value.to_string());
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (index, item) in items().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                repr(&item, out);
            }
            out.push(']');
        }
        ValueKind::Undefined => out.push_str("Undefined"),
        _ => out.push_str(&value.to_string()),
    }
}

/// A number as Python writes it: the shortest digits, with an exponent from 1e16 up and below 1e-4.
pub fn number(value: &Value, out: &mut String) {
    let float = f64::try_from(value.clone())
        .ok()
        .filter(|_| !value.is_integer());
    match float {
        Some(x) if x.is_finite() && x != 0.0 && !(1e-4..1e16).contains(&x.abs()) => {
            let digits = format!("{x:e}");
            let (digits, exponent) = digits.split_once('e').unwrap_or((&digits, "0"));
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            let _ = write!(out, "{digits}e{sign}{exponent:0>2}");
        }
        Some(x) if x.is_nan() => out.push_str("nan"),
        _ => out.push_str(&value.to_string()),
    }
}

/// A text in quotes: single ones, unless it has such and no double ones.
fn quoted(text: &str, out: &mut String) {
    let quote = match text.contains('\'') && !text.contains('"') {
        true => '"',
        false => '\'',
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// A dictionary; the engine's namespaces look like them.
pub fn is_mapping(value: &Value) -> bool {
    let namespace = |object: &DynObject| object.type_name().ends_with("::Namespace");
    value.kind() == ValueKind::Map && !value.as_object().is_some_and(namespace)
}

/// Values that are written in round brackets, and spread out by `%`.
#[derive(Debug)]
pub struct Tuple(pub Vec<Value>);

pub fn tuple(items: Vec<Value>) -> Value {
    Value::from_object(Tuple(items))
}

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn render(self: &Arc<Self>, formatter: &mut Formatter<'_>) -> Written {
        let mut out = String::from("(");
        for (index, item) in self.0.iter().enumerate() {
            out.push_str(if index > 0 { ", " } else { "" });
            repr(item, &mut out);
        }
        out.push_str(if self.0.len() == 1 { ",)" } else { ")" });
        formatter.write_str(&out)
    }
}
