//! The gradient of a batch: forward and backward over parts of it, added up in a fixed order.

use super::workers::Workers;
use crate::Error;
use crate::device::{self, is_here};
use crate::model::{
    EachParameter, Numbers, ReplaceParameter, Replacing, TokenRows, Transformer, Visiting,
    host_values,
};
use bam_attention::{Documents, Implementation};
use bam_data::Batch;
use bam_kernel::layers::sum_of_squares;
use burn::module::{Module, ParamId};
use burn::tensor::{Device, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// The loss of a batch and its gradient by every parameter that has one, flattened. All of it stays on the
/// model's device until someone looks.
#[derive(Debug, Default)]
pub struct Gradients {
    /// By part of the batch; they add up to the mean cross-entropy, nats per token.
    pub(super) losses: Vec<Tensor<1>>,
    pub(super) of: HashMap<ParamId, Tensor<1>>,
    /// Of every gradient.
    factor: Factor,
}

/// A factor that is applied where a gradient is used.
#[derive(Clone, Copy, Debug)]
struct Factor(f64);

impl Default for Factor {
    fn default() -> Self {
        Self(1.0)
    }
}

/// Gradients of the weighted mean cross-entropy of a batch.
///
/// The rows are read in `parts` equal parts and their gradients added in order: the result depends on the
/// parts, not on the threads. On the processor `threads` of them run at once; another device has threads of
/// its own, and memory for one part at a time.
///
/// # Errors
/// Those of [`Transformer::loss`]; rows that `parts` does not divide.
pub fn batch_gradients(
    model: &Transformer,
    batch: &Batch,
    implementation: Implementation,
    parts: usize,
    threads: usize,
) -> Result<Gradients, Error> {
    let workers = Workers::alone(&model.device(), threads);
    added(model, batch, implementation, parts, &workers)
}

/// The sum of those of a batch's parts that are these workers', in the order of parts.
///
/// # Errors
/// Those of [`batch_gradients`].
pub(super) fn added(
    model: &Transformer,
    batch: &Batch,
    implementation: Implementation,
    parts: usize,
    workers: &Workers,
) -> Result<Gradients, Error> {
    let mut sum = Gradients::default();
    each_part(model, batch, implementation, parts, workers, |part| {
        sum.add(part);
        Ok(())
    })?;
    Ok(sum)
}

/// Computes those of a batch's parts that are these workers' and hands their gradients over, in the order of parts, on the
/// first device.
///
/// # Errors
/// Those of [`batch_gradients`] and of `hand_over`.
pub(super) fn each_part(
    model: &Transformer,
    batch: &Batch,
    implementation: Implementation,
    parts: usize,
    workers: &Workers,
    mut hand_over: impl FnMut(Gradients) -> Result<(), Error>,
) -> Result<(), Error> {
    if parts == 0 || !batch.rows.is_multiple_of(parts) {
        return Err(Error::Value {
            what: "parts of a batch",
            expected: format!("a divisor of its {} rows", batch.rows),
            got: parts.to_string(),
        });
    }
    let others = workers.devices[1..].iter();
    let others = others.map(|device| model.clone().fork(device));
    let models: Vec<Transformer> = std::iter::once(model.clone()).chain(others).collect();
    let of_part = |&(place, part): &(usize, usize)| {
        // Graphs that share a leaf can't go backward at the same time.
        let model = models[place % models.len()].clone();
        let model = model.map(&mut Replacing(&mut OwnLeaves));
        move || part_gradients(&model, batch, implementation, part, parts)
    };
    let mine: Vec<(usize, usize)> = workers.parts(parts).into_iter().enumerate().collect();
    let at_once = workers.at_once(mine.len());
    for now in mine.chunks(at_once) {
        let now = now.iter();
        // A device has a queue, and memory of its own, for every thread that calls it: so it is called from here, and is at
        // work while the next one is called.
        let results: Vec<Result<Gradients, Error>> = match device::is_cpu(&workers.devices[0]) {
            true if at_once > 1 => std::thread::scope(|scope| {
                let running: Vec<_> = now.map(|part| scope.spawn(of_part(part))).collect();
                let joined = running.into_iter().map(|thread| thread.join());
                joined
                    .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                    .collect()
            }),
            _ => now.map(|part| of_part(part)()).collect(),
        };
        for gradients in results {
            hand_over(gradients?.on(&workers.devices[0]))?;
        }
    }
    Ok(())
}

fn part_gradients(
    model: &Transformer,
    batch: &Batch,
    implementation: Implementation,
    part: usize,
    parts: usize,
) -> Result<Gradients, Error> {
    let rows = batch.rows / parts;
    let range = part * rows * batch.length..(part + 1) * rows * batch.length;
    let vocabulary = model.config().vocabulary;
    let tokens = TokenRows::new(rows, batch.tokens[range.clone()].to_vec(), vocabulary)?;
    let targets = TokenRows::new(rows, batch.targets[range.clone()].to_vec(), vocabulary)?;
    let documents = Arc::new(Documents::new(
        rows,
        batch.document_ids[range.clone()].to_vec(),
    )?);
    let weights = &batch.weights[range];
    let share = weights.iter().sum::<f32>() / batch.weights.iter().sum::<f32>();
    let loss = model.loss(&tokens, &targets, weights, Some(documents), implementation)? * share;
    let mut collected = CollectGradients {
        gradients: loss.backward(),
        of: HashMap::new(),
    };
    model.visit(&mut Visiting(&mut collected));
    Ok(Gradients {
        losses: vec![loss.inner()],
        of: collected.of,
        factor: Factor::default(),
    })
}

impl Gradients {
    /// Mean cross-entropy, nats per token, and the Euclidean norm of the gradient over all parameters, in
    /// the model's order: read from the device at once.
    #[must_use]
    pub fn loss_and_norm(&self, model: &Transformer) -> (f64, f64) {
        let squares = model.parameters().into_iter().filter_map(|info| {
            let gradient = self.of.get(&info.id)?.clone();
            let device = gradient.device();
            Some(match is_here(&gradient) {
                true => {
                    let squares = sum_of_squares(Numbers::of(gradient).get()) as f32;
                    Tensor::from_data([squares], &device)
                }
                false => gradient.square().sum(),
            })
        });
        let numbers: Vec<Tensor<1>> = self.losses.iter().cloned().chain(squares).collect();
        let numbers = host_values(Tensor::cat(numbers, 0));
        let (losses, squares) = numbers.split_at(self.losses.len());
        let sum = |numbers: &[f32]| numbers.iter().copied().map(f64::from).sum::<f64>();
        (sum(losses), sum(squares).sqrt())
    }

    /// Shrinks the gradient to norm `limit` where `norm` exceeds it, as `torch.clip_grad_norm_`.
    pub fn clip(&mut self, norm: f64, limit: f64) {
        self.factor.0 *= clipping(norm, limit);
    }

    /// The gradient times a factor.
    pub(super) fn times(mut self, factor: f64) -> Self {
        self.factor.0 *= factor;
        self
    }

    /// The gradient of one parameter, on the host.
    #[must_use]
    pub fn values(&self, id: ParamId) -> Option<Vec<f32>> {
        self.of
            .get(&id)
            .map(|of| host_values(of.clone() * self.factor.0))
    }

    /// The gradient of one parameter, and what it is still to be multiplied by.
    pub(crate) fn take(&mut self, id: ParamId) -> Option<(Tensor<1>, f64)> {
        self.of.remove(&id).map(|of| (of, self.factor.0))
    }

    /// The same on another device.
    fn on(mut self, device: &Device) -> Self {
        let device = &device.clone().inner();
        let moved = |tensor: Tensor<1>| match tensor.device() == *device {
            true => tensor,
            false => tensor.to_device(device),
        };
        self.losses = self.losses.into_iter().map(moved).collect();
        let of = self.of.into_iter();
        self.of = of.map(|(id, gradient)| (id, moved(gradient))).collect();
        self
    }

    fn add(&mut self, other: Self) {
        self.losses.extend(other.losses);
        for (id, gradient) in other.of {
            let sum = match self.of.remove(&id) {
                Some(sum) => sum + gradient,
                None => gradient,
            };
            self.of.insert(id, sum);
        }
    }
}

/// The factor that brings a gradient of this norm to `limit` at most.
pub(super) fn clipping(norm: f64, limit: f64) -> f64 {
    (limit / (norm + 1e-6)).min(1.0)
}

/// Gives every parameter a leaf of its own in the graph.
struct OwnLeaves;

impl ReplaceParameter for OwnLeaves {
    fn replace<const D: usize>(&mut self, _id: ParamId, tensor: Tensor<D>) -> Tensor<D> {
        Tensor::from_inner(tensor.inner())
    }
}

struct CollectGradients {
    gradients: burn::tensor::Gradients,
    of: HashMap<ParamId, Tensor<1>>,
}

impl EachParameter for CollectGradients {
    fn visit<const D: usize>(&mut self, id: ParamId, tensor: Tensor<D>) {
        if let Some(gradient) = tensor.grad(&self.gradients) {
            let size = gradient.shape().num_elements();
            self.of.insert(id, gradient.reshape([size]));
        }
    }
}
