//! Values as Python's `str` and `repr` write them.

use super::arguments::wrong;
use super::items::{Kind, is_mapping, items_of};
use minijinja::value::ValueKind;
use minijinja::{Error, Value};
use std::fmt::Write;

/// A value as `str` writes it.
///
/// # Errors
/// If Python would write an address, as of a function or a generator.
pub fn text(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::String | ValueKind::Undefined => {
            Ok(value.to_string())
        }
        _ => {
            let mut out = String::new();
            repr(value, &mut out)?;
            Ok(out)
        }
    }
}

/// A value as `repr` writes it.
///
/// # Errors
/// As those of [`text`].
pub fn repr(value: &Value, out: &mut String) -> Result<(), Error> {
    let unwritten = |what: &str| {
        Err(wrong(format!(
            "expected something that can be written, got {what}; a list can: `| list`"
        )))
    };
    match (value.kind(), items_of(value).map(|items| &items.kind)) {
        (_, Some(Kind::Tuple)) => several(value, ["(", ")"], out),
        (_, Some(Kind::Range(written))) => {
            out.push_str(written);
            Ok(())
        }
        (_, Some(Kind::View(name))) => {
            *out += name;
            several(value, ["([", "])"], out)
        }
        (_, Some(Kind::Generator(_))) => unwritten("a generator"),
        (ValueKind::String, _) => {
            quoted(value.as_str().unwrap_or_default(), out);
            Ok(())
        }
        (ValueKind::Number, _) => {
            number(value, out);
            Ok(())
        }
        (ValueKind::Map, _) if is_mapping(value) => several(value, ["{", "}"], out),
        (ValueKind::Seq | ValueKind::Iterable, _) => several(value, ["[", "]"], out),
        (ValueKind::Undefined, _) => {
            out.push_str("Undefined");
            Ok(())
        }
        (ValueKind::Map | ValueKind::Plain, _) => unwritten("an object of the engine"),
        _ => {
            *out += &value.to_string();
            Ok(())
        }
    }
}

/// Items, or keys with their values, with commas between and brackets around them.
fn several(of: &Value, [open, close]: [&str; 2], out: &mut String) -> Result<(), Error> {
    *out += open;
    let mut count = 0;
    for item in of.try_iter()? {
        *out += if count > 0 { ", " } else { "" };
        repr(&item, out)?;
        if of.kind() == ValueKind::Map {
            *out += ": ";
            repr(&of.get_item(&item)?, out)?;
        }
        count += 1;
    }
    *out += if count == 1 && open == "(" { "," } else { "" };
    *out += close;
    Ok(())
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
    // Rust escapes what cannot be printed, as Python does, where it is not the first of a text.
    let printed = |c: char| format!("a{c}").escape_debug().nth(1) == Some(c);
    out.push(quote);
    for c in text.chars() {
        let code = c as u32;
        let _ = match c {
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            '\\' => write!(out, "\\\\"),
            '\'' | '"' if c == quote => write!(out, "\\{c}"),
            '\'' | '"' => write!(out, "{c}"),
            c if printed(c) => write!(out, "{c}"),
            _ if code <= 0xff => write!(out, "\\x{code:02x}"),
            _ if code <= 0xffff => write!(out, "\\u{code:04x}"),
            _ => write!(out, "\\U{code:08x}"),
        };
    }
    out.push(quote);
}

/// A text for HTML; one that is marked as safe is as it was.
pub fn escaped(value: &Value) -> Result<String, Error> {
    let text = text(value)?;
    if value.is_safe() {
        return Ok(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Ok(out)
}
