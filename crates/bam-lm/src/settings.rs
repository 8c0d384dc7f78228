//! Settings by name, and those in which two recipes or models differ.

use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Whether a setting is the usual one, which need not be written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Whether a setting is still finite as the `f32` that models compute with.
pub(crate) fn is_finite_f32(setting: f64) -> bool {
    (setting as f32).is_finite()
}

/// Whether a setting is still above 0 and finite as the `f32` that models compute with.
pub(crate) fn is_positive_f32(setting: f64) -> bool {
    setting as f32 > 0.0 && is_finite_f32(setting)
}

/// The settings that differ, as expected and as they are, in words that a recipe takes: `train.steps = 3, model.heads = 4`. Neither
/// has any where nothing differs.
pub(crate) fn in_words(expected: &impl Serialize, got: &impl Serialize) -> [String; 2] {
    let differences = differences(expected, got);
    let named = |which: fn(&Difference) -> &Value| {
        let settings = differences.iter().map(|of| match which(of) {
            Value::Null => format!("{} as by default", of.0),
            value => format!("{} = {value}", of.0),
        });
        settings.collect::<Vec<_>>().join(", ")
    };
    [named(|of| &of.1), named(|of| &of.2)]
}

/// The name of a setting, what it should be and what it is: null where it is not written, as usual ones may be.
type Difference = (String, Value, Value);

/// The settings that two models, or two parts of them, do not share, as `config.json` says them; of a part within, `design.norm`.
fn differences(expected: &impl Serialize, got: &impl Serialize) -> Vec<Difference> {
    fn settings(name: String, value: Value, all: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(parts) => {
                for (part, value) in parts {
                    let dot = if name.is_empty() { "" } else { "." };
                    settings(format!("{name}{dot}{part}"), value, all);
                }
            }
            value => _ = all.insert(name, value),
        }
    }
    let of = |value: Value| {
        let mut all = BTreeMap::new();
        settings(String::new(), value, &mut all);
        all
    };
    let (mut expected, mut got) = (of(json!(expected)), of(json!(got)));
    let names: BTreeSet<_> = expected.keys().chain(got.keys()).cloned().collect();
    let value = |of: &mut BTreeMap<String, Value>, name: &str| of.remove(name).unwrap_or_default();
    let pairs = names.into_iter().map(|name| {
        let (expected, got) = (value(&mut expected, &name), value(&mut got, &name));
        (name, expected, got)
    });
    pairs.filter(|(_, expected, got)| expected != got).collect()
}
