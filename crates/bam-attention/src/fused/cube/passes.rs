//! The passes of a call: which kernels, on how many cubes, in which order.

use super::call::Call;
use super::tensors::{arg, element, one_each, reshaped};
use super::tiling::{self, FEW, Products, Tiling};
use super::units::cmma::Cmma;
use super::units::mma::Mma;
use super::units::plain::Plain;
use super::{by_keys, by_rows, forward};
use crate::fused::{Operands, Posterior};
use burn::tensor::{DType, Shape, bf16, f16};
use burn_cubecl::Cube;
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::ops::numeric::zeros;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Launches a pass with the units that its tiling is for.
macro_rules! launch {
    ($pass:ident, $t:expr, $dtype:expr, $($argument:expr),* $(,)?) => {
        match ($t.products, $dtype) {
            (Products::Plain, _) => $pass::$pass::launch_unchecked::<Plain>($($argument),*),
            (Products::Mma, DType::BF16) => $pass::$pass::launch_unchecked::<Mma<bf16>>($($argument),*),
            (Products::Mma, _) => $pass::$pass::launch_unchecked::<Mma<f16>>($($argument),*),
            (Products::Cmma(_), DType::BF16) => $pass::$pass::launch_unchecked::<Cmma<bf16>>($($argument),*),
            (Products::Cmma(_), DType::F16) => $pass::$pass::launch_unchecked::<Cmma<f16>>($($argument),*),
            (Products::Cmma(_), _) => $pass::$pass::launch_unchecked::<Cmma<f32>>($($argument),*),
        }
    };
}

impl Call<'_> {
    pub fn forward(&self) -> Posterior<Cube> {
        let [batch, heads, rows, dim] = self.context.plan.shapes().q;
        let keys = self.context.plan.positions().keys;
        let width = tiling::width(dim);
        let (t, splits) = if rows <= FEW {
            let t = Tiling::decode(rows, width, self.limits);
            let blocks = rows.div_ceil(t.rows) * batch * heads;
            (t, tiling::splits(blocks, keys, t.columns))
        } else {
            (
                self.tiling(Tiling::forward(width, self.limits), 1, false),
                1,
            )
        };
        let blocks = rows.div_ceil(t.rows);
        let parts = self.empty(&[splits, batch, heads, rows, dim]);
        let of_parts = self.empty(&[splits, batch, heads, rows]);
        let log = self.log(splits, blocks);
        let of = &self.operands;
        // SAFETY: indices are below the shapes, which the plan has checked.
        unsafe {
            launch!(
                forward,
                t,
                of.q.dtype,
                self.client(),
                CubeCount::Static(blocks as u32, (batch * heads) as u32, splits as u32),
                CubeDim::new_1d(t.units() as u32),
                self.vector,
                arg(&of.q),
                arg(&of.k),
                arg(&of.v),
                arg(&of.ln_weights),
                arg(&of.temperature),
                arg(&self.by_key.pairs),
                arg(&self.by_key.references),
                arg(&self.ids.queries),
                arg(&self.ids.keys),
                arg(&self.row_bounds(None)),
                arg(&self.key_norms),
                arg(&self.ranges),
                arg(&self.by_key.ranges),
                arg(&parts),
                arg(&of_parts),
                arg(&log),
                self.numbers(),
                t,
                self.rules,
                element(&of.q),
            );
        }
        self.read_log(&log, splits, blocks);
        let (out, ln_evidence) = if splits == 1 {
            (
                reshaped(parts, &[batch, heads, rows, dim]),
                reshaped(of_parts, &[batch, heads, rows]),
            )
        } else {
            let out = self.empty(&[batch, heads, rows, dim]);
            let ln_evidence = self.empty(&[batch, heads, rows]);
            let (count, units) = one_each(batch * heads * rows * dim);
            // SAFETY: as above.
            unsafe {
                forward::merge::launch_unchecked(
                    self.client(),
                    count,
                    units,
                    arg(&parts),
                    arg(&of_parts),
                    arg(&out),
                    arg(&ln_evidence),
                    dim,
                );
            }
            (out, ln_evidence)
        };
        Posterior { out, ln_evidence }
    }

    pub fn backward(&self, posterior: &Posterior<Cube>, gradient: CubeTensor) -> Operands<Cube> {
        let [batch, heads, rows, dim] = self.context.plan.shapes().q;
        let [_, key_heads, keys, _] = self.context.plan.shapes().k;
        let width = tiling::width(dim);
        let of = &self.operands;
        let mut gradient = into_contiguous(gradient);
        if self.ids.padded {
            gradient = self.without_padding(&gradient, &self.ids.queries);
        }
        let deltas = self.deltas(&gradient, &posterior.out);
        let bounds = self.row_bounds(Some(&posterior.ln_evidence));

        let t = self.tiling(Tiling::by_rows(width, self.limits), 2, true);
        let segments = tiling::segments(batch * heads, rows.div_ceil(t.rows));
        let lags = self.context.plan.lags().count();
        let d_q = self.empty(&[batch, heads, rows, dim]);
        let d_temperature = match self.rules.has_temperature() {
            true => self.empty(&[batch, heads, rows]),
            false => self.empty(&[1]),
        };
        let diagonals = self.empty(&[batch, heads, segments, lags]);
        let blocks = rows.div_ceil(t.rows);
        let log = self.log(1, blocks);
        // SAFETY: indices are below the shapes, which the plan has checked.
        unsafe {
            launch!(
                by_rows,
                t,
                of.q.dtype,
                self.client(),
                CubeCount::Static(segments as u32, (batch * heads) as u32, 1),
                CubeDim::new_1d(t.units() as u32),
                self.vector,
                arg(&of.q),
                arg(&of.k),
                arg(&of.v),
                arg(&gradient),
                arg(&of.ln_weights),
                arg(&of.temperature),
                arg(&self.by_key.pairs),
                arg(&self.by_key.references),
                arg(&self.ids.queries),
                arg(&self.ids.keys),
                arg(&posterior.ln_evidence),
                arg(&deltas),
                arg(&bounds),
                arg(&self.key_norms),
                arg(&self.ranges),
                arg(&self.by_key.ranges),
                arg(&d_q),
                arg(&d_temperature),
                arg(&diagonals),
                arg(&log),
                self.numbers(),
                t,
                self.rules,
                element(&of.q),
            );
        }
        self.read_log(&log, 1, blocks);
        let d_ln_weights = self.empty(&[heads, lags]);
        self.add_up(&diagonals, &d_ln_weights, segments, lags);
        let of_temperature = of.temperature.meta.shape().dims::<3>();
        let d_temperature = match self.rules.has_temperature() && of_temperature[0] < batch {
            true => {
                let sum = self.empty(&of_temperature);
                self.add_up(&d_temperature, &sum, 1, heads * rows);
                sum
            }
            false => d_temperature,
        };

        let t = self.tiling(Tiling::by_keys(width, self.limits), 2, false);
        let d_k = self.empty(&[batch, key_heads, keys, dim]);
        let d_v = self.empty(&[batch, key_heads, keys, dim]);
        let zeros = |shape| zeros(of.q.device.clone(), Shape::from(shape), DType::F32);
        let of_key_prior = of.key_prior.meta.shape().dims::<3>();
        let d_key_prior = match self.rules.has_key_prior() {
            true => zeros(vec![batch, heads, keys]),
            false => zeros(of_key_prior.to_vec()),
        };
        // SAFETY: as above.
        unsafe {
            launch!(
                by_keys,
                t,
                of.q.dtype,
                self.client(),
                CubeCount::Static(keys.div_ceil(t.rows) as u32, (batch * key_heads) as u32, 1),
                CubeDim::new_1d(t.units() as u32),
                self.vector,
                arg(&of.q),
                arg(&of.k),
                arg(&of.v),
                arg(&gradient),
                arg(&of.ln_weights),
                arg(&of.temperature),
                arg(&self.by_key.pairs),
                arg(&self.by_key.references),
                arg(&self.ids.queries),
                arg(&self.ids.keys),
                arg(&posterior.ln_evidence),
                arg(&deltas),
                arg(&bounds),
                arg(&self.key_norms),
                arg(&self.ranges),
                arg(&self.by_key.ranges),
                arg(&d_k),
                arg(&d_v),
                arg(&d_key_prior),
                self.numbers(),
                t,
                self.rules,
                element(&of.q),
            );
        }
        let d_key_prior = match self.rules.has_key_prior() && of_key_prior[1] < heads {
            true => {
                let sum = self.empty(&of_key_prior);
                self.add_up(&d_key_prior, &sum, heads / of_key_prior[1], keys);
                sum
            }
            false => d_key_prior,
        };
        let dtype = of.q.dtype;
        Operands {
            q: cast(d_q, dtype),
            k: cast(d_k, dtype),
            v: cast(d_v, dtype),
            ln_weights: d_ln_weights,
            temperature: match self.rules.has_temperature() {
                true => d_temperature,
                false => zeros(of_temperature.to_vec()),
            },
            key_prior: d_key_prior,
            key_remainders: of.key_remainders.clone(),
        }
    }
}
