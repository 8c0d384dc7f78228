//! The inner loops: small matrix products whose right side is a panel.
//!
//! A **panel** is a few rows of queries, side by side in the lanes of vectors: line `t` holds element
//! `t` of every row. `GROUP` lines of the result of `VECTORS` vectors each stay in registers, so every
//! load of a vector serves `GROUP` multiplications and every broadcast `VECTORS`: 6 and 2 of them fill
//! 16 registers with a line and a factor, 8 and 3 fill 32.
//!
//! All sums are taken first and added once: term by term, a million light keys vanish in the rounding
//! of one heavy key that came before them.

use aligned_vec::{AVec, ConstAlign, avec};
use pulp::Simd;
use std::ops::Range;

/// Numbers from the beginning of a cache line on: no vector of theirs, and no row of a tile, lies
/// across two.
pub(super) type Aligned<T> = AVec<T, ConstAlign<64>>;

/// So many of the same number.
pub(super) fn aligned<T: Copy>(value: T, count: usize) -> Aligned<T> {
    avec![[64]| value; count]
}

/// One element of every row of a panel.
pub(super) type Line<S, const VECTORS: usize> = [<S as Simd>::f32s; VECTORS];

/// Rows of a panel.
pub(super) const fn panel_rows<S: Simd, const VECTORS: usize>() -> usize {
    VECTORS * S::F32_LANES
}

/// Numbers as the lines of a panel.
#[inline(always)]
pub(super) fn lines<S: Simd, const VECTORS: usize>(panel: &[f32]) -> &[Line<S, VECTORS>] {
    S::as_simd_f32s(panel).0.as_chunks().0
}

/// Numbers as the lines of a panel.
#[inline(always)]
pub(super) fn lines_mut<S: Simd, const VECTORS: usize>(
    panel: &mut [f32],
) -> &mut [Line<S, VECTORS>] {
    S::as_mut_simd_f32s(panel).0.as_chunks_mut().0
}

/// `Σ_t left[row][t] · right[t]`, handed to `sink` row by row.
///
/// # Shapes
/// - `left`: `[rows, stride]`, of which `depth` columns are read; rows a multiple of `GROUP`
/// - `right`: a panel of at least `depth` lines
#[inline(always)]
pub(super) fn rows_by_panel<S: Simd, const GROUP: usize, const VECTORS: usize>(
    simd: S,
    (left, stride): (&[f32], usize),
    depth: usize,
    right: &[Line<S, VECTORS>],
    mut sink: impl FnMut(usize, &Line<S, VECTORS>),
) {
    let right = &right[..depth];
    for (group, rows) in left.chunks_exact(GROUP * stride).enumerate() {
        let rows: [&[f32]; GROUP] = std::array::from_fn(|r| &rows[r * stride..][..depth]);
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; GROUP];
        for (t, line) in right.iter().enumerate() {
            for (sums, row) in sums.iter_mut().zip(&rows) {
                let factor = simd.splat_f32s(row[t]);
                for (sum, value) in sums.iter_mut().zip(line) {
                    *sum = simd.mul_add_e_f32s(factor, *value, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            sink(group * GROUP + r, sums);
        }
    }
}

/// `out[column] += Σ_t left[t][column] · right[t]`.
///
/// # Shapes
/// - `left`: `[depth, columns]`, columns an even number of which less than 8 are left beyond whole groups
/// - `right`, `out`: panels of `depth` and of `columns` lines
#[inline(always)]
pub(super) fn columns_by_panel<S: Simd, const GROUP: usize, const VECTORS: usize>(
    simd: S,
    left: (&[f32], usize),
    right: &[Line<S, VECTORS>],
    out: &mut [Line<S, VECTORS>],
) {
    let whole = out.len() / GROUP * GROUP;
    let (groups, rest) = out.split_at_mut(whole);
    for (group, out) in groups.chunks_exact_mut(GROUP).enumerate() {
        column_group::<S, GROUP, VECTORS>(simd, left, group * GROUP, right, out);
    }
    let (four, two) = rest.split_at_mut(rest.len() / 4 * 4);
    if !four.is_empty() {
        column_group::<S, 4, VECTORS>(simd, left, whole, right, four);
    }
    if !two.is_empty() {
        column_group::<S, 2, VECTORS>(simd, left, whole + four.len(), right, two);
    }
}

/// `GROUP` columns from `first` on.
#[inline(always)]
fn column_group<S: Simd, const GROUP: usize, const VECTORS: usize>(
    simd: S,
    (left, columns): (&[f32], usize),
    first: usize,
    right: &[Line<S, VECTORS>],
    out: &mut [Line<S, VECTORS>],
) {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; GROUP];
    for (row, line) in left.chunks_exact(columns).zip(right) {
        let factors = &row[first..][..GROUP];
        for (sums, factor) in sums.iter_mut().zip(factors) {
            let factor = simd.splat_f32s(*factor);
            for (sum, value) in sums.iter_mut().zip(line) {
                *sum = simd.mul_add_e_f32s(factor, *value, *sum);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(&sums) {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = simd.add_f32s(*out, *sum);
        }
    }
}

/// Panels one after the other, `lines` lines each.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    pub values: &'a [f32],
    pub lines: usize,
}

/// `out[line] += Σ_{panel, row} panels[panel][line][row] · right[panel · rows + row]`.
///
/// # Shapes
/// - `right`: `[panels · rows of a panel, columns]`
/// - `out`: `[lines, columns]`; lines a multiple of `GROUP`, columns one of the vector's lanes
#[inline(always)]
pub(super) fn panels_by_rows<S: Simd, const GROUP: usize, const VECTORS: usize>(
    simd: S,
    left: Panels<'_>,
    panels: Range<usize>,
    (right, columns): (&[f32], usize),
    out: &mut [f32],
) {
    let vectors = columns / S::F32_LANES;
    let mut first = 0;
    while first < vectors {
        let (panels, right) = (panels.clone(), (right, columns));
        // Where three fit, four vectors are better cut in two and two than in three and one.
        first += match (vectors - first, VECTORS) {
            (1, _) => strip::<S, GROUP, VECTORS, 1>(simd, left, panels, right, first, out),
            (3 | 5.., 3) => strip::<S, GROUP, VECTORS, 3>(simd, left, panels, right, first, out),
            _ => strip::<S, GROUP, VECTORS, 2>(simd, left, panels, right, first, out),
        };
    }
}

/// The columns of `WIDTH` vectors from `first` on; their number.
#[inline(always)]
fn strip<S: Simd, const GROUP: usize, const VECTORS: usize, const WIDTH: usize>(
    simd: S,
    left: Panels<'_>,
    panels: Range<usize>,
    (right, columns): (&[f32], usize),
    first: usize,
    out: &mut [f32],
) -> usize {
    let rows = panel_rows::<S, VECTORS>();
    let vectors = columns / S::F32_LANES;
    for (group, out) in out.chunks_exact_mut(GROUP * columns).enumerate() {
        let mut sums = [[simd.splat_f32s(0.0); WIDTH]; GROUP];
        for panel in panels.clone() {
            let lines = &left.values[(panel * left.lines + group * GROUP) * rows..];
            let lines: [&[f32]; GROUP] = std::array::from_fn(|r| &lines[r * rows..][..rows]);
            let right = &right[panel * rows * columns..][..rows * columns];
            let (right, _) = S::as_simd_f32s(right);
            for (t, line) in (0..rows).zip(right.chunks_exact(vectors)) {
                let line = &line[first..][..WIDTH];
                for (sums, row) in sums.iter_mut().zip(&lines) {
                    let factor = simd.splat_f32s(row[t]);
                    for (sum, value) in sums.iter_mut().zip(line) {
                        *sum = simd.mul_add_e_f32s(factor, *value, *sum);
                    }
                }
            }
        }
        let (out, _) = S::as_mut_simd_f32s(out);
        for (out, sums) in out.chunks_exact_mut(vectors).zip(&sums) {
            for (out, sum) in out[first..].iter_mut().zip(sums) {
                *out = simd.add_f32s(*out, *sum);
            }
        }
    }
    WIDTH
}
