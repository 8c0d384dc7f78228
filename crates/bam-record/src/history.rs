//! Changes of a model after it was first made: the field `history` of `config.json`.

use bam_prior::Prior;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The events of a model's life, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History {
    /// The events.
    pub events: Vec<Event>,
}

/// One thing that was done to a model. Whatever changes a model adds one: an edit of its priors, an
/// upcycling, an import.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The change, as the command is called: `prior edit`.
    pub what: String,
    /// The time, RFC 3339.
    pub date: String,
    /// The arguments that were given, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, String>,
    /// SHA-256 of the weights that it began with, in hexadecimal, where there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The heads whose priors changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heads: Vec<HeadChange>,
}

/// A head's prior before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadChange {
    /// The layer; `None` where all layers share their priors.
    pub layer: Option<usize>,
    /// The head.
    pub head: usize,
    /// The prior before.
    pub before: HeadPrior,
    /// The prior after.
    pub after: HeadPrior,
}

/// A head's prior and its name in the encoding, which says whether it is fixed (`alibi`) or
/// learned (`laplace`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadPrior {
    /// Its name in the encoding.
    pub encoding: String,
    /// The prior, with its values.
    pub prior: Prior,
}

impl History {
    /// Whether nothing is known to have been done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_history_is_an_error() {
        let right = r#"[{"what": "prior edit", "date": "2026-01-01T00:00:00Z", "heads": [
            {"layer": null, "head": 3,
             "before": {"encoding": "alibi", "prior": {"family": "laplace", "slope": 0.25}},
             "after": {"encoding": "nope", "prior": {"family": "uniform"}}}]}]"#;
        let history: History = serde_json::from_str(right).unwrap();
        assert_eq!(history.events[0].heads[0].head, 3);
        let again = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&again).unwrap(), history);
        for (from, to) in [
            ("[{\"what\"", "{\"what\""),
            ("\"date\"", "\"day\""),
            ("\"head\": 3", "\"head\": -3"),
            ("0.25", "-0.25"),
            ("\"layer\": null", "\"layer\": null, \"colour\": 1"),
        ] {
            let wrong = right.replacen(from, to, 1);
            assert_ne!(wrong, right);
            assert!(serde_json::from_str::<History>(&wrong).is_err(), "{wrong}");
        }
    }
}
