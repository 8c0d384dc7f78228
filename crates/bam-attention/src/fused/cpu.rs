//! The fused operation on a CPU: plain slices in, plain vectors out. Knows no tensor library.
//!
//! Work is cut into blocks of rows; a block visits tiles of keys in the order of its `Schedule`. How,
//! and why it is the same for any number of threads, is told in `docs/kernel.md`.

use super::bound::{Bounds, PriorRanges, RowBounds, TILE};
use crate::call::Call;
use crate::skipping::{KeyNorms, norm, raise, raised};
use crate::{Lags, Skipping, TemperatureScope};
use half::bf16;
use std::borrow::Cow;
use std::ops::Range;

mod backward;
mod decode;
mod exponential;
mod forward;
mod narrow;
mod panel;
mod product;
mod split;
mod tile;

pub(super) use backward::backward;
pub(super) use forward::forward;

/// Numbers as a tensor stores them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// Rows of `[batch, head, row, dim]`, whatever the order in memory of the first three.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    pub values: Values<'a>,
    pub start: usize,
    pub strides: [usize; 3],
    pub dim: usize,
}

impl Rows<'_> {
    /// Where a row begins.
    fn first(&self, batch: usize, head: usize, row: usize) -> usize {
        let [by_batch, by_head, by_row] = self.strides;
        self.start + batch * by_batch + head * by_head + row * by_row
    }

    /// A row of numbers that are `bf16`.
    fn narrow(&self, batch: usize, head: usize, row: usize) -> &[bf16] {
        let Values::Bf16(values) = self.values else {
            unreachable!("the caller looked");
        };
        &values[self.first(batch, head, row)..][..self.dim]
    }

    /// Copies a row to the beginning of `to`, widened where it is narrow.
    #[inline(always)]
    fn load(&self, batch: usize, head: usize, row: usize, to: &mut [f32]) {
        let first = self.first(batch, head, row);
        let to = &mut to[..self.dim];
        match self.values {
            Values::F32(values) => to.copy_from_slice(&values[first..][..self.dim]),
            Values::Bf16(values) => {
                for (to, value) in to.iter_mut().zip(&values[first..][..self.dim]) {
                    *to = value.to_f32();
                }
            }
        }
    }
}

/// A temperature with 1 or the full size in each of `[batch, head, row]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Temperatures<'a> {
    pub values: &'a [f32],
    /// 0 where one value serves all.
    pub strides: [usize; 3],
}

/// A call as the passes see it.
pub(super) struct Inputs<'a> {
    pub batch: usize,
    pub heads: usize,
    pub dim: usize,
    pub q: Rows<'a>,
    pub k: Rows<'a>,
    pub v: Rows<'a>,
    /// `[heads, lags]`.
    pub ln_weights: &'a [f32],
    pub ranges: &'a PriorRanges,
    pub temperature: Option<Temperatures<'a>>,
    pub lags: &'a Lags,
    pub call: &'a Call,
}

impl<'a> Inputs<'a> {
    /// The instructions to run the passes with.
    fn arch(&self) -> pulp::Arch {
        let arch = self.call.instructions.arch();
        arch.expect("`attend` checked that the processor has the instructions")
    }

    fn queries(&self) -> usize {
        self.call.positions.queries
    }

    fn keys(&self) -> usize {
        self.call.positions.keys
    }

    fn key_heads(&self) -> usize {
        self.heads / self.call.group
    }

    /// Row length of the copies that the products read: a whole number of vectors and of groups on
    /// every processor.
    fn padded_dim(&self) -> usize {
        self.dim.next_multiple_of(16)
    }

    /// The factors of a row's logits: of `q·k`, and of the log-weight.
    fn factors(&self, batch: usize, head: usize, row: usize) -> (f32, f32) {
        let scale = self.content_scale();
        let Some(temperature) = self.temperature else {
            return (scale, 1.0);
        };
        let [by_batch, by_head, by_row] = temperature.strides;
        let tau = temperature.values[batch * by_batch + head * by_head + row * by_row];
        match self.call.temperature_scope {
            Some(TemperatureScope::LikelihoodAndPrior) => (tau * scale, tau),
            _ => (tau * scale, 1.0),
        }
    }

    /// `1/√D`.
    fn content_scale(&self) -> f32 {
        self.call.content_scale as f32
    }

    /// The log-weights of one head.
    fn head_ln_weights(&self, head: usize) -> &'a [f32] {
        &self.ln_weights[head * self.lags.count()..][..self.lags.count()]
    }

    /// The norms of the keys, where skipping wants them.
    fn key_norms(&self) -> Option<Cow<'a, KeyNorms>> {
        if self.call.skipping == Skipping::Off {
            return None;
        }
        if let Some(norms) = self.call.key_norms.as_deref() {
            return Some(Cow::Borrowed(norms));
        }
        let norms = KeyNorms::gather(self.batch, self.key_heads(), self.keys(), |batch, head| {
            let mut largest = Vec::with_capacity(self.keys().div_ceil(TILE));
            let mut row = vec![0.0; self.dim];
            for key in 0..self.keys() {
                if self.call.is_padding_key(batch, key) {
                    row.fill(0.0);
                } else {
                    self.k.load(batch, head, key, &mut row);
                }
                raise(&mut largest, key, std::iter::once(row.as_slice()));
            }
            largest
        });
        Some(Cow::Owned(norms))
    }

    fn bounds<'b>(&'b self, norms: Option<&'b KeyNorms>) -> Bounds<'b> {
        Bounds {
            call: self.call,
            lags: self.lags,
            ranges: self.ranges,
            norms,
            dim: self.dim,
        }
    }

    /// What is known of some rows before any key is.
    fn row_bounds(&self, batch: usize, head: usize, rows: Range<usize>) -> RowBounds {
        let mut content = 0.0f32;
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        let mut q = vec![0.0; self.dim];
        for row in rows.clone() {
            if self.call.is_padding_query(batch, row) {
                continue;
            }
            let (of_content, of_prior) = self.factors(batch, head, row);
            self.q.load(batch, head, row, &mut q);
            content = raised(content, (of_content.abs() * norm(&q)).next_up());
            least = least.min(f64::from(of_prior));
            most = most.max(f64::from(of_prior));
        }
        RowBounds {
            batch,
            head,
            rows,
            content: f64::from(content),
            prior_factors: if least <= most {
                (least, most)
            } else {
                (0.0, 0.0)
            },
        }
    }

    /// Whether a row sees no key, by position or because it is padding.
    fn sees_nothing(&self, batch: usize, row: usize) -> bool {
        self.call.positions.visible_keys(row).is_empty() || self.call.is_padding_query(batch, row)
    }
}

/// Log-weights by distance, the last lag first, so that consecutive rows of a panel are consecutive
/// columns; zeros on either side, so that every lag between a panel and a tile can be read, hidden
/// ones too.
struct ByDistance {
    values: Vec<f32>,
    columns: usize,
}

/// A panel and a tile reach at most this far beyond the lags that the panel's rows see.
const PAD: usize = 2 * TILE;

impl ByDistance {
    fn new(inputs: &Inputs<'_>) -> Self {
        let lags = inputs.lags.count();
        let columns = lags + 2 * PAD;
        let mut values = vec![0.0; inputs.heads * columns];
        for (padded, row) in values
            .chunks_exact_mut(columns)
            .zip(inputs.ln_weights.chunks_exact(lags))
        {
            for (to, weight) in padded[PAD..][..lags].iter_mut().rev().zip(row) {
                *to = *weight;
            }
        }
        Self { values, columns }
    }

    fn head(&self, head: usize) -> &[f32] {
        &self.values[head * self.columns..][..self.columns]
    }

    /// The column of the lag between a row and a key.
    fn column(inputs: &Inputs<'_>, row: usize, key: usize) -> usize {
        let column = inputs.call.positions.column_by_distance(key, inputs.lags);
        (column + (row + PAD) as i64) as usize
    }
}
