//! The fused operation on Burn's Flex: its tensors as the slices that `bam-kernel` works on.

use super::{Context, FusedKernel, Operands, Posterior};
use bam_kernel::{
    GradientsMut, KeyPrior, LogWeights, PriorRanges, Rows, RowsMut, Temperature, Values,
};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Shape, TensorData, bf16};

/// A tensor's storage has what its layout says, and `attend` made the plan of these shapes.
const FITS: &str = "slices of tensors fit the plan of their shapes";

impl FusedKernel for Flex {
    fn forward(operands: &Operands<Self>, context: &Context) -> Posterior<Self> {
        let operands = readable_operands(operands);
        let mut out = Made::like(&operands.q);
        let [b, h, i, _] = context.plan.shapes().q;
        let mut ln_evidence = vec![0.0; b * h * i];
        let slices = slices(&operands, context);
        let done = context
            .plan
            .forward_into(&slices, &mut out.rows(), &mut ln_evidence);
        done.expect(FITS);
        Posterior {
            out: out.into_tensor(DType::F32),
            ln_evidence: tensor(ln_evidence, Shape::from([b, h, i]), DType::F32),
        }
    }

    fn backward(
        operands: &Operands<Self>,
        posterior: &Posterior<Self>,
        out_gradient: FlexTensor,
        context: &Context,
    ) -> Operands<Self> {
        let operands = readable_operands(operands);
        let out_gradient = readable(&out_gradient);
        let [mut q, mut k, mut v] = [&operands.q, &operands.k, &operands.v].map(Made::like);
        let zeros = |of: &FlexTensor| vec![0.0; of.shape().num_elements()];
        let mut ln_weights = zeros(&operands.ln_weights);
        let mut temperature = zeros(&operands.temperature);
        let mut key_prior = zeros(&operands.key_prior);
        // Of an operand that nobody reads, the gradient is 0.
        fn wanted(is_there: bool, values: &mut [f32]) -> &mut [f32] {
            if is_there { values } else { &mut [] }
        }
        let mut gradients = GradientsMut {
            q: q.rows(),
            k: k.rows(),
            v: v.rows(),
            ln_weights: &mut ln_weights,
            temperature: wanted(context.temperature.is_some(), &mut temperature),
            key_prior: wanted(context.key_prior.is_some(), &mut key_prior),
        };
        let done = context.plan.backward_into(
            &slices(&operands, context),
            &rows(&posterior.out),
            contiguous(&posterior.ln_evidence),
            &rows(&out_gradient),
            &mut gradients,
        );
        done.expect(FITS);
        let like = |values, operand: &FlexTensor| tensor(values, operand.shape(), operand.dtype());
        Operands {
            q: q.into_tensor(operands.q.dtype()),
            k: k.into_tensor(operands.k.dtype()),
            v: v.into_tensor(operands.v.dtype()),
            ln_weights: like(ln_weights, &operands.ln_weights),
            temperature: like(temperature, &operands.temperature),
            key_prior: like(key_prior, &operands.key_prior),
            key_remainders: operands.key_remainders,
        }
    }

    fn narrowed(out: FlexTensor, dtype: DType) -> FlexTensor {
        Flex::float_cast(out, dtype.into())
    }
}

/// Memory for rows `[batch, heads, tokens, dim]`, laid out as an operand's: where heads lie side by side, as projections
/// write them, what follows wants them so.
struct Made {
    numbers: Vec<f32>,
    shape: [usize; 4],
    heads_inside: bool,
}

impl Made {
    fn like(operand: &FlexTensor) -> Self {
        let layout = operand.layout();
        let shape = [0, 1, 2, 3].map(|axis| layout.shape()[axis]);
        Self {
            numbers: vec![0.0; shape.iter().product()],
            shape,
            heads_inside: layout.strides()[1] < layout.strides()[2],
        }
    }

    fn rows(&mut self) -> RowsMut<'_> {
        let [_, heads, tokens, dim] = self.shape;
        let of_row = heads * tokens * dim;
        let strides = match self.heads_inside {
            true => [of_row, dim, heads * dim],
            false => [of_row, tokens * dim, dim],
        };
        RowsMut::strided(&mut self.numbers, self.shape, strides).expect(FITS)
    }

    fn into_tensor(self, dtype: DType) -> FlexTensor {
        let [b, h, i, d] = self.shape;
        match self.heads_inside {
            true => {
                Flex::float_swap_dims(tensor(self.numbers, Shape::from([b, i, h, d]), dtype), 1, 2)
            }
            false => tensor(self.numbers, Shape::from([b, h, i, d]), dtype),
        }
    }
}

/// A tensor of numbers that were computed in `f32`.
fn tensor(values: Vec<f32>, shape: Shape, dtype: DType) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape).convert_dtype(dtype))
}

/// The tensor itself where its last axis is contiguous and no axis runs backwards, else a copy.
fn readable(tensor: &FlexTensor) -> FlexTensor {
    let layout = tensor.layout();
    let forwards = layout.strides().iter().all(|&stride| stride >= 0);
    let shape = layout.shape();
    let last = shape.num_dims() - 1;
    if forwards && (layout.strides()[last] == 1 || shape[last] == 1) {
        tensor.clone()
    } else {
        tensor.to_contiguous()
    }
}

fn readable_operands(operands: &Operands<Flex>) -> Operands<Flex> {
    Operands {
        q: readable(&operands.q),
        k: readable(&operands.k),
        v: readable(&operands.v),
        ln_weights: operands.ln_weights.to_contiguous(),
        temperature: operands.temperature.to_contiguous(),
        key_prior: operands.key_prior.to_contiguous(),
        key_remainders: operands.key_remainders.to_contiguous(),
    }
}

/// `tensor` must come from [`readable`].
fn rows(tensor: &FlexTensor) -> Rows<'_> {
    let layout = tensor.layout();
    let (start, strides) = (layout.start_offset(), layout.strides());
    let values = match tensor.dtype() {
        DType::BF16 => Values::Bf16(&tensor.storage::<bf16>()[start..]),
        _ => Values::F32(&tensor.storage::<f32>()[start..]),
    };
    let shape = [0, 1, 2, 3].map(|axis| layout.shape()[axis]);
    let strides = [0, 1, 2].map(|axis| strides[axis] as usize);
    Rows::strided(values, shape, strides).expect(FITS)
}

/// `operands` must come from [`readable_operands`].
fn slices<'a>(operands: &'a Operands<Flex>, context: &'a Context) -> bam_kernel::Operands<'a> {
    let lags = *context.plan.lags();
    let values = contiguous(&operands.ln_weights);
    let ranges = context
        .prior
        .ranges
        .get_or_init(|| PriorRanges::new(values, lags.count()));
    let heads = operands.ln_weights.shape()[0];
    let ln_weights = LogWeights::new(values, heads, lags).expect(FITS);
    let temperature = context.temperature.map(|scope| {
        let values = contiguous(&operands.temperature);
        Temperature::new(values, of_three(&operands.temperature), scope).expect(FITS)
    });
    let key_prior = context.key_prior.map(|scope| {
        let values = contiguous(&operands.key_prior);
        let prior = KeyPrior::new(values, of_three(&operands.key_prior), scope).expect(FITS);
        let low = contiguous(&operands.key_remainders);
        prior.with_remainders(low).expect(FITS)
    });
    bam_kernel::Operands {
        q: rows(&operands.q),
        k: rows(&operands.k),
        v: rows(&operands.v),
        ln_weights: ln_weights.with_ranges(ranges).expect(FITS),
        temperature,
        key_prior,
    }
}

/// The shape of a tensor that has three axes.
fn of_three(tensor: &FlexTensor) -> [usize; 3] {
    let shape = tensor.shape();
    [0, 1, 2].map(|axis| shape[axis])
}

/// The numbers of a contiguous tensor.
fn contiguous(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect(FITS)
}
