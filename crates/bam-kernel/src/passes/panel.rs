//! A block of rows as panels, and the logits of a panel over a tile of keys.

use super::inputs::{ByDistance, Inputs};
use super::product::{Aligned, Line, aligned, lines, lines_mut, panel_rows, rows_by_panel};
use super::tile::KeyTile;
use crate::documents::Documents;
use crate::key_norms::TILE;
use pulp::Simd;
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Rows of a block: a whole number of panels for every width of vectors.
pub(super) const BLOCK: usize = 192;

/// A block of rows, made ready: scaled queries in panels, and the factors of their log-weights.
pub(super) struct QueryPanels<'a> {
    pub batch: usize,
    pub head: usize,
    pub rows: Range<usize>,
    /// Rows of a panel.
    pub width: usize,
    /// `factor · q / ln 2`: `[panels, padded dim, width]`. Logits are logarithms to the base 2.
    /// Empty until [`QueryPanels::with_scaled_q`].
    scaled_q: Aligned<f32>,
    /// The factor of each row's `q·k`; 0 past the end.
    pub content_factors: Aligned<f32>,
    /// The factor of each row's log-weight; 0 past the end.
    pub prior_factors: Aligned<f32>,
    /// The same over `ln 2`.
    scaled_prior_factors: Aligned<f32>,
    ln_weights: &'a [f32],
}

/// A panel's part of the keys of a tile.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    /// The keys that at least one row sees, counted from the tile's first.
    pub keys: Range<usize>,
    /// Whether some row does not see some of these keys.
    partial: bool,
}

impl<'a> QueryPanels<'a> {
    pub fn new<S: Simd, const VECTORS: usize>(
        inputs: &Inputs<'_>,
        by_distance: &'a ByDistance,
        (batch, head): (usize, usize),
        rows: Range<usize>,
    ) -> Self {
        let width = panel_rows::<S, VECTORS>();
        let padded = rows.len().next_multiple_of(width);
        let mut content_factors = aligned(0.0, padded);
        let mut prior_factors = aligned(0.0, padded);
        for (r, row) in rows.clone().enumerate() {
            if inputs.plan.is_padding_query(batch, row) {
                continue;
            }
            (content_factors[r], prior_factors[r]) = inputs.factors(batch, head, row);
        }
        let mut scaled_prior_factors = prior_factors.clone();
        scaled_prior_factors
            .iter_mut()
            .for_each(|factor| *factor *= LOG2_E);
        Self {
            scaled_prior_factors,
            batch,
            head,
            rows,
            width,
            scaled_q: aligned(0.0, 0),
            content_factors,
            prior_factors,
            ln_weights: by_distance.head(head),
        }
    }

    /// With the queries in `f32`, as [`QueryPanels::logits`] wants them.
    pub fn with_scaled_q(mut self, inputs: &Inputs<'_>) -> Self {
        let padded = inputs.padded_dim();
        self.scaled_q = aligned(0.0, self.content_factors.len() * padded);
        let mut q = vec![0.0; inputs.dim];
        for (r, row) in self.rows.clone().enumerate() {
            if inputs.plan.is_padding_query(self.batch, row) {
                continue;
            }
            inputs.q.load(self.batch, self.head, row, &mut q);
            let scale = self.content_factors[r] * LOG2_E;
            q.iter_mut().for_each(|q| *q *= scale);
            write_row(&mut self.scaled_q, self.width, padded, r, &q);
        }
        self
    }

    pub fn count(&self) -> usize {
        self.content_factors.len() / self.width
    }

    /// The rows of a panel that are there.
    pub fn panel_rows(&self, panel: usize) -> Range<usize> {
        let first = self.rows.start + panel * self.width;
        first..(first + self.width).min(self.rows.end)
    }

    /// The log-weights of the head by distance, and the column of a panel's first row and a key.
    pub fn ln_weights_at(
        &self,
        inputs: &Inputs<'_>,
        panel: usize,
        key: usize,
    ) -> (&'a [f32], usize) {
        let row = self.rows.start + panel * self.width;
        (self.ln_weights, ByDistance::column(inputs, row, key))
    }

    /// What the panel sees of a tile by position; `None` if nothing.
    pub fn sight(&self, inputs: &Inputs<'_>, panel: usize, first_key: usize) -> Option<Sight> {
        let positions = inputs.plan.positions();
        let rows = self.panel_rows(panel);
        let seen = positions.keys_in_sight(rows.clone());
        let tile = first_key..(first_key + TILE).min(inputs.keys());
        let keys = seen.start.max(tile.start)..seen.end.min(tile.end);
        if keys.is_empty() {
            return None;
        }
        let documents = inputs.plan.documents();
        let one_document = documents.is_none_or(|documents| {
            let own = &documents.query_ids(self.batch)[rows.clone()];
            let ids = &documents.key_ids(self.batch)[keys.clone()];
            own.iter()
                .chain(ids)
                .all(|id| *id == own[0] && !Documents::is_padding(*id))
        });
        Some(Sight {
            partial: !one_document || !positions.all_visible(&rows, &keys),
            keys: keys.start - first_key..keys.end - first_key,
        })
    }

    /// The logits, over `ln 2`, of a panel and the keys in sight, `−∞` where one is hidden: line `j` of
    /// `scores` is key `j` of the tile. Lines of keys out of sight hold anything.
    #[inline(always)]
    pub fn logits<S: Simd, const GROUP: usize, const VECTORS: usize>(
        &self,
        simd: S,
        inputs: &Inputs<'_>,
        panel: usize,
        tile: &KeyTile<'_>,
        sight: &Sight,
        scores: &mut [f32],
    ) {
        let padded = inputs.padded_dim();
        let first = sight.keys.start / GROUP * GROUP;
        let keys = &tile.keys()[first * padded..sight.keys.end.next_multiple_of(GROUP) * padded];
        let q = &self.scaled_q[panel * padded * self.width..];
        let factors = lines::<S, VECTORS>(&self.scaled_prior_factors[panel * self.width..])[0];
        let (ln_weights, column) = self.ln_weights_at(inputs, panel, tile.first + first);
        let out = &mut lines_mut::<S, VECTORS>(scores)[first..];
        rows_by_panel::<S, GROUP, VECTORS>(
            simd,
            (keys, padded),
            inputs.dim,
            lines::<S, VECTORS>(q),
            #[inline(always)]
            |key, products| {
                let weights = lines::<S, VECTORS>(&ln_weights[column - key..][..self.width])[0];
                for c in 0..VECTORS {
                    out[key][c] = simd.mul_add_e_f32s(factors[c], weights[c], products[c]);
                }
            },
        );
        if sight.partial {
            self.hide(inputs, panel, tile.first, &sight.keys, scores);
        }
    }

    /// The logits, as [`QueryPanels::logits`] gives them, of `q·k` that are in `scores` already.
    #[inline(always)]
    pub fn finish_logits<S: Simd, const VECTORS: usize>(
        &self,
        simd: S,
        inputs: &Inputs<'_>,
        panel: usize,
        first_key: usize,
        sight: &Sight,
        scores: &mut [f32],
    ) {
        let of_panel = panel * self.width..(panel + 1) * self.width;
        let mut content = lines::<S, VECTORS>(&self.content_factors[of_panel.clone()])[0];
        for factor in &mut content {
            *factor = simd.mul_f32s(*factor, simd.splat_f32s(LOG2_E));
        }
        let factors = lines::<S, VECTORS>(&self.scaled_prior_factors[of_panel])[0];
        let keys = sight.keys.clone();
        let (ln_weights, column) = self.ln_weights_at(inputs, panel, first_key + keys.start);
        let out = &mut lines_mut::<S, VECTORS>(scores)[keys];
        for (key, out) in out.iter_mut().enumerate() {
            let weights = lines::<S, VECTORS>(&ln_weights[column - key..][..self.width])[0];
            for c in 0..VECTORS {
                let content = simd.mul_f32s(content[c], out[c]);
                out[c] = simd.mul_add_e_f32s(factors[c], weights[c], content);
            }
        }
        if sight.partial {
            self.hide(inputs, panel, first_key, &sight.keys, scores);
        }
    }

    /// Writes `−∞` wherever a row of the panel may not see a key.
    fn hide(
        &self,
        inputs: &Inputs<'_>,
        panel: usize,
        first_key: usize,
        keys: &Range<usize>,
        scores: &mut [f32],
    ) {
        let rows = self.panel_rows(panel);
        let documents = inputs.plan.documents();
        for j in keys.clone() {
            let key = first_key + j;
            let line = &mut scores[j * self.width..][..rows.len()];
            let visible = inputs.plan.positions().visible_rows(key);
            let inside = |row: usize| row.clamp(rows.start, rows.end) - rows.start;
            line[..inside(visible.start)].fill(f32::NEG_INFINITY);
            line[inside(visible.end)..].fill(f32::NEG_INFINITY);
            if let Some(documents) = documents {
                let id = documents.key_ids(self.batch)[key];
                let own = &documents.query_ids(self.batch)[rows.clone()];
                for (logit, own) in line.iter_mut().zip(own) {
                    if !Documents::shared(*own, id) {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

/// A way to take the products of a panel of rows and a tile of keys.
pub(super) trait Products<'a, S: Simd, const VECTORS: usize> {
    /// Reads the tile of that batch row and key head that begins at key `first_key`.
    fn load(&mut self, inputs: &Inputs<'a>, at: (usize, usize), first_key: usize);

    /// The logits of a panel and the keys in sight, as [`QueryPanels::logits`] gives them.
    fn logits(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        queries: &QueryPanels<'_>,
        panel: usize,
        sight: &Sight,
        scores: &mut [f32],
    );

    /// Adds the values of some keys of the tile, by the weights that a panel gives them.
    fn add_values(
        &mut self,
        simd: S,
        keys: Range<usize>,
        weights: &mut [f32],
        sums: &mut [Line<S, VECTORS>],
    );
}

/// Writes `values` as row `r` of panels of `width` rows and `padded` lines.
pub(super) fn write_row<T: Copy>(
    panels: &mut [T],
    width: usize,
    padded: usize,
    r: usize,
    values: &[T],
) {
    let panel = &mut panels[r / width * padded * width..][..padded * width];
    let lane = &mut panel[r % width..];
    for (to, value) in lane.iter_mut().step_by(width).zip(values) {
        *to = *value;
    }
}

/// Reads row `r` of panels of `width` rows and `padded` lines.
pub(super) fn read_row<'a>(
    panels: &'a [f32],
    width: usize,
    padded: usize,
    r: usize,
) -> impl Iterator<Item = f32> + 'a {
    let panel = &panels[r / width * padded * width..][..padded * width];
    panel[r % width..].iter().step_by(width).copied()
}

/// A line of one number.
#[inline(always)]
pub(super) fn splat<S: Simd, const VECTORS: usize>(simd: S, value: f32) -> Line<S, VECTORS> {
    [simd.splat_f32s(value); VECTORS]
}
