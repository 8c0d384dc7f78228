//! Matrix products of numbers in `bf16`, summed in `f32`.

use super::matrix::Matrix;
use crate::instructions::Instructions;
use crate::instructions::amx::tiles::{SIDE, Tiles};
use crate::operands::{Values, paired};
use crate::passes::product::{
    Aligned, aligned, lines, lines_mut, panel_rows, rows_by_panel, run_in_registers,
};
use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a task: a whole number of tiles, and of groups of every instruction set.
const ROWS: usize = 96;

/// Words between the rows of a left side: so they don't lie a power of two apart, which caches don't like.
const APART: usize = 16;

/// Words that are summed over before they are added to the sums so far: as many lines of a panel as the nearest
/// cache holds, and whole rows of tiles.
const DEPTH: usize = 128;

/// `out = left · right`, both rounded to `bf16`, products exact, sums in `f32`. Written over what `out` held.
///
/// A linear layer `y = x·W` with `W` as `[in, out]` has the gradients `dx = g·Wᵀ` and `dW = xᵀ·g`.
///
/// # Shapes
/// - `left`: `[rows, depth]`, `right`: `[depth, columns]`, `out`: `[rows, columns]`
///
/// # Panics
/// If they do not fit each other.
pub fn product_bf16(left: Matrix<'_>, right: Matrix<'_>, out: &mut [f32]) {
    product_by(Instructions::detect(), left, right, out);
}

/// The same by instructions that the processor has.
pub(crate) fn product_by(
    instructions: Instructions,
    left: Matrix<'_>,
    right: Matrix<'_>,
    out: &mut [f32],
) {
    let ([rows, depth], [of_right, columns]) = (left.shape, right.shape);
    assert!(depth == of_right && out.len() == rows * columns);
    if out.is_empty() || depth == 0 {
        return out.fill(0.0);
    }
    let arch = instructions.arch().expect("the processor has them");
    match instructions {
        Instructions::Amx => by_words::<u32>(arch, ROWS, left, right, out),
        _ => by_words::<f32>(arch, arch.dispatch(PanelWidth), left, right, out),
    }
}

/// Packs both sides, then shares out the rows. The order of a sum depends on the depth alone.
fn by_words<W: Word>(
    arch: Arch,
    width: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    out: &mut [f32],
) {
    let ([_, depth], columns) = (left.shape, right.shape[1]);
    let (words, padded) = (words_of::<W>(depth), columns.next_multiple_of(width));
    let stride = words + APART;
    let left = packed::<W>(left, ROWS, stride, |row, word| row * stride + word);
    let right = packed::<W>(right.transposed(), width, words, |row, word| {
        word * width + row
    });
    let of_tasks = out.par_chunks_mut(ROWS * columns).enumerate();
    of_tasks.for_each_init(
        || aligned(0.0, ROWS * padded),
        |sums, (task, out)| {
            sums.fill(0.0);
            let left = &left[task * ROWS * stride..];
            W::add_products(arch, [words, width], left, &right, sums);
            let sums = sums.chunks_exact(padded);
            for (out, sums) in out.chunks_exact_mut(columns).zip(sums) {
                out.copy_from_slice(&sums[..columns]);
            }
        },
    );
}

/// The unit that products are taken of: a number, or a pair.
trait Word: Copy + Default + Send + Sync {
    const NUMBERS: usize;

    /// Of numbers that lie side by side.
    fn of(numbers: impl Fn(usize) -> bf16) -> Self;

    /// `sums += left · right` of the rows of a task.
    ///
    /// # Shapes
    /// - `left`: `[ROWS, words + APART]` and some more, `right`: `[panels, words, width]`, `sums`: `[ROWS, panels · width]`
    fn add_products(arch: Arch, sizes: [usize; 2], left: &[Self], right: &[Self], sums: &mut [f32]);
}

/// Words of a sum over `depth` numbers: whole rows of tiles.
fn words_of<W: Word>(depth: usize) -> usize {
    depth.next_multiple_of(2 * SIDE) / W::NUMBERS
}

/// The rows of a matrix in panels of `width`, each word where `place` says, given its row and number in it; zeros
/// past the end, and as many more as a row takes, which are `stride`.
fn packed<W: Word>(
    matrix: Matrix<'_>,
    width: usize,
    stride: usize,
    place: impl Fn(usize, usize) -> usize + Sync,
) -> Aligned<W> {
    let rows = matrix.shape[0];
    let count = rows.next_multiple_of(width) * stride;
    let mut to = aligned(W::default(), count + stride);
    let panels = to[..count].par_chunks_exact_mut(width * stride).enumerate();
    panels.for_each(|(panel, to)| {
        let rows = panel * width..rows.min((panel + 1) * width);
        match matrix.values {
            Values::F32(values) => pack(values, bf16::from_f32, &matrix, rows, &place, to),
            Values::Bf16(values) => pack(values, |x| x, &matrix, rows, &place, to),
        }
    });
    to
}

fn pack<W: Word, N: Copy>(
    values: &[N],
    round: impl Fn(N) -> bf16,
    matrix: &Matrix<'_>,
    rows: Range<usize>,
    place: impl Fn(usize, usize) -> usize,
    to: &mut [W],
) {
    let ([_, depth], [by_row, by_number]) = (matrix.shape, matrix.strides);
    let mut write = |row: usize, word: usize| {
        let number = |n: usize| match word * W::NUMBERS + n {
            number if number < depth => {
                round(values[(rows.start + row) * by_row + number * by_number])
            }
            _ => bf16::ZERO,
        };
        to[place(row, word)] = W::of(number);
    };
    let words = depth.div_ceil(W::NUMBERS);
    // Numbers are read as they lie.
    match by_number {
        1 => (0..rows.len()).for_each(|row| (0..words).for_each(|word| write(row, word))),
        _ => (0..words).for_each(|word| (0..rows.len()).for_each(|row| write(row, word))),
    }
}

/// A number widened: with vectors of `f32`, which multiply more numbers a cycle than those that AVX-512 has for
/// pairs, where both were measured.
impl Word for f32 {
    const NUMBERS: usize = 1;

    #[inline(always)]
    fn of(numbers: impl Fn(usize) -> bf16) -> Self {
        numbers(0).to_f32()
    }

    fn add_products(
        arch: Arch,
        [words, width]: [usize; 2],
        left: &[f32],
        right: &[f32],
        sums: &mut [f32],
    ) {
        arch.dispatch(Widened {
            words,
            width,
            left,
            right,
            sums,
        });
    }
}

/// A pair, for AMX.
impl Word for u32 {
    const NUMBERS: usize = 2;

    #[inline(always)]
    fn of(numbers: impl Fn(usize) -> bf16) -> Self {
        paired(numbers(0), numbers(1))
    }

    fn add_products(
        _: Arch,
        [words, width]: [usize; 2],
        left: &[u32],
        right: &[u32],
        sums: &mut [f32],
    ) {
        let tiles = Tiles::new().expect("the processor has AMX");
        let stride = sums.len() / ROWS;
        let mut products = aligned(0.0, ROWS * width);
        for first in (0..words).step_by(DEPTH) {
            let depth = DEPTH.min(words - first);
            for (panel, right) in right.chunks_exact(words * width).enumerate() {
                tiles.product(
                    (&left[first..], words + APART),
                    [ROWS, depth, width],
                    &right[first * width..][..depth * width],
                    (&mut products, width),
                );
                let rows = sums.chunks_exact_mut(stride);
                for (sums, products) in rows.zip(products.chunks_exact(width)) {
                    let sums = sums[panel * width..].iter_mut();
                    sums.zip(products).for_each(|(sum, of)| *sum += of);
                }
            }
        }
    }
}

/// Rows of a panel.
struct PanelWidth;

impl WithSimd for PanelWidth {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        run_in_registers!(self, simd)
    }
}

impl PanelWidth {
    #[inline(always)]
    fn run<S: Simd, const GROUP: usize, const VECTORS: usize>(self, _: S) -> usize {
        panel_rows::<S, VECTORS>()
    }
}

struct Widened<'a> {
    words: usize,
    width: usize,
    left: &'a [f32],
    right: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Widened<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        run_in_registers!(self, simd)
    }
}

impl Widened<'_> {
    #[inline(always)]
    fn run<S: Simd, const GROUP: usize, const VECTORS: usize>(self, simd: S) {
        let Self {
            words,
            width,
            left,
            right,
            sums,
        } = self;
        let stride = sums.len() / ROWS;
        for first in (0..words).step_by(DEPTH) {
            let depth = DEPTH.min(words - first);
            for (panel, right) in right.chunks_exact(words * width).enumerate() {
                rows_by_panel::<S, GROUP, VECTORS>(
                    simd,
                    (&left[first..first + ROWS * (words + APART)], words + APART),
                    depth,
                    lines::<S, VECTORS>(&right[first * width..][..depth * width]),
                    #[inline(always)]
                    |row, products| {
                        let sums = &mut sums[row * stride + panel * width..][..width];
                        let sums = &mut lines_mut::<S, VECTORS>(sums)[0];
                        for c in 0..VECTORS {
                            sums[c] = simd.add_f32s(sums[c], products[c]);
                        }
                    },
                );
            }
        }
    }
}
