//! The fused operation on Burn's Flex: its tensors as the slices that `bam-kernel` works on.

use super::{Context, FusedKernel, Operands, Posterior};
use bam_kernel::{LogWeights, PriorRanges, Rows, Temperature, Values};
use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Shape, TensorData, bf16};

/// A tensor's storage has what its layout says, and `attend` made the plan of these shapes.
const FITS: &str = "slices of tensors fit the plan of their shapes";

impl FusedKernel for Flex {
    fn forward(operands: &Operands<Self>, context: &Context) -> Posterior<Self> {
        let operands = readable_operands(operands);
        let of = context
            .plan
            .forward(&slices(&operands, context))
            .expect(FITS);
        let [b, h, i, d] = context.plan.shapes().q;
        Posterior {
            out: tensor(of.out, Shape::from([b, h, i, d]), DType::F32),
            ln_evidence: tensor(of.ln_evidence, Shape::from([b, h, i]), DType::F32),
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
        let of = context.plan.backward(
            &slices(&operands, context),
            contiguous(&posterior.out),
            contiguous(&posterior.ln_evidence),
            &rows(&out_gradient),
        );
        let of = of.expect(FITS);
        let like = |values, operand: &FlexTensor| tensor(values, operand.shape(), operand.dtype());
        Operands {
            q: like(of.q, &operands.q),
            k: like(of.k, &operands.k),
            v: like(of.v, &operands.v),
            ln_weights: like(of.ln_weights, &operands.ln_weights),
            temperature: match context.temperature {
                Some(_) => like(of.temperature, &operands.temperature),
                None => like(vec![0.0], &operands.temperature),
            },
        }
    }

    fn narrowed(out: FlexTensor, dtype: DType) -> FlexTensor {
        match dtype {
            DType::F32 => out,
            _ => tensor(out.storage::<f32>().to_vec(), out.shape(), dtype),
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
        let shape = operands.temperature.shape();
        let shape = [0, 1, 2].map(|axis| shape[axis]);
        Temperature::new(contiguous(&operands.temperature), shape, scope).expect(FITS)
    });
    bam_kernel::Operands {
        q: rows(&operands.q),
        k: rows(&operands.k),
        v: rows(&operands.v),
        ln_weights: ln_weights.with_ranges(ranges).expect(FITS),
        temperature,
    }
}

/// The numbers of a contiguous tensor.
fn contiguous(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect(FITS)
}
