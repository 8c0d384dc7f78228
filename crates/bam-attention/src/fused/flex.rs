//! The fused operation on Burn's Flex: its tensors as the slices that the CPU kernel works on.

use super::bound::PriorRanges;
use super::cpu::{Inputs, Rows, Temperatures, Values, backward, forward};
use super::{FusedKernel, Operands, Plan, Posterior};
use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Shape, TensorData, bf16};

impl FusedKernel for Flex {
    fn forward(operands: &Operands<Self>, plan: &Plan) -> Posterior<Self> {
        let operands = readable_operands(operands);
        let inputs = inputs(&operands, plan);
        let (out, ln_evidence) = forward(&inputs);
        let [b, h, i, d] = [
            inputs.batch,
            inputs.heads,
            plan.call.positions.queries,
            inputs.dim,
        ];
        Posterior {
            out: tensor(out, Shape::from([b, h, i, d]), DType::F32),
            ln_evidence: tensor(ln_evidence, Shape::from([b, h, i]), DType::F32),
        }
    }

    fn backward(
        operands: &Operands<Self>,
        posterior: &Posterior<Self>,
        out_gradient: FlexTensor,
        plan: &Plan,
    ) -> Operands<Self> {
        let operands = readable_operands(operands);
        let inputs = inputs(&operands, plan);
        let out_gradient = readable(&out_gradient);
        let of = backward(
            &inputs,
            rows(&posterior.out),
            posterior.ln_evidence.storage::<f32>(),
            rows(&out_gradient),
        );
        let like = |values, operand: &FlexTensor| tensor(values, operand.shape(), operand.dtype());
        Operands {
            q: like(of.q, &operands.q),
            k: like(of.k, &operands.k),
            v: like(of.v, &operands.v),
            ln_weights: like(of.ln_weights, &operands.ln_weights),
            temperature: like(
                sum_to(of.temperature, &inputs, &operands.temperature.shape()),
                &operands.temperature,
            ),
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
    let strides = layout.strides();
    Rows {
        values: match tensor.dtype() {
            DType::BF16 => Values::Bf16(tensor.storage::<bf16>()),
            _ => Values::F32(tensor.storage::<f32>()),
        },
        start: layout.start_offset(),
        strides: [0, 1, 2].map(|axis| strides[axis] as usize),
        dim: layout.shape()[3],
    }
}

/// `operands` must come from [`readable_operands`].
fn inputs<'a>(operands: &'a Operands<Flex>, plan: &'a Plan) -> Inputs<'a> {
    let q_shape = operands.q.shape();
    let lags = plan.lags.count();
    let ln_weights = contiguous(&operands.ln_weights);
    let shape = operands.temperature.shape();
    let stride = |axis: usize, below: usize| if shape[axis] == 1 { 0 } else { below };
    let temperature = Temperatures {
        values: contiguous(&operands.temperature),
        strides: [
            stride(0, shape[1] * shape[2]),
            stride(1, shape[2]),
            stride(2, 1),
        ],
    };
    Inputs {
        batch: q_shape[0],
        heads: q_shape[1],
        dim: q_shape[3],
        q: rows(&operands.q),
        k: rows(&operands.k),
        v: rows(&operands.v),
        ln_weights,
        ranges: plan
            .ranges
            .get_or_init(|| PriorRanges::new(ln_weights, lags)),
        temperature: plan.call.temperature_scope.map(|_| temperature),
        lags: &plan.lags,
        call: &plan.call,
    }
}

/// The numbers of a contiguous tensor.
fn contiguous(tensor: &FlexTensor) -> &[f32] {
    let layout = tensor.layout();
    &tensor.storage::<f32>()[layout.start_offset()..][..layout.num_elements()]
}

/// Sums a gradient `[batch, heads, rows]` over the axes in which the temperature has size 1, in order.
fn sum_to(values: Vec<f32>, inputs: &Inputs<'_>, shape: &Shape) -> Vec<f32> {
    let rows = inputs.call.positions.queries;
    let mut sums = vec![0.0; shape.num_elements()];
    for (index, value) in values.into_iter().enumerate() {
        let (head, row) = (index / rows, index % rows);
        let at = [head / inputs.heads, head % inputs.heads, row];
        let at = [0, 1, 2].map(|axis| if shape[axis] == 1 { 0 } else { at[axis] });
        sums[(at[0] * shape[1] + at[1]) * shape[2] + at[2]] += value;
    }
    sums
}
