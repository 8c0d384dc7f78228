//! Operators and attributes as Python has them: the calls that expressions are made into.

use super::arguments::{WIDEST, whole, wrong};
use super::expressions::{
    ADD, ATTRIBUTE, COMPARED, DIVIDE, EACH, FLOOR, MODULO, POWER, SLICE, TEXT, THEN, TIMES, TUPLE,
};
use super::items::{is_list, is_mapping, listed, of_tuple, tuple};
use super::methods::method_of;
use super::rows::ordering;
use super::written::{escaped, repr, text};
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, FormatStyle, State, Value, context, format_filter};
use std::cmp::Ordering;

pub fn equip(environment: &mut Environment<'static>) {
    environment.add_global(THEN, true);
    environment.add_function(TUPLE, |items: Rest<Value>| tuple(items.0));
    environment.add_function(TEXT, |values: Rest<Value>| {
        values.iter().map(text).collect::<Result<String, Error>>()
    });
    environment.add_function(ADD, add);
    environment.add_function(TIMES, times);
    environment.add_test("in", is_in);
    environment.add_function(
        COMPARED,
        |state: &State, operator: &str, left: &Value, right: &Value| {
            let order = || ordering(left, right);
            match operator {
                "<" => order().map(Ordering::is_lt),
                "<=" => order().map(Ordering::is_le),
                ">" => order().map(Ordering::is_gt),
                ">=" => order().map(Ordering::is_ge),
                "in" => is_in(state, left, right),
                _ => is_in(state, left, right).map(|is| !is),
            }
        },
    );
    environment.add_function(MODULO, |left: &Value, right: &Value| match left.as_str() {
        Some(_) if left.is_safe() => {
            Err(wrong("expected a text that is not marked as safe before %"))
        }
        Some(format) => printf(format, right).map(Value::from),
        None => divided(left, right, "%").map(|(_, rest)| rest),
    });
    environment.add_function(FLOOR, |left: &Value, right: &Value| {
        divided(left, right, "//").map(|(whole, _)| whole)
    });
    environment.add_function(DIVIDE, |left: &Value, right: &Value| {
        let [left, right] = numbers(left, right, "/")?;
        match right == 0.0 {
            true => Err(wrong("division by zero")),
            false => Ok(left / right),
        }
    });
    environment.add_function(POWER, power);
    environment.add_function(SLICE, slice);
    environment.add_function(EACH, |items: Value| match items.kind() {
        // The engine does not know which character is the last.
        ValueKind::None | ValueKind::String => listed(&items).map(Value::from),
        _ => Ok(items),
    });
    environment.add_filter(ATTRIBUTE, |of: &Value, name: &str| {
        match method_of(of, name) {
            method if method.is_undefined() => of.get_attr(name),
            method => Ok(method),
        }
    });
    environment.add_filter("format", |format: &Value, values: Rest<Value>| {
        let values = match values.as_slice() {
            // Named values come as one mapping.
            [named] if named.is_kwargs() => named.clone(),
            _ => tuple(values.0),
        };
        printf(&text(format)?, &values)
    });
}

/// The longest text, or list, that a product makes.
const LONGEST: usize = 1 << 24;

/// Two numbers, or booleans as numbers.
fn numbers(left: &Value, right: &Value, operator: &str) -> Result<[f64; 2], Error> {
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
    let number = |of: &Value| match of.kind() {
        ValueKind::Bool => Ok(f64::from(u8::from(of.is_true()))),
        _ => f64::try_from(of.clone()),
    };
    Ok([number(left)?, number(right)?])
}

/// Numbers, texts, lists or tuples together. A text that is marked as safe makes others so.
fn add(state: &State, left: Value, right: Value) -> Result<Value, Error> {
    match (left.as_str(), right.as_str()) {
        (Some(_), Some(_)) if left.is_safe() || right.is_safe() => {
            return Ok(Value::from_safe_string(escaped(&left)? + &escaped(&right)?));
        }
        (Some(left), Some(right)) => return Ok([left, right].concat().into()),
        _ => {}
    }
    match (of_tuple(&left), of_tuple(&right)) {
        (Some(left), Some(right)) => Ok(tuple([left, right].concat())),
        (None, None) if is_list(&left) && is_list(&right) => {
            // The engine does not copy what it need not.
            let sum = state.env().compile_expression("left + right")?;
            sum.eval(context! { left, right })
        }
        _ => {
            let [a, b] = numbers(&left, &right, "+")?;
            let large = || wrong("expected a sum of 128 bits");
            match whole(&left).zip(whole(&right)) {
                Some((a, b)) => a.checked_add(b).map(Value::from).ok_or_else(large),
                None => Ok((a + b).into()),
            }
        }
    }
}

/// The product of two numbers, or a text, a list or a tuple so many times.
fn times(left: Value, right: Value) -> Result<Value, Error> {
    let (of, count) = match left.kind() {
        ValueKind::Bool | ValueKind::Number => (&right, &left),
        _ => (&left, &right),
    };
    let row = of.as_str().is_some() || is_list(of);
    if let (true, Some(count)) = (row, whole(count)) {
        let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
        let length = of.as_str().map_or_else(|| of.len().unwrap_or(0), str::len);
        if length.saturating_mul(count) > LONGEST {
            return Err(wrong(format!(
                "expected a product of at most {LONGEST}, got {length} * {count}"
            )));
        }
        return Ok(match of.as_str() {
            Some(text) => text.repeat(count).into(),
            None => {
                let items = vec![listed(of)?; count].concat();
                if of_tuple(of).is_some() {
                    tuple(items)
                } else {
                    items.into()
                }
            }
        });
    }
    let [a, b] = numbers(&left, &right, "*")?;
    let large = || wrong("expected a product of 128 bits");
    match whole(&left).zip(whole(&right)) {
        Some((a, b)) => a.checked_mul(b).map(Value::from).ok_or_else(large),
        None => Ok((a * b).into()),
    }
}

/// Whether a value is in a text, a list or a dictionary.
pub fn is_in(state: &State, value: &Value, all: &Value) -> Result<bool, Error> {
    let searched = match all.kind() {
        ValueKind::String => value.as_str().is_some(),
        ValueKind::Map => is_mapping(all),
        kind => matches!(
            kind,
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Undefined
        ),
    };
    match searched {
        true => minijinja::tests::is_in(state, value, all),
        false => Err(wrong(format!(
            "expected a text in a text, or a value in others, got {} in {}",
            value.kind(),
            all.kind()
        ))),
    }
}

fn power(left: &Value, right: &Value) -> Result<Value, Error> {
    let [a, b] = numbers(left, right, "**")?;
    if let (Some(base), Some(Ok(times))) = (whole(left), whole(right).map(u32::try_from)) {
        let power = base.checked_pow(times);
        let large = || {
            wrong(format!(
                "expected a power of 128 bits, got {base} ** {times}"
            ))
        };
        return power.map(Value::from).ok_or_else(large);
    }
    let power = a.powf(b);
    match power.is_finite() || !a.is_finite() || !b.is_finite() {
        true => Ok(power.into()),
        false => Err(wrong(format!(
            "expected a power that is a number, got {a} ** {b}"
        ))),
    }
}

/// Every so many items from one place up to another, of texts and lists. Other values have none.
fn slice(of: Value, start: Value, stop: Value, step: Value) -> Result<Value, Error> {
    if of.is_undefined() {
        return Err(wrong("expected a text or a list to slice, got nothing"));
    }
    let sliced = of.kind() == ValueKind::String || of.kind() == ValueKind::Seq || is_list(&of);
    let place = |of: &Value| match of.is_none() {
        true => Some(None),
        false => whole(of).map(|at| Some(at.clamp(-1 << 62, 1 << 62))),
    };
    let (true, Some(start), Some(stop), Some(step)) =
        (sliced, place(&start), place(&stop), place(&step))
    else {
        return Ok(Value::UNDEFINED);
    };
    let items = listed(&of)?;
    let count = items.len() as i128;
    let step = step.unwrap_or(1);
    // From the end, the place before the first one is the last to stop at.
    let (low, high) = if step > 0 {
        (0, count)
    } else {
        (-1, count - 1)
    };
    let at = |place: Option<i128>, otherwise: i128| match place {
        None => otherwise,
        Some(place) => (if place < 0 { place + count } else { place }).clamp(low, high),
    };
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    let (mut place, stop) = (at(start, first), at(stop, last));
    let mut chosen = Vec::new();
    if step == 0 {
        return Err(wrong("expected a slice of steps other than 0"));
    }
    while (step > 0 && place < stop) || (step < 0 && place > stop) {
        chosen.push(items[place as usize].clone());
        place += step;
    }
    Ok(match of.kind() {
        ValueKind::String => chosen
            .iter()
            .filter_map(Value::as_str)
            .collect::<String>()
            .into(),
        _ if of_tuple(&of).is_some() => tuple(chosen),
        _ => chosen.into(),
    })
}

/// The whole quotient, rounded down, and the rest, which has the divisor's sign.
fn divided(left: &Value, right: &Value, operator: &str) -> Result<(Value, Value), Error> {
    let [a, b] = numbers(left, right, operator)?;
    let zero = || wrong("division by zero");
    if let (Some(a), Some(b)) = (whole(left), whole(right)) {
        let (whole, rest) = (a.checked_div(b), a.checked_rem(b));
        let (whole, rest) = whole.zip(rest).ok_or_else(zero)?;
        return Ok(match rest != 0 && (rest < 0) != (b < 0) {
            true => (Value::from(whole - 1), Value::from(rest + b)),
            false => (Value::from(whole), Value::from(rest)),
        });
    }
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

/// A text with values in the places of its `%s`, `%d` and so on.
fn printf(format: &str, given: &Value) -> Result<String, Error> {
    let single = std::slice::from_ref(given);
    let mut values = of_tuple(given).unwrap_or(single).iter();
    // Python takes a mapping, or a list, that no place asks for.
    let mut spare =
        of_tuple(given).is_none() && matches!(given.kind(), ValueKind::Map | ValueKind::Seq);
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
            's' => ('s', text(&value)?.into()),
            'r' => {
                let mut written = String::new();
                repr(&value, &mut written)?;
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
