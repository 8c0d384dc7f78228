//! Differences of two models of one shape: heads by what they believe, other tensors by their numbers.

use super::heads;
use crate::Error;
use crate::model::checkpoint::NamedTensors;
use crate::model::{ParameterKind, Transformer};
use bam_record::{Difference, Head, HeadDifference, TensorDifference};
use std::collections::BTreeSet;

/// All that is not the same in both, priors over a causal row of `keys` keys.
///
/// # Errors
/// If they have other numbers of layers or heads, or those of [`heads`].
pub fn difference(a: &Transformer, b: &Transformer, keys: usize) -> Result<Difference, Error> {
    let shape = |model: &Transformer| {
        let config = model.config();
        format!("{} layers of {} heads", config.layers, config.heads)
    };
    if shape(a) != shape(b) {
        return Err(Error::Value {
            what: "the second model",
            expected: format!("{}, as the first", shape(a)),
            got: shape(b),
        });
    }
    let heads_of = |model| Ok::<_, Error>(heads(model, keys)?.heads.into_iter().map(plain));
    let pairs = heads_of(a)?.zip(heads_of(b)?);
    let heads = pairs
        .filter(|(before, after)| before != after)
        .map(|(before, after)| HeadDifference { before, after });
    let (of_a, of_b) = (other_tensors(a), other_tensors(b));
    let names: BTreeSet<&String> = of_a.keys().chain(of_b.keys()).collect();
    Ok(Difference {
        encodings: [a, b].map(|model| model.config().encoding.to_string()),
        row_keys: keys,
        heads: heads.collect(),
        other_tensors: names.len(),
        tensors: names
            .into_iter()
            .filter(|name| of_a.get(*name) != of_b.get(*name))
            .map(|name| TensorDifference {
                name: name.clone(),
                largest: largest(&of_a, &of_b, name),
            })
            .collect(),
    })
}

fn plain(head: Head) -> Head {
    Head {
        curve: Vec::new(),
        ..head
    }
}

/// All tensors but those of priors.
fn other_tensors(model: &Transformer) -> NamedTensors {
    let mut tensors = model.to_tensors();
    for info in model.parameters() {
        if matches!(info.kind, ParameterKind::Prior(_)) {
            tensors.remove(&info.name);
        }
    }
    tensors
}

fn largest(a: &NamedTensors, b: &NamedTensors, name: &str) -> Option<f64> {
    let ((shape_a, a), (shape_b, b)) = (a.get(name)?, b.get(name)?);
    (shape_a == shape_b).then(|| {
        let differences = a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b));
        differences.map(f64::abs).fold(0.0, f64::max)
    })
}
