//! A block of rows as panels, and the logits of a panel over a tile of keys.

use super::inputs::{ByDistance, Inputs};
use super::key_lanes::{AddKeyPrior, KeyLanes};
use super::product::{Aligned, Lanes, Line, aligned, lines, panel_rows, rows_by_panel};
use crate::documents::Documents;
use crate::key_norms::TILE;
use crate::operands::Rows;
use pulp::Simd;
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Rows of a block: a whole number of panels for every width of vectors.
pub(super) const BLOCK: usize = 192;

/// A block of rows, made ready: scaled queries in panels, and the factors of their log-weights. Its memory
/// serves one block after the other.
pub(super) struct QueryPanels<'a> {
    by_distance: &'a ByDistance,
    pub batch: usize,
    pub head: usize,
    pub rows: Range<usize>,
    /// Rows of a panel.
    pub width: usize,
    /// `factor · q / ln 2`: `[panels, padded dim, width]`. Logits are logarithms to the base 2.
    /// Any until [`QueryPanels::load_q`].
    scaled_q: Panels,
    /// The factor of each row's `q·k`; 0 past the end.
    pub content_factors: Aligned<f32>,
    /// The factor of each row's log-weight; 0 past the end.
    pub prior_factors: Aligned<f32>,
    /// The same over `ln 2`.
    scaled_prior_factors: Aligned<f32>,
    pub key_lanes: KeyLanes,
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
    pub fn new(inputs: &Inputs<'_>, by_distance: &'a ByDistance) -> Self {
        let empty = || aligned(0.0, 0);
        Self {
            by_distance,
            batch: 0,
            head: 0,
            rows: 0..0,
            width: 1,
            scaled_q: Panels::new(inputs),
            content_factors: empty(),
            prior_factors: empty(),
            scaled_prior_factors: empty(),
            key_lanes: KeyLanes::new(),
        }
    }

    /// Goes to these rows of a head.
    pub fn load<S: Simd, const VECTORS: usize>(
        &mut self,
        inputs: &Inputs<'_>,
        (batch, head): (usize, usize),
        rows: Range<usize>,
    ) {
        self.width = panel_rows::<S, VECTORS>();
        let padded = rows.len().next_multiple_of(self.width);
        for factors in [
            &mut self.content_factors,
            &mut self.prior_factors,
            &mut self.scaled_prior_factors,
        ] {
            factors.clear();
            factors.resize(padded, 0.0);
        }
        for (r, row) in rows.clone().enumerate() {
            if inputs.plan.is_padding_query(batch, row) {
                continue;
            }
            let (content, prior) = inputs.factors(batch, head, row);
            self.content_factors[r] = content;
            self.prior_factors[r] = prior;
            self.scaled_prior_factors[r] = prior * LOG2_E;
        }
        (self.key_lanes).load(inputs, (batch, head), &rows, padded);
        (self.batch, self.head, self.rows) = (batch, head, rows);
    }

    /// Reads the queries in `f32`, as [`QueryPanels::logits`] wants them.
    #[inline(always)]
    pub fn load_q(&mut self, inputs: &Inputs<'_>) {
        let scale = |r: usize| self.content_factors[r] * LOG2_E;
        let at = (self.batch, self.head, self.rows.clone());
        self.scaled_q.load(inputs, &inputs.q, at, self.width, scale);
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
        (
            self.by_distance.head(self.head),
            ByDistance::column(inputs, row, key),
        )
    }

    /// The part of a tile that the panel sees by position; `None` if nothing.
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

    /// Of some keys, those of the rows that see at least one by position. Rows are counted from the block's
    /// first, and those that are given back from the first of the given.
    pub fn rows_in_sight(
        &self,
        inputs: &Inputs<'_>,
        rows: &Range<usize>,
        keys: Range<usize>,
    ) -> Range<usize> {
        let positions = inputs.plan.positions();
        let (start, end) = (
            self.rows.start + rows.start,
            self.rows.end.min(self.rows.start + rows.end),
        );
        let inside = |row: usize| row.clamp(start, end.max(start)) - start;
        let first = inside(positions.visible_rows(keys.start).start);
        first..inside(positions.visible_rows(keys.end - 1).end).max(first)
    }

    /// Of some rows of a panel, counted from its first, the keys that at least one sees by position, counted
    /// from the tile's first, and no others than those given.
    pub fn keys_in_sight(
        &self,
        inputs: &Inputs<'_>,
        panel: usize,
        rows: Range<usize>,
        first_key: usize,
        keys: &Range<usize>,
    ) -> Range<usize> {
        let of_panel = self.panel_rows(panel);
        let rows = of_panel.start + rows.start..(of_panel.start + rows.end).min(of_panel.end);
        if rows.is_empty() {
            return 0..0;
        }
        let seen = inputs.plan.positions().keys_in_sight(rows);
        let inside =
            |key: usize| key.clamp(first_key + keys.start, first_key + keys.end) - first_key;
        let start = inside(seen.start);
        start..inside(seen.end).max(start)
    }

    /// The logits, over `ln 2`, of a panel and the keys in sight, `−∞` where one is hidden: line `j` of
    /// `scores` is key `j` of the tile. Lines of keys out of sight hold anything.
    #[inline(always)]
    pub fn logits<S: Simd, const GROUP: usize, const VECTORS: usize>(
        &self,
        simd: S,
        inputs: &Inputs<'_>,
        panel: usize,
        (keys, first_key): (&[f32], usize),
        sight: &Sight,
        scores: &mut Lanes<'_>,
    ) {
        let padded = inputs.padded_dim();
        let first = sight.keys.start / GROUP * GROUP;
        let keys = &keys[first * padded..sight.keys.end.next_multiple_of(GROUP) * padded];
        let q = &self.scaled_q.values[panel * padded * self.width..];
        let factors = lines::<S, VECTORS>(&self.scaled_prior_factors[panel * self.width..])[0];
        let (ln_weights, column) = self.ln_weights_at(inputs, panel, first_key + first);
        rows_by_panel::<S, GROUP, VECTORS>(
            simd,
            (keys, padded),
            inputs.dim,
            lines::<S, VECTORS>(q),
            #[inline(always)]
            |key, products| {
                let weights = lines::<S, VECTORS>(&ln_weights[column - key..][..self.width])[0];
                let out = scores.line::<S, VECTORS>(first + key);
                for c in 0..VECTORS {
                    out[c] = simd.mul_add_e_f32s(factors[c], weights[c], products[c]);
                }
            },
        );
        self.complete::<S, VECTORS>(simd, inputs, (panel, first_key), sight, scores);
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
        scores: &mut Lanes<'_>,
    ) {
        let of_panel = panel * self.width..(panel + 1) * self.width;
        let mut content = lines::<S, VECTORS>(&self.content_factors[of_panel.clone()])[0];
        for factor in &mut content {
            *factor = simd.mul_f32s(*factor, simd.splat_f32s(LOG2_E));
        }
        let factors = lines::<S, VECTORS>(&self.scaled_prior_factors[of_panel])[0];
        let keys = sight.keys.clone();
        let (ln_weights, column) = self.ln_weights_at(inputs, panel, first_key + keys.start);
        for key in keys.clone() {
            let column = column - (key - keys.start);
            let weights = lines::<S, VECTORS>(&ln_weights[column..][..self.width])[0];
            let out = scores.line::<S, VECTORS>(key);
            for c in 0..VECTORS {
                let content = simd.mul_f32s(content[c], out[c]);
                out[c] = simd.mul_add_e_f32s(factors[c], weights[c], content);
            }
        }
        self.complete::<S, VECTORS>(simd, inputs, (panel, first_key), sight, scores);
    }

    /// Adds the prior over keys, if there is one, and hides what rows don't see.
    #[inline(always)]
    fn complete<S: Simd, const VECTORS: usize>(
        &self,
        simd: S,
        inputs: &Inputs<'_>,
        (panel, first_key): (usize, usize),
        sight: &Sight,
        scores: &mut Lanes<'_>,
    ) {
        if let Some(by_key) = &inputs.key_prior {
            let keys = &sight.keys;
            let of_tile = first_key + keys.start..first_key + keys.end;
            simd.vectorize(AddKeyPrior::<VECTORS> {
                lanes: &self.key_lanes,
                panel,
                keys: by_key.keys((self.batch, self.head), of_tile),
                scores: &mut scores.values[keys.start * scores.stride + scores.first..],
                stride: scores.stride,
            });
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
        scores: &mut Lanes<'_>,
    ) {
        let rows = self.panel_rows(panel);
        let documents = inputs.plan.documents();
        for j in keys.clone() {
            let key = first_key + j;
            let line = scores.numbers(j, rows.len());
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

    /// Adds the values of some keys of the tile, by the weights that a panel gives them, to
    /// `[padded dim · rows of a panel]` sums, laid out as suits.
    fn add_values(
        &mut self,
        simd: S,
        inputs: &Inputs<'_>,
        queries: &QueryPanels<'_>,
        at: (usize, Range<usize>),
        weights: &mut [f32],
        sums: &mut [f32],
    );

    /// Multiplies the sums of every row of a panel by its factor.
    fn scale(&self, sums: &mut [f32], factors: &[f32]);

    /// The sums of row `r` of a panel, over its evidence.
    fn expectation(&self, sums: &[f32], r: usize, evidence: f32, out: &mut [f32]);
}

/// Rows as the lanes of panels, `[panels, padded dim, rows of a panel]`.
pub(super) struct Panels {
    pub values: Aligned<f32>,
    /// For rows that are widened.
    room: Aligned<f32>,
}

/// Rows that are written into a panel side by side: as many numbers of a line as a vector may hold.
const SIDE: usize = 8;

impl Panels {
    pub fn new(inputs: &Inputs<'_>) -> Self {
        Self {
            values: aligned(0.0, 0),
            room: aligned(0.0, SIDE * inputs.dim),
        }
    }

    /// Reads some rows of a head into panels of `width`: each times its scale, zeros past the end and at padding.
    #[inline(always)]
    pub fn load(
        &mut self,
        inputs: &Inputs<'_>,
        from: &Rows<'_>,
        (batch, head, rows): (usize, usize, Range<usize>),
        width: usize,
        scale: impl Fn(usize) -> f32,
    ) {
        let (count, dim) = (rows.len().next_multiple_of(width), inputs.dim);
        let size = inputs.padded_dim() * width;
        self.values.resize(count / width * size, 0.0);
        for first in (0..count).step_by(SIDE) {
            let mut scales = [1.0; SIDE];
            let mut room = self.room.chunks_exact_mut(dim);
            let some: [&[f32]; SIDE] = std::array::from_fn(|r| {
                let (room, row) = (room.next().expect("one for each"), rows.start + first + r);
                if row >= rows.end || inputs.plan.is_padding_query(batch, row) {
                    room.fill(0.0);
                    return &*room;
                }
                scales[r] = scale(first + r);
                from.read((batch, head, row), room)
            });
            if first % width + SIDE <= width {
                let panel = &mut self.values[first / width * size..];
                write_rows(panel, width, first % width, some, scales);
                continue;
            }
            let rows = (first..count).zip(some).zip(scales);
            for ((r, row), scale) in rows {
                let lane = &mut self.values[r / width * size + r % width..];
                let lane = lane.iter_mut().step_by(width);
                lane.zip(row).for_each(|(to, x)| *to = x * scale);
            }
        }
    }
}

/// Writes rows, each times its scale, into a panel from lane `first` on.
#[inline(always)]
fn write_rows(
    panel: &mut [f32],
    width: usize,
    first: usize,
    rows: [&[f32]; SIDE],
    scales: [f32; SIDE],
) {
    let blocks = rows.map(|row| row.as_chunks::<SIDE>());
    let whole = blocks[0].0.len();
    for block in 0..whole {
        let square: [[f32; SIDE]; SIDE] = std::array::from_fn(|r| blocks[r].0[block]);
        let lines = panel[block * SIDE * width..].chunks_exact_mut(width);
        for (t, line) in lines.enumerate().take(SIDE) {
            let line: &mut [f32; SIDE] = (&mut line[first..][..SIDE]).try_into().expect("SIDE");
            *line = std::array::from_fn(|r| square[r][t] * scales[r]);
        }
    }
    let lines = panel[whole * SIDE * width..].chunks_exact_mut(width);
    for (t, line) in lines.enumerate().take(blocks[0].1.len()) {
        for r in 0..SIDE {
            line[first + r] = blocks[r].1[t] * scales[r];
        }
    }
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

/// A line of one number.
#[inline(always)]
pub(super) fn splat<S: Simd, const VECTORS: usize>(simd: S, value: f32) -> Line<S, VECTORS> {
    [simd.splat_f32s(value); VECTORS]
}
