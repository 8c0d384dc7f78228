//! AMX: matrix products of `bf16` pairs in the processor's tiles, summed in `f32`.
//!
//! A tile is 16 rows of 64 bytes. One instruction multiplies 16 rows of 16 pairs by 16 pairs of 16
//! columns and adds 16 × 16 sums. The registers are large, so a Linux process has to ask for them.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.

pub(crate) use tiles::Tiles;

/// Whether this process may use AMX on `bf16`. The kernel is asked once.
pub(crate) fn granted() -> bool {
    static GRANTED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    #[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
    if emulator::is_installed() {
        return true;
    }
    *GRANTED.get_or_init(tiles::request)
}

/// Rows of a tile, columns of its sums, and pairs in one of its rows.
pub(crate) const SIDE: usize = 16;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles {
    use super::SIDE;
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    use std::marker::PhantomData;

    /// `arch_prctl`: asks for a component of the processor's state, here the tiles' data.
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;

    /// Whether the processor has AMX with `bf16`, the system saves it, and the kernel grants it.
    pub(super) fn request() -> bool {
        const OSXSAVE: u32 = 1 << 27;
        const AMX_BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
        const TILE_STATES: u64 = 0b11 << 17;
        let has = __cpuid(0).eax >= 7
            && __cpuid(1).ecx & OSXSAVE != 0
            && __cpuid_count(7, 0).edx & AMX_BF16_AND_TILE == AMX_BF16_AND_TILE;
        // SAFETY: `xgetbv` of register 0 is there wherever OSXSAVE is; the system call takes two
        // numbers and touches no memory of ours.
        has && unsafe {
            let (low, high): (u32, u32);
            asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
            let states = u64::from(high) << 32 | u64::from(low);
            states & TILE_STATES == TILE_STATES
                && libc::syscall(
                    libc::SYS_arch_prctl,
                    ARCH_REQ_XCOMP_PERM,
                    XFEATURE_XTILEDATA,
                ) == 0
        }
    }

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
            if !super::granted() {
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
        /// - `left`: `[rows, stride]`, of which `depth` columns are read; rows and depth multiples of 16
        /// - `right`: `[depth, width]`; `out`: `[rows, width]`; width a multiple of 16
        pub(crate) fn product(
            &self,
            (left, stride): (&[u32], usize),
            depth: usize,
            right: &[u32],
            width: usize,
            out: &mut [f32],
        ) {
            let rows = out.len() / width;
            let whole = |n: usize| n.is_multiple_of(SIDE) && n > 0;
            assert!(whole(rows) && whole(depth) && whole(width) && out.len() == rows * width);
            assert!(left.len() >= (rows - 1) * stride + depth && right.len() == depth * width);
            for (block, out) in out.chunks_exact_mut(SIDE * width).enumerate() {
                let left = &left[block * SIDE * stride..];
                let mut column = 0;
                while column < width {
                    // SAFETY: the tiles are configured. With the lengths checked above, 16 rows of
                    // `depth` pairs lie behind `left`, `depth` rows behind `right`, and 16 rows of
                    // `out` behind its pointer; each reaches 16 or 48 columns from `column` on.
                    unsafe {
                        let right = right.as_ptr().add(column);
                        let out = out.as_mut_ptr().add(column);
                        column += match width - column {
                            48.. => strip_of_three(left.as_ptr(), stride, depth, right, width, out),
                            _ => strip_of_one(left.as_ptr(), stride, depth, right, width, out),
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
        left: *const u32,
        stride: usize,
        depth: usize,
        right: *const u32,
        width: usize,
        out: *mut f32,
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
                "tilestored [{out} + {width}*1], tmm0",
                "tilestored [{out} + {width}*1 + 64], tmm1",
                "tilestored [{out} + {width}*1 + 128], tmm2",
                left = inout(reg) left => _,
                right = inout(reg) right => _,
                count = inout(reg) depth / SIDE => _,
                stride = in(reg) 4 * stride,
                width = in(reg) 4 * width,
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
        left: *const u32,
        stride: usize,
        depth: usize,
        right: *const u32,
        width: usize,
        out: *mut f32,
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
                "tilestored [{out} + {width}*1], tmm0",
                left = inout(reg) left => _,
                right = inout(reg) right => _,
                count = inout(reg) depth / SIDE => _,
                stride = in(reg) 4 * stride,
                width = in(reg) 4 * width,
                step = in(reg) 4 * SIDE * width,
                out = in(reg) out,
                out("tmm0") _, out("tmm3") _, out("tmm4") _,
                options(nostack),
            );
        }
        SIDE
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod tiles {
    pub(super) fn request() -> bool {
        false
    }

    /// There are none here.
    pub(crate) enum Tiles {}

    impl Tiles {
        pub(crate) fn new() -> Option<Self> {
            None
        }

        pub(crate) fn product(
            &self,
            _: (&[u32], usize),
            _: usize,
            _: &[u32],
            _: usize,
            _: &mut [f32],
        ) {
            match *self {}
        }
    }
}

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod emulator;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;
