//! The Python in Jinja: functions and tests as `transformers` has them, and how values are printed.

use super::super::json::shown;
use super::arguments::{arguments, whole, wrong};
use super::dump::tojson;
use super::items::{is_list, is_mapping, listed, pairs, range};
use super::methods::{Method, method};
use super::written::{escaped, text};
use chrono::Local;
use chrono::format::{Item, StrftimeItems};
use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::globals;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Gives an environment what `transformers` gives its own.
pub fn equip(environment: &mut Environment<'static>) {
    environment.set_formatter(|out, state, value| {
        let text = match state.auto_escape() {
            AutoEscape::None => text(value)?,
            _ => escaped(value)?,
        };
        out.write_str(&text).map_err(Error::from)
    });
    environment.remove_global("debug");
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", text);
    environment.add_function("cycler", |items: Rest<Value>| match items.is_empty() {
        true => Err(wrong("cycler: expected at least one item")),
        false => Ok(Value::from_object(Cycler {
            items: items.0,
            at: AtomicUsize::new(0),
        })),
    });
    environment.add_function("joiner", globals::joiner);
    environment.add_function("strftime_now", strftime_now);
    environment.add_function("range", ranged);
    environment.add_function("dict", dict);
    environment.add_function("namespace", |of: Option<Value>, more: Kwargs| {
        minijinja::functions::namespace(Some(dict(of, more)?))
    });
    environment.add_function("lipsum", || {
        Err::<Value, _>(wrong("lipsum: expected no text by chance"))
    });
    environment.add_global("self", Value::from_object(Method));
    let kinds = |kinds: &'static [ValueKind]| move |value: &Value| kinds.contains(&value.kind());
    use ValueKind::{Bool, Iterable, Map, Number, Seq, String, Undefined};
    environment.add_test("sequence", |value: &Value| {
        is_list(value) || matches!(value.kind(), Seq | Map | String | Undefined)
    });
    environment.add_test("iterable", kinds(&[Seq, Iterable, Map, String, Undefined]));
    environment.add_test("mapping", is_mapping);
    environment.add_test("number", kinds(&[Number, Bool]));
    environment.add_test("callable", |value: &Value| {
        value.kind() == ValueKind::Plain && value.as_object().is_some()
    });
    for name in ["upper", "lower"] {
        environment.add_test(name, move |state: &State, value: &Value| {
            method(state, &text(value)?.into(), &format!("is{name}"), &[])
        });
    }
}

/// One item after the other, and from the first again.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = self.at.load(Ordering::Relaxed) % self.items.len();
        (key.as_str() == Some("current")).then(|| self.items[at].clone())
    }

    fn call_method(
        self: &Arc<Self>,
        _: &State,
        method: &str,
        given: &[Value],
    ) -> Result<Value, Error> {
        let [] = arguments(method, given, [])?;
        match method {
            "next" => {
                let at = self.at.fetch_add(1, Ordering::Relaxed) % self.items.len();
                Ok(self.items[at].clone())
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// A dictionary of another one, or of pairs, and of named values.
fn dict(of: Option<Value>, more: Kwargs) -> Result<Value, Error> {
    let given = match of {
        None => Vec::new(),
        Some(of) if of.kind() == ValueKind::Map => pairs(&of)?,
        Some(of) => listed(&of)?,
    };
    let mut all = Vec::new();
    for pair in given {
        let pair = <[Value; 2]>::try_from(listed(&pair)?);
        let [key, value] = pair.map_err(|_| wrong("dict: expected pairs of a key and a value"))?;
        all.push((key, value));
    }
    for name in more.args() {
        all.push((name.into(), more.get(name)?));
    }
    Ok(all.into_iter().collect())
}

/// Whole numbers in a row.
fn ranged(given: Rest<Value>) -> Result<Value, Error> {
    let number = |of: &Value| whole(of).filter(|of| of.abs() <= i128::from(i64::MAX));
    let numbers: Option<Vec<i128>> = given.iter().map(number).collect();
    let (from, to, step) = match numbers.as_deref() {
        Some([to]) => (0, *to, 1),
        Some([from, to]) => (*from, *to, 1),
        Some([from, to, step]) if *step != 0 => (*from, *to, *step),
        _ => {
            return Err(wrong(
                "range: expected one to three integers, the last one not 0",
            ));
        }
    };
    let way = if step > 0 {
        to.saturating_sub(from)
    } else {
        from.saturating_sub(to)
    };
    let count = way.max(0).saturating_add(step.abs() - 1) / step.abs();
    if count > 100_000 {
        return Err(wrong(format!(
            "range: expected up to 100000 numbers, got {count}"
        )));
    }
    let written = match step {
        1 => format!("range({from}, {to})"),
        _ => format!("range({from}, {to}, {step})"),
    };
    let numbers = (0..count).map(|at| Value::from((from + at * step) as i64));
    Ok(range(written, numbers.collect()))
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
