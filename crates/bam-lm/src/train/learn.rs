//! The parameters that a run changes; the others keep every bit.

use crate::Error;
use crate::model::{ParameterInfo, ParameterKind, Transformer};
use bam_prior::Role;
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// The parts of a model that learn, all of them by default. In a recipe: `learn = ["prior", "ssmax"]`, or
/// `learn = ["weights", "scale", "shape", "ssmax"]`, which leaves locations where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Part>", into = "Vec<Part>")]
pub struct Learn {
    /// In the order of [`Part`], each at most once; at least one.
    parts: Vec<Part>,
}

/// A part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Matrices, embeddings, gains and biases.
    Weights,
    /// The priors' parameters: locations, scales and shapes.
    Prior,
    /// Of those the locations.
    Location,
    /// The scales, and entries of tables.
    Scale,
    /// The shapes.
    Shape,
    /// The scales of scalable softmax, and the weights of adaptive temperatures.
    Ssmax,
}

impl Default for Learn {
    fn default() -> Self {
        let parts = vec![Part::Weights, Part::Prior, Part::Ssmax];
        Self { parts }
    }
}

impl TryFrom<Vec<Part>> for Learn {
    type Error = Error;

    fn try_from(mut parts: Vec<Part>) -> Result<Self, Error> {
        parts.sort();
        parts.dedup();
        let roles = [Part::Location, Part::Scale, Part::Shape];
        if roles.iter().all(|role| parts.contains(role)) {
            parts.push(Part::Prior);
        }
        if parts.contains(&Part::Prior) {
            // It has all of them.
            parts.retain(|part| !roles.contains(part) && *part != Part::Prior);
            parts.push(Part::Prior);
            parts.sort();
        }
        if parts.is_empty() {
            return Err(Error::Value {
                what: "train.learn",
                expected: "at least one of weights, prior (location, scale, shape) and ssmax"
                    .into(),
                got: "none".into(),
            });
        }
        Ok(Self { parts })
    }
}

impl From<Learn> for Vec<Part> {
    fn from(learn: Learn) -> Self {
        learn.parts
    }
}

impl Learn {
    /// Whether nothing is left out.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a run changes the parameter.
    #[must_use]
    pub fn includes(&self, info: &ParameterInfo) -> bool {
        let has = |part| self.parts.contains(&part);
        let learns = match info.kind {
            ParameterKind::Matrix | ParameterKind::Vector => has(Part::Weights),
            ParameterKind::Prior(Role::Location) => has(Part::Prior) || has(Part::Location),
            ParameterKind::Prior(Role::Scale) => has(Part::Prior) || has(Part::Scale),
            ParameterKind::Prior(Role::Shape) => has(Part::Prior) || has(Part::Shape),
            ParameterKind::SsmaxScale => has(Part::Ssmax),
        };
        info.trainable && learns
    }

    /// The model with everything else taken out of the gradient: it costs no backward pass, no
    /// optimizer state, and no bit of it changes.
    ///
    /// # Errors
    /// If the model has nothing that would learn.
    pub fn only(&self, model: Transformer) -> Result<Transformer, Error> {
        let parameters = model.parameters();
        let (learned, rest): (Vec<_>, Vec<_>) =
            (parameters.iter()).partition(|info| self.includes(info));
        if learned.is_empty() {
            return Err(Error::Value {
                what: "train.learn",
                expected: format!(
                    "parameters that a model with {} has",
                    model.config().encoding
                ),
                got: serde_json::to_string(&self.parts).unwrap_or_default(),
            });
        }
        let rest = rest.into_iter().map(|info| info.id).collect();
        Ok(model.map(&mut Freeze(rest)))
    }
}

struct Freeze(HashSet<ParamId>);

impl ModuleMapper for Freeze {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.0.contains(&param.id) {
            true => param.set_require_grad(false),
            false => param,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::small;
    use burn::tensor::Device;

    fn learn(parts: &[&str]) -> Learn {
        let parts = serde_json::to_value(parts).unwrap();
        serde_json::from_value(parts).unwrap()
    }

    /// The names of parameters that learn, without their layers.
    fn learned(parts: &[&str]) -> Vec<String> {
        let model = small("bam+ssmax").init(&Device::flex());
        let all = model.parameters().into_iter();
        let of_first = all.filter(|info| info.name.starts_with("layers.0.attention."));
        let of_first = of_first.filter(|info| learn(parts).includes(info));
        of_first
            .map(|info| info.name["layers.0.attention.".len()..].to_owned())
            .collect()
    }

    #[test]
    fn locations_can_stay_where_they_are() {
        let frozen = learned(&["ssmax", "shape", "weights", "scale"]);
        let weights = ["wq.weight", "wk.weight", "wv.weight", "wo.weight"];
        let rest = ["seq_scale", "prior.scale", "prior.shape"];
        assert_eq!(frozen, [&weights[..], &rest].concat());
        assert_eq!(learned(&["location"]), ["prior.loc"]);
        let all = ["prior.loc", "prior.scale", "prior.shape"];
        assert_eq!(learned(&["prior"]), all);
        assert!(!learn(&["weights", "scale", "shape", "ssmax"]).is_all());
        // Said in other words it is the same.
        for parts in [&["shape", "location", "scale"][..], &["scale", "prior"]] {
            assert_eq!(learn(parts), learn(&["prior"]));
        }
        assert!(learn(&["ssmax", "weights", "shape", "location", "scale"]).is_all());
        assert!(serde_json::from_str::<Learn>("[]").is_err());
    }
}
