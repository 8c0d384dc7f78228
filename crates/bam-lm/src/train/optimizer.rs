//! RAdam with decoupled weight decay, one learning rate per kind of parameter.

mod sharded;

use super::gradients::Gradients;
use crate::Error;
use crate::device::is_here;
use crate::model::checkpoint::NamedTensors;
use crate::model::{Numbers, ParameterInfo, ParameterKind, Transformer};
use bam_prior::Role;
use burn::module::{Module, ParamId};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// The optimizer's constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
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
    /// Temperatures of rows: scales of scalable softmax, weights of adaptive ones.
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
        let infos: HashMap<ParamId, ParameterInfo> = model
            .parameters()
            .into_iter()
            .map(|info| (info.id, info))
            .collect();
        let mut update = Update {
            correction: self.next(),
            optimizer: self,
            infos,
            gradients: &mut gradients,
            rate,
        };
        model.map(&mut crate::model::Replacing(&mut update))
    }

    /// Counts a step.
    fn next(&mut self) -> Correction {
        self.steps += 1;
        Correction::at(self.steps, self.config.betas)
    }

    fn step_of(&self, kind: ParameterKind, factor: f64, correction: Correction, rate: f64) -> Step {
        let rate = rate * self.rates.of(kind);
        let decay = match kind {
            ParameterKind::Matrix => rate * self.config.weight_decay,
            _ => 0.0,
        };
        Step {
            factor,
            betas: self.config.betas,
            epsilon: self.config.epsilon,
            correction,
            rate,
            kept: 1.0 - decay,
        }
    }

    /// The value of a parameter after a step; moments that are not there yet are 0.
    fn take<const D: usize>(
        &mut self,
        id: ParamId,
        step: Step,
        value: Tensor<D>,
        gradient: Tensor<1>,
    ) -> Tensor<D> {
        let moments = self.moments.remove(&id).unwrap_or_else(|| {
            let zeros = Tensor::zeros(gradient.shape(), &gradient.device());
            Moments {
                first: zeros.clone(),
                second: zeros,
            }
        });
        let (value, moments) = step.take(value, moments, gradient);
        self.moments.insert(id, moments);
        value
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

    /// Continues from a checkpoint's state, or from a share of it: `part` says which numbers of a parameter are wanted.
    ///
    /// # Errors
    /// If a tensor does not fit the model.
    pub fn restore(
        &mut self,
        model: &Transformer,
        steps: u64,
        mut tensors: NamedTensors,
        path: &Path,
        part: impl Fn(ParamId, usize) -> Range<usize>,
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
            let part = part(info.id, size);
            let [first, second] = [first, second].map(|values| {
                let data = TensorData::new(values[part.clone()].to_vec(), [part.len()]);
                Tensor::from_data(data, &device)
            });
            if !part.is_empty() {
                self.moments.insert(info.id, Moments { first, second });
            }
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
        let (Some(info), Some((gradient, factor))) = (self.infos.get(&id), self.gradients.take(id))
        else {
            return tensor;
        };
        let step = (self.optimizer).step_of(info.kind, factor, self.correction, self.rate);
        match tensor.is_autodiff() {
            true => Tensor::from_inner(self.optimizer.take(id, step, tensor.inner(), gradient)),
            false => self.optimizer.take(id, step, tensor, gradient),
        }
    }
}

/// A step of one parameter.
#[derive(Clone, Copy)]
struct Step {
    /// Of the gradient.
    factor: f64,
    betas: [f64; 2],
    epsilon: f64,
    correction: Correction,
    rate: f64,
    /// The share of the value that its decay leaves.
    kept: f64,
}

/// Numbers of a task.
const TASK: usize = 1 << 16;

impl Step {
    fn take<const D: usize>(
        &self,
        value: Tensor<D>,
        moments: Moments,
        gradient: Tensor<1>,
    ) -> (Tensor<D>, Moments) {
        if is_here(&value) && is_here(&gradient) {
            self.take_here(value, moments, gradient)
        } else {
            self.take_anywhere(value, moments, gradient)
        }
    }

    /// By tensors of any device.
    fn take_anywhere<const D: usize>(
        &self,
        value: Tensor<D>,
        moments: Moments,
        gradient: Tensor<1>,
    ) -> (Tensor<D>, Moments) {
        let [beta1, beta2] = self.betas;
        let gradient = gradient * self.factor;
        let moments = Moments {
            first: moments.first * beta1 + gradient.clone() * (1.0 - beta1),
            second: moments.second * beta2 + gradient.square() * (1.0 - beta2),
        };
        let direction = moments.first.clone() / self.correction.first;
        let direction = match self.correction.adaptive {
            Some(factor) => direction * factor / (moments.second.clone().sqrt() + self.epsilon),
            None => direction,
        };
        let shape = value.shape();
        let value = value * self.kept - (direction * self.rate).reshape(shape);
        (value, moments)
    }

    /// The same in the processor's own memory, in one pass.
    fn take_here<const D: usize>(
        &self,
        value: Tensor<D>,
        moments: Moments,
        gradient: Tensor<1>,
    ) -> (Tensor<D>, Moments) {
        let mut value = Numbers::of(value);
        let mut first = Numbers::of(moments.first);
        let mut second = Numbers::of(moments.second);
        let gradient = Numbers::of(gradient);
        let tasks = value
            .get_mut()
            .par_chunks_mut(TASK)
            .zip(gradient.get().par_chunks(TASK));
        let moments = first
            .get_mut()
            .par_chunks_mut(TASK)
            .zip(second.get_mut().par_chunks_mut(TASK));
        tasks
            .zip(moments)
            .for_each(|((value, gradient), (first, second))| {
                let numbers = value
                    .iter_mut()
                    .zip(gradient)
                    .zip(first.iter_mut().zip(second));
                self.take_numbers(numbers);
            });
        let moments = Moments {
            first: first.into_tensor(),
            second: second.into_tensor(),
        };
        (value.into_tensor(), moments)
    }

    fn take_numbers<'a>(
        &self,
        numbers: impl Iterator<Item = ((&'a mut f32, &'a f32), (&'a mut f32, &'a mut f32))>,
    ) {
        let [beta1, beta2] = self.betas.map(|beta| beta as f32);
        let [new1, new2] = self.betas.map(|beta| (1.0 - beta) as f32);
        let (factor, epsilon, kept) = (self.factor as f32, self.epsilon as f32, self.kept as f32);
        let (first_correction, rate) = (self.correction.first as f32, self.rate as f32);
        let adaptive = self.correction.adaptive.map(|factor| factor as f32);
        for ((value, gradient), (first, second)) in numbers {
            let gradient = gradient * factor;
            *first = *first * beta1 + gradient * new1;
            *second = *second * beta2 + gradient * gradient * new2;
            let direction = *first / first_correction;
            let direction = match adaptive {
                Some(factor) => direction * factor / (second.sqrt() + epsilon),
                None => direction,
            };
            *value = *value * kept - direction * rate;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bam_attention::device::cpu;
    use bam_attention::testing::signed_numbers;

    /// The formula in tensors and the one in a pass over slices, before the variance is tractable and after.
    #[test]
    fn both_ways_to_step_are_one() {
        const SHAPE: [usize; 2] = [3, 50];
        let numbers = |seed| signed_numbers(150, 1.0, seed);
        let flat = |seed| Tensor::<1>::from_floats(&*numbers(seed), &cpu());
        for (number, is_adaptive) in [(1, false), (900, true)] {
            let step = Step {
                factor: 0.7,
                betas: [0.9, 0.95],
                epsilon: 1e-8,
                correction: Correction::at(number, [0.9, 0.95]),
                rate: 0.01,
                kept: 0.99,
            };
            assert_eq!(step.correction.adaptive.is_some(), is_adaptive);
            let value = || flat(1).reshape(SHAPE);
            let moments = || Moments {
                first: flat(2),
                second: flat(3).square(),
            };
            let (here, of_here) = step.take_here(value(), moments(), flat(4));
            let (there, of_there) = step.take_anywhere(value(), moments(), flat(4));
            let moved = (there.clone() - value() * step.kept)
                .abs()
                .max()
                .into_scalar::<f32>();
            assert!(moved > 1e-3, "{moved}");
            for (got, expected) in [
                (here.reshape([150]), there.reshape([150])),
                (of_here.first, of_there.first),
                (of_here.second, of_there.second),
            ] {
                let off = (got - expected).abs().max().into_scalar::<f32>();
                assert!(off < 1e-6, "{off}");
            }
        }
    }
}
