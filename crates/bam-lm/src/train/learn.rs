//! The parameters that a run changes; the others keep every bit.

use crate::Error;
use crate::model::{ParameterInfo, ParameterKind, Transformer};
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// The parts of a model that learn, all of them by default. In a recipe: `learn = ["prior", "ssmax"]`.
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
    /// The priors' parameters: locations, scales, shapes, tables.
    Prior,
    /// The scales of scalable softmax.
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
        if parts.is_empty() {
            return Err(Error::Value {
                what: "train.learn",
                expected: "at least one of weights, prior and ssmax".into(),
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
        let part = match info.kind {
            ParameterKind::Matrix | ParameterKind::Vector => Part::Weights,
            ParameterKind::Prior(_) => Part::Prior,
            ParameterKind::SsmaxScale => Part::Ssmax,
        };
        info.trainable && self.parts.contains(&part)
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
                got: format!("{:?}", self.parts),
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
