//! The Python in Jinja: how values are written, methods of texts, filters and tests, as `transformers` has them.

use super::super::json::shown;
use super::filters::{escaped, pairs};
use super::written::{WIDEST, is_mapping, number, text, tuple, wrong};
use chrono::Local;
use chrono::format::{Item, StrftimeItems};
use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{AutoEscape, Environment, Error, State, Value};
use minijinja_contrib::{globals, pycompat};
use std::fmt::Write;

/// Gives an environment what `transformers` gives its own.
pub fn equip(environment: &mut Environment<'static>) {
    environment.set_formatter(|out, state, value| match state.auto_escape() {
        AutoEscape::None => out.write_str(&text(value)).map_err(Error::from),
        _ => out.write_str(&escaped(value)).map_err(Error::from),
    });
    environment.remove_global("debug");
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |value: &Value| text(value));
    environment.add_filter("title", |value: &Value| title(&text(value)));
    environment.add_function("cycler", |items: Rest<Value>| globals::cycler(items.0));
    environment.add_function("joiner", globals::joiner);
    environment.add_function("strftime_now", strftime_now);
    let kinds = |kinds: &'static [ValueKind]| move |value: &Value| kinds.contains(&value.kind());
    use ValueKind::{Bool, Iterable, Map, Number, Seq, String, Undefined};
    environment.add_test("sequence", kinds(&[Seq, Iterable, Map, String, Undefined]));
    environment.add_test("iterable", kinds(&[Seq, Iterable, Map, String, Undefined]));
    environment.add_test("mapping", is_mapping);
    environment.add_test("number", kinds(&[Number, Bool]));
    environment.add_test("callable", |value: &Value| {
        value.kind() == ValueKind::Plain && value.as_object().is_some()
    });
}

/// `json.dumps`, which escapes nothing for HTML.
fn tojson(value: &Value, arguments: Kwargs) -> Result<String, Error> {
    let separators: Option<Value> = arguments.get("separators")?;
    let indent: Option<Value> = arguments.get("indent")?;
    let indent = match &indent {
        None => None,
        Some(indent) if indent.is_none() => None,
        Some(indent) => Some(match (indent.as_str(), indent.as_usize()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(count)) if count <= 64 => " ".repeat(count),
            _ => return Err(wrong(format!("tojson: expected an indent, got {indent}"))),
        }),
    };
    let [comma, colon] = match separators.filter(|given| !given.is_none()) {
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_owned),
        Some(given) => {
            let two: Vec<String> = given.try_iter()?.map(|of| of.to_string()).collect();
            let expected =
                |two: Vec<_>| wrong(format!("tojson: expected 2 separators, got {}", two.len()));
            <[String; 2]>::try_from(two).map_err(expected)?
        }
    };
    let flag = |name| Ok::<_, Error>(arguments.get::<Option<bool>>(name)?.unwrap_or(false));
    let dump = Dump {
        ascii: flag("ensure_ascii")?,
        sort: flag("sort_keys")?,
        indent,
        comma,
        colon,
    };
    arguments.assert_all_used()?;
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
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.several(['[', ']'], items.len(), depth, out, |at, out| {
                    self.value(&items[at], depth + 1, out)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                self.several(['{', '}'], keys.len(), depth, out, |at, out| {
                    let key = &keys[at];
                    match key.kind() {
                        ValueKind::None => out.push_str("\"null\""),
                        ValueKind::Bool => self.string(&text(key).to_lowercase(), out),
                        _ => self.string(&text(key), out),
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

/// The time here and now, written as `strftime` does.
fn strftime_now(format: &str) -> Result<String, Error> {
    // Python has microseconds, and a time that knows no zone.
    let format = format
        .replace("%f", "%6f")
        .replace("%Z", "")
        .replace("%z", "");
    let items: Vec<Item> = StrftimeItems::new(&format).collect();
    if items.iter().any(|item| matches!(item, Item::Error)) {
        let got = shown(&format);
        return Err(wrong(format!(
            "strftime_now: expected a format of a time, got {got}"
        )));
    }
    let now = Local::now().naive_local();
    Ok(now.format_with_items(items.into_iter()).to_string())
}

/// Words begin with a capital, and go on in small letters; whatever is no letter ends a word.
fn title(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        inside = c.is_alphabetic();
    }
    out
}

/// Methods of Python's types that templates call, where other crates lack them or differ.
fn method(state: &State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return match (value.kind(), name) {
            (ValueKind::Iterable | ValueKind::Seq, "index") => {
                let (item,): (&Value,) = from_args(arguments)?;
                let at = value.try_iter()?.position(|other| other == *item);
                at.map(Value::from)
                    .ok_or_else(|| wrong(format!("{item} is not in the list")))
            }
            (ValueKind::Map, "items") => {
                let () = from_args(arguments)?;
                pairs(value).map(Value::from)
            }
            (ValueKind::Map | ValueKind::Seq, "copy") => {
                let () = from_args(arguments)?;
                Ok(value.clone())
            }
            _ => pycompat::unknown_method_callback(state, value, name, arguments),
        };
    };
    let all = |is: &dyn Fn(char) -> bool| {
        let () = from_args(arguments)?;
        Ok(Value::from(!text.is_empty() && text.chars().all(is)))
    };
    // Some letters have no case, and there must be one that has.
    let cased = |other: fn(char) -> bool, one: fn(char) -> bool| {
        let () = from_args(arguments)?;
        Ok(Value::from(
            !text.chars().any(other) && text.chars().any(one),
        ))
    };
    let one = || from_args::<(&str,)>(arguments).map(|(argument,)| argument);
    let three = |parts: [&str; 3]| tuple(parts.map(Value::from).into());
    match name {
        "isdigit" | "isnumeric" | "isdecimal" => all(&char::is_numeric),
        "isalpha" => all(&char::is_alphabetic),
        "isalnum" => all(&char::is_alphanumeric),
        "isspace" => all(&char::is_whitespace),
        "islower" => cased(char::is_uppercase, char::is_lowercase),
        "isupper" => cased(char::is_lowercase, char::is_uppercase),
        "title" => {
            let () = from_args(arguments)?;
            Ok(title(text).into())
        }
        "casefold" => {
            let () = from_args(arguments)?;
            Ok(text.to_lowercase().into())
        }
        "swapcase" => {
            let () = from_args(arguments)?;
            let swapped = text.chars().flat_map(|c| match c.is_lowercase() {
                true => c.to_uppercase().collect::<Vec<_>>(),
                false => c.to_lowercase().collect(),
            });
            Ok(swapped.collect::<String>().into())
        }
        "removeprefix" => Ok(text.strip_prefix(one()?).unwrap_or(text).into()),
        "removesuffix" => Ok(text.strip_suffix(one()?).unwrap_or(text).into()),
        "count" => {
            let part = one()?;
            Ok(match part {
                "" => text.chars().count() + 1,
                part => text.matches(part).count(),
            }
            .into())
        }
        // Places are counted in characters.
        "find" | "rfind" | "index" | "rindex" => {
            let part = one()?;
            let at = match name.starts_with('r') {
                true => text.rfind(part),
                false => text.find(part),
            };
            match at {
                Some(at) => Ok(text[..at].chars().count().into()),
                None if name.ends_with("find") => Ok((-1).into()),
                None => Err(wrong("substring not found")),
            }
        }
        "partition" => {
            let part = one()?;
            let (before, after) = text.split_once(part).unwrap_or((text, ""));
            let found = if before.len() < text.len() { part } else { "" };
            Ok(three([before, found, after]))
        }
        "rpartition" => {
            let part = one()?;
            Ok(match text.rsplit_once(part) {
                Some((before, after)) => three([before, part, after]),
                None => three(["", "", text]),
            })
        }
        "split" | "rsplit" => split(text, name == "rsplit", arguments),
        "zfill" | "ljust" | "rjust" | "center" => padded(text, name, arguments),
        _ => pycompat::unknown_method_callback(state, value, name, arguments),
    }
}

fn padded(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<&str>) = from_args(arguments)?;
    let fill = fill.unwrap_or(if name == "zfill" { "0" } else { " " });
    let missing = width.min(WIDEST).saturating_sub(text.chars().count());
    let before = match name {
        "ljust" => 0,
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) if name == "zfill" => (&text[..1], digits),
        _ => ("", text),
    };
    let [left, right] = [before, missing - before].map(|count| fill.repeat(count));
    Ok(format!("{sign}{left}{digits}{right}").into())
}

/// `split` and `rsplit`: at white space, or at a text; at most so often, from one end.
fn split(text: &str, from_end: bool, arguments: &[Value]) -> Result<Value, Error> {
    let (positional, named): (&[Value], Kwargs) = from_args(arguments)?;
    let argument = |at: usize, name: &str| match positional.get(at) {
        Some(value) => Ok(Some(value.clone())),
        None => named.get::<Option<Value>>(name),
    };
    let given = argument(0, "sep")?.filter(|of| !of.is_none());
    let most = argument(1, "maxsplit")?.map(i64::try_from).transpose()?;
    named.assert_all_used()?;
    let most = most
        .and_then(|most| usize::try_from(most).ok())
        .unwrap_or(usize::MAX);
    let separator = match &given {
        None => None,
        Some(of) => match of.as_str() {
            Some("") | None => {
                return Err(wrong("split: expected a separator of a character or more"));
            }
            of => of,
        },
    };
    let mut parts: Vec<&str> = Vec::new();
    let mut rest = text;
    loop {
        if separator.is_none() {
            rest = if from_end {
                rest.trim_end()
            } else {
                rest.trim_start()
            };
            if rest.is_empty() {
                break;
            }
        }
        let cut = match (separator, from_end) {
            _ if parts.len() == most => None,
            (Some(separator), false) => rest.split_once(separator),
            (Some(separator), true) => rest.rsplit_once(separator).map(|(a, b)| (b, a)),
            (None, false) => rest.split_once(char::is_whitespace),
            (None, true) => rest.rsplit_once(char::is_whitespace).map(|(a, b)| (b, a)),
        };
        match cut {
            Some((part, further)) => {
                parts.push(part);
                rest = further;
            }
            None => {
                parts.push(rest);
                break;
            }
        }
    }
    if from_end {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}
