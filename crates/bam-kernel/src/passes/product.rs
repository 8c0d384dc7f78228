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

/// Lines that [`lines_from_rows`] takes are a multiple of this.
pub(super) const LINES: usize = 24;

/// Vectors of a result that are summed side by side, given how many are left. With the [`group`] that goes
/// with them they fill the registers; no last one is left alone where that can be helped.
#[inline(always)]
fn strip_width<S: Simd>(left: usize) -> usize {
    match left {
        _ if S::REGISTER_COUNT < 32 => left.min(2),
        5 | 6 => 3,
        _ => left.min(4),
    }
}

/// Calls `$strip::<S, VECTORS, GROUP, WIDTH>` with every strip of vectors.
macro_rules! by_strips {
    ($simd:expr, $vectors:expr, $strip:ident, $($argument:expr),*) => {
        let mut first = 0;
        while first < $vectors {
            let width = strip_width::<S>($vectors - first);
            match (width, S::REGISTER_COUNT) {
                (4, 32..) => $strip::<S, VECTORS, 6, 4>($simd, first, $($argument),*),
                (3, 32..) => $strip::<S, VECTORS, 8, 3>($simd, first, $($argument),*),
                (2, 32..) => $strip::<S, VECTORS, 8, 2>($simd, first, $($argument),*),
                (2, _) => $strip::<S, VECTORS, 6, 2>($simd, first, $($argument),*),
                (_, 32..) => $strip::<S, VECTORS, 8, 1>($simd, first, $($argument),*),
                _ => $strip::<S, VECTORS, 6, 1>($simd, first, $($argument),*),
            }
            first += width;
        }
    };
}

/// `out[row] += Σ_line panel[line][row] · right[line]`: what the rows of a panel gather from the lines.
///
/// # Shapes
/// - `panel`: `[lines, rows of a panel]`
/// - `right`: `[lines, columns]`, columns a whole number of vectors
/// - `out`: `[rows of a panel, columns]`
/// - `in_sight`: of some rows, the lines that they want; a factor outside of these is 0 or not read
#[inline(always)]
pub(super) fn rows_from_lines<S: Simd, const VECTORS: usize>(
    simd: S,
    panel: &[f32],
    in_sight: impl Fn(Range<usize>) -> Range<usize>,
    (right, columns): (&[f32], usize),
    out: &mut [f32],
) {
    let vectors = columns / S::F32_LANES;
    by_strips!(simd, vectors, rows_of_strip, panel, &in_sight, (right, vectors), out);
}

#[inline(always)]
fn rows_of_strip<S: Simd, const VECTORS: usize, const GROUP: usize, const WIDTH: usize>(
    simd: S,
    first: usize,
    panel: &[f32],
    in_sight: &impl Fn(Range<usize>) -> Range<usize>,
    right: (&[f32], usize),
    out: &mut [f32],
) {
    let width = panel_rows::<S, VECTORS>();
    let mut rows = 0..0;
    while rows.end < width {
        rows.start = rows.end;
        // Beyond whole groups there are four or two rows, or one.
        let rest = width - rows.start;
        let group = [GROUP, 4, 2].into_iter().find(|group| *group <= rest);
        rows.end += group.unwrap_or(1);
        let lines = in_sight(rows.clone());
        let at = (panel, lines, rows.start);
        match group {
            Some(4) => group_of_rows::<S, VECTORS, 4, WIDTH>(simd, first, at, right, out),
            Some(2) => group_of_rows::<S, VECTORS, 2, WIDTH>(simd, first, at, right, out),
            None => group_of_rows::<S, VECTORS, 1, WIDTH>(simd, first, at, right, out),
            _ => group_of_rows::<S, VECTORS, GROUP, WIDTH>(simd, first, at, right, out),
        }
    }
}

#[inline(always)]
fn group_of_rows<S: Simd, const VECTORS: usize, const GROUP: usize, const WIDTH: usize>(
    simd: S,
    first: usize,
    (panel, lines, row): (&[f32], Range<usize>, usize),
    (right, vectors): (&[f32], usize),
    out: &mut [f32],
) {
    let width = panel_rows::<S, VECTORS>();
    let mut sums = [[simd.splat_f32s(0.0); WIDTH]; GROUP];
    let right = &S::as_simd_f32s(right).0[lines.start * vectors..lines.end * vectors];
    let factors = panel[lines.start * width..].chunks_exact(width);
    for (factors, line) in factors.zip(right.chunks_exact(vectors)) {
        let factors = &factors[row..][..GROUP];
        let line = &line[first..][..WIDTH];
        for (sums, factor) in sums.iter_mut().zip(factors) {
            let factor = simd.splat_f32s(*factor);
            for (sum, value) in sums.iter_mut().zip(line) {
                *sum = simd.mul_add_e_f32s(factor, *value, *sum);
            }
        }
    }
    add_strip(simd, &sums, vectors, first, &mut out[row * vectors * S::F32_LANES..]);
}

/// `out[line] += Σ_row panel[line][row] · right[row]`: what the lines gather from the rows of a panel.
///
/// # Shapes
/// - `panel`: `[lines, rows of a panel]`; lines a multiple of [`LINES`]
/// - `right`: `[rows of a panel, columns]`, columns a whole number of vectors
/// - `out`: `[lines, columns]`
/// - `in_sight`: of some lines, the rows that they want; a factor outside of these is 0 or not read
#[inline(always)]
pub(super) fn lines_from_rows<S: Simd, const VECTORS: usize>(
    simd: S,
    panel: &[f32],
    in_sight: impl Fn(Range<usize>) -> Range<usize>,
    (right, columns): (&[f32], usize),
    out: &mut [f32],
) {
    let vectors = columns / S::F32_LANES;
    by_strips!(simd, vectors, lines_of_strip, panel, &in_sight, (right, vectors), out);
}

#[inline(always)]
fn lines_of_strip<S: Simd, const VECTORS: usize, const GROUP: usize, const WIDTH: usize>(
    simd: S,
    first: usize,
    panel: &[f32],
    in_sight: &impl Fn(Range<usize>) -> Range<usize>,
    (right, vectors): (&[f32], usize),
    out: &mut [f32],
) {
    let width = panel_rows::<S, VECTORS>();
    let groups = out.chunks_exact_mut(GROUP * vectors * S::F32_LANES);
    for (group, (lines, out)) in panel.chunks_exact(GROUP * width).zip(groups).enumerate() {
        let rows = in_sight(group * GROUP..(group + 1) * GROUP);
        if rows.is_empty() {
            continue;
        }
        let lines = &lines[..GROUP * width];
        let mut sums = [[simd.splat_f32s(0.0); WIDTH]; GROUP];
        let right = &S::as_simd_f32s(right).0[rows.start * vectors..rows.end * vectors];
        // Rows up to a constant: lines lie a constant apart, and no factor needs a check of its own.
        for (row, values) in (rows.start..width).zip(right.chunks_exact(vectors)) {
            let values = &values[first..][..WIDTH];
            for (line, sums) in sums.iter_mut().enumerate() {
                let factor = simd.splat_f32s(lines[line * width + row]);
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = simd.mul_add_e_f32s(factor, *value, *sum);
                }
            }
        }
        add_strip(simd, &sums, vectors, first, out);
    }
}

/// Adds the sums of a strip to `[rows, vectors]` from vector `first` on.
#[inline(always)]
fn add_strip<S: Simd, const GROUP: usize, const WIDTH: usize>(
    simd: S,
    sums: &[[S::f32s; WIDTH]; GROUP],
    vectors: usize,
    first: usize,
    out: &mut [f32],
) {
    let out = S::as_mut_simd_f32s(out).0.chunks_exact_mut(vectors);
    for (out, sums) in out.zip(sums) {
        for (out, sum) in out[first..][..WIDTH].iter_mut().zip(sums) {
            *out = simd.add_f32s(*out, *sum);
        }
    }
}
