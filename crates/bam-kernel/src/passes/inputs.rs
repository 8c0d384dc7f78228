//! A call as the passes see it: operands that fit, factors of rows, log-weights by distance.

use crate::by_key::ByKey;
use crate::certificate::{Bounds, RowBounds};
use crate::key_norms::{KeyNorms, TILE, raise};
use crate::key_prior::KeyPriorScope;
use crate::operands::{Operands, Rows, Temperature, TemperatureScope};
use crate::plan::Plan;
use crate::prior_ranges::PriorRanges;
use crate::rounding::{norm, raised};
use crate::skipping::Skipping;
use std::borrow::Cow;
use std::ops::Range;

/// Keys of which exact skipping could leave out one tile at best.
const WORTHLESS: usize = 2 * TILE;

/// Operands that fit a plan.
pub(super) struct Inputs<'a> {
    pub batch: usize,
    pub heads: usize,
    pub dim: usize,
    /// `1/√D`.
    pub content_scale: f32,
    pub q: Rows<'a>,
    pub k: Rows<'a>,
    pub v: Rows<'a>,
    /// `[heads, lags]`.
    pub ln_weights: &'a [f32],
    pub ranges: Cow<'a, PriorRanges>,
    pub temperature: Option<Temperature<'a>>,
    pub key_prior: Option<ByKey>,
    pub plan: &'a Plan,
}

impl<'a> Inputs<'a> {
    /// `operands` must have the plan's shapes.
    pub fn new(plan: &'a Plan, operands: &Operands<'a>) -> Self {
        let [batch, heads, _, dim] = plan.shapes().q;
        let ln_weights = operands.ln_weights.values();
        let ranges = match operands.ln_weights.ranges() {
            Some(ranges) => Cow::Borrowed(ranges),
            None => Cow::Owned(PriorRanges::new(ln_weights, plan.lags().count())),
        };
        Self {
            batch,
            heads,
            dim,
            content_scale: plan.content_scale() as f32,
            q: operands.q,
            k: operands.k,
            v: operands.v,
            ln_weights,
            ranges,
            temperature: operands.temperature,
            key_prior: operands.key_prior.map(|of| ByKey::new(plan, &of)),
            plan,
        }
    }

    /// The instructions to run the passes with.
    pub fn arch(&self) -> pulp::Arch {
        let arch = self.plan.call().instructions.arch();
        arch.expect("a plan is of instructions that the processor has")
    }

    pub fn queries(&self) -> usize {
        self.plan.positions().queries
    }

    pub fn keys(&self) -> usize {
        self.plan.positions().keys
    }

    pub fn key_heads(&self) -> usize {
        self.heads / self.plan.group()
    }

    /// Row length of the copies that the products read: a whole number of vectors and of groups on
    /// every processor.
    pub fn padded_dim(&self) -> usize {
        self.dim.next_multiple_of(16)
    }

    /// The factors of a row's logits: of `q·k`, and of the log-weight.
    pub fn factors(&self, batch: usize, head: usize, row: usize) -> (f32, f32) {
        let scale = self.content_scale;
        let Some(temperature) = self.temperature else {
            return (scale, 1.0);
        };
        let tau = temperature.at(batch, head, row);
        match temperature.scope() {
            TemperatureScope::LikelihoodAndPrior => (tau * scale, tau),
            TemperatureScope::Likelihood => (tau * scale, 1.0),
        }
    }

    /// The factor of a row's prior over keys.
    pub fn key_factor(&self, batch: usize, head: usize, row: usize) -> f32 {
        let scope = self.key_prior.as_ref().map(|of| of.scope);
        match (scope, self.temperature) {
            (Some(KeyPriorScope::Scaled), Some(tau)) => tau.at(batch, head, row),
            _ => 1.0,
        }
    }

    /// The log-weights of one head.
    pub fn head_ln_weights(&self, head: usize) -> &'a [f32] {
        &self.ln_weights[head * self.plan.lags().count()..][..self.plan.lags().count()]
    }

    /// The norms of the keys, where skipping wants them: not where finding them takes longer than what they
    /// can save.
    pub fn key_norms(&self) -> Option<Cow<'a, KeyNorms>> {
        let call = self.plan.call();
        if call.skipping == Skipping::Off {
            return None;
        }
        if let Some(norms) = call.key_norms.as_deref() {
            return Some(Cow::Borrowed(norms));
        }
        if call.skipping == Skipping::Exact && self.keys() <= WORTHLESS {
            return None;
        }
        let norms = KeyNorms::gather(self.batch, self.key_heads(), self.keys(), |batch, head| {
            let mut largest = Vec::with_capacity(self.keys().div_ceil(TILE));
            let mut row = vec![0.0; self.dim];
            for key in 0..self.keys() {
                if self.plan.is_padding_key(batch, key) {
                    row.fill(0.0);
                    raise(&mut largest, key, &row);
                } else {
                    raise(&mut largest, key, self.k.read((batch, head, key), &mut row));
                }
            }
            largest
        });
        Some(Cow::Owned(norms))
    }

    pub fn bounds<'b>(&'b self, norms: Option<&'b KeyNorms>) -> Bounds<'b> {
        Bounds {
            plan: self.plan,
            ranges: &self.ranges,
            norms,
            key_prior: self.key_prior.as_ref(),
            dim: self.dim,
        }
    }

    /// The knowledge of some rows before any key is read. The bound of their content is infinite where no
    /// rule asks for it.
    pub fn row_bounds(
        &self,
        batch: usize,
        head: usize,
        rows: Range<usize>,
        bounds: &Bounds<'_>,
    ) -> RowBounds {
        let bounded = bounds.norms.is_some();
        let mut content = if bounded { 0.0 } else { f32::INFINITY };
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        let mut room = vec![0.0; self.dim];
        for row in rows.clone() {
            if self.plan.is_padding_query(batch, row) {
                continue;
            }
            let (of_content, of_prior) = self.factors(batch, head, row);
            if bounded {
                let q = self.q.read((batch, head, row), &mut room);
                content = raised(content, (of_content.abs() * norm(q)).next_up());
            }
            least = least.min(f64::from(of_prior));
            most = most.max(f64::from(of_prior));
        }
        let of_keys = self.key_prior.as_ref().map(|of| {
            let factor = |row| {
                let sees = !self.sees_nothing(batch, row);
                sees.then(|| self.key_factor(batch, head, row))
            };
            of.rows((batch, head), rows.clone(), factor)
        });
        RowBounds {
            batch,
            head,
            rows,
            of_keys,
            content: f64::from(content),
            prior_factors: if least <= most {
                (least, most)
            } else {
                (0.0, 0.0)
            },
        }
    }

    /// Whether a row sees no key, by position or because it is padding.
    pub fn sees_nothing(&self, batch: usize, row: usize) -> bool {
        self.plan.positions().visible_keys(row).is_empty() || self.plan.is_padding_query(batch, row)
    }
}

/// Log-weights by distance, the last lag first, so that consecutive rows of a panel are consecutive
/// columns; zeros on either side, so that every lag between a panel and a tile can be read, hidden
/// ones too.
pub(super) struct ByDistance {
    values: Vec<f32>,
    pub columns: usize,
}

/// A panel and a tile reach at most this far beyond the lags that the panel's rows see.
pub(super) const PAD: usize = 2 * TILE;

impl ByDistance {
    pub fn new(inputs: &Inputs<'_>) -> Self {
        let lags = inputs.plan.lags().count();
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

    pub fn head(&self, head: usize) -> &[f32] {
        &self.values[head * self.columns..][..self.columns]
    }

    /// The column of the lag between a row and a key.
    pub fn column(inputs: &Inputs<'_>, row: usize, key: usize) -> usize {
        let plan = inputs.plan;
        let column = plan.positions().column_by_distance(key, plan.lags());
        (column + (row + PAD) as i64) as usize
    }
}
