//! The gradient of a batch: forward and backward over parts of it, added up in a fixed order.

use crate::Error;
use crate::device;
use crate::model::{
    EachParameter, Numbers, ReplaceParameter, Replacing, TokenRows, Transformer, Visiting,
    host_values, is_here,
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
    losses: Vec<Tensor<1>>,
    of: HashMap<ParamId, Tensor<1>>,
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
    if parts == 0 || !batch.rows.is_multiple_of(parts) {
        return Err(Error::Value {
            what: "parts of a batch",
            expected: format!("a divisor of its {} rows", batch.rows),
            got: parts.to_string(),
        });
    }
    let of_part = |part: usize| {
        // Graphs that share a leaf can't go backward at the same time.
        let model = model.clone().map(&mut Replacing(&mut OwnLeaves));
        move || part_gradients(&model, batch, implementation, part, parts)
    };
    let at_once = parts_at_once(&model.device(), parts, threads);
    let mut sum = Gradients::default();
    for first in (0..parts).step_by(at_once) {
        // A device has a queue, and memory of its own, for every thread that calls it: so one alone is not
        // spawned.
        if at_once == 1 {
            sum.add(of_part(first)()?);
            continue;
        }
        let results: Vec<Result<Gradients, Error>> = std::thread::scope(|scope| {
            let running: Vec<_> = (first..parts.min(first + at_once))
                .map(|part| scope.spawn(of_part(part)))
                .collect();
            let joined = running.into_iter().map(|thread| thread.join());
            joined
                .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        for gradients in results {
            sum.add(gradients?);
        }
    }
    Ok(sum)
}

/// Parts that are computed at once.
pub(super) fn parts_at_once(device: &Device, parts: usize, threads: usize) -> usize {
    match device::is_cpu(device) {
        true => threads.clamp(1, parts),
        false => 1,
    }
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
        let factor = limit / (norm + 1e-6);
        if factor < 1.0 {
            self.factor.0 *= factor;
        }
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
