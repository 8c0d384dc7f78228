//! Values in a row that the engine has none of: tuples, ranges, views of dictionaries, generators; and dictionaries.

use super::arguments::wrong;
use minijinja::value::{DynObject, Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The values that Python would go through.
pub fn listed(value: &Value) -> Result<Vec<Value>, Error> {
    match value.is_none() {
        true => Err(wrong("expected something to iterate over, got none")),
        false => Ok(value.try_iter()?.collect()),
    }
}

/// Keys with their values.
pub fn pairs(of: &Value) -> Result<Vec<Value>, Error> {
    let object = of.as_object().filter(|_| of.kind() == ValueKind::Map);
    let pairs = object.and_then(|object| object.try_iter_pairs());
    let expected = || wrong(format!("expected a dictionary, got {}", of.kind()));
    let pairs = pairs.ok_or_else(expected)?;
    Ok(pairs.map(|(key, value)| tuple(vec![key, value])).collect())
}

/// A dictionary; namespaces, loops and macros look like them to the engine.
pub fn is_mapping(value: &Value) -> bool {
    let other = |object: &DynObject| {
        let name = object.type_name();
        ["::Namespace", "::Loop", "::Macro"]
            .iter()
            .any(|other| name.ends_with(other))
    };
    value.kind() == ValueKind::Map && !value.as_object().is_some_and(other)
}

/// Values in a row that are no list.
#[derive(Debug)]
pub struct Items {
    pub kind: Kind,
    items: Vec<Value>,
}

#[derive(Debug)]
pub enum Kind {
    /// Written in round brackets, and spread out by `%`.
    Tuple,
    /// As it was asked for.
    Range(String),
    /// Part of a dictionary, by the name of Python's type: it has a length, and no index.
    View(&'static str),
    /// Gone through once, and true whatever is in it; whether it was.
    Generator(AtomicBool),
}

fn items(kind: Kind, items: Vec<Value>) -> Value {
    Value::from_object(Items { kind, items })
}

pub fn tuple(of: Vec<Value>) -> Value {
    items(Kind::Tuple, of)
}

pub fn range(written: String, of: Vec<Value>) -> Value {
    items(Kind::Range(written), of)
}

pub fn view(name: &'static str, of: Vec<Value>) -> Value {
    items(Kind::View(name), of)
}

pub fn generator(of: Vec<Value>) -> Value {
    items(Kind::Generator(AtomicBool::new(false)), of)
}

pub fn items_of(value: &Value) -> Option<&Items> {
    value.downcast_object_ref()
}

/// The items of a tuple.
pub fn of_tuple(value: &Value) -> Option<&[Value]> {
    let items = items_of(value).filter(|items| matches!(items.kind, Kind::Tuple))?;
    Some(&items.items)
}

/// A list or a tuple, which alone can be JSON and be read from its end.
pub fn is_list(value: &Value) -> bool {
    let list = matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    list && items_of(value).is_none_or(|items| matches!(items.kind, Kind::Tuple))
}

pub fn is_generator(value: &Value) -> bool {
    items_of(value).is_some_and(|items| matches!(items.kind, Kind::Generator(_)))
}

impl Object for Items {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        match self.kind {
            Kind::Tuple | Kind::Range(_) => ObjectRepr::Seq,
            Kind::View(_) | Kind::Generator(_) => ObjectRepr::Iterable,
        }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        if self.repr() != ObjectRepr::Seq {
            // Else the engine would count them off.
            return Some(Value::UNDEFINED);
        }
        // The pairs of `groupby` have names, too.
        match key.as_str() {
            Some("grouper") => self.items.first().cloned(),
            Some("list") => self.items.get(1).cloned(),
            _ => self.items.get(key.as_usize()?).cloned(),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match &self.kind {
            Kind::Generator(done) if done.swap(true, Ordering::Relaxed) => Enumerator::Empty,
            Kind::Generator(_) | Kind::View(_) => Enumerator::Values(self.items.clone()),
            Kind::Tuple | Kind::Range(_) => Enumerator::Seq(self.items.len()),
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        let generator = matches!(self.kind, Kind::Generator(_));
        (!generator).then_some(self.items.len())
    }
}
