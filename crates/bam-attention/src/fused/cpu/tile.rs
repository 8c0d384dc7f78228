//! Inner loops over one tile: a small matrix product, an exponential, the logits of a group of rows.

use super::{Inputs, PAD};
use crate::Documents;
use pulp::Simd;
use std::ops::Range;

/// Keys of a tile.
pub(super) const KEYS: usize = 64;
/// Rows that go through a tile together.
pub(super) const GROUP: usize = 4;

/// `dim` rounded up so that a padded row is a whole number of vectors on every processor.
pub(super) fn padded_dim(dim: usize) -> usize {
    dim.next_multiple_of(16)
}

/// `out[r] += Σ_t left(t)[r] · right[t]` for the rows `r` of a group.
///
/// The sum is taken first and added once: term by term, a million light keys vanish in the rounding
/// of one heavy key that came before them.
///
/// # Shapes
/// - `right`: `[depth, width]`, `width` a multiple of the vector's lanes
/// - `out`: `[GROUP, width]`, rows `stride` apart
#[inline(always)]
pub(super) fn accumulate_product<S: Simd>(
    simd: S,
    left: impl Fn(usize) -> [f32; GROUP],
    right: &[f32],
    width: usize,
    out: &mut [f32],
) {
    let (right, _) = S::as_simd_f32s(right);
    let vectors = width / S::F32_LANES;
    let (out, _) = S::as_mut_simd_f32s(out);
    let mut column = 0;
    while column + 2 <= vectors {
        product_columns::<S, 2>(simd, &left, right, vectors, column, out);
        column += 2;
    }
    if column < vectors {
        product_columns::<S, 1>(simd, &left, right, vectors, column, out);
    }
}

#[inline(always)]
fn product_columns<S: Simd, const COLUMNS: usize>(
    simd: S,
    left: &impl Fn(usize) -> [f32; GROUP],
    right: &[S::f32s],
    vectors: usize,
    column: usize,
    out: &mut [S::f32s],
) {
    let mut sums = [[simd.splat_f32s(0.0); COLUMNS]; GROUP];
    for (t, line) in right.chunks_exact(vectors).enumerate() {
        let line = &line[column..column + COLUMNS];
        let factors = left(t);
        for (row, factor) in sums.iter_mut().zip(factors) {
            let factor = simd.splat_f32s(factor);
            for (sum, value) in row.iter_mut().zip(line) {
                *sum = simd.mul_add_e_f32s(factor, *value, *sum);
            }
        }
    }
    for (r, row) in sums.iter().enumerate() {
        for (c, sum) in row.iter().enumerate() {
            let out = &mut out[r * vectors + column + c];
            *out = simd.add_f32s(*out, *sum);
        }
    }
}

/// The rows of a group at depth `t`, read from `[GROUP, depth]`.
#[inline(always)]
pub(super) fn by_row(rows: &[f32], depth: usize) -> impl Fn(usize) -> [f32; GROUP] {
    let [a, b, c, d] = [0, 1, 2, 3].map(|row| &rows[row * depth..][..depth]);
    move |t| [a[t], b[t], c[t], d[t]]
}

/// `exp(x)` for `x ≤ 0`, at most 2 units in the last place off; exactly 0 below the normal range,
/// `−∞` included.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`, a polynomial for `e^r`, and `2^n` made of its bits.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Adding 1.5·2²³ rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    let shifted = simd.mul_add_e_f32s(
        x,
        simd.splat_f32s(std::f32::consts::LOG2_E),
        simd.splat_f32s(ROUND),
    );
    let n = simd.sub_f32s(shifted, simd.splat_f32s(ROUND));
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN_2_HIGH), x);
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN_2_LOW), r);
    let mut polynomial = simd.splat_f32s(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        polynomial = simd.mul_add_e_f32s(polynomial, r, simd.splat_f32s(*coefficient));
    }
    let r_squared = simd.mul_f32s(r, r);
    let fraction = simd.mul_add_e_f32s(polynomial, r_squared, r);
    let fraction = simd.add_f32s(fraction, simd.splat_f32s(1.0));
    let exponent =
        simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let scaled =
        simd.transmute_f32s_u32s(simd.add_u32s(exponent, simd.transmute_u32s_f32s(fraction)));
    let normal = simd.greater_than_or_equal_f32s(x, simd.splat_f32s(-87.0));
    simd.select_f32s(normal, scaled, simd.splat_f32s(0.0))
}

/// One tile of keys in the forms that the products want, padded with zeros.
pub(super) struct KeyTile {
    pub first_key: usize,
    /// `[KEYS, padded dim]`.
    pub by_key: Vec<f32>,
    /// `[padded dim, KEYS]`.
    pub by_dim: Vec<f32>,
    dim: usize,
}

impl KeyTile {
    pub fn new(dim: usize) -> Self {
        let size = KEYS * padded_dim(dim);
        Self {
            first_key: 0,
            by_key: vec![0.0; size],
            by_dim: vec![0.0; size],
            dim,
        }
    }

    /// Loads the rows of `first_key..` up to `keys`, one row at a time, zeros where there is none.
    pub fn load<'a>(
        &mut self,
        first_key: usize,
        keys: usize,
        row: impl Fn(usize) -> Option<&'a [f32]>,
    ) {
        self.first_key = first_key;
        let padded = padded_dim(self.dim);
        let count = KEYS.min(keys - first_key);
        for key in 0..count {
            let by_key = &mut self.by_key[key * padded..][..self.dim];
            match row(first_key + key) {
                Some(row) => by_key.copy_from_slice(row),
                None => by_key.fill(0.0),
            }
            for (d, value) in by_key.iter().enumerate() {
                self.by_dim[d * KEYS + key] = *value;
            }
        }
        self.by_key[count * padded..].fill(0.0);
        for line in self.by_dim.chunks_exact_mut(KEYS) {
            line[count..].fill(0.0);
        }
    }
}

/// The first keys of the tiles that the rows have to visit: visible by position, and holding a
/// document that one of the rows is in.
pub(super) fn tiles(
    inputs: &Inputs<'_>,
    batch: usize,
    rows: Range<usize>,
) -> impl Iterator<Item = usize> {
    let keys = inputs.visible_keys(rows.clone());
    let documents = inputs.plan.call.options.documents.as_deref();
    let bounds = |ids: &[i32]| {
        let present = ids.iter().filter(|id| **id != Documents::PADDING);
        present.fold((i32::MAX, i32::MIN), |(low, high), id| {
            (low.min(*id), high.max(*id))
        })
    };
    let (low, high) = documents.map_or((i32::MIN, i32::MAX), |documents| {
        bounds(&documents.query_ids(batch)[rows])
    });
    let (start, end, all) = (keys.start / KEYS * KEYS, keys.end, inputs.keys());
    (start..end).step_by(KEYS).filter(move |&first| {
        documents.is_none_or(|documents| {
            let tile = &documents.key_ids(batch)[first..(first + KEYS).min(all)];
            let (tile_low, tile_high) = bounds(tile);
            tile_low <= high && low <= tile_high
        })
    })
}

/// Which of the block's rows see a key of the tile by position, widened to whole groups.
pub(super) fn rows_in_sight(
    inputs: &Inputs<'_>,
    rows: Range<usize>,
    first_key: usize,
) -> Range<usize> {
    let positions = &inputs.plan.call.positions;
    let sees = |row: usize| {
        let keys = positions.visible_keys(row);
        keys.start < first_key + KEYS && first_key < keys.end
    };
    let count = rows.len();
    let first = (0..count).find(|r| sees(rows.start + r)).unwrap_or(count);
    let end = (first..count)
        .rev()
        .find(|r| sees(rows.start + r))
        .map_or(first, |r| r + 1);
    first / GROUP * GROUP..end.next_multiple_of(GROUP)
}

/// Rows of a block, made ready: scaled queries and the factors of their log-weights.
pub(super) struct QueryBlock {
    pub batch: usize,
    pub head: usize,
    pub rows: Range<usize>,
    /// `τ/√D · q`, `[rows padded to groups, padded dim]`.
    pub scaled_q: Vec<f32>,
    /// The factor of each row's `q·k`.
    pub content_factors: Vec<f32>,
    /// The factor of each row's log-weight.
    pub prior_factors: Vec<f32>,
}

impl QueryBlock {
    pub fn new(inputs: &Inputs<'_>, batch: usize, head: usize, rows: Range<usize>) -> Self {
        let padded = padded_dim(inputs.dim);
        let padded_rows = rows.len().next_multiple_of(GROUP);
        let mut block = Self {
            batch,
            head,
            scaled_q: vec![0.0; padded_rows * padded],
            content_factors: vec![0.0; padded_rows],
            prior_factors: vec![0.0; padded_rows],
            rows,
        };
        for r in 0..block.rows.len() {
            let row = block.rows.start + r;
            if inputs.is_padding(batch, row) {
                continue;
            }
            let (content, prior) = inputs.factors(batch, head, row);
            let scaled = &mut block.scaled_q[r * padded..];
            for (scaled, value) in scaled.iter_mut().zip(inputs.q.row(batch, head, row)) {
                *scaled = content * value;
            }
            block.content_factors[r] = content;
            block.prior_factors[r] = prior;
        }
        block
    }

    /// The logits of the group that begins at block row `r0` over a tile of keys: `[GROUP, KEYS]`,
    /// `−∞` where a key is hidden.
    #[inline(always)]
    pub fn logits<S: Simd>(
        &self,
        simd: S,
        inputs: &Inputs<'_>,
        r0: usize,
        keys: &KeyTile,
        logits: &mut [f32],
    ) {
        let ln_weights =
            &inputs.ln_weights[self.head * inputs.padded_lags()..][..inputs.padded_lags()];
        for (r, line) in logits.chunks_exact_mut(KEYS).enumerate() {
            // Rows past the block's end repeat its last one; their logits are hidden below.
            let row = (self.rows.start + r0 + r).min(self.rows.end - 1);
            let column = inputs.tile_column(row, keys.first_key);
            let factor = simd.splat_f32s(self.prior_factors[r0 + r]);
            let (weights, _) = S::as_simd_f32s(&ln_weights[column..column + KEYS]);
            let (line, _) = S::as_mut_simd_f32s(line);
            for (logit, weight) in line.iter_mut().zip(weights) {
                *logit = simd.mul_f32s(factor, *weight);
            }
        }
        let padded = padded_dim(inputs.dim);
        let q = by_row(&self.scaled_q[r0 * padded..][..GROUP * padded], padded);
        accumulate_product(simd, q, &keys.by_dim, KEYS, logits);
        for (r, line) in logits.chunks_exact_mut(KEYS).enumerate() {
            self.hide(inputs, r0 + r, keys.first_key, line);
        }
    }

    /// Writes `−∞` at the keys that block row `r` may not see.
    #[inline(always)]
    fn hide(&self, inputs: &Inputs<'_>, r: usize, first_key: usize, line: &mut [f32]) {
        let row = self.rows.start + r;
        if row >= self.rows.end {
            line.fill(f32::NEG_INFINITY);
            return;
        }
        let visible = inputs.plan.call.positions.visible_keys(row);
        let start = visible.start.saturating_sub(first_key).min(KEYS);
        let end = visible.end.saturating_sub(first_key).min(KEYS);
        line[..start].fill(f32::NEG_INFINITY);
        line[end..].fill(f32::NEG_INFINITY);
        if let Some(documents) = inputs.plan.call.options.documents.as_deref() {
            let own = documents.query_ids(self.batch)[row];
            let ids = &documents.key_ids(self.batch)[first_key..];
            for (logit, id) in line[..end].iter_mut().zip(ids) {
                if !Documents::shared(own, *id) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

const _: () = assert!(PAD >= KEYS + GROUP);

#[cfg(test)]
mod tests {
    use super::*;

    struct ExpOf<'a>(&'a mut [f32]);

    impl pulp::WithSimd for ExpOf<'_> {
        type Output = ();
        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, rest) = S::as_mut_simd_f32s(self.0);
            assert!(rest.is_empty());
            for x in vectors {
                *x = exp(simd, *x);
            }
        }
    }

    #[test]
    fn exponential_is_within_two_units_in_the_last_place() {
        let inputs: Vec<f32> = (0..1 << 16).map(|i| -(i as f32) * 87.0 / 65536.0).collect();
        let mut outputs = inputs.clone();
        pulp::Arch::new().dispatch(ExpOf(&mut outputs));
        for (x, y) in inputs.iter().zip(&outputs) {
            let exact = f64::from(*x).exp();
            let unit = exact * f64::from(f32::EPSILON);
            assert!(
                (f64::from(*y) - exact).abs() <= 2.0 * unit,
                "exp({x}) = {y}, not {exact}"
            );
        }
    }

    #[test]
    fn exponential_ends_in_exact_zeros_and_one() {
        let mut values = [0.0f32; 16];
        values[1] = f32::NEG_INFINITY;
        values[2] = -1e30;
        values[3] = -88.0;
        pulp::Arch::new().dispatch(ExpOf(&mut values));
        assert_eq!(values[..4], [1.0, 0.0, 0.0, 0.0]);
    }
}
