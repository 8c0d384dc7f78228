//! The prior over keys in panels: added to logits, and its gradient summed along columns.
//!
//! Each is a pass of its own over the scores of a panel and a tile, which lie in the nearest cache: a call without such a
//! prior pays one test for both.

use super::inputs::Inputs;
use super::product::{Aligned, Line, aligned, lines, lines_mut, panel_rows};
use crate::by_key::hides;
use pulp::{Simd, WithSimd};
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// The rows of a block, one a lane: factors of the prior over keys, and references. Empty where there is no such
/// prior.
pub(super) struct KeyLanes {
    /// 0 past the end and at padding.
    factors: Aligned<f32>,
    /// The same over `ln 2`.
    scaled_factors: Aligned<f32>,
    high: Aligned<f32>,
    low: Aligned<f32>,
}

impl KeyLanes {
    pub fn new() -> Self {
        let empty = || aligned(0.0, 0);
        Self {
            factors: empty(),
            scaled_factors: empty(),
            high: empty(),
            low: empty(),
        }
    }

    /// Goes to these rows of a head, `padded` lanes of them.
    pub fn load(
        &mut self,
        inputs: &Inputs<'_>,
        (batch, head): (usize, usize),
        rows: &Range<usize>,
        padded: usize,
    ) {
        let Some(by_key) = &inputs.key_prior else {
            return;
        };
        for lanes in [
            &mut self.factors,
            &mut self.scaled_factors,
            &mut self.high,
            &mut self.low,
        ] {
            lanes.clear();
            lanes.resize(padded, 0.0);
        }
        for (r, row) in rows.clone().enumerate() {
            if inputs.plan.is_padding_query(batch, row) {
                continue;
            }
            self.factors[r] = inputs.key_factor(batch, head, row);
            self.scaled_factors[r] = self.factors[r] * LOG2_E;
            [self.high[r], self.low[r]] = by_key.reference(batch, head, row);
        }
    }

    /// Those of a panel, with these factors.
    #[inline(always)]
    fn of_panel<S: Simd, const VECTORS: usize>(
        &self,
        panel: usize,
        factors: &[f32],
    ) -> [Line<S, VECTORS>; 3] {
        let first = panel * panel_rows::<S, VECTORS>();
        [factors, &self.high, &self.low].map(|lanes| lines::<S, VECTORS>(&lanes[first..])[0])
    }
}

/// Terms `u_j − ρ_i` of a key, `[high, low]`, and a panel's rows: differences of high parts and of low ones, added.
#[inline(always)]
fn terms<S: Simd, const VECTORS: usize>(
    simd: S,
    key: [f32; 2],
    [high, low]: [&Line<S, VECTORS>; 2],
) -> Line<S, VECTORS> {
    let key = key.map(|part| simd.splat_f32s(part));
    let mut terms = *high;
    for c in 0..VECTORS {
        let of_high = simd.sub_f32s(key[0], high[c]);
        terms[c] = simd.add_f32s(of_high, simd.sub_f32s(key[1], low[c]));
    }
    terms
}

/// Adds the prior over some keys to the logits, over `ln 2`, of a panel: line `j` is key `j` of them.
pub(super) struct AddKeyPrior<'a, const VECTORS: usize> {
    pub lanes: &'a KeyLanes,
    pub panel: usize,
    /// High and low parts.
    pub keys: [&'a [f32]; 2],
    /// From the panel's first lane of the first key's line on.
    pub scores: &'a mut [f32],
    /// Numbers of a line.
    pub stride: usize,
}

impl<const VECTORS: usize> WithSimd for AddKeyPrior<'_, VECTORS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = panel_rows::<S, VECTORS>();
        let [factors, high, low] =
            &(self.lanes).of_panel::<S, VECTORS>(self.panel, &self.lanes.scaled_factors);
        let keys = self.keys[0].iter().zip(self.keys[1]);
        for (line, (key_high, key_low)) in self.scores.chunks_mut(self.stride).zip(keys) {
            let line = &mut line[..width];
            if hides(*key_high) {
                line.fill(f32::NEG_INFINITY);
                continue;
            }
            let terms = terms::<S, VECTORS>(simd, [*key_high, *key_low], [high, low]);
            let line = &mut lines_mut::<S, VECTORS>(line)[0];
            for c in 0..VECTORS {
                line[c] = simd.mul_add_e_f32s(factors[c], terms[c], line[c]);
            }
        }
    }
}

/// Adds to the gradient of the prior over some keys what a panel's rows give them: `Σ_i factor_i·dlogit_ij`, the sum of a
/// column.
pub(super) struct AddKeyGradients<'a, const VECTORS: usize> {
    pub lanes: &'a KeyLanes,
    pub panel: usize,
    /// High and low parts.
    pub keys: [&'a [f32]; 2],
    /// From the panel's first lane of the first key's line on.
    pub d_logits: &'a [f32],
    /// Numbers of a line.
    pub stride: usize,
    /// A long column's sum is small beside its terms, and running sums of it go back through a forget gate.
    pub d_keys: &'a mut [f64],
    /// `Σ_j dlogit_ij (u_j − ρ_i)` per row of the panel, where a temperature wants it.
    pub row_sums: Option<&'a mut [f32]>,
}

impl<const VECTORS: usize> WithSimd for AddKeyGradients<'_, VECTORS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = panel_rows::<S, VECTORS>();
        let [factors, high, low] =
            &(self.lanes).of_panel::<S, VECTORS>(self.panel, &self.lanes.factors);
        let line =
            |key: usize| &lines::<S, VECTORS>(&self.d_logits[key * self.stride..][..width])[0];
        for (key, d_key) in self.d_keys.iter_mut().enumerate() {
            let line = line(key);
            let mut sum = simd.mul_f32s(factors[0], line[0]);
            for c in 1..VECTORS {
                sum = simd.mul_add_e_f32s(factors[c], line[c], sum);
            }
            *d_key += f64::from(simd.reduce_sum_f32s(sum));
        }
        let Some(row_sums) = self.row_sums else {
            return;
        };
        let sums = &mut lines_mut::<S, VECTORS>(row_sums)[0];
        for (key, (key_high, key_low)) in self.keys[0].iter().zip(self.keys[1]).enumerate() {
            if hides(*key_high) {
                // Its weight is 0, which times ∞ would be NaN.
                continue;
            }
            let terms = terms::<S, VECTORS>(simd, [*key_high, *key_low], [high, low]);
            let line = line(key);
            for c in 0..VECTORS {
                sums[c] = simd.mul_add_e_f32s(line[c], terms[c], sums[c]);
            }
        }
    }
}
