//! Jinja's filters of many values: what they are sorted and chosen by, and the generators that they give.

use super::arguments::{arguments, said, truly, whole, wrong};
use super::items::{generator, is_generator, is_list, listed, of_tuple, pairs, tuple};
use super::written::text;
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, State, Value};
use std::cmp::Ordering;
use std::collections::BTreeSet;

pub fn equip(environment: &mut Environment<'static>) {
    environment.add_filter("map", map);
    for (name, attribute, wanted) in [
        ("select", false, true),
        ("reject", false, false),
        ("selectattr", true, true),
        ("rejectattr", true, false),
    ] {
        let chosen = move |state: &State, value: &Value, by: Rest<Value>| {
            let (attribute, test) = match (attribute, by.split_first()) {
                (true, None) => return Err(wrong(format!("{name}: expected an attribute"))),
                (true, Some((attribute, test))) => (Some(attribute), test),
                (false, _) => (None, by.as_slice()),
            };
            let mut chosen = Vec::new();
            for item in chosen_from(value)? {
                let part = of(&item, attribute, None)?;
                let holds = match test.split_first() {
                    None => part.is_true(),
                    Some((test, with)) => {
                        let test = test.as_str().unwrap_or_default();
                        state.perform_test(test, &[&[part], with].concat())?
                    }
                };
                if holds == wanted {
                    chosen.push(item);
                }
            }
            Ok(generator(chosen))
        };
        environment.add_filter(name, chosen);
    }
    environment.add_filter("list", |value: &Value| listed(value).map(Value::from));
    environment.add_filter("first", |value: &Value| {
        Ok::<_, Error>(listed(value)?.into_iter().next().unwrap_or_default())
    });
    environment.add_filter("last", |value: &Value| match is_generator(value) {
        true => Err(wrong("last: expected a list, got a generator")),
        false => Ok(listed(value)?.pop().unwrap_or_default()),
    });
    environment.add_filter("reverse", |value: &Value| {
        let mut items = listed(value)?;
        items.reverse();
        Ok::<_, Error>(match value.as_str() {
            Some(text) => text.chars().rev().collect::<String>().into(),
            None if is_generator(value) => items.into(),
            None => generator(items),
        })
    });
    environment.add_filter("items", |value: &Value| match value.is_undefined() {
        true => Ok(generator(Vec::new())),
        false => pairs(value).map(generator),
    });
    environment.add_filter("sort", |value: &Value, given: Rest<Value>| {
        let names = ["reverse", "case_sensitive", "attribute"];
        let [reverse, cased, by] = arguments("sort", &given, names)?;
        sorted(listed(value)?, truly(reverse), |item| {
            let by = by.as_ref().map(text).transpose()?;
            let by = by.as_deref().unwrap_or_default().split(',');
            let keys = by.map(|by| {
                let by = Some(Value::from(by)).filter(|by| by.is_true());
                Ok(folded(&of(item, by.as_ref(), None)?, cased.as_ref()))
            });
            Ok(keys.collect::<Result<Vec<_>, Error>>()?.into())
        })
        .map(Value::from)
    });
    environment.add_filter("dictsort", |value: &Value, given: Rest<Value>| {
        let names = ["case_sensitive", "by", "reverse"];
        let [cased, by, reverse] = arguments("dictsort", &given, names)?;
        let at = match by.as_ref().map(Value::as_str) {
            None | Some(Some("key")) => 0,
            Some(Some("value")) => 1,
            _ => return Err(wrong("dictsort: expected by key or by value")),
        };
        let sorted = sorted(pairs(value)?, truly(reverse), |pair| {
            Ok(folded(&pair.get_item_by_index(at)?, cased.as_ref()))
        });
        sorted.map(Value::from)
    });
    environment.add_filter("groupby", |value: &Value, given: Rest<Value>| {
        let names = ["attribute", "default", "case_sensitive"];
        let [by, default, cased] = arguments("groupby", &given, names)?;
        let key = |item: &Value| of(item, by.as_ref(), default.as_ref());
        let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
        for item in sorted(listed(value)?, false, |item| {
            Ok(folded(&key(item)?, cased.as_ref()))
        })? {
            let key = key(&item)?;
            let same =
                |other: &Value| folded(other, cased.as_ref()) == folded(&key, cased.as_ref());
            match groups.last_mut().filter(|(of, _)| same(of)) {
                Some((_, group)) => group.push(item),
                None => groups.push((key, vec![item])),
            }
        }
        let groups = groups.into_iter();
        Ok::<_, Error>(
            groups
                .map(|(key, group)| tuple(vec![key, group.into()]))
                .collect::<Value>(),
        )
    });
    environment.add_filter("unique", |value: &Value, given: Rest<Value>| {
        let [cased, by] = arguments("unique", &given, ["case_sensitive", "attribute"])?;
        let (mut seen, mut kept) = (BTreeSet::new(), Vec::new());
        for item in listed(value)? {
            if seen.insert(folded(&of(&item, by.as_ref(), None)?, cased.as_ref())) {
                kept.push(item);
            }
        }
        Ok::<_, Error>(generator(kept))
    });
    for (name, wanted) in [("min", Ordering::Less), ("max", Ordering::Greater)] {
        environment.add_filter(name, move |value: &Value, given: Rest<Value>| {
            let [cased, by] = arguments(name, &given, ["case_sensitive", "attribute"])?;
            let key = |item: &Value| {
                Ok::<_, Error>(folded(&of(item, by.as_ref(), None)?, cased.as_ref()))
            };
            let mut items = listed(value)?.into_iter();
            let mut best = items.next().unwrap_or_default();
            for item in items {
                if ordering(&key(&item)?, &key(&best)?)? == wanted {
                    best = item;
                }
            }
            Ok::<_, Error>(best)
        });
    }
    environment.add_filter("sum", sum);
    environment.add_filter("batch", |value: &Value, given: Rest<Value>| {
        let [count, fill] = arguments("batch", &given, ["linecount", "fill_with"])?;
        let count = counted("batch", count)?;
        let items = listed(value)?;
        let rows = items.chunks(count).map(|row| {
            let missing = said(fill.clone()).map_or(0, |_| count - row.len());
            let fill = std::iter::repeat_n(fill.clone().unwrap_or_default(), missing);
            row.iter().cloned().chain(fill).collect()
        });
        Ok::<_, Error>(generator(rows.collect()))
    });
    environment.add_filter("slice", |value: &Value, given: Rest<Value>| {
        let [count, fill] = arguments("slice", &given, ["slices", "fill_with"])?;
        let count = counted("slice", count)?;
        let items = listed(value)?;
        let (each, longer) = (items.len() / count, items.len() % count);
        let mut items = items.into_iter();
        let rows = (0..count).map(|row| {
            let fill = said(fill.clone()).filter(|_| row >= longer);
            let row = items.by_ref().take(each + usize::from(row < longer));
            row.chain(fill).collect()
        });
        Ok::<_, Error>(generator(rows.collect()))
    });
}

/// The values that Python would go through, for those filters that take whatever is false for nothing.
fn chosen_from(value: &Value) -> Result<Vec<Value>, Error> {
    match value.is_true() {
        true => listed(value),
        false => Ok(Vec::new()),
    }
}

/// A part of a value, at a path of names and places; the value itself without one.
fn of(value: &Value, path: Option<&Value>, default: Option<&Value>) -> Result<Value, Error> {
    let Some(path) = path.filter(|path| !path.is_none()) else {
        return Ok(value.clone());
    };
    let mut found = value.clone();
    for name in text(path)?.split('.') {
        if found.kind() == ValueKind::Number {
            return Err(wrong(format!(
                "expected a value with an attribute {name}, got a number"
            )));
        }
        let part = name
            .parse()
            .map_or_else(|_| name.into(), |at: usize| at.into());
        found = found.get_item(&part)?;
        if let (true, Some(default)) = (found.is_undefined(), default) {
            found = default.clone();
        }
    }
    Ok(found)
}

/// A value that texts are compared by: in small letters, unless their case matters.
fn folded(value: &Value, cased: Option<&Value>) -> Value {
    match value
        .as_str()
        .filter(|_| !cased.is_some_and(Value::is_true))
    {
        Some(text) => text.to_lowercase().into(),
        None => value.clone(),
    }
}

/// Numbers, texts and lists of them have an order; nothing else has.
pub fn ordering(left: &Value, right: &Value) -> Result<Ordering, Error> {
    if let Some((left, right)) = whole(left).zip(whole(right)) {
        return Ok(left.cmp(&right));
    }
    let number = |of: &Value| whole(of).map_or_else(|| of.clone(), Value::from);
    match (left.kind(), right.kind()) {
        (ValueKind::String, ValueKind::String) => Ok(left.cmp(right)),
        (ValueKind::Bool | ValueKind::Number, ValueKind::Bool | ValueKind::Number) => {
            Ok(number(left).cmp(&number(right)))
        }
        _ if is_list(left) && is_list(right) => {
            for (left, right) in left.try_iter()?.zip(right.try_iter()?) {
                match ordering(&left, &right)? {
                    Ordering::Equal => {}
                    other => return Ok(other),
                }
            }
            Ok(left.len().cmp(&right.len()))
        }
        (left, right) => Err(wrong(format!(
            "expected values with an order, got {left} and {right}"
        ))),
    }
}

/// Items by their keys; equal ones stay as they were, also from the end.
fn sorted(
    items: Vec<Value>,
    reverse: bool,
    key: impl Fn(&Value) -> Result<Value, Error>,
) -> Result<Vec<Value>, Error> {
    let keyed = items.into_iter().map(|item| Ok((key(&item)?, item)));
    let mut keyed = keyed.collect::<Result<Vec<_>, Error>>()?;
    let mut unordered = None;
    keyed.sort_by(|(left, _), (right, _)| match ordering(left, right) {
        Ok(order) if reverse => order.reverse(),
        Ok(order) => order,
        Err(error) => {
            unordered = Some(error);
            Ordering::Equal
        }
    });
    match unordered {
        Some(error) => Err(error),
        None => Ok(keyed.into_iter().map(|(_, item)| item).collect()),
    }
}

fn counted(of: &str, count: Option<Value>) -> Result<usize, Error> {
    let count = count.and_then(|count| count.as_usize());
    let count = count.filter(|count| (1..=1 << 16).contains(count));
    count.ok_or_else(|| wrong(format!("{of}: expected a count of 1 to 65536")))
}

/// A filter of each, or something of each.
fn map(state: &State, value: &Value, by: Rest<Value>) -> Result<Value, Error> {
    let items = chosen_from(value)?;
    let mapped: Result<Vec<Value>, Error> = match by.split_first() {
        Some((filter, with)) if filter.as_str().is_some() => {
            let filter = filter.as_str().unwrap_or_default();
            let each = items.into_iter();
            each.map(|item| state.apply_filter(filter, &[&[item], with].concat()))
                .collect()
        }
        _ => {
            let [by, default] = arguments("map", &by, ["attribute", "default"])?;
            let by = by.ok_or_else(|| wrong("map: expected a filter or an attribute"))?;
            let default = said(default);
            let each = items.iter();
            each.map(|item| of(item, Some(&by), default.as_ref()))
                .collect()
        }
    };
    mapped.map(generator)
}

/// Numbers together, or the items of lists.
fn sum(value: &Value, given: Rest<Value>) -> Result<Value, Error> {
    let [by, start] = arguments("sum", &given, ["attribute", "start"])?;
    let mut total = start.unwrap_or_else(|| 0.into());
    for item in listed(value)? {
        let item = of(&item, by.as_ref(), None)?;
        let numbers =
            [&total, &item].map(|of| matches!(of.kind(), ValueKind::Bool | ValueKind::Number));
        total = match (whole(&total).zip(whole(&item)), numbers) {
            (Some((a, b)), _) => {
                let sum = a.checked_add(b);
                sum.ok_or_else(|| wrong("sum: expected numbers of 128 bits"))?
                    .into()
            }
            (None, [true, true]) => (f64::try_from(total)? + f64::try_from(item)?).into(),
            _ => match (of_tuple(&total), of_tuple(&item)) {
                (Some(a), Some(b)) => tuple([a, b].concat()),
                (None, None) if is_list(&total) && is_list(&item) => {
                    total.try_iter()?.chain(item.try_iter()?).collect()
                }
                _ => {
                    let (a, b) = (total.kind(), item.kind());
                    return Err(wrong(format!(
                        "sum: expected numbers or lists, got {a} and {b}"
                    )));
                }
            },
        };
    }
    Ok(total)
}
