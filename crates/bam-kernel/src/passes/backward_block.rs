//! One block of rows going back: its posterior tile by tile, and what flows from it.

use super::inputs::{ByDistance, Inputs};
use super::key_lanes::AddKeyGradients;
use super::panel::{QueryPanels, Sight};
use super::product::{Aligned, Lanes, Line, STRETCH, aligned, lines, lines_mut, panel_rows};
use crate::certificate::Bounds;
use crate::exponential::exp2;
use crate::key_norms::TILE;
use crate::key_prior::KeyPriorScope;
use crate::operands::{Rows, TemperatureScope};
use crate::results::HeadRows;
use crate::rounding::at_least;
use pulp::Simd;
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Panels of a stretch, at most.
const PANELS: usize = STRETCH / 4;

/// The inputs of all tasks.
pub(super) struct Given<'a> {
    pub inputs: &'a Inputs<'a>,
    pub bounds: &'a Bounds<'a>,
    pub by_distance: &'a ByDistance,
    pub out: Rows<'a>,
    pub ln_evidence: &'a [f32],
    pub out_gradient: Rows<'a>,
}

/// A way to take the five products of a block of rows and a tile of keys.
pub(super) trait Products<'a, S: Simd, const VECTORS: usize> {
    /// Keys are taken by so many, a divisor of [`TILE`].
    const KEYS: usize;
    /// Whether rows are taken by so many that some may see none of the keys: what is read of them has to be zeros.
    const READS_HIDDEN: bool;

    /// Reads the rows of a block, their queries and the gradients of their outputs, and writes `δ` of each
    /// that is there.
    fn load_rows(
        &mut self,
        simd: S,
        given: &Given<'a>,
        queries: &mut QueryPanels<'a>,
        delta: &mut [f32],
    );

    /// Reads the tile of that batch row and key head that begins at key `first_key`.
    fn load_tile(&mut self, inputs: &Inputs<'a>, at: (usize, usize), first_key: usize);

    /// The logits of a panel and the keys in sight of the tile that begins at a key, as
    /// [`QueryPanels::logits`] gives them.
    fn logits(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        queries: &QueryPanels<'_>,
        at: (usize, usize),
        sight: &Sight,
        scores: &mut Lanes<'_>,
    );

    /// `g·v` of a panel and some keys, turned into the gradients of logits by `sink`, given a key and its line
    /// of products.
    fn gradients_of_logits(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        at: (usize, Range<usize>),
        d_logits: &mut Lanes<'_>,
        sink: impl FnMut(usize, &Line<S, VECTORS>) -> Line<S, VECTORS>,
    );

    /// Adds what the rows of a panel gather from some keys of the tile that begins at a key to `[padded dim · rows of a panel]`
    /// sums, laid out as suits.
    fn add_to_rows(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        queries: &QueryPanels<'_>,
        at: (usize, usize, &Range<usize>),
        d_logits: &mut Lanes<'_>,
        sums: &mut [f32],
    );

    /// Adds what some keys of the tile that begins at a key gather from the rows of a stretch to the gradients of the tile's keys and values,
    /// `[TILE, padded dim]`; given `[TILE, STRETCH]` of the posterior and of the gradients of its logits.
    fn add_to_keys(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        queries: &QueryPanels<'_>,
        at: (usize, usize, Range<usize>),
        of_logits: [&[f32]; 2],
        sums: [&mut [f32]; 2],
    );

    /// The sums of row `r` of a panel, times a factor.
    fn sums_of_row(&self, at: (&[f32], usize), factor: f32, to: &mut [f32]);
}

/// A block of rows going back. Its memory serves one block after the other.
pub(super) struct RowBlock<'a> {
    given: &'a Given<'a>,
    queries: QueryPanels<'a>,
    /// Sums that rows gathered: `Σ_j dlogit_ij k_j`, `[panels, padded dim · rows of a panel]`, laid out as the products
    /// like it.
    dq: Aligned<f32>,
    /// Per row `δ`, and the evidence as a logarithm to either base.
    delta: Aligned<f32>,
    ln_evidence: Aligned<f32>,
    log2_evidence: Aligned<f32>,
    /// `Σ_j dlogit_ij (ln w(j − i) + u_j − ρ_i)`, of what a temperature multiplies.
    prior_sum: Aligned<f32>,
    /// Of one stretch and one tile, `[TILE, STRETCH]`: the posterior, and the gradient of its logits.
    posterior: Aligned<f32>,
    d_logits: Aligned<f32>,
}

impl<'a> RowBlock<'a> {
    pub fn new(given: &'a Given<'a>) -> Self {
        let empty = || aligned(0.0, 0);
        let of_logits = || aligned(0.0, TILE * STRETCH);
        Self {
            given,
            queries: QueryPanels::new(given.inputs, given.by_distance),
            dq: empty(),
            delta: empty(),
            ln_evidence: empty(),
            log2_evidence: empty(),
            prior_sum: empty(),
            posterior: of_logits(),
            d_logits: of_logits(),
        }
    }

    /// Goes to these rows of a head.
    #[inline(always)]
    pub fn load<S: Simd, const VECTORS: usize>(
        &mut self,
        simd: S,
        products: &mut impl Products<'a, S, VECTORS>,
        (batch, head): (usize, usize),
        rows: Range<usize>,
    ) {
        let (inputs, padded) = (self.given.inputs, self.given.inputs.padded_dim());
        self.queries
            .load::<S, VECTORS>(inputs, (batch, head), rows.clone());
        let count = self.queries.content_factors.len();
        for (values, start, size) in [
            (&mut self.dq, 0.0, count * padded),
            (&mut self.delta, 0.0, count),
            // Rows past the end see nothing: exp(logit − ∞) = 0.
            (&mut self.ln_evidence, f32::INFINITY, count),
            (&mut self.log2_evidence, f32::INFINITY, count),
            (&mut self.prior_sum, 0.0, count),
        ] {
            values.clear();
            values.resize(size, start);
        }
        products.load_rows(simd, self.given, &mut self.queries, &mut self.delta);
        for (r, row) in rows.enumerate() {
            if !inputs.plan.is_padding_query(batch, row) {
                let index = (batch * inputs.heads + head) * inputs.queries() + row;
                self.ln_evidence[r] = self.given.ln_evidence[index];
                self.log2_evidence[r] = self.given.ln_evidence[index] * LOG2_E;
            }
        }
    }

    pub fn least_evidence(&self) -> f64 {
        let evidence = self.ln_evidence.iter().map(|x| at_least(*x));
        evidence.fold(f64::INFINITY, f64::min)
    }

    /// Adds a tile's part to the sums of rows, of lags, of its keys and values, `[TILE, padded dim]` each, and of its
    /// prior over keys, `[TILE]`, empty where there is none.
    #[inline(always)]
    pub fn add<S: Simd, P: Products<'a, S, VECTORS>, const VECTORS: usize>(
        &mut self,
        simd: S,
        products: &mut P,
        (key_head, first_key): (usize, usize),
        by_distance: &mut [f32],
        (dk, dv, d_key_prior): (&mut [f32], &mut [f32], &mut [f64]),
    ) {
        let (inputs, padded) = (self.given.inputs, self.given.inputs.padded_dim());
        products.load_tile(inputs, (self.queries.batch, key_head), first_key);
        let width = panel_rows::<S, VECTORS>();
        let panels = STRETCH / width;
        for stretch in 0..self.queries.count().div_ceil(panels) {
            let first_panel = stretch * panels;
            let mut seen: Option<Range<usize>> = None;
            let mut of_panels = [(); PANELS].map(|()| 0..0);
            for panel in first_panel..(first_panel + panels).min(self.queries.count()) {
                let Some(sight) = self.queries.sight(inputs, panel, first_key) else {
                    continue;
                };
                let whole = whole(&sight.keys, P::KEYS);
                let first = (panel - first_panel) * width;
                self.posterior::<S, P, VECTORS>(simd, products, (panel, first), first_key, &sight);
                let at = (panel, first);
                self.add_diagonals::<S, VECTORS>(simd, at, first_key, &sight, by_distance);
                self.add_columns::<S, VECTORS>(simd, at, first_key, &sight, d_key_prior);
                let d_logits = &mut Lanes {
                    values: &mut self.d_logits,
                    stride: STRETCH,
                    first,
                };
                let sums = &mut self.dq[panel * width * padded..][..width * padded];
                let at = (panel, first_key, &sight.keys);
                products.add_to_rows(simd, inputs, &self.queries, at, d_logits, sums);
                let before = seen.unwrap_or(whole.clone());
                seen = Some(before.start.min(whole.start)..before.end.max(whole.end));
                of_panels[panel - first_panel] = whole;
            }
            let Some(seen) = seen else {
                continue;
            };
            if P::READS_HIDDEN {
                for (panel, whole) in of_panels[..panels].iter().enumerate() {
                    let lanes = panel * width..(panel + 1) * width;
                    for key in seen.clone().filter(|key| !whole.contains(key)) {
                        self.posterior[key * STRETCH..][lanes.clone()].fill(0.0);
                        self.d_logits[key * STRETCH..][lanes.clone()].fill(0.0);
                    }
                }
            }
            let of_logits = [&self.posterior[..], &self.d_logits];
            products.add_to_keys(
                simd,
                inputs,
                &self.queries,
                (stretch, first_key, seen),
                of_logits,
                [&mut *dk, &mut *dv],
            );
        }
    }

    /// `p = exp(logit − ln evidence)` and `dlogit = p·(g·v − δ)` of a panel, from lane `first` on, zeros out
    /// of sight.
    #[inline(always)]
    fn posterior<S: Simd, P: Products<'a, S, VECTORS>, const VECTORS: usize>(
        &mut self,
        simd: S,
        products: &mut P,
        (panel, first): (usize, usize),
        first_key: usize,
        sight: &Sight,
    ) {
        let (inputs, width) = (self.given.inputs, panel_rows::<S, VECTORS>());
        let [posterior, d_logits] =
            &mut [&mut self.posterior, &mut self.d_logits].map(|values| Lanes {
                values,
                stride: STRETCH,
                first,
            });
        products.logits(
            simd,
            inputs,
            &self.queries,
            (panel, first_key),
            sight,
            posterior,
        );
        let whole = whole(&sight.keys, P::KEYS);
        for key in (whole.start..sight.keys.start).chain(sight.keys.end..whole.end) {
            posterior.numbers(key, width).fill(0.0);
        }
        let evidence = lines::<S, VECTORS>(&self.log2_evidence[panel * width..])[0];
        for key in sight.keys.clone() {
            let line = posterior.line::<S, VECTORS>(key);
            for c in 0..VECTORS {
                line[c] = simd.sub_f32s(line[c], evidence[c]);
            }
            *line = exp2(simd, *line);
        }
        let delta = lines::<S, VECTORS>(&self.delta[panel * width..])[0];
        products.gradients_of_logits(
            simd,
            inputs,
            (panel, whole),
            d_logits,
            #[inline(always)]
            |key, products| {
                let posterior = posterior.line::<S, VECTORS>(key);
                let mut d_logits = *products;
                for c in 0..VECTORS {
                    let beyond = simd.sub_f32s(products[c], delta[c]);
                    d_logits[c] = simd.mul_f32s(posterior[c], beyond);
                }
                d_logits
            },
        );
    }

    /// Sums along diagonals, for the prior, and along rows, for its temperature.
    #[inline(always)]
    fn add_diagonals<S: Simd, const VECTORS: usize>(
        &mut self,
        simd: S,
        (panel, first): (usize, usize),
        first_key: usize,
        sight: &Sight,
        by_distance: &mut [f32],
    ) {
        let (inputs, width) = (self.given.inputs, panel_rows::<S, VECTORS>());
        let (ln_weights, column) = self.queries.ln_weights_at(inputs, panel, first_key);
        let of_panel = panel * width..(panel + 1) * width;
        let factors = lines::<S, VECTORS>(&self.queries.prior_factors[of_panel.clone()])[0];
        let d_logits =
            |key: usize| &lines::<S, VECTORS>(&self.d_logits[key * STRETCH + first..][..width])[0];
        // The windows of neighbouring keys overlap but for one column. A vector apart, none reads what
        // two others have just written, which processors are slow at.
        for start in 0..S::F32_LANES {
            for key in (sight.keys.start + start..sight.keys.end).step_by(S::F32_LANES) {
                let window = &mut by_distance[column - key..][..width];
                let window = &mut lines_mut::<S, VECTORS>(window)[0];
                let d_logits = d_logits(key);
                for c in 0..VECTORS {
                    window[c] = simd.mul_add_e_f32s(factors[c], d_logits[c], window[c]);
                }
            }
        }
        if prior_is_scaled(inputs) {
            let prior_sum = &mut lines_mut::<S, VECTORS>(&mut self.prior_sum[of_panel])[0];
            for key in sight.keys.clone() {
                let weights = lines::<S, VECTORS>(&ln_weights[column - key..][..width])[0];
                let d_logits = d_logits(key);
                for c in 0..VECTORS {
                    prior_sum[c] = simd.mul_add_e_f32s(d_logits[c], weights[c], prior_sum[c]);
                }
            }
        }
    }

    /// Sums along columns, for the prior over keys, and along rows, for its temperature.
    #[inline(always)]
    fn add_columns<S: Simd, const VECTORS: usize>(
        &mut self,
        simd: S,
        (panel, first): (usize, usize),
        first_key: usize,
        sight: &Sight,
        d_key_prior: &mut [f64],
    ) {
        let Some(by_key) = &self.given.inputs.key_prior else {
            return;
        };
        let (keys, width) = (&sight.keys, panel_rows::<S, VECTORS>());
        let scaled =
            by_key.scope == KeyPriorScope::Scaled && self.given.inputs.temperature.is_some();
        let at = (self.queries.batch, self.queries.head);
        simd.vectorize(AddKeyGradients::<VECTORS> {
            lanes: &self.queries.key_lanes,
            panel,
            keys: by_key.keys(at, first_key + keys.start..first_key + keys.end),
            d_logits: &self.d_logits[keys.start * STRETCH + first..],
            stride: STRETCH,
            d_keys: &mut d_key_prior[keys.clone()],
            row_sums: scaled.then_some(&mut self.prior_sum[panel * width..][..width]),
        });
    }

    /// Writes what rows own, from row `first` of the results on: the gradient of `q` and one number a row.
    #[inline(always)]
    pub fn finish<S: Simd, const VECTORS: usize>(
        &self,
        products: &impl Products<'a, S, VECTORS>,
        first: usize,
        (dq, d_temperature): (&mut HeadRows<'_>, &mut HeadRows<'_>),
    ) {
        let inputs = self.given.inputs;
        let (dim, padded, queries) = (inputs.dim, inputs.padded_dim(), &self.queries);
        let of_panel = padded * queries.width;
        let mut q = vec![0.0; dim];
        for (r, row) in queries.rows.clone().enumerate() {
            let dq = dq.row(first + r);
            if inputs.plan.is_padding_query(queries.batch, row) {
                dq.fill(0.0);
                continue;
            }
            let sums = &self.dq[r / queries.width * of_panel..][..of_panel];
            let lane = r % queries.width;
            if inputs.temperature.is_some() {
                products.sums_of_row((sums, lane), 1.0, dq);
                inputs.q.load(queries.batch, queries.head, row, &mut q);
                let content: f32 = dq.iter().zip(&q).map(|(dq, q)| dq * q).sum();
                d_temperature.row(first + r)[0] =
                    content * inputs.content_scale + self.prior_sum[r];
            }
            products.sums_of_row((sums, lane), queries.content_factors[r], dq);
        }
    }
}

/// Whether a temperature multiplies the prior too.
fn prior_is_scaled(inputs: &Inputs<'_>) -> bool {
    let scope = inputs.temperature.map(|of| of.scope());
    scope == Some(TemperatureScope::LikelihoodAndPrior)
}

/// Those keys and more, as many groups of `size` as they touch.
pub(super) fn whole(keys: &Range<usize>, size: usize) -> Range<usize> {
    keys.start / size * size..keys.end.next_multiple_of(size)
}

/// `Σ_t a[t]·b[t]`.
#[inline(always)]
pub(super) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let mut sum = simd.splat_f32s(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = simd.mul_add_e_f32s(*a, *b, sum);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    simd.reduce_sum_f32s(sum) + rest
}
