//! Jinja's filters, where the engine lacks them or has others.

use super::written::{WIDEST, text, tuple, wrong};
use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::filters;

pub fn equip(environment: &mut Environment<'static>) {
    for name in ["length", "count"] {
        // What is not there is of no length.
        environment.add_filter(name, |value: &Value| match value.is_undefined() {
            true => Ok(0),
            false => minijinja::filters::length(value),
        });
    }
    environment.add_filter("int", int);
    environment.add_filter("float", |value: &Value, default: Option<f64>| {
        float(value).unwrap_or(default.unwrap_or(0.0))
    });
    environment.add_filter("wordcount", |value: &Value| {
        let text = text(value);
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.filter(|word| !word.is_empty()).count()
    });
    environment.add_filter("truncate", truncate);
    environment.add_filter("join", join);
    environment.add_filter("indent", indent);
    environment.add_filter("round", round);
    for name in ["e", "escape"] {
        environment.add_filter(name, |value: &Value| {
            Value::from_safe_string(escaped(value))
        });
    }
    // Python breaks long values into lines in its own way.
    environment.remove_filter("pprint");
    environment.add_filter("items", |value: &Value| match value.is_undefined() {
        true => Ok(Vec::new()),
        false => pairs(value),
    });
    environment.add_filter("dictsort", |value: &Value, how: Kwargs| {
        let sorted = minijinja::filters::dictsort(value, how)?;
        let pair = |of: Value| Ok::<_, Error>(tuple(of.try_iter()?.collect()));
        sorted.try_iter()?.map(pair).collect::<Result<Vec<_>, _>>()
    });
}

/// An argument by its place, or by its name.
fn argument(
    positional: &[Value],
    named: &Kwargs,
    at: usize,
    name: &str,
) -> Result<Option<Value>, Error> {
    let given = match positional.get(at) {
        Some(value) => Some(value.clone()),
        None => named.get(name)?,
    };
    Ok(given.filter(|given| !given.is_none()))
}

/// A text for HTML; one that is marked as safe is as it was.
pub fn escaped(value: &Value) -> String {
    let text = text(value);
    if value.is_safe() {
        return text;
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
    out
}

/// Items, or something of each, with a text between them.
fn join(value: &Value, arguments: Rest<Value>) -> Result<String, Error> {
    let (positional, named): (&[Value], Kwargs) = from_args(&arguments)?;
    let between = argument(positional, &named, 0, "d")?;
    let attribute = argument(positional, &named, 1, "attribute")?;
    named.assert_all_used()?;
    if value.is_undefined() {
        return Ok(String::new());
    }
    let items: Vec<String> = match (value.as_str(), attribute) {
        (Some(text), None) => text.chars().map(String::from).collect(),
        (None, None) => value.try_iter()?.map(|item| text(&item)).collect(),
        (_, Some(attribute)) => {
            let of = |item: Value| {
                let attribute = text(&attribute);
                let path = attribute.split('.');
                path.fold(item, |item, name| item.get_attr(name).unwrap_or_default())
            };
            value.try_iter()?.map(|item| text(&of(item))).collect()
        }
    };
    Ok(items.join(&between.map_or(String::new(), |between| text(&between))))
}

/// Lines moved to the right; the first and empty ones are not, unless that is asked for.
fn indent(value: &Value, arguments: Rest<Value>) -> Result<String, Error> {
    let (positional, named): (&[Value], Kwargs) = from_args(&arguments)?;
    let width = argument(positional, &named, 0, "width")?;
    let first = argument(positional, &named, 1, "first")?.is_some_and(|first| first.is_true());
    let blank = argument(positional, &named, 2, "blank")?.is_some_and(|blank| blank.is_true());
    named.assert_all_used()?;
    let space = match &width {
        None => "    ".to_owned(),
        Some(width) => match (width.as_str(), width.as_usize()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(width)) if width <= WIDEST => " ".repeat(width),
            _ => return Err(wrong(format!("indent: expected a width, got {width}"))),
        },
    };
    let mut out = String::new();
    for (at, line) in text(value).split('\n').enumerate() {
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

/// A number with so many digits after its point: the nearest, and the even one of two.
fn round(value: &Value, arguments: Rest<Value>) -> Result<Value, Error> {
    let (positional, named): (&[Value], Kwargs) = from_args(&arguments)?;
    let digits = argument(positional, &named, 0, "precision")?;
    let method = argument(positional, &named, 1, "method")?;
    named.assert_all_used()?;
    let digits = digits.map_or(Ok(0), |digits| {
        let few = digits.as_usize().filter(|digits| *digits <= 300);
        few.ok_or_else(|| wrong(format!("round: expected up to 300 digits, got {digits}")))
    })?;
    let method = method.as_ref().map_or(Some("common"), Value::as_str);
    if value.is_integer() && method == Some("common") {
        return Ok(value.clone());
    }
    let number = Some(value).filter(|value| value.kind() == ValueKind::Number);
    let number = number.and_then(float);
    let number = number.ok_or_else(|| wrong("round: expected a number"))?;
    let scale = 10f64.powi(digits as i32);
    Ok(Value::from(match method {
        Some("common") => format!("{number:.digits$}").parse().unwrap_or(number),
        Some("floor") => (number * scale).floor() / scale,
        Some("ceil") => (number * scale).ceil() / scale,
        _ => return Err(wrong("round: expected the method common, ceil or floor")),
    }))
}

/// A text cut off; its arguments may be given by place or by name.
fn truncate(state: &State, value: &Value, arguments: Rest<Value>) -> Result<Value, Error> {
    const NAMES: [&str; 4] = ["length", "killwords", "end", "leeway"];
    let (positional, named): (&[Value], Kwargs) = from_args(&arguments)?;
    if positional.len() > NAMES.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let placed = NAMES.iter().copied().zip(positional.iter().cloned());
    let further = named.args().map(|name| Ok((name, named.get(name)?)));
    let all = placed
        .map(Ok)
        .chain(further)
        .collect::<Result<Kwargs, Error>>()?;
    filters::truncate(state, value, all)
}

/// Keys with their values.
pub fn pairs(of: &Value) -> Result<Vec<Value>, Error> {
    let object = of.as_object().filter(|_| of.kind() == ValueKind::Map);
    let pairs = object.and_then(|object| object.try_iter_pairs());
    let expected = || wrong(format!("items: expected a mapping, got {}", of.kind()));
    let pairs = pairs.ok_or_else(expected)?;
    Ok(pairs.map(|(key, value)| tuple(vec![key, value])).collect())
}

/// The number that a value is, or says as a text.
fn float(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(text) => text.trim().parse().ok(),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => f64::try_from(value.clone()).ok(),
    }
}

/// The whole number that a value is or says, cut off at the point; a default where it says none.
fn int(value: &Value, arguments: Rest<Value>) -> Result<Value, Error> {
    let (positional, named): (&[Value], Kwargs) = from_args(&arguments)?;
    let default = argument(positional, &named, 0, "default")?.unwrap_or_else(|| 0.into());
    let base = argument(positional, &named, 1, "base")?.map_or(Ok(10), u32::try_from)?;
    named.assert_all_used()?;
    if !(2..=36).contains(&base) {
        return Err(wrong(format!(
            "int: expected a base from 2 to 36, got {base}"
        )));
    }
    if value.is_integer() {
        return Ok(value.clone());
    }
    let whole = value.as_str().and_then(|text| {
        let text = text.trim();
        let prefix = match base {
            2 => "0b",
            8 => "0o",
            16 => "0x",
            _ => "",
        };
        i64::from_str_radix(text.strip_prefix(prefix).unwrap_or(text), base).ok()
    });
    let whole = whole.or_else(|| Some(float(value)?.trunc() as i64));
    Ok(whole.map_or(default, Value::from))
}
