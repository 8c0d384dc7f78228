//! Matrix units: `bf16` or `f16` products of 16 × 8 × 16 numbers an instruction, summed in `f32`
//! (`mma.sync`, through CubeCL's `MmaDefinition`; CUDA, compute capability 8.0 and later).
//!
//! A plane of 32 units owns 16 rows of a block. Of a tile's scores, as of the output, the unit with
//! `lane = 4·g + l` holds the rows `g` and `g + 8` and the columns `8·n + 2·l` and `8·n + 2·l + 1`:
//! that is where the instruction leaves its sums (PTX ISA, "matrix fragments for mma.m16n8k16"). Weights are
//! the left operand of the next product as they stand, two tiles of 8 columns being its 16: softmax never
//! leaves the registers. Numbers on the way into a product are rounded to its type.

use super::{Span, Units, vector};
use crate::fused::cube::tiling::{LINE, Tiling};
use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::prelude::*;
use std::marker::PhantomData;

type Line<A> = Vector<A, Const<LINE>>;
type Pair<A> = Vector<A, Const<2>>;

/// Products of numbers of type `A`.
pub(crate) struct Mma<A>(PhantomData<A>);

/// Shared memory of a cube: rows of lines, a line apart so that neighbours meet different banks.
#[derive(CubeType)]
pub(crate) struct Memory<A: Float> {
    kept: Sequence<Shared<[Line<A>]>>,
    brought: Sequence<Shared<[Line<A>]>>,
    fragment: Shared<[f32]>,
}

#[cube]
impl<A: Float> Units for Mma<A> {
    type Memory = Memory<A>;

    fn memory(#[comptime] t: Tiling) -> Memory<A> {
        let mut kept = Sequence::new();
        let mut brought = Sequence::new();
        #[unroll]
        for _ in 0..t.kept {
            kept.push(Shared::<[Line<A>]>::new_slice(comptime!(
                t.rows * t.line_pitch()
            )));
        }
        #[unroll]
        for _ in 0..2usize {
            brought.push(Shared::<[Line<A>]>::new_slice(comptime!(
                t.columns * t.line_pitch()
            )));
        }
        Memory::<A> {
            kept,
            brought,
            fragment: Shared::<[f32]>::new_slice(comptime!(t.laid_out())),
        }
    }

    fn row(i: usize, #[comptime] _t: Tiling) -> usize {
        UNIT_POS as usize / 32 * 16 + UNIT_POS as usize % 32 / 4 + i * 8
    }

    fn column(j: usize, #[comptime] _t: Tiling) -> usize {
        j / 2 * 8 + UNIT_POS as usize % 4 * 2 + j % 2
    }

    fn leads(#[comptime] _t: Tiling) -> bool {
        UNIT_POS % 4 == 0
    }

    fn keep<F: Float, N: Size>(
        from: &Tensor<Vector<F, N>>,
        span: &Span,
        #[comptime] place: usize,
        memory: &mut Memory<A>,
        #[comptime] t: Tiling,
    ) {
        load::<A, F, N>(from, span, &mut memory.kept[place], t.rows, t);
    }

    fn ready() {
        sync_cube();
    }

    fn bring<F: Float, N: Size>(
        from: &Tensor<Vector<F, N>>,
        span: &Span,
        #[comptime] place: usize,
        memory: &mut Memory<A>,
        #[comptime] t: Tiling,
    ) {
        load::<A, F, N>(from, span, &mut memory.brought[place], t.columns, t);
    }

    fn products<F: Float, N: Size>(
        _block: &Tensor<Vector<F, N>>,
        _of_block: &Span,
        _tile: &Tensor<Vector<F, N>>,
        _of_tile: &Span,
        #[comptime] place: usize,
        memory: &mut Memory<A>,
        sums: &mut Array<f32>,
        #[comptime] t: Tiling,
    ) {
        let def = MmaDefinition::<A, A, f32>::new(16usize, 8usize, 16usize);
        let columns = comptime!(t.columns_held());
        let pitch = comptime!(t.line_pitch());
        let (matrix, line) = address();
        #[unroll]
        for i in 0..comptime!(2 * columns) {
            sums[i] = 0.0f32;
        }
        let block = &memory.kept[place];
        let tile = &memory.brought[place];
        // Not written out: it would keep the addresses of every step in registers.
        for k in 0..comptime!(t.width / 16) {
            // Matrices in the order of the registers: rows, rows + 8, then both 8 columns on.
            let row = UNIT_POS as usize / 32 * 16 + matrix % 2 * 8 + line;
            let at = row * pitch + k * 2 + matrix / 2;
            let a = def.load_matrix::<Line<A>, Const<2>>(
                &block[at..at + 1],
                MatrixIdent::A,
                4usize,
                false,
            );
            #[unroll]
            for n in 0..comptime!(t.columns / 16) {
                // Two tiles of 8 keys, the two halves of 16 numbers each.
                let key = n * 16 + matrix / 2 * 8 + line;
                let at = key * pitch + k * 2 + matrix % 2;
                let b = def.load_matrix::<Line<A>, Const<2>>(
                    &tile[at..at + 1],
                    MatrixIdent::B,
                    4usize,
                    false,
                );
                #[unroll]
                for half in 0..2usize {
                    let j = comptime!(n * 4 + half * 2);
                    let mut of_b = Array::<Pair<A>>::new(2usize);
                    of_b[0] = b[comptime!(half * 2)];
                    of_b[1] = b[comptime!(half * 2 + 1)];
                    let mut c = Array::<Pair<f32>>::new(2usize);
                    c[0] = pair(sums[j], sums[j + 1]);
                    c[1] = pair(sums[columns + j], sums[columns + j + 1]);
                    let d = def.execute(&a, &of_b, &c);
                    sums[j] = d[0].extract(0usize);
                    sums[j + 1] = d[0].extract(1usize);
                    sums[columns + j] = d[1].extract(0usize);
                    sums[columns + j + 1] = d[1].extract(1usize);
                }
            }
        }
    }

    fn mix<F: Float, N: Size>(
        fragment: &Array<f32>,
        _tile: &Tensor<Vector<F, N>>,
        _of_tile: &Span,
        #[comptime] place: usize,
        keep: &Array<f32>,
        out: &mut Array<f32>,
        memory: &mut Memory<A>,
        #[comptime] t: Tiling,
    ) {
        let def = MmaDefinition::<A, A, f32>::new(16usize, 8usize, 16usize);
        let columns = comptime!(t.columns_held());
        let outs = comptime!(t.out_held());
        let pitch = comptime!(t.line_pitch());
        let steps = comptime!(t.columns / 16);
        let (matrix, line) = address();
        let tile = &memory.brought[place];
        let mut a = Array::<Pair<A>>::new(comptime!(steps * 4));
        #[unroll]
        for k in 0..steps {
            #[unroll]
            for half in 0..2usize {
                let j = comptime!(k * 4 + half * 2);
                a[comptime!(k * 4 + half * 2)] = narrow::<A>(fragment[j], fragment[j + 1]);
                a[comptime!(k * 4 + half * 2 + 1)] =
                    narrow::<A>(fragment[columns + j], fragment[columns + j + 1]);
            }
        }
        #[unroll]
        for e in 0..comptime!(t.width / 16) {
            let mut c = Array::<Pair<f32>>::new(4usize);
            #[unroll]
            for i in 0..4usize {
                c[i] = pair(0.0f32, 0.0f32);
            }
            #[unroll]
            for k in 0..steps {
                // Turned on the way: a register holds one column of two neighbouring keys.
                let key = k * 16 + matrix % 2 * 8 + line;
                let at = key * pitch + e * 2 + matrix / 2;
                let b = def.load_matrix::<Line<A>, Const<2>>(
                    &tile[at..at + 1],
                    MatrixIdent::B,
                    4usize,
                    true,
                );
                let mut of_a = Array::<Pair<A>>::new(4usize);
                #[unroll]
                for i in 0..4usize {
                    of_a[i] = a[comptime!(k * 4 + i)];
                }
                #[unroll]
                for half in 0..2usize {
                    let mut of_b = Array::<Pair<A>>::new(2usize);
                    of_b[0] = b[comptime!(half * 2)];
                    of_b[1] = b[comptime!(half * 2 + 1)];
                    let mut of_c = Array::<Pair<f32>>::new(2usize);
                    of_c[0] = c[comptime!(half * 2)];
                    of_c[1] = c[comptime!(half * 2 + 1)];
                    let d = def.execute(&of_a, &of_b, &of_c);
                    c[comptime!(half * 2)] = d[0];
                    c[comptime!(half * 2 + 1)] = d[1];
                }
            }
            #[unroll]
            for half in 0..2usize {
                #[unroll]
                for i in 0..2usize {
                    let at = comptime!(i * outs + e * 4 + half * 2);
                    let d = c[comptime!(half * 2 + i)];
                    out[at] = out[at] * keep[i] + d.extract(0usize);
                    out[at + 1] = out[at + 1] * keep[i] + d.extract(1usize);
                }
            }
        }
    }

    fn lay_out(fragment: &Array<f32>, memory: &mut Memory<A>, #[comptime] t: Tiling) {
        sync_cube();
        #[unroll]
        for i in 0..2usize {
            #[unroll]
            for j in 0..comptime!(t.columns_held()) {
                let at = Self::column(j, t) * comptime!(t.row_pitch()) + Self::row(i, t);
                memory.fragment[at] = fragment[comptime!(i * t.columns_held() + j)];
            }
        }
        sync_cube();
    }

    fn laid_out(row: usize, column: usize, memory: &Memory<A>, #[comptime] t: Tiling) -> f32 {
        memory.fragment[column * comptime!(t.row_pitch()) + row]
    }

    fn largest_across(values: &mut Array<f32>, _memory: &mut Memory<A>, #[comptime] _t: Tiling) {
        #[unroll]
        for i in 0..2usize {
            let x = max(values[i], plane_shuffle_xor(values[i], 1u32));
            values[i] = max(x, plane_shuffle_xor(x, 2u32));
        }
    }

    fn sum_across(values: &mut Array<f32>, _memory: &mut Memory<A>, #[comptime] _t: Tiling) {
        #[unroll]
        for i in 0..2usize {
            let x = values[i] + plane_shuffle_xor(values[i], 1u32);
            values[i] = x + plane_shuffle_xor(x, 2u32);
        }
    }
}

/// The matrix of 8 × 8, of four, and the row in it that this unit gives the address of.
#[cube]
fn address() -> (usize, usize) {
    (UNIT_POS as usize % 32 / 8, UNIT_POS as usize % 8)
}

/// Rows into shared memory, line by line: zeros beyond the last row and the head dimension.
#[cube]
fn load<A: Float, F: Float, N: Size>(
    from: &Tensor<Vector<F, N>>,
    span: &Span,
    to: &mut Shared<[Line<A>]>,
    #[comptime] count: usize,
    #[comptime] t: Tiling,
) {
    let per_row = comptime!(t.width / LINE);
    let mut e = UNIT_POS as usize;
    while e < comptime!(count * per_row) {
        let r = e / per_row;
        let c = e % per_row * LINE;
        to[r * comptime!(t.line_pitch()) + e % per_row] =
            Line::<A>::cast_from(vector::<F, N>(from, span, r, c));
        e += comptime!(t.units());
    }
}

#[cube]
fn pair(first: f32, second: f32) -> Pair<f32> {
    let mut pair = Pair::<f32>::new(first);
    pair.insert(1usize, second);
    pair
}

/// Two numbers rounded to the type of a product.
#[cube]
fn narrow<A: Float>(first: f32, second: f32) -> Pair<A> {
    Pair::<A>::cast_from(pair(first, second))
}
