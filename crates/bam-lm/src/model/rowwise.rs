//! Norms, gates and the loss as one operation each on the processor: [`bam_kernel::layers`] as steps of
//! Burn's graph. Elsewhere, and in other types than `f32`, they are made of Burn's operators.

use crate::device::is_here;
use bam_kernel::layers;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, BackendTensor, Dispatch, DispatchKindConversion, DispatchTensor, Flex,
    TensorMetadata,
};
use burn::nn::RmsNorm;
use burn::tensor::activation::{log_softmax, silu};
use burn::tensor::{Shape, Tensor, TensorData};
use std::sync::Arc;

/// `x · γ / √(mean(x²) + ε)`.
pub(super) fn rms_norm(norm: &RmsNorm, x: Tensor<3>) -> Tensor<3> {
    if !is_here(&x) {
        return norm.forward(x);
    }
    let gain = norm.gamma.val().into_dispatch();
    Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), gain, norm.epsilon))
}

/// `silu(a) ⊙ b`.
pub(super) fn gated(a: Tensor<3>, b: Tensor<3>) -> Tensor<3> {
    if !is_here(&a) || !is_here(&b) {
        return silu(a) * b;
    }
    Tensor::from_dispatch(Dispatch::gated(a.into_dispatch(), b.into_dispatch()))
}

/// The tokens that logits are scored by, one a row.
#[derive(Clone, Debug)]
pub(super) struct Scored {
    pub targets: Arc<[usize]>,
    /// Factors of the rows' losses.
    pub weights: Arc<[f32]>,
}

/// `Σ_i weight_i · (−ln softmax(logits_i)[target_i])`, in nats; `logits` are `[rows, vocabulary]`.
pub(super) fn cross_entropy(logits: Tensor<2>, scored: Scored) -> Tensor<1> {
    if is_here(&logits) {
        return Tensor::from_dispatch(Dispatch::cross_entropy(logits.into_dispatch(), scored));
    }
    let (device, rows) = (logits.device(), scored.targets.len());
    let targets: Vec<i32> = scored.targets.iter().map(|target| *target as i32).collect();
    let targets = Tensor::from_data(TensorData::new(targets, [rows, 1]), &device);
    let shares: Vec<f32> = scored.weights.iter().map(|weight| -weight).collect();
    let shares = Tensor::<2>::from_data(TensorData::new(shares, [rows, 1]), &device);
    (log_softmax(logits, 1).gather(1, targets) * shares).sum()
}

/// The numbers of a tensor without a graph, `f32` in the processor's own memory, to be read and written where
/// they are if nobody else has them.
pub(crate) struct Numbers(FlexTensor);

impl Numbers {
    /// # Panics
    /// If the numbers are elsewhere or of another type: [`is_here`].
    pub(crate) fn of<const D: usize>(tensor: Tensor<D>) -> Self {
        match DispatchTensor::try_into_backend(tensor.into_dispatch()) {
            Ok(BackendTensor::<Flex>::Float(numbers)) => Self(numbers.to_contiguous()),
            _ => panic!("expected a tensor on the processor, without a graph"),
        }
    }

    pub(crate) fn get(&self) -> &[f32] {
        values(&self.0)
    }

    pub(crate) fn get_mut(&mut self) -> &mut [f32] {
        let (start, count) = (
            self.0.layout().start_offset(),
            self.0.layout().num_elements(),
        );
        &mut self.0.storage_mut::<f32>()[start..][..count]
    }

    pub(crate) fn into_tensor<const D: usize>(self) -> Tensor<D> {
        let tensor = BackendTensor::<Flex>::Float(self.0);
        Tensor::from_dispatch(DispatchTensor::from_backend(tensor))
    }
}

/// The operations as Burn's dispatch sees them.
#[burn::backend::backend_extension(Autodiff, Flex)]
pub(crate) trait Rowwise: Backend {
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;

    fn gated(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;

    fn cross_entropy(logits: FloatTensor<Self>, scored: Scored) -> FloatTensor<Self>;
}

impl Rowwise for Flex {
    fn rms_norm(x: FlexTensor, gain: FlexTensor, epsilon: f64) -> FlexTensor {
        normed(&x.to_contiguous(), &gain.to_contiguous(), epsilon).0
    }

    fn gated(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        gate(&a.to_contiguous(), &b.to_contiguous())
    }

    fn cross_entropy(logits: FlexTensor, scored: Scored) -> FlexTensor {
        loss(&logits.to_contiguous(), &scored).0
    }
}

impl<C: CheckpointStrategy> Rowwise for Autodiff<Flex, C> {
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let nodes = [x.node(), gain.node()];
        let (x, gain) = (
            x.into_primitive().to_contiguous(),
            gain.into_primitive().to_contiguous(),
        );
        let (out, factors) = normed(&x, &gain, epsilon);
        match NormStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish((x, gain, factors), out),
            OpsKind::UnTracked(step) => step.finish(out),
        }
    }

    fn gated(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [a.node(), b.node()];
        let (a, b) = (
            a.into_primitive().to_contiguous(),
            b.into_primitive().to_contiguous(),
        );
        let out = gate(&a, &b);
        match GateStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish((a, b), out),
            OpsKind::UnTracked(step) => step.finish(out),
        }
    }

    fn cross_entropy(logits: FloatTensor<Self>, scored: Scored) -> FloatTensor<Self> {
        let nodes = [logits.node()];
        let logits = logits.into_primitive().to_contiguous();
        let (out, ln_evidence) = loss(&logits, &scored);
        match LossStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish((logits, scored, ln_evidence), out),
            OpsKind::UnTracked(step) => step.finish(out),
        }
    }
}

fn normed(x: &FlexTensor, gain: &FlexTensor, epsilon: f64) -> (FlexTensor, Vec<f32>) {
    let mut out = vec![0.0; values(x).len()];
    let factors = layers::rms_norm(values(x), values(gain), epsilon, &mut out);
    (like(x, out), factors)
}

fn gate(a: &FlexTensor, b: &FlexTensor) -> FlexTensor {
    let mut out = vec![0.0; values(a).len()];
    layers::gated(values(a), values(b), &mut out);
    like(a, out)
}

fn loss(logits: &FlexTensor, scored: &Scored) -> (FlexTensor, Vec<f32>) {
    let of = layers::cross_entropy(values(logits), &scored.targets, &scored.weights);
    (
        tensor(vec![of.loss as f32], Shape::from([1])),
        of.ln_evidence,
    )
}

/// Hands gradients to those parents that are in the graph.
macro_rules! register {
    ($gradients:expr, $parents:expr, $of:expr) => {
        for (parent, gradient) in $parents.into_iter().zip($of) {
            if let Some(node) = parent {
                $gradients.register::<Flex>(node.id, gradient);
            }
        }
    };
}

/// Gradients of `x` and of the gain.
#[derive(Debug)]
struct NormStep;

impl Backward<Flex, 2> for NormStep {
    type State = (FlexTensor, FlexTensor, Vec<f32>);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (x, gain, factors) = ops.state;
        let g = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let mut dx = vec![0.0; values(&x).len()];
        let (x_values, g) = (values(&x), values(&g));
        let d_gain = layers::rms_norm_gradients(x_values, values(&gain), &factors, g, &mut dx);
        register!(gradients, ops.parents, [like(&x, dx), like(&gain, d_gain)]);
    }
}

/// Gradients of both factors.
#[derive(Debug)]
struct GateStep;

impl Backward<Flex, 2> for GateStep {
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (a, b) = ops.state;
        let g = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let [mut da, mut db] = [(); 2].map(|()| vec![0.0; values(&a).len()]);
        layers::gated_gradients(values(&a), values(&b), values(&g), &mut da, &mut db);
        register!(gradients, ops.parents, [like(&a, da), like(&b, db)]);
    }
}

/// The gradient of the logits.
#[derive(Debug)]
struct LossStep;

impl Backward<Flex, 1> for LossStep {
    type State = (FlexTensor, Scored, Vec<f32>);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (logits, Scored { targets, weights }, ln_evidence) = ops.state;
        let scale = values(&gradients.consume::<Flex>(&ops.node).to_contiguous())[0];
        let mut d_logits = vec![0.0; values(&logits).len()];
        let of = values(&logits);
        layers::cross_entropy_gradient(of, &targets, &weights, &ln_evidence, scale, &mut d_logits);
        register!(gradients, ops.parents, [like(&logits, d_logits)]);
    }
}

/// The numbers of a contiguous tensor.
fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("f32 one after the other")
}

fn like(of: &FlexTensor, values: Vec<f32>) -> FlexTensor {
    tensor(values, of.shape())
}

fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}
