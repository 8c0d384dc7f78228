//! The fused operation on Flex: views into its tensors, and the two passes.

use super::{FusedKernel, Operands, Plan, Posterior};
use crate::{Documents, TemperatureScope};
use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Shape, TensorData};

mod backward;
mod forward;
mod tile;

/// Rows of `[batch, head, row, dim]`, whatever the order in memory of the first three.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f32],
    start: usize,
    strides: [usize; 3],
    dim: usize,
}

impl<'a> Rows<'a> {
    /// `tensor` must come from [`readable`].
    fn new(tensor: &'a FlexTensor) -> Self {
        let layout = tensor.layout();
        let strides = layout.strides();
        Self {
            data: tensor.storage::<f32>(),
            start: layout.start_offset(),
            strides: [0, 1, 2].map(|axis| strides[axis] as usize),
            dim: layout.shape()[3],
        }
    }

    fn row(&self, batch: usize, head: usize, row: usize) -> &'a [f32] {
        let [by_batch, by_head, by_row] = self.strides;
        &self.data[self.start + batch * by_batch + head * by_head + row * by_row..][..self.dim]
    }
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

/// A call as the passes see it: plain slices and numbers.
struct Inputs<'a> {
    batch: usize,
    heads: usize,
    dim: usize,
    q: Rows<'a>,
    k: Rows<'a>,
    v: Rows<'a>,
    /// `[heads, PAD + lags + PAD]`: every lag of a tile can be read, hidden ones too.
    ln_weights: Vec<f32>,
    temperature: &'a [f32],
    /// Strides of the temperature by batch, head and row; 0 where one value serves all.
    temperature_strides: [usize; 3],
    temperature_scope: TemperatureScope,
    plan: &'a Plan,
}

/// Zeros on either side of a head's log-weights: a tile reaches at most one tile and one group of
/// rows beyond the lags that its rows see.
const PAD: usize = 2 * tile::KEYS;

impl<'a> Inputs<'a> {
    fn new(operands: &'a Operands<Flex>, plan: &'a Plan) -> Self {
        let q_shape = operands.q.shape();
        let (batch, heads, dim) = (q_shape[0], q_shape[1], q_shape[3]);
        let lags = plan.lags.count();
        let mut ln_weights = vec![0.0; heads * (lags + 2 * PAD)];
        let given = operands.ln_weights.storage::<f32>();
        for (padded, row) in ln_weights
            .chunks_exact_mut(lags + 2 * PAD)
            .zip(given.chunks_exact(lags))
        {
            padded[PAD..PAD + lags].copy_from_slice(row);
        }
        let shape = operands.temperature.shape();
        let stride = |axis: usize, below: usize| if shape[axis] == 1 { 0 } else { below };
        Self {
            batch,
            heads,
            dim,
            q: Rows::new(&operands.q),
            k: Rows::new(&operands.k),
            v: Rows::new(&operands.v),
            ln_weights,
            temperature: operands.temperature.storage::<f32>(),
            temperature_strides: [
                stride(0, shape[1] * shape[2]),
                stride(1, shape[2]),
                stride(2, 1),
            ],
            temperature_scope: plan
                .call
                .options
                .temperature
                .as_ref()
                .map_or(TemperatureScope::Likelihood, |temperature| {
                    temperature.scope
                }),
            plan,
        }
    }

    fn temperature(&self, batch: usize, head: usize, row: usize) -> f32 {
        let [by_batch, by_head, by_row] = self.temperature_strides;
        self.temperature[batch * by_batch + head * by_head + row * by_row]
    }

    /// The factors of a row's logits: of `q·k`, and of the log-weight.
    fn factors(&self, batch: usize, head: usize, row: usize) -> (f32, f32) {
        let tau = self.temperature(batch, head, row);
        let of_prior = match self.temperature_scope {
            TemperatureScope::Likelihood => 1.0,
            TemperatureScope::LikelihoodAndPrior => tau,
        };
        (tau * self.content_scale(), of_prior)
    }

    /// `1/√D`.
    fn content_scale(&self) -> f32 {
        self.plan.call.content_scale as f32
    }

    fn key_head(&self, head: usize) -> usize {
        head / self.plan.call.group
    }

    /// A key, or a value, as `rows` holds it; `None` at padding, which is not to be read.
    fn unless_padding(
        &self,
        rows: &Rows<'a>,
        batch: usize,
        head: usize,
        key: usize,
    ) -> Option<&'a [f32]> {
        let documents = self.plan.call.options.documents.as_deref();
        let padding = documents.is_some_and(|d| Documents::is_padding(d.key_ids(batch)[key]));
        (!padding).then(|| rows.row(batch, self.key_head(head), key))
    }

    /// Whether a query is padding: its row is not to be read and sees nothing.
    fn is_padding(&self, batch: usize, row: usize) -> bool {
        let documents = self.plan.call.options.documents.as_deref();
        documents.is_some_and(|d| Documents::is_padding(d.query_ids(batch)[row]))
    }

    /// Columns of one head's padded log-weights.
    fn padded_lags(&self) -> usize {
        self.plan.lags.count() + 2 * PAD
    }

    /// Where the log-weights of a row's tile begin in its head's padded log-weights.
    fn tile_column(&self, row: usize, first_key: usize) -> usize {
        let column = self
            .plan
            .call
            .positions
            .column_of_first_key(row, &self.plan.lags);
        (column + (first_key + PAD) as i64) as usize
    }

    /// The keys that at least one of the rows sees.
    fn visible_keys(&self, rows: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let positions = &self.plan.call.positions;
        positions.visible_keys(rows.start).start..positions.visible_keys(rows.end - 1).end
    }

    fn queries(&self) -> usize {
        self.plan.call.positions.queries
    }

    fn keys(&self) -> usize {
        self.plan.call.positions.keys
    }
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, Shape::from(shape)))
}

impl FusedKernel for Flex {
    fn forward(operands: &Operands<Self>, plan: &Plan) -> Posterior<Self> {
        let operands = make_readable(operands);
        let inputs = Inputs::new(&operands, plan);
        let (out, ln_evidence) = forward::forward(&inputs);
        let [b, h, i, d] = [inputs.batch, inputs.heads, inputs.queries(), inputs.dim];
        Posterior {
            out: tensor(out, [b, h, i, d]),
            ln_evidence: tensor(ln_evidence, [b, h, i]),
        }
    }

    fn backward(
        operands: &Operands<Self>,
        posterior: &Posterior<Self>,
        out_gradient: FlexTensor,
        plan: &Plan,
    ) -> Operands<Self> {
        let operands = make_readable(operands);
        let inputs = Inputs::new(&operands, plan);
        let out_gradient = readable(&out_gradient);
        let of = backward::backward(
            &inputs,
            Rows::new(&posterior.out),
            posterior.ln_evidence.storage::<f32>(),
            Rows::new(&out_gradient),
        );
        let shape = |tensor: &FlexTensor| tensor.shape();
        let gradient =
            |values: Vec<f32>, shape| FlexTensor::from_data(TensorData::new(values, shape));
        Operands {
            q: gradient(of.q, shape(&operands.q)),
            k: gradient(of.k, shape(&operands.k)),
            v: gradient(of.v, shape(&operands.v)),
            ln_weights: gradient(of.ln_weights, shape(&operands.ln_weights)),
            temperature: gradient(of.temperature, shape(&operands.temperature)),
        }
    }
}

fn make_readable(operands: &Operands<Flex>) -> Operands<Flex> {
    Operands {
        q: readable(&operands.q),
        k: readable(&operands.k),
        v: readable(&operands.v),
        ln_weights: operands.ln_weights.to_contiguous(),
        temperature: operands.temperature.to_contiguous(),
    }
}
