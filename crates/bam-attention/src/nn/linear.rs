//! Linear layers on the processor as one step of Burn's graph. Burn's own product clears the memory of its result
//! before it writes it, which takes a third of a small model's training step.

use crate::device::is_here;
use bam_kernel::layers::{Matrix, product};
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata};
use burn::nn::Linear;
use burn::tensor::{Shape, Tensor, TensorData, module};

/// `x·W + b`, as [`Linear::forward`] gives it, with products of its own where numbers are `f32` in the processor's memory.
///
/// # Shapes
/// - `x`: `[.., input]`
/// - result: `[.., output]`
pub fn linear<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    let bias = layer.bias.as_ref().map(|bias| bias.val());
    multiplied(x, layer.weight.val(), bias)
}

/// The same of a matrix `[input, output]`, which may be a transposed one, and a bias `[output]`.
pub fn multiplied<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    if !is_here(&x) || !is_here(&weight) {
        return module::linear(x, weight, bias);
    }
    let out = Dispatch::multiplied(x.into_dispatch(), weight.into_dispatch());
    let out = Tensor::from_dispatch(out);
    match bias {
        Some(bias) => out + bias.unsqueeze(),
        None => out,
    }
}

/// The product as Burn's dispatch sees it.
#[burn::backend::backend_extension(Autodiff, Flex)]
pub(crate) trait Multiplied: Backend {
    fn multiplied(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Multiplied for Flex {
    fn multiplied(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        Factors::new(x, weight).product()
    }
}

impl<C: CheckpointStrategy> Multiplied for Autodiff<Flex, C> {
    fn multiplied(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let factors = Factors::new(x.into_primitive(), weight.into_primitive());
        let out = factors.product();
        match ProductStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish(factors, out),
            OpsKind::UnTracked(step) => step.finish(out),
        }
    }
}

/// Factors of a product, contiguous.
#[derive(Clone, Debug)]
struct Factors {
    /// `[.., input]`.
    x: FlexTensor,
    /// `[input, output]`, or `[output, input]` if it is a transpose of what lies in memory.
    weight: FlexTensor,
    transposed: bool,
}

impl Factors {
    fn new(x: FlexTensor, weight: FlexTensor) -> Self {
        let transposed = weight.layout().strides()[0] == 1 && weight.layout().shape()[0] > 1;
        let weight = if transposed {
            Flex::float_transpose(weight)
        } else {
            weight
        };
        Self {
            x: x.to_contiguous(),
            weight: weight.to_contiguous(),
            transposed,
        }
    }

    /// `W`.
    fn matrix(&self) -> Matrix<'_> {
        let matrix = rows(&self.weight);
        if self.transposed {
            matrix.transposed()
        } else {
            matrix
        }
    }

    /// `x·W`.
    fn product(&self) -> FlexTensor {
        let of_weight = self.weight.shape();
        let output = of_weight[usize::from(!self.transposed)];
        let mut shape = self.x.shape();
        let last = shape.num_dims() - 1;
        shape[last] = output;
        tensor(product(rows(&self.x), self.matrix()), shape)
    }

    /// `g·Wᵀ`.
    fn of_x(&self, g: &FlexTensor) -> FlexTensor {
        tensor(product(rows(g), self.matrix().transposed()), self.x.shape())
    }

    /// `xᵀ·g`, laid out as `W` is.
    fn of_weight(&self, g: &FlexTensor) -> FlexTensor {
        let (x, g) = (rows(&self.x), rows(g));
        let shape = self.weight.shape();
        match self.transposed {
            true => Flex::float_transpose(tensor(product(g.transposed(), x), shape)),
            false => tensor(product(x.transposed(), g), shape),
        }
    }
}

/// Gradients of `x` and of `W`, each where it is asked for.
#[derive(Debug)]
struct ProductStep;

impl Backward<Flex, 2> for ProductStep {
    type State = Factors;

    fn backward(self, ops: Ops<Factors, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let g = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let [of_x, of_weight] = ops.parents;
        if let Some(node) = of_x {
            gradients.register::<Flex>(node.id, ops.state.of_x(&g));
        }
        if let Some(node) = of_weight {
            gradients.register::<Flex>(node.id, ops.state.of_weight(&g));
        }
    }
}

/// A contiguous tensor as rows of its last axis.
fn rows(tensor: &FlexTensor) -> Matrix<'_> {
    let shape = tensor.shape();
    let values: &[f32] = tensor.as_slice().expect("f32 one after the other");
    let columns = shape[shape.num_dims() - 1];
    Matrix::new(values, [values.len() / columns, columns])
}

fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}
