//! Methods of Python's types, where other crates lack them or differ.

use super::arguments::{WIDEST, arguments, said, truly, wrong};
use super::items::{is_mapping, listed, of_tuple, pairs, tuple, view};
use minijinja::value::{Kwargs, Object, ObjectRepr, ValueKind, from_args};
use minijinja::{Error, State, Value};
use minijinja_contrib::pycompat;
use std::sync::Arc;

/// The methods of texts, of which those that are not called are something, too.
pub const OF_TEXTS: &str = "capitalize casefold center count encode endswith expandtabs find format format_map index \
    isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join \
    ljust lower lstrip maketrans partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit \
    rstrip split splitlines startswith strip swapcase title translate upper zfill";
pub const OF_DICTIONARIES: &str =
    "clear copy fromkeys get items keys pop popitem setdefault update values";

/// A method that is not called: something, without a value of its own.
#[derive(Debug)]
pub struct Method;

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// A method of this name, where a text or a dictionary has one.
pub fn method_of(of: &Value, name: &str) -> Value {
    let names = match of.kind() {
        ValueKind::String => OF_TEXTS,
        ValueKind::Map if is_mapping(of) => OF_DICTIONARIES,
        _ => "",
    };
    match names.split(' ').any(|of| of == name) {
        true => Value::from_object(Method),
        false => Value::UNDEFINED,
    }
}

/// A method of a value.
pub fn method(state: &State, value: &Value, name: &str, given: &[Value]) -> Result<Value, Error> {
    let other = |given: &[Value]| pycompat::unknown_method_callback(state, value, name, given);
    if let Some(text) = value.as_str() {
        return of_text(text, name, given, other);
    }
    let pair = |at: usize| move |pair: Value| pair.get_item_by_index(at).unwrap_or_default();
    match (value.kind(), name) {
        (ValueKind::Iterable | ValueKind::Seq, "index") => {
            let (item,): (&Value,) = from_args(given)?;
            let at = value.try_iter()?.position(|other| other == *item);
            at.map(Value::from)
                .ok_or_else(|| wrong(format!("{item} is not in the list")))
        }
        (ValueKind::Map, "items" | "keys" | "values") => {
            let [] = arguments(name, given, [])?;
            let pairs = pairs(value)?;
            Ok(match name {
                "items" => view("dict_items", pairs),
                "keys" => view("dict_keys", pairs.into_iter().map(pair(0)).collect()),
                _ => view("dict_values", pairs.into_iter().map(pair(1)).collect()),
            })
        }
        (ValueKind::Map | ValueKind::Seq, "copy") => {
            let [] = arguments(name, given, [])?;
            Ok(value.clone())
        }
        _ => other(given),
    }
}

/// A method of a text; `other` has those that the engine has as Python does.
fn of_text(
    text: &str,
    name: &str,
    given: &[Value],
    other: impl Fn(&[Value]) -> Result<Value, Error>,
) -> Result<Value, Error> {
    let all = |is: &dyn Fn(char) -> bool| Ok(Value::from(text.chars().all(is)));
    let some =
        |is: &dyn Fn(char) -> bool| Ok(Value::from(!text.is_empty() && text.chars().all(is)));
    // Some letters have no case, and there must be one that has.
    let cased = |other: fn(char) -> bool, one: fn(char) -> bool| {
        Ok(Value::from(
            !text.chars().any(other) && text.chars().any(one),
        ))
    };
    let none = || arguments(name, given, []).map(|[]| ());
    let one = || from_args::<(&str,)>(given).map(|(argument,)| argument);
    let part = || match one()? {
        "" => Err(wrong(format!(
            "{name}: expected a separator of a character or more"
        ))),
        part => Ok(part),
    };
    let three = |parts: [&str; 3]| Ok(tuple(parts.map(Value::from).into()));
    let changed = |text: String| Ok(Value::from(text));
    // Which letters of other scripts are digits, the standard library does not say.
    let digits = |is: fn(char) -> bool| match text.chars().any(|c| !c.is_ascii() && is(c)) {
        true => Err(wrong(format!(
            "{name}: expected digits of ASCII, got {text}"
        ))),
        false => some(&|c| c.is_ascii_digit()),
    };
    match name {
        "isdigit" | "isdecimal" => none().and_then(|()| digits(char::is_numeric)),
        "isnumeric" => none().and_then(|()| digits(char::is_alphanumeric)),
        "isalpha" => none().and_then(|()| some(&|c| c.is_alphabetic() && !c.is_numeric())),
        "isalnum" => none().and_then(|()| some(&char::is_alphanumeric)),
        "isspace" => none().and_then(|()| some(&is_space)),
        "isascii" => none().and_then(|()| all(&|c| c.is_ascii())),
        "islower" => none().and_then(|()| cased(char::is_uppercase, char::is_lowercase)),
        "isupper" => none().and_then(|()| cased(char::is_lowercase, char::is_uppercase)),
        "title" => none().and_then(|()| changed(title(text))),
        "capitalize" => none().and_then(|()| changed(capitalized(text))),
        "casefold" => none().and_then(|()| {
            let upper = text.chars().flat_map(char::to_uppercase);
            changed(upper.flat_map(char::to_lowercase).collect())
        }),
        "swapcase" => none().and_then(|()| {
            let swapped = text.chars().flat_map(|c| match c.is_lowercase() {
                true => c.to_uppercase().collect::<Vec<_>>(),
                false => c.to_lowercase().collect(),
            });
            changed(swapped.collect())
        }),
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = arguments(name, given, ["chars"])?;
            Ok(strip(name, text, chars)?.into())
        }
        "replace" => {
            let (old, new, count): (&str, &str, Option<Value>) = from_args(given)?;
            replaced(text, old, new, count).map(Value::from)
        }
        "join" => {
            let (items,): (Value,) = from_args(given)?;
            let items = listed(&items)?;
            let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            let texts = texts.ok_or_else(|| wrong("join: expected texts"))?;
            changed(texts.join(text))
        }
        "startswith" | "endswith" => {
            let (parts, place): (&Value, &[Value]) = from_args(given)?;
            let Some((_, text)) = window(text, place)? else {
                return Ok(false.into());
            };
            let single = std::slice::from_ref(parts);
            let mut parts = of_tuple(parts).unwrap_or(single).iter().map(Value::as_str);
            parts
                .try_fold(false, |found, part| {
                    let part = part?;
                    Some(
                        found
                            || if name == "endswith" {
                                text.ends_with(part)
                            } else {
                                text.starts_with(part)
                            },
                    )
                })
                .map(Value::from)
                .ok_or_else(|| wrong(format!("{name}: expected a text, or a tuple of them")))
        }
        // Places are counted in characters.
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let (part, place): (&str, &[Value]) = from_args(given)?;
            let found = window(text, place)?;
            let at = found.and_then(|(before, text)| match name {
                "count" if part.is_empty() => Some(text.chars().count() + 1),
                "count" => Some(text.matches(part).count()),
                _ => {
                    let at = if name.starts_with('r') {
                        text.rfind(part)
                    } else {
                        text.find(part)
                    };
                    Some(before + text[..at?].chars().count())
                }
            });
            match at {
                Some(at) => Ok(at.into()),
                None if name == "count" => Ok(0.into()),
                None if name.ends_with("find") => Ok((-1).into()),
                None => Err(wrong("substring not found")),
            }
        }
        "removeprefix" => Ok(text.strip_prefix(one()?).unwrap_or(text).into()),
        "removesuffix" => Ok(text.strip_suffix(one()?).unwrap_or(text).into()),
        "partition" => match text.split_once(part()?) {
            Some((before, after)) => three([before, part()?, after]),
            None => three([text, "", ""]),
        },
        "rpartition" => match text.rsplit_once(part()?) {
            Some((before, after)) => three([before, part()?, after]),
            None => three(["", "", text]),
        },
        "split" | "rsplit" => split(text, name == "rsplit", given),
        "splitlines" => {
            let [ends] = arguments(name, given, ["keepends"])?;
            Ok(lines(text, truly(ends)))
        }
        "zfill" | "ljust" | "rjust" | "center" => padded(text, name, given),
        // The engine writes other values than numbers and texts in its own way.
        "format" if !text.contains('[') => {
            let (places, named): (&[Value], Kwargs) = from_args(given)?;
            let plain = |value: Value| match value.kind() {
                ValueKind::Number | ValueKind::String => Ok(value),
                _ => super::written::text(&value).map(Value::from),
            };
            let named = named
                .args()
                .map(|name| Ok((name, plain(named.get(name)?)?)))
                .collect::<Result<Kwargs, Error>>()?;
            let places = places.iter().cloned().map(plain);
            let all = places.chain([Ok(named.into())]);
            other(&all.collect::<Result<Vec<_>, Error>>()?)
        }
        _ => other(given),
    }
}

/// White space as Python has it.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// A text without white space, or others of these characters, at its ends.
pub fn strip<'a>(ends: &str, text: &'a str, chars: Option<Value>) -> Result<&'a str, Error> {
    let chars = said(chars);
    let chars = chars.as_ref().map(|chars| {
        let expected = || wrong(format!("{ends}: expected characters, got {}", chars.kind()));
        chars.as_str().ok_or_else(expected)
    });
    let chars = chars.transpose()?;
    let gone = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if ends == "rstrip" {
        text
    } else {
        text.trim_start_matches(gone)
    };
    Ok(if ends == "lstrip" {
        text
    } else {
        text.trim_end_matches(gone)
    })
}

/// A text with another in the place of some, at most so often where that is said.
pub fn replaced(text: &str, old: &str, new: &str, count: Option<Value>) -> Result<String, Error> {
    let count = match said(count) {
        None => -1,
        Some(count) => i64::try_from(count)?,
    };
    Ok(text.replacen(old, new, usize::try_from(count).unwrap_or(usize::MAX)))
}

/// The part of a text from one place up to another, and the characters before it; `None` behind the end.
fn window<'a>(text: &'a str, place: &[Value]) -> Result<Option<(usize, &'a str)>, Error> {
    let (start, end): (Option<i64>, Option<i64>) = from_args(place)?;
    let count = text.chars().count();
    let from_start = |at: i64| match usize::try_from(at) {
        Ok(at) => at,
        Err(_) => count.saturating_sub(at.unsigned_abs() as usize),
    };
    let (start, end) = (
        from_start(start.unwrap_or(0)),
        end.map_or(count, from_start).min(count),
    );
    let byte = |at: usize| {
        text.char_indices()
            .nth(at)
            .map_or(text.len(), |(byte, _)| byte)
    };
    Ok((start <= end).then(|| (start, &text[byte(start)..byte(end)])))
}

/// The lines of a text, which end as Python's do.
fn lines(text: &str, ends: bool) -> Value {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| {
            matches!(c, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
        });
        let end = end.unwrap_or(rest.len());
        let after = match rest[end..].strip_prefix("\r\n") {
            Some(after) => after,
            None => rest[end..]
                .get(rest[end..].chars().next().map_or(0, char::len_utf8)..)
                .unwrap_or(""),
        };
        let whole = rest.len() - after.len();
        lines.push(Value::from(&rest[..if ends { whole } else { end }]));
        rest = after;
    }
    lines.into()
}

/// A word that begins with a capital, changed by `first`, and goes on in small letters.
pub fn titled(word: &str, first: impl Fn(&str) -> String) -> String {
    let end = word.chars().next().map_or(0, char::len_utf8);
    first(&word[..end]) + &word[end..].to_lowercase()
}

/// A letter as the first of a word: of those that become several, the others are small; Georgian has none.
fn first_letter(letter: &str) -> String {
    match letter.chars().next() {
        Some('\u{10d0}'..='\u{10ff}') => letter.to_owned(),
        _ => titled(&letter.to_uppercase(), str::to_owned),
    }
}

pub fn capitalized(text: &str) -> String {
    titled(text, first_letter)
}

/// Words begin with a capital, and go on in small letters; whatever has no case ends a word.
fn title(text: &str) -> String {
    let cased = |c: char| c.is_lowercase() || c.is_uppercase();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(cased) {
        let word = &rest[start..];
        let end = word.find(|c| !cased(c)).unwrap_or(word.len());
        out += &rest[..start];
        out += &capitalized(&word[..end]);
        rest = &word[end..];
    }
    out + rest
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
fn split(text: &str, from_end: bool, given: &[Value]) -> Result<Value, Error> {
    let [given, most] = arguments("split", given, ["sep", "maxsplit"])?;
    let given = said(given);
    let most = most.map_or(Ok(-1), i64::try_from)?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
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
                rest.trim_end_matches(is_space)
            } else {
                rest.trim_start_matches(is_space)
            };
            if rest.is_empty() {
                break;
            }
        }
        let cut = match (separator, from_end) {
            _ if parts.len() == most => None,
            (Some(separator), false) => rest.split_once(separator),
            (Some(separator), true) => rest.rsplit_once(separator).map(|(a, b)| (b, a)),
            (None, false) => rest.split_once(is_space),
            (None, true) => rest.rsplit_once(is_space).map(|(a, b)| (b, a)),
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
