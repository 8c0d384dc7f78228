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
pub(crate) type Aligned<T> = AVec<T, ConstAlign<64>>;

/// So many of the same number.
pub(crate) fn aligned<T: Copy>(value: T, count: usize) -> Aligned<T> {
    avec![[64]| value; count]
}

/// Calls `$task.run::<S, GROUP, VECTORS>($simd)` with as many sums of scores as the registers hold.
macro_rules! run_in_registers {
    ($task:expr, $simd:expr) => {
        match (S::REGISTER_COUNT, S::F32_LANES) {
            (32.., _) => $task.run::<S, 8, 3>($simd),
            (_, 1) => $task.run::<S, 3, 4>($simd),
            _ => $task.run::<S, 6, 2>($simd),
        }
    };
}
pub(crate) use run_in_registers;

/// One element of every row of a panel.
pub(crate) type Line<S, const VECTORS: usize> = [<S as Simd>::f32s; VECTORS];

/// Rows of a panel.
pub(crate) const fn panel_rows<S: Simd, const VECTORS: usize>() -> usize {
    VECTORS * S::F32_LANES
}

/// Numbers as the lines of a panel.
#[inline(always)]
pub(crate) fn lines<S: Simd, const VECTORS: usize>(panel: &[f32]) -> &[Line<S, VECTORS>] {
    S::as_simd_f32s(panel).0.as_chunks().0
}

/// Numbers as the lines of a panel.
#[inline(always)]
pub(crate) fn lines_mut<S: Simd, const VECTORS: usize>(
    panel: &mut [f32],
) -> &mut [Line<S, VECTORS>] {
    S::as_mut_simd_f32s(panel).0.as_chunks_mut().0
}

/// The lanes of one panel in lines that may hold several panels side by side.
pub(super) struct Lanes<'a> {
    pub values: &'a mut [f32],
    /// Numbers of a line.
    pub stride: usize,
    /// The panel's first.
    pub first: usize,
}

impl<'a> Lanes<'a> {
    /// Lines of one panel.
    #[inline(always)]
    pub fn of_panel<S: Simd, const VECTORS: usize>(values: &'a mut [f32]) -> Self {
        Self {
            values,
            stride: panel_rows::<S, VECTORS>(),
            first: 0,
        }
    }

    /// The first so many lanes of a line.
    #[inline(always)]
    pub fn numbers(&mut self, line: usize, count: usize) -> &mut [f32] {
        &mut self.values[line * self.stride + self.first..][..count]
    }

    #[inline(always)]
    pub fn line<S: Simd, const VECTORS: usize>(&mut self, line: usize) -> &mut Line<S, VECTORS> {
        &mut lines_mut::<S, VECTORS>(self.numbers(line, panel_rows::<S, VECTORS>()))[0]
    }
}

/// `Σ_t left[row][t] · right[t]`, handed to `sink` row by row.
///
/// # Shapes
/// - `left`: `[rows, stride]`, of which `depth` columns are read; rows a multiple of `GROUP`
/// - `right`: a panel of at least `depth` lines
#[inline(always)]
pub(crate) fn rows_by_panel<S: Simd, const GROUP: usize, const VECTORS: usize>(
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

/// Vectors of a result that are summed side by side, given how many are left. With the groups of
/// `by_strips!` they fill the registers; none is left alone where that can be helped.
#[inline(always)]
fn strip_width<S: Simd>(left: usize) -> usize {
    match left {
        _ if S::REGISTER_COUNT < 32 => left.min(2),
        5 | 6 => 3,
        _ => left.min(4),
    }
}

/// Calls `$strip::<S, GROUP, WIDTH>` with every strip of vectors.
macro_rules! by_strips {
    ($simd:expr, $right:expr, $strip:ident, $($argument:expr),*) => {
        let vectors = $right.columns / S::F32_LANES;
        let mut first = 0;
        while first < vectors {
            let width = strip_width::<S>(vectors - first);
            let at = (first, vectors);
            match (width, S::REGISTER_COUNT) {
                (4, 32..) => $strip::<S, 6, 4>($simd, at, $right.strip::<S, 4>(first), $($argument),*),
                (3, 32..) => $strip::<S, 8, 3>($simd, at, $right.strip::<S, 3>(first), $($argument),*),
                (2, 32..) => $strip::<S, 8, 2>($simd, at, $right.strip::<S, 2>(first), $($argument),*),
                (2, _) => $strip::<S, 6, 2>($simd, at, $right.strip::<S, 2>(first), $($argument),*),
                (_, 32..) => $strip::<S, 8, 1>($simd, at, $right.strip::<S, 1>(first), $($argument),*),
                _ => $strip::<S, 6, 1>($simd, at, $right.strip::<S, 1>(first), $($argument),*),
            }
            first += width;
        }
    };
}

/// Rows that are summed over, cut into **strips**: a strip holds a few vectors of every row, row after row,
/// and the strips follow each other. A product reads a strip many times, and so from the nearest cache
/// whatever the length of a row.
pub(super) struct Strips {
    values: Aligned<f32>,
    rows: usize,
    columns: usize,
}

impl Strips {
    /// Zeros; columns a whole number of vectors.
    pub fn new(rows: usize, columns: usize) -> Self {
        Self {
            values: aligned(0.0, rows * columns),
            rows,
            columns,
        }
    }

    /// Writes a row times a factor, zeros after its end.
    #[inline(always)]
    pub fn write<S: Simd>(&mut self, row: usize, mut values: &[f32], factor: f32) {
        let vectors = self.columns / S::F32_LANES;
        let mut first = 0;
        while first < vectors {
            let width = strip_width::<S>(vectors - first);
            let strip = &mut self.values[first * S::F32_LANES * self.rows..];
            let columns = width * S::F32_LANES;
            let (own, rest) = values.split_at(columns.min(values.len()));
            let (to, after) = strip[row * columns..][..columns].split_at_mut(own.len());
            for (to, value) in to.iter_mut().zip(own) {
                *to = factor * value;
            }
            after.fill(0.0);
            values = rest;
            first += width;
        }
    }

    /// The strip of `WIDTH` vectors from `first` on.
    #[inline(always)]
    fn strip<S: Simd, const WIDTH: usize>(&self, first: usize) -> &[[S::f32s; WIDTH]] {
        let strip = &self.values[first * S::F32_LANES * self.rows..];
        let strip = &strip[..self.rows * WIDTH * S::F32_LANES];
        S::as_simd_f32s(strip).0.as_chunks().0
    }
}

/// `[lines, stride]`: the stride is a constant wherever this is used, and is to be one for the compiler.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    pub values: &'a [f32],
    pub stride: usize,
}

/// `out[row] += Σ_line factors[line][row] · right[line]`: what rows gather from lines.
///
/// # Shapes
/// - `factors`: of every line its rows, of which those from `rows` are read
/// - `right`: `[lines, columns]`
/// - `out`: `[rows, columns]`
/// - `in_sight`: of some rows, counted from the first, the lines that they want; a factor outside of these
///   is 0 or not read
#[inline(always)]
pub(super) fn rows_from_lines<S: Simd>(
    simd: S,
    factors: Factors<'_>,
    rows: Range<usize>,
    in_sight: impl Fn(Range<usize>) -> Range<usize>,
    right: &Strips,
    out: &mut [f32],
) {
    by_strips!(
        simd,
        right,
        rows_of_strip,
        factors,
        rows.clone(),
        &in_sight,
        out
    );
}

#[inline(always)]
fn rows_of_strip<S: Simd, const GROUP: usize, const WIDTH: usize>(
    simd: S,
    at: (usize, usize),
    right: &[[S::f32s; WIDTH]],
    factors: Factors<'_>,
    all: Range<usize>,
    in_sight: &impl Fn(Range<usize>) -> Range<usize>,
    out: &mut [f32],
) {
    let mut rows = all.start..all.start;
    while rows.end < all.end {
        rows.start = rows.end;
        // Beyond whole groups there are four or two rows, or one.
        let group = [GROUP, 4, 2]
            .into_iter()
            .find(|group| *group <= all.end - rows.start);
        rows.end += group.unwrap_or(1);
        let lines = in_sight(rows.start - all.start..rows.end - all.start);
        let own = (lines, rows.start);
        let out = &mut out[(rows.start - all.start) * at.1 * S::F32_LANES..];
        match group {
            Some(4) => group_of_rows::<S, 4, WIDTH>(simd, at, right, factors, own, out),
            Some(2) => group_of_rows::<S, 2, WIDTH>(simd, at, right, factors, own, out),
            None => group_of_rows::<S, 1, WIDTH>(simd, at, right, factors, own, out),
            _ => group_of_rows::<S, GROUP, WIDTH>(simd, at, right, factors, own, out),
        }
    }
}

#[inline(always)]
fn group_of_rows<S: Simd, const GROUP: usize, const WIDTH: usize>(
    simd: S,
    at: (usize, usize),
    right: &[[S::f32s; WIDTH]],
    factors: Factors<'_>,
    (lines, row): (Range<usize>, usize),
    out: &mut [f32],
) {
    let mut sums = [[simd.splat_f32s(0.0); WIDTH]; GROUP];
    let factors = factors.values[lines.start * factors.stride..].chunks_exact(factors.stride);
    for (factors, line) in factors.zip(&right[lines]) {
        let factors = &factors[row..][..GROUP];
        for (sums, factor) in sums.iter_mut().zip(factors) {
            let factor = simd.splat_f32s(*factor);
            for (sum, value) in sums.iter_mut().zip(line) {
                *sum = simd.mul_add_e_f32s(factor, *value, *sum);
            }
        }
    }
    add_strip(simd, &sums, at, out);
}

/// Rows that lines gather from at once: a whole number of panels for every width of vectors. Lines lie a
/// constant apart, so that no factor is checked by itself.
pub(super) const STRETCH: usize = 96;

/// Lines that [`lines_from_rows`] takes are a multiple of this.
pub(super) const LINES: usize = 24;

/// `out[line] += Σ_row factors[line][row] · right[row]`: what lines gather from rows.
///
/// # Shapes
/// - `factors`: of every line its rows; lines a multiple of [`LINES`]
/// - `right`: `[STRETCH, columns]`
/// - `out`: `[lines, columns]`
/// - `in_sight`: of some lines, the rows that they want; a factor outside of these is 0 or not read
#[inline(always)]
pub(super) fn lines_from_rows<S: Simd>(
    simd: S,
    factors: &[[f32; STRETCH]],
    in_sight: impl Fn(Range<usize>) -> Range<usize>,
    right: &Strips,
    out: &mut [f32],
) {
    by_strips!(simd, right, lines_of_strip, factors, &in_sight, out);
}

#[inline(always)]
fn lines_of_strip<S: Simd, const GROUP: usize, const WIDTH: usize>(
    simd: S,
    at: (usize, usize),
    right: &[[S::f32s; WIDTH]],
    factors: &[[f32; STRETCH]],
    in_sight: &impl Fn(Range<usize>) -> Range<usize>,
    out: &mut [f32],
) {
    let groups = factors.as_chunks::<GROUP>().0.iter();
    let outs = out.chunks_exact_mut(GROUP * at.1 * S::F32_LANES);
    for (group, (lines, out)) in groups.zip(outs).enumerate() {
        let rows = in_sight(group * GROUP..(group + 1) * GROUP);
        if rows.is_empty() {
            continue;
        }
        let mut sums = [[simd.splat_f32s(0.0); WIDTH]; GROUP];
        for (row, values) in (rows.start..STRETCH).zip(&right[rows]) {
            for (line, sums) in lines.iter().zip(&mut sums) {
                let factor = simd.splat_f32s(line[row]);
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = simd.mul_add_e_f32s(factor, *value, *sum);
                }
            }
        }
        add_strip(simd, &sums, at, out);
    }
}

/// Adds the sums of a strip to `[rows, vectors]` from vector `first` on.
#[inline(always)]
fn add_strip<S: Simd, const GROUP: usize, const WIDTH: usize>(
    simd: S,
    sums: &[[S::f32s; WIDTH]; GROUP],
    (first, vectors): (usize, usize),
    out: &mut [f32],
) {
    let out = S::as_mut_simd_f32s(out).0.chunks_exact_mut(vectors);
    for (out, sums) in out.zip(sums) {
        for (out, sum) in out[first..][..WIDTH].iter_mut().zip(sums) {
            *out = simd.add_f32s(*out, *sum);
        }
    }
}
