//! A call on a device: its tensors as kernels read them, and the launches.

use super::bounds::{self, GRAIN, OF_ROWS};
use super::by_key::{self, ByKey, PER_REFERENCE};
use super::documents::{self, DeviceIds};
use super::log::OF_LOG;
use super::norms::DeviceNorms;
use super::rules::{Factor, KeyTerm, NumbersLaunch, Rules, Skips};
use super::sums;
use super::tensors::{arg, element, empty, one_each, readable};
use super::tiling::{self, LINE, Limits, Products, Tiling};
use crate::fused::{Context, Operands};
use bam_kernel::{HeadSkips, KeyPriorScope, Skipping, TemperatureScope, Visibility};
use burn_cubecl::Cube;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::Device;
use cubecl::ir::ElemType;
use cubecl::ir::features::MmaConfig;
use cubecl::prelude::*;
use std::collections::BTreeSet;

pub(super) struct Call<'a> {
    pub(super) context: &'a Context,
    pub(super) operands: Operands<Cube>,
    pub(super) ids: DeviceIds,
    pub(super) ranges: CubeTensor,
    pub(super) key_norms: CubeTensor,
    pub(super) by_key: ByKey,
    pub(super) rules: Rules,
    pub(super) limits: Limits,
    /// Numbers that are loaded at once.
    pub(super) vector: usize,
    /// For a pass over many rows.
    products: Products,
}

impl<'a> Call<'a> {
    pub fn new(operands: &Operands<Cube>, context: &'a Context) -> Self {
        let call = context.plan.call();
        let documents = call.documents.as_deref();
        let q = readable(&operands.q);
        let (client, device) = (q.client.clone(), q.device.clone());
        let rules = Rules {
            causal: call.visibility == Visibility::Causal,
            window: call.window.is_some(),
            documents: documents.is_some(),
            temperature: match context.temperature {
                None => Factor::None,
                Some(TemperatureScope::Likelihood) => Factor::Likelihood,
                Some(TemperatureScope::LikelihoodAndPrior) => Factor::LikelihoodAndPrior,
            },
            key_prior: match (context.key_prior, context.temperature) {
                (None, _) => KeyTerm::None,
                (Some(KeyPriorScope::Scaled), Some(_)) => KeyTerm::Scaled,
                (Some(_), _) => KeyTerm::Added,
            },
            skipping: match call.skipping {
                Skipping::Off => Skips::Off,
                Skipping::Exact => Skips::Exact,
                Skipping::Certified { .. } => Skips::Certified,
            },
            counts: call.skip_log.is_some(),
        };
        let nothing = empty(&q, &[2]);
        let ids = documents::ids(call.documents.as_ref(), &q);
        let mut this = Self {
            context,
            ids,
            ranges: nothing.clone(),
            key_norms: nothing.clone(),
            by_key: ByKey {
                pairs: nothing.clone(),
                references: nothing.clone(),
                ranges: nothing,
            },
            rules,
            limits: limits(&client, &device),
            vector: 1,
            products: Products::Plain,
            operands: Operands {
                k: readable(&operands.k),
                v: readable(&operands.v),
                ln_weights: into_contiguous(operands.ln_weights.clone()),
                temperature: into_contiguous(operands.temperature.clone()),
                key_prior: into_contiguous(operands.key_prior.clone()),
                key_remainders: into_contiguous(operands.key_remainders.clone()),
                q,
            },
        };
        if this.ids.padded {
            let of = &this.operands;
            let [q, k, v] = [
                this.without_padding(&of.q, &this.ids.queries),
                this.without_padding(&of.k, &this.ids.keys),
                this.without_padding(&of.v, &this.ids.keys),
            ];
            (this.operands.q, this.operands.k, this.operands.v) = (q, k, v);
        }
        this.vector = this.numbers_at_once();
        this.products = this.what_multiplies();
        if rules.has_key_prior() {
            this.by_key = this.prior_by_key();
        }
        if rules.skips() {
            this.ranges = this.prior_ranges();
            this.key_norms = this.largest_key_norms();
        }
        this
    }

    /// A copy with zeros at padding: `0·NaN` is NaN, so a weight of 0 would let through what stands there.
    pub(super) fn without_padding(&self, x: &CubeTensor, ids: &CubeTensor) -> CubeTensor {
        let shape = x.meta.shape().clone();
        let (count, units) = one_each(shape.num_elements());
        let out = empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape, x.dtype);
        // SAFETY: one unit a number.
        unsafe {
            documents::without_padding::launch_unchecked(
                self.client(),
                count,
                units,
                arg(x),
                arg(ids),
                arg(&out),
                element(x),
            );
        }
        out
    }

    pub(super) fn deltas(&self, gradient: &CubeTensor, out: &CubeTensor) -> CubeTensor {
        let [batch, heads, rows, dim] = self.context.plan.shapes().q;
        let deltas = self.empty(&[batch, heads, rows]);
        let (count, units) = one_each(batch * heads * rows);
        // SAFETY: one unit a row, and those beyond the last do nothing.
        unsafe {
            sums::row_deltas::launch_unchecked(
                self.client(),
                count,
                units,
                arg(gradient),
                arg(out),
                arg(&deltas),
                dim,
                element(gradient),
            );
        }
        deltas
    }

    /// The bounds of rows, with their evidence or before there is one.
    pub(super) fn row_bounds(&self, ln_evidence: Option<&CubeTensor>) -> CubeTensor {
        if !self.rules.skips() {
            return self.empty(&[1]);
        }
        let [batch, heads, rows, _] = self.context.plan.shapes().q;
        let blocks = rows.div_ceil(GRAIN);
        let bounds = self.empty(&[batch, heads, blocks, OF_ROWS]);
        let (count, units) = one_each(batch * heads * blocks);
        let of = &self.operands;
        // SAFETY: one unit a block of rows.
        unsafe {
            bounds::row_bounds::launch_unchecked(
                self.client(),
                count,
                units,
                arg(&of.q),
                arg(&of.temperature),
                arg(&self.by_key.references),
                arg(ln_evidence.unwrap_or(&of.temperature)),
                arg(&bounds),
                self.numbers(),
                self.rules,
                ln_evidence.is_some(),
                element(&of.q),
            );
        }
        bounds
    }

    /// Those that a cache keeps, or found by reading every key once.
    fn largest_key_norms(&self) -> CubeTensor {
        let [batch, heads, keys, _] = self.context.plan.shapes().k;
        let kept = self.context.key_norms.as_ref();
        if let Some(norms) = kept.and_then(|norms| norms.of(batch, heads, keys).ok()) {
            return norms.clone();
        }
        let mut norms = DeviceNorms::none();
        let k = &self.operands.k;
        norms
            .extend(0, keys, k)
            .expect("it starts at the first key");
        norms
            .of(batch, heads, keys)
            .expect("all keys were taken in")
            .clone()
    }

    fn prior_by_key(&self) -> ByKey {
        let of = &self.operands;
        let [batch, heads, keys] = of.key_prior.meta.shape().dims::<3>();
        let [queries, grains] = [self.context.plan.positions().queries, keys.div_ceil(GRAIN)];
        let by_key = ByKey {
            pairs: self.empty(&[batch, heads, keys, 2]),
            references: self.empty(&[batch, heads, queries, 2]),
            ranges: self.empty(&[batch, heads, grains, 2, 2]),
        };
        let (count, units) = one_each(batch * heads * grains);
        // SAFETY: one unit a grain.
        unsafe {
            by_key::key_pairs::launch_unchecked(
                self.client(),
                count,
                units,
                arg(&of.key_prior),
                arg(&of.key_remainders),
                arg(&self.ids.keys),
                arg(&by_key.pairs),
                arg(&by_key.ranges),
                self.rules,
            );
        }
        let (count, units) = one_each(batch * heads * queries * PER_REFERENCE);
        // SAFETY: so many units a row, all of a cube, and those beyond the last row do nothing.
        unsafe {
            by_key::references::launch_unchecked(
                self.client(),
                count,
                units,
                arg(&by_key.pairs),
                arg(&by_key.ranges),
                arg(&self.ids.spans(self.context.plan.call().documents.as_ref())),
                arg(&by_key.references),
                self.numbers(),
                self.rules,
            );
        }
        by_key
    }

    fn prior_ranges(&self) -> CubeTensor {
        let find = || {
            let [heads, lags] = self.operands.ln_weights.meta.shape().dims::<2>();
            let ranges = self.empty(&[heads, lags.div_ceil(GRAIN), 2]);
            let (count, units) = one_each(heads * lags.div_ceil(GRAIN));
            // SAFETY: one unit a stretch of lags.
            unsafe {
                bounds::prior_ranges::launch_unchecked(
                    self.client(),
                    count,
                    units,
                    arg(&self.operands.ln_weights),
                    arg(&ranges),
                );
            }
            ranges
        };
        self.context.prior.cube.get_or_init(find).clone()
    }

    pub(super) fn add_up(&self, parts: &CubeTensor, out: &CubeTensor, inner: usize, length: usize) {
        let (count, units) = one_each(out.meta.shape().num_elements());
        // SAFETY: one unit a number.
        unsafe {
            sums::add_up::launch_unchecked(
                self.client(),
                count,
                units,
                arg(parts),
                arg(out),
                inner,
                length,
            );
        }
    }

    /// Room for what the blocks of a pass count.
    pub(super) fn log(&self, splits: usize, blocks: usize) -> CubeTensor {
        let [batch, heads, _, _] = self.context.plan.shapes().q;
        match self.rules.counts {
            true => self.empty(&[splits, batch, heads, blocks, OF_LOG]),
            false => self.empty(&[1]),
        }
    }

    /// Adds what a pass counted to the log, if one was asked for: that waits for the device.
    ///
    /// `counted` is `[splits, batch, heads, blocks, OF_LOG]`; what the splits of a block left out adds up.
    pub(super) fn read_log(&self, counted: &CubeTensor, splits: usize, blocks: usize) {
        let Some(log) = &self.context.plan.call().skip_log else {
            return;
        };
        let [batch, heads, _, _] = self.context.plan.shapes().q;
        let bytes = self.client().read_one_unchecked(counted.handle.clone());
        let counts = f32::from_bytes(&bytes);
        let all = batch * heads * blocks;
        for index in 0..all {
            let parts =
                (0..splits).map(|split| &counts[(split * all + index) * OF_LOG..][..OF_LOG]);
            let sum = |of: usize| parts.clone().map(|part| f64::from(part[of])).sum::<f64>();
            let skips = HeadSkips {
                visible_tiles: sum(0) as u64,
                skipped_tiles: sum(1) as u64,
                dropped_mass: sum(2).min(1.0),
            };
            log.add(index / blocks % heads, &skips);
        }
    }

    pub(super) fn numbers(&self) -> NumbersLaunch {
        let plan = &self.context.plan;
        let far = i32::MAX as usize / 2;
        NumbersLaunch::new(
            plan.positions().offset as i32,
            plan.positions().window.unwrap_or(far).min(far) as i32,
            plan.lags().first() as i32,
            plan.content_scale() as f32,
            match plan.call().skipping {
                Skipping::Certified { epsilon } => epsilon.ln() as f32,
                _ => 0.0,
            },
        )
    }

    /// As many as 16 bytes hold, if rows begin where such loads may.
    fn numbers_at_once(&self) -> usize {
        let of = &self.operands;
        let bytes = of.q.dtype.size();
        let at_most =
            of.q.client
                .properties()
                .hardware
                .max_vector_size
                .min(16 / bytes);
        let fits = |n: &usize| {
            [&of.q, &of.k, &of.v].into_iter().all(|x| {
                let rows = x.meta.strides().iter().rev().skip(1);
                let start = x.handle.offset_start.unwrap_or(0) as usize;
                let dim = self.context.plan.shapes().q[3];
                dim % n == 0
                    && start % (n * bytes) == 0
                    && rows.clone().all(|stride| stride % n == 0)
            })
        };
        [8, 4, 2]
            .into_iter()
            .filter(|n| *n <= at_most)
            .find(fits)
            .unwrap_or(1)
    }

    /// Matrices, where the device has them for this type.
    fn what_multiplies(&self) -> Products {
        let q = &self.operands.q;
        match tiling::width(self.context.plan.shapes().q[3]) > tiling::WIDEST_MATRIX {
            true => Products::Plain,
            false => products(&q.client, element(q), self.vector),
        }
    }

    /// That of matrices where they multiply: a block has so many operands.
    pub(super) fn tiling(&self, plain: Tiling, kept: usize, lays_out: bool) -> Tiling {
        match self.products {
            Products::Plain => plain,
            Products::Mma => Tiling::mma(plain.width, kept, lays_out),
            Products::Cmma(shape) => {
                let bytes = self.operands.q.dtype.size();
                Tiling::cmma(plain.width, kept, shape, bytes, self.limits).unwrap_or(plain)
            }
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.operands.q.client
    }

    pub(super) fn empty(&self, shape: &[usize]) -> CubeTensor {
        empty(&self.operands.q, shape)
    }
}

/// The way in which a device multiplies numbers of a type, of which so many are loaded at once.
pub(crate) fn products(client: &Client, own: ElemType, vector: usize) -> Products {
    let matmul = &client.properties().features.matmul;
    let sums = f32::elem_type_native();
    let shapes = |of: &BTreeSet<MmaConfig>| -> Vec<_> {
        of.iter()
            .filter(|of| (of.a_type, of.b_type, of.cd_type) == (own, own, sums))
            .map(|of| (of.m as usize, of.n as usize, of.k as usize))
            .collect()
    };
    // Rows of whole lines, as registers are filled with them.
    let in_lines = vector == LINE && matmul.ldmatrix.contains(&own);
    if in_lines && shapes(&matmul.mma).contains(&(16, 8, 16)) {
        return Products::Mma;
    }
    let divides = |size: usize| 16 % size == 0;
    let cooperative = shapes(&matmul.cmma)
        .into_iter()
        .filter(|(m, n, k)| divides(*m) && divides(*n) && divides(*k))
        .max();
    cooperative.map_or(Products::Plain, Products::Cmma)
}

fn limits(client: &Client, device: &Device) -> Limits {
    Limits {
        shared_bytes: client.properties().hardware.max_shared_memory_size,
        software: is_software(device),
    }
}

/// Whether a processor stands in for a GPU.
fn is_software(device: &Device) -> bool {
    format!("{device:?}").contains("Cpu")
}
