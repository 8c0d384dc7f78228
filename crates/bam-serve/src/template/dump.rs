//! `tojson`, as `transformers` has it.

use super::arguments::{arguments, said, truly, whole, wrong};
use super::items::{is_list, is_mapping};
use super::written::{number, text};
use minijinja::value::{Rest, ValueKind};
use minijinja::{Error, Value};
use std::fmt::Write;

/// `json.dumps`, which escapes nothing for HTML.
pub fn tojson(value: &Value, given: Rest<Value>) -> Result<String, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sort] = arguments("tojson", &given, names)?;
    let indent = match said(indent) {
        None => None,
        Some(indent) => Some(match (indent.as_str(), whole(&indent)) {
            (Some(text), _) => text.to_owned(),
            (None, Some(count)) if count <= 64 => " ".repeat(count.max(0) as usize),
            _ => return Err(wrong(format!("tojson: expected an indent, got {indent}"))),
        }),
    };
    let [comma, colon] = match said(separators) {
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_owned),
        Some(given) => {
            let two: Vec<String> = given.try_iter()?.map(|of| of.to_string()).collect();
            let expected =
                |two: Vec<_>| wrong(format!("tojson: expected 2 separators, got {}", two.len()));
            <[String; 2]>::try_from(two).map_err(expected)?
        }
    };
    let dump = Dump {
        ascii: truly(ascii),
        sort: truly(sort),
        indent,
        comma,
        colon,
    };
    let mut out = String::new();
    dump.value(value, 0, &mut out)?;
    Ok(out)
}

/// A way to write JSON.
struct Dump {
    ascii: bool,
    sort: bool,
    indent: Option<String>,
    comma: String,
    colon: String,
}

/// Deeper values are refused.
const DEEPEST: usize = 128;

impl Dump {
    fn value(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(wrong("tojson: expected values that are not so deep"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Number => match f64::try_from(value.clone()) {
                Ok(x) if x.is_nan() => out.push_str("NaN"),
                Ok(x) if x.is_infinite() => {
                    out.push_str(if x > 0.0 { "Infinity" } else { "-Infinity" })
                }
                _ => number(value, out),
            },
            _ if is_list(value) => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.several(['[', ']'], items.len(), depth, out, |at, out| {
                    self.value(&items[at], depth + 1, out)
                })?;
            }
            ValueKind::Map if is_mapping(value) => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                self.several(['{', '}'], keys.len(), depth, out, |at, out| {
                    let key = &keys[at];
                    match key.kind() {
                        ValueKind::None => out.push_str("\"null\""),
                        ValueKind::Bool => self.string(&text(key)?.to_lowercase(), out),
                        ValueKind::Number | ValueKind::String => self.string(&text(key)?, out),
                        kind => {
                            return Err(wrong(format!(
                                "tojson: expected keys of JSON, got {kind}"
                            )));
                        }
                    }
                    out.push_str(&self.colon);
                    self.value(&value.get_item(key)?, depth + 1, out)
                })?;
            }
            kind => {
                return Err(wrong(format!(
                    "tojson: expected what JSON can say, got {kind}"
                )));
            }
        }
        Ok(())
    }

    fn several(
        &self,
        [open, close]: [char; 2],
        count: usize,
        depth: usize,
        out: &mut String,
        mut write: impl FnMut(usize, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(indent.as_str(), depth));
            }
        };
        out.push(open);
        for at in 0..count {
            out.push_str(if at > 0 { &self.comma } else { "" });
            line(depth + 1, out);
            write(at, out)?;
        }
        if count > 0 {
            line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}
