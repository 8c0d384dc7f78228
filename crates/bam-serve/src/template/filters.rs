//! Jinja's filters of one text or number, where the engine lacks them or has others.

use super::arguments::{WIDEST, arguments, said, truly, whole, wrong};
use super::items::{is_generator, is_mapping, listed};
use super::methods::{capitalized, method_of, replaced, strip, titled};
use super::written::{escaped, text};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, State, Value};
use minijinja_contrib::filters;

/// Filters and tests that Jinja has none of; `pprint` breaks long values into lines in Python's own way.
const NOT_THERE: [&str; 6] = ["pprint", "split", "lines", "bool", "chain", "zip"];
const NO_TESTS: [&str; 4] = ["startingwith", "endingwith", "int", "safe"];

pub fn equip(environment: &mut Environment<'static>) {
    for name in NOT_THERE {
        environment.remove_filter(name);
    }
    for name in NO_TESTS {
        environment.remove_test(name);
    }
    for name in ["length", "count"] {
        // Nothing that is not there has a length.
        environment.add_filter(name, move |value: &Value| match value.is_undefined() {
            true => Ok(0),
            false if is_generator(value) => Err(wrong(format!(
                "{name}: expected a list, got a generator; `| list` makes one"
            ))),
            false => minijinja::filters::length(value),
        });
    }
    environment.add_filter("int", int);
    environment.add_filter("float", |value: &Value, given: Rest<Value>| {
        let [default] = arguments("float", &given, ["default"])?;
        let float = float(value)?.map(Value::from);
        Ok::<_, Error>(float.or(default).unwrap_or_else(|| 0.0.into()))
    });
    environment.add_filter("abs", |value: &Value| match whole(value) {
        Some(whole) => Ok(Value::from(whole.abs())),
        None => minijinja::filters::abs(value.clone()),
    });
    for name in ["default", "d"] {
        environment.add_filter(name, |value: &Value, given: Rest<Value>| {
            let [default, false_too] = arguments("default", &given, ["default_value", "boolean"])?;
            let missing = value.is_undefined() || truly(false_too) && !value.is_true();
            Ok::<_, Error>(match missing {
                true => default.unwrap_or_else(|| "".into()),
                false => value.clone(),
            })
        });
    }
    for (name, change) in [
        ("upper", str::to_uppercase as fn(&str) -> String),
        ("lower", str::to_lowercase),
        ("capitalize", capitalized),
        ("title", title),
    ] {
        environment.add_filter(name, move |value: &Value| {
            Ok::<_, Error>(change(&text(value)?))
        });
    }
    environment.add_filter("trim", |value: &Value, given: Rest<Value>| {
        let [chars] = arguments("trim", &given, ["chars"])?;
        Ok::<_, Error>(strip("strip", &text(value)?, chars)?.to_owned())
    });
    environment.add_filter("replace", |value: &Value, given: Rest<Value>| {
        let [old, new, count] = arguments("replace", &given, ["old", "new", "count"])?;
        let (Some(old), Some(new)) = (old, new) else {
            return Err(wrong("replace: expected a text and another instead of it"));
        };
        replaced(&text(value)?, &text(&old)?, &text(&new)?, count)
    });
    environment.add_filter("wordcount", |value: &Value| {
        let text = text(value)?;
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        Ok::<_, Error>(words.filter(|word| !word.is_empty()).count())
    });
    environment.add_filter(
        "truncate",
        |state: &State, value: &Value, given: Rest<Value>| {
            let names = ["length", "killwords", "end", "leeway"];
            let given = names.into_iter().zip(arguments("truncate", &given, names)?);
            let given: Kwargs = given.filter_map(|(name, of)| Some((name, of?))).collect();
            filters::truncate(state, value, given)
        },
    );
    environment.add_filter("join", join);
    environment.add_filter("indent", indent);
    environment.add_filter("round", round);
    for name in ["e", "escape"] {
        environment.add_filter(name, |value: &Value| {
            escaped(value).map(Value::from_safe_string)
        });
    }
    // The attributes of a dictionary are its methods.
    environment.add_filter("attr", |of: &Value, name: &str| match of.kind() {
        ValueKind::Map if is_mapping(of) => Ok(method_of(of, name)),
        ValueKind::Map | ValueKind::Undefined => of.get_attr(name),
        kind => Err(wrong(format!(
            "attr: expected an object with attributes, got {kind}"
        ))),
    });
}

/// Words begin with a capital, and go on in small letters. Unlike those of the method, they end at white space,
/// hyphens and brackets that open, not at `'` or `_`.
fn title(text: &str) -> String {
    let words = text.split_inclusive(|c: char| c.is_whitespace() || "-({[<".contains(c));
    words.map(|word| titled(word, str::to_uppercase)).collect()
}

/// Items, or something of each, with a text between them.
fn join(state: &State, value: &Value, given: Rest<Value>) -> Result<String, Error> {
    let [between, attribute] = arguments("join", &given, ["d", "attribute"])?;
    let items = match said(attribute) {
        None => value.clone(),
        Some(attribute) => {
            let by = Kwargs::from_iter([("attribute", attribute)]);
            state.apply_filter("map", &[value.clone(), by.into()])?
        }
    };
    let items: Result<Vec<_>, _> = listed(&items)?.iter().map(text).collect();
    Ok(items?.join(&between.map_or(Ok(String::new()), |between| text(&between))?))
}

/// Lines moved to the right; the first and empty ones are not, unless that is asked for.
fn indent(value: &Value, given: Rest<Value>) -> Result<String, Error> {
    let [width, first, blank] = arguments("indent", &given, ["width", "first", "blank"])?;
    let (first, blank) = (truly(first), truly(blank));
    let lines = value.as_str();
    let lines =
        lines.ok_or_else(|| wrong(format!("indent: expected a text, got {}", value.kind())))?;
    let space = match &width {
        None => "    ".to_owned(),
        Some(width) => match (width.as_str(), width.as_usize()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(width)) if width <= WIDEST => " ".repeat(width),
            _ => return Err(wrong(format!("indent: expected a width, got {width}"))),
        },
    };
    let mut out = String::new();
    for (at, line) in lines.split('\n').enumerate() {
        out.push_str(if at > 0 { "\n" } else { "" });
        let moved = if at == 0 {
            first
        } else {
            blank || !line.is_empty()
        };
        out.push_str(if moved { &space } else { "" });
        out.push_str(line);
    }
    Ok(out)
}

/// A number with so many digits after its point, or zeros before: the nearest, and the even one of two.
fn round(value: &Value, given: Rest<Value>) -> Result<Value, Error> {
    let [digits, method] = arguments("round", &given, ["precision", "method"])?;
    let digits = digits.map_or(Some(0), |digits| digits.as_i64());
    let digits = digits.filter(|digits| (-300..=300).contains(digits));
    let digits = digits.ok_or_else(|| wrong("round: expected -300 to 300 digits"))? as i32;
    let method = method.as_ref().map_or(Some("common"), Value::as_str);
    let number = match value.kind() {
        ValueKind::Bool | ValueKind::Number => float(value)?,
        _ => None,
    };
    let number = number.ok_or_else(|| wrong("round: expected a number"))?;
    let scale = 10f64.powi(digits.abs());
    let scaled = |round: fn(f64) -> f64| match digits < 0 {
        true => round(number / scale) * scale,
        false => round(number * scale) / scale,
    };
    let exact = digits.unsigned_abs() as usize;
    Ok(match (method, whole(value)) {
        (Some("common"), Some(whole)) if digits >= 0 => whole.into(),
        (Some("common"), Some(_)) => (scaled(f64::round_ties_even) as i128).into(),
        (Some("common"), None) if digits < 0 => scaled(f64::round_ties_even).into(),
        (Some("common"), None) => format!("{number:.exact$}").parse().unwrap_or(number).into(),
        (Some("floor"), _) => scaled(f64::floor).into(),
        (Some("ceil"), _) => scaled(f64::ceil).into(),
        _ => return Err(wrong("round: expected the method common, ceil or floor")),
    })
}

/// The digits of a number that a text says, without the `_` between them.
fn digits(text: &str) -> Result<Option<String>, Error> {
    let text = text.trim();
    if text.chars().any(|c| !c.is_ascii() && c.is_numeric()) {
        return Err(wrong(format!(
            "expected a number in digits of ASCII, got {text}"
        )));
    }
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| {
        at.and_then(|at| bytes.get(at))
            .is_some_and(u8::is_ascii_alphanumeric)
    };
    let between = |at: usize| digit(at.checked_sub(1)) && digit(Some(at + 1));
    let fits = text.match_indices('_').all(|(at, _)| between(at));
    Ok(fits.then(|| text.replace('_', "")))
}

/// The number that a value is, or says as a text.
fn float(value: &Value) -> Result<Option<f64>, Error> {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => Ok(digits(text)?.and_then(|digits| digits.parse().ok())),
        (None, ValueKind::Bool) => Ok(Some(f64::from(u8::from(value.is_true())))),
        (None, ValueKind::Undefined) => Err(wrong("expected a number, got nothing")),
        _ => Ok(f64::try_from(value.clone()).ok()),
    }
}

/// The whole number that a value is or says, cut off at the point; a default where it says none.
fn int(value: &Value, given: Rest<Value>) -> Result<Value, Error> {
    let [default, base] = arguments("int", &given, ["default", "base"])?;
    let base = base.map_or(Ok(10), u32::try_from)?;
    if !(2..=36).contains(&base) {
        return Err(wrong(format!(
            "int: expected a base from 2 to 36, got {base}"
        )));
    }
    if let Some(whole) = whole(value) {
        return Ok(whole.into());
    }
    let large = || wrong("int: expected a number of 128 bits");
    if let Some(digits) = value.as_str().map_or(Ok(None), digits)? {
        let prefix = match base {
            2 => "0b",
            8 => "0o",
            16 => "0x",
            _ => "",
        };
        let low = digits.to_lowercase();
        match i128::from_str_radix(low.strip_prefix(prefix).unwrap_or(&low), base) {
            Ok(whole) => return Ok(whole.into()),
            Err(error) => match error.kind() {
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
                    return Err(large());
                }
                _ => {}
            },
        }
    }
    match float(value)?.filter(|float| float.is_finite()) {
        Some(float) if float.abs() < 1e38 => Ok(Value::from(float.trunc() as i128)),
        Some(_) => Err(large()),
        None => Ok(default.unwrap_or_else(|| 0.into())),
    }
}
