//! The tile registers and the product in them.

use super::permission::granted;
use std::arch::asm;
use std::marker::PhantomData;

/// Rows of a tile, columns of its sums, and pairs in one of its rows.
pub(crate) const SIDE: usize = 16;

/// The tile registers of this thread, configured as eight whole tiles; released when dropped.
///
/// At most one at a time on a thread: the configuration is the thread's.
pub(crate) struct Tiles {
    /// A configuration can't go to another thread.
    of_thread: PhantomData<*const ()>,
}

#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// `None` where AMX is not granted.
    pub(crate) fn new() -> Option<Self> {
        if !granted() {
            return None;
        }
        let mut configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes_per_row: [0; 16],
            rows: [0; 16],
        };
        configuration.bytes_per_row[..8].fill(4 * SIDE as u16);
        configuration.rows[..8].fill(SIDE as u8);
        // SAFETY: AMX is granted, and the operand is a valid configuration of 64 bytes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly));
        }
        Some(Self {
            of_thread: PhantomData,
        })
    }

    /// `out[row][column] = Σ_t left[row][t] · right[t][column]`, where each of left and right is a
    /// pair of `bf16`, the first in the low half, and `·` the sum of the two products.
    ///
    /// # Shapes
    /// - `left`: `[rows, stride]`, of which `depth` columns are read
    /// - `right`: `[depth, width]`
    /// - `out`: `[rows, stride]`, of which `width` columns are written
    /// - rows, depth and width are multiples of 16
    pub(crate) fn product(
        &self,
        (left, left_stride): (&[u32], usize),
        [rows, depth, width]: [usize; 3],
        right: &[u32],
        (out, out_stride): (&mut [f32], usize),
    ) {
        let whole = |n: usize| n.is_multiple_of(SIDE) && n > 0;
        assert!(whole(rows) && whole(depth) && whole(width) && width <= out_stride);
        assert!(out.len() >= (rows - 1) * out_stride + width && right.len() == depth * width);
        assert!(left.len() >= (rows - 1) * left_stride + depth);
        for row in (0..rows).step_by(SIDE) {
            let left = &left[row * left_stride..];
            let out = &mut out[row * out_stride..];
            let mut column = 0;
            while column < width {
                // SAFETY: the tiles are configured. With the lengths checked above, 16 rows of
                // `depth` pairs lie behind `left`, `depth` rows behind `right`, and 16 rows of
                // `out` behind its pointer; each reaches 16 or 48 columns from `column` on.
                unsafe {
                    let left = (left.as_ptr(), left_stride);
                    let right = (right.as_ptr().add(column), width);
                    let out = (out.as_mut_ptr().add(column), out_stride);
                    column += match width - column {
                        48.. => strip_of_three(left, depth, right, out),
                        _ => strip_of_one(left, depth, right, out),
                    };
                }
            }
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: a `Tiles` exists only where AMX is granted.
        unsafe { asm!("tilerelease", options(nomem, nostack)) }
    }
}

/// 16 rows by 48 columns, one tile of the left for three of the right; the columns done.
#[inline(always)]
unsafe fn strip_of_three(
    (left, left_stride): (*const u32, usize),
    depth: usize,
    (right, width): (*const u32, usize),
    (out, out_stride): (*mut f32, usize),
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "2:",
            "tileloadd tmm3, [{left} + {stride}*1]",
            "tileloadd tmm4, [{right} + {width}*1]",
            "tileloadd tmm5, [{right} + {width}*1 + 64]",
            "tileloadd tmm6, [{right} + {width}*1 + 128]",
            "tdpbf16ps tmm0, tmm3, tmm4",
            "tdpbf16ps tmm1, tmm3, tmm5",
            "tdpbf16ps tmm2, tmm3, tmm6",
            "add {left}, 64",
            "add {right}, {step}",
            "dec {count}",
            "jnz 2b",
            "tilestored [{out} + {out_stride}*1], tmm0",
            "tilestored [{out} + {out_stride}*1 + 64], tmm1",
            "tilestored [{out} + {out_stride}*1 + 128], tmm2",
            left = inout(reg) left => _,
            right = inout(reg) right => _,
            count = inout(reg) depth / SIDE => _,
            stride = in(reg) 4 * left_stride,
            width = in(reg) 4 * width,
            out_stride = in(reg) 4 * out_stride,
            step = in(reg) 4 * SIDE * width,
            out = in(reg) out,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _,
            options(nostack),
        );
    }
    3 * SIDE
}

/// 16 rows by 16 columns; the columns done.
#[inline(always)]
unsafe fn strip_of_one(
    (left, left_stride): (*const u32, usize),
    depth: usize,
    (right, width): (*const u32, usize),
    (out, out_stride): (*mut f32, usize),
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilezero tmm0",
            "2:",
            "tileloadd tmm3, [{left} + {stride}*1]",
            "tileloadd tmm4, [{right} + {width}*1]",
            "tdpbf16ps tmm0, tmm3, tmm4",
            "add {left}, 64",
            "add {right}, {step}",
            "dec {count}",
            "jnz 2b",
            "tilestored [{out} + {out_stride}*1], tmm0",
            left = inout(reg) left => _,
            right = inout(reg) right => _,
            count = inout(reg) depth / SIDE => _,
            stride = in(reg) 4 * left_stride,
            width = in(reg) 4 * width,
            out_stride = in(reg) 4 * out_stride,
            step = in(reg) 4 * SIDE * width,
            out = in(reg) out,
            out("tmm0") _, out("tmm3") _, out("tmm4") _,
            options(nostack),
        );
    }
    SIDE
}
