//! Operators and attributes as Python has them: the calls that expressions are made into.

use super::expressions::{ATTRIBUTE, EACH, FLOOR, MODULO, TEXT, TUPLE};
use super::written::{Tuple, WIDEST, is_mapping, repr, text, tuple, wrong};
use minijinja::value::{Object, ObjectRepr, Rest, ValueKind};
use minijinja::{Environment, Error, FormatStyle, Value, format_filter};
use std::sync::Arc;

pub fn equip(environment: &mut Environment<'static>) {
    environment.add_function(TUPLE, |items: Rest<Value>| tuple(items.0));
    environment.add_function(TEXT, |value: &Value| text(value));
    environment.add_function(MODULO, |left: &Value, right: &Value| match left.as_str() {
        Some(format) => printf(format, right).map(Value::from),
        None => divided(left, right, "%").map(|(_, rest)| rest),
    });
    environment.add_function(FLOOR, |left: &Value, right: &Value| {
        divided(left, right, "//").map(|(whole, _)| whole)
    });
    environment.add_function(EACH, |items: Value| match items.is_none() {
        true => Err(wrong("expected something to iterate over, got None")),
        false => Ok(items),
    });
    environment.add_filter(ATTRIBUTE, |of: &Value, name: &str| match is_mapping(of) {
        true => Ok(Value::from_object(Method)),
        false => of.get_attr(name),
    });
    environment.add_filter("format", |format: &Value, values: Rest<Value>| {
        let values = match values.as_slice() {
            // Named values come as one mapping.
            [named] if named.is_kwargs() => named.clone(),
            _ => tuple(values.0),
        };
        printf(&text(format), &values)
    });
}

/// A method that is not called: something, without a value of its own.
#[derive(Debug)]
struct Method;

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// The whole quotient, rounded down, and the rest, which has the divisor's sign.
fn divided(left: &Value, right: &Value, operator: &str) -> Result<(Value, Value), Error> {
    let kinds = [left, right].map(Value::kind);
    if !kinds
        .iter()
        .all(|kind| matches!(kind, ValueKind::Number | ValueKind::Bool))
    {
        let [left, right] = kinds;
        return Err(wrong(format!(
            "expected numbers around {operator}, got {left} and {right}"
        )));
    }
    let zero = || wrong("division by zero");
    if let (Some(a), Some(b)) = (whole(left), whole(right)) {
        let (whole, rest) = (a.checked_div(b), a.checked_rem(b));
        let (whole, rest) = whole.zip(rest).ok_or_else(zero)?;
        return Ok(match rest != 0 && (rest < 0) != (b < 0) {
            true => (Value::from(whole - 1), Value::from(rest + b)),
            false => (Value::from(whole), Value::from(rest)),
        });
    }
    let (a, b) = (f64::try_from(left.clone())?, f64::try_from(right.clone())?);
    if b == 0.0 {
        return Err(zero());
    }
    let rest = a % b;
    let rest = match rest != 0.0 && (rest < 0.0) != (b < 0.0) {
        true => rest + b,
        false => rest.abs().copysign(b),
    };
    Ok((Value::from(((a - rest) / b).round()), Value::from(rest)))
}

fn whole(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        _ if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// A text with values in the places of its `%s`, `%d` and so on.
fn printf(format: &str, given: &Value) -> Result<String, Error> {
    let single = std::slice::from_ref(given);
    let mut values = match given.downcast_object_ref::<Tuple>() {
        Some(Tuple(items)) => items.iter(),
        None => single.iter(),
    };
    // Python takes a mapping, or a list, that no place asks for.
    let mut spare = given.downcast_object_ref::<Tuple>().is_none()
        && matches!(given.kind(), ValueKind::Map | ValueKind::Seq);
    let missing = || wrong("not enough arguments for format string");
    let mut out = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out += before;
        rest = after;
        let mut keyed = None;
        if let Some(after) = rest.strip_prefix('(') {
            let (key, after) = after
                .split_once(')')
                .ok_or_else(|| wrong("incomplete format key"))?;
            if given.kind() != ValueKind::Map {
                return Err(wrong("format requires a mapping"));
            }
            let value = given.get_item(&key.into())?;
            if value.is_undefined() {
                return Err(wrong(format!("the mapping of a format has no {key:?}")));
            }
            (keyed, rest, spare) = (Some(value), after, true);
        }
        let after = rest.trim_start_matches(['-', '+', ' ', '#', '0']);
        let mut spec = String::from("%") + &rest[..rest.len() - after.len()];
        rest = after;
        for point in [false, true] {
            if point {
                let Some(after) = rest.strip_prefix('.') else {
                    continue;
                };
                spec.push('.');
                rest = after;
            }
            let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            let digits = &rest[..rest.len() - after.len()];
            rest = after;
            let wide = match rest.strip_prefix('*') {
                Some(after) => {
                    rest = after;
                    whole(values.next().ok_or_else(missing)?).ok_or_else(|| wrong("* wants int"))?
                }
                None if digits.is_empty() && !point => continue,
                None => format!("0{digits}").parse().unwrap_or(i128::MAX),
            };
            if wide.unsigned_abs() > WIDEST as u128 {
                return Err(wrong(format!(
                    "expected a width of at most {WIDEST}, got {wide}"
                )));
            }
            spec += &wide.to_string();
        }
        rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
        let kind = rest
            .chars()
            .next()
            .ok_or_else(|| wrong("incomplete format"))?;
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match keyed {
            Some(value) => value,
            None => values.next().ok_or_else(missing)?.clone(),
        };
        let expected = |what: &str| {
            let got = value.kind();
            wrong(format!("%{kind} format: expected {what}, got {got}"))
        };
        let (kind, value) = match kind {
            's' => ('s', text(&value).into()),
            'r' => {
                let mut written = String::new();
                repr(&value, &mut written);
                ('s', written.into())
            }
            'd' | 'i' | 'u' => {
                let float = || f64::try_from(value.clone()).ok().filter(|x| x.is_finite());
                let whole = whole(&value).or_else(|| Some(float()?.trunc() as i128));
                ('d', whole.ok_or_else(|| expected("a number"))?.into())
            }
            'x' | 'X' | 'o' => {
                let whole = whole(&value).ok_or_else(|| expected("an integer"))?;
                (kind, whole.into())
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                let float = match value.kind() {
                    ValueKind::Bool => f64::from(u8::from(value.is_true())),
                    ValueKind::Number => f64::try_from(value.clone())?,
                    _ => return Err(expected("a number")),
                };
                (kind, float.into())
            }
            'c' => ('c', value),
            _ => return Err(wrong(format!("unsupported format character {kind:?}"))),
        };
        spec.push(kind);
        out += &format_filter(FormatStyle::Printf, &spec, &[value])?;
    }
    if values.next().is_some() && !spare {
        return Err(wrong(
            "not all arguments converted during string formatting",
        ));
    }
    Ok(out + rest)
}
