//! RAdam with decoupled weight decay, one learning rate per kind of parameter.

use super::gradients::Gradients;
use crate::Error;
use crate::model::checkpoint::NamedTensors;
use crate::model::{ParameterInfo, ParameterKind, Transformer};
use bam_prior::Role;
use burn::module::{Module, ParamId};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// The optimizer's constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RAdamConfig {
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled: shrinks matrices by `learning rate · decay` a step. Nothing else decays.
    pub weight_decay: f64,
}

impl Default for RAdamConfig {
    fn default() -> Self {
        Self {
            betas: [0.9, 0.95],
            epsilon: 1e-8,
            weight_decay: 0.1,
        }
    }
}

/// Multiples of the learning rate for the few parameters that have a pace of their own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LearningRates {
    /// Locations of priors.
    pub location: f64,
    /// Scales of priors, and the entries of tables.
    pub scale: f64,
    /// Shapes of priors.
    pub shape: f64,
    /// Scales of scalable softmax.
    pub ssmax: f64,
}

impl Default for LearningRates {
    fn default() -> Self {
        Self {
            location: 1.0,
            scale: 1.0,
            shape: 1.0,
            ssmax: 1.0,
        }
    }
}

impl LearningRates {
    fn of(&self, kind: ParameterKind) -> f64 {
        match kind {
            ParameterKind::Matrix | ParameterKind::Vector => 1.0,
            ParameterKind::Prior(Role::Location) => self.location,
            ParameterKind::Prior(Role::Scale) => self.scale,
            ParameterKind::Prior(Role::Shape) => self.shape,
            ParameterKind::SsmaxScale => self.ssmax,
        }
    }
}

/// RAdam (arXiv 1908.03265), as `torch.optim.RAdam(decoupled_weight_decay=True)`:
///
/// ```text
/// m ← β₁m + (1−β₁)g      v ← β₂v + (1−β₂)g²      ρ = ρ∞ − 2tβ₂ᵗ/(1−β₂ᵗ),  ρ∞ = 2/(1−β₂) − 1
/// θ ← (1 − ηλ)θ − η m/(1−β₁ᵗ) · r √(1−β₂ᵗ)/(√v + ε)          if ρ > 5, else without the last factor
/// r = √( (ρ−4)(ρ−2)ρ∞ / ((ρ∞−4)(ρ∞−2)ρ) )
/// ```
#[derive(Debug)]
pub struct RAdam {
    config: RAdamConfig,
    rates: LearningRates,
    steps: u64,
    moments: HashMap<ParamId, Moments>,
}

#[derive(Clone, Debug)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
}

impl RAdam {
    /// An optimizer that has seen nothing.
    #[must_use]
    pub fn new(config: RAdamConfig, rates: LearningRates) -> Self {
        Self {
            config,
            rates,
            steps: 0,
            moments: HashMap::new(),
        }
    }

    /// Steps taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step. Parameters without a gradient stay as they are.
    #[must_use]
    pub fn step(&mut self, model: Transformer, mut gradients: Gradients, rate: f64) -> Transformer {
        self.steps += 1;
        let infos: HashMap<ParamId, ParameterInfo> = model
            .parameters()
            .into_iter()
            .map(|info| (info.id, info))
            .collect();
        let correction = Correction::at(self.steps, self.config.betas);
        let mut update = Update {
            optimizer: self,
            infos,
            gradients: &mut gradients,
            correction,
            rate,
        };
        model.map(&mut crate::model::Replacing(&mut update))
    }

    /// The state under the parameters' names, for a checkpoint.
    #[must_use]
    pub fn to_tensors(&self, model: &Transformer) -> NamedTensors {
        let mut tensors = NamedTensors::new();
        for info in model.parameters() {
            if let Some(moments) = self.moments.get(&info.id) {
                for (part, tensor) in [("first", &moments.first), ("second", &moments.second)] {
                    let values = crate::model::host_values(tensor.clone());
                    tensors.insert(
                        format!("{part}.{}", info.name),
                        (vec![values.len()], values),
                    );
                }
            }
        }
        tensors
    }

    /// Continues from a checkpoint's state.
    ///
    /// # Errors
    /// If a tensor does not fit the model.
    pub fn restore(
        &mut self,
        model: &Transformer,
        steps: u64,
        mut tensors: NamedTensors,
        path: &Path,
    ) -> Result<(), Error> {
        self.steps = steps;
        self.moments.clear();
        let device = model.device().inner();
        for info in model.parameters() {
            let size: usize = info.stored_shape.iter().product();
            let [first, second] =
                ["first", "second"].map(|part| tensors.remove(&format!("{part}.{}", info.name)));
            let (Some((_, first)), Some((_, second))) = (first, second) else {
                continue;
            };
            if first.len() != size || second.len() != size {
                return Err(Error::Tensor {
                    path: path.to_owned(),
                    tensor: info.name,
                    expected: format!("moments of {size} values"),
                    got: format!("{} and {}", first.len(), second.len()),
                });
            }
            let [first, second] = [first, second]
                .map(|values| Tensor::from_data(TensorData::new(values, [size]), &device));
            self.moments.insert(info.id, Moments { first, second });
        }
        Ok(())
    }
}

/// A step after bias correction and rectification.
#[derive(Clone, Copy)]
struct Correction {
    first: f64,
    /// `r·√(1 − β₂ᵗ)`, where the variance is tractable.
    adaptive: Option<f64>,
}

impl Correction {
    fn at(step: u64, [beta1, beta2]: [f64; 2]) -> Self {
        let t = step as f64;
        let second = 1.0 - beta2.powf(t);
        let rho_max = 2.0 / (1.0 - beta2) - 1.0;
        let rho = rho_max - 2.0 * t * beta2.powf(t) / second;
        let adaptive = (rho > 5.0).then(|| {
            let rectification =
                ((rho - 4.0) * (rho - 2.0) * rho_max) / ((rho_max - 4.0) * (rho_max - 2.0) * rho);
            (rectification * second).sqrt()
        });
        Self {
            first: 1.0 - beta1.powf(t),
            adaptive,
        }
    }
}

struct Update<'a> {
    optimizer: &'a mut RAdam,
    infos: HashMap<ParamId, ParameterInfo>,
    gradients: &'a mut Gradients,
    correction: Correction,
    rate: f64,
}

impl crate::model::ReplaceParameter for Update<'_> {
    fn replace<const D: usize>(&mut self, id: ParamId, tensor: Tensor<D>) -> Tensor<D> {
        let (Some(info), Some(gradient)) = (self.infos.get(&id), self.gradients.take(id)) else {
            return tensor;
        };
        let RAdamConfig {
            betas: [beta1, beta2],
            epsilon,
            weight_decay,
        } = self.optimizer.config;
        let rate = self.rate * self.optimizer.rates.of(info.kind);
        let shape = tensor.shape();
        let moments = match self.optimizer.moments.remove(&id) {
            Some(Moments { first, second }) => Moments {
                first: first * beta1 + gradient.clone() * (1.0 - beta1),
                second: second * beta2 + gradient.square() * (1.0 - beta2),
            },
            None => Moments {
                first: gradient.clone() * (1.0 - beta1),
                second: gradient.square() * (1.0 - beta2),
            },
        };
        let direction = moments.first.clone() / self.correction.first;
        let direction = match self.correction.adaptive {
            Some(factor) => direction * factor / (moments.second.clone().sqrt() + epsilon),
            None => direction,
        };
        self.optimizer.moments.insert(id, moments);
        let on_autodiff = tensor.is_autodiff();
        let mut value = tensor.inner();
        if info.kind == ParameterKind::Matrix && weight_decay > 0.0 {
            value = value * (1.0 - rate * weight_decay);
        }
        value = value - (direction * rate).reshape(shape);
        if on_autodiff {
            Tensor::from_inner(value)
        } else {
            value
        }
    }
}
