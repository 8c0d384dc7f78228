//! Whether the processor has AMX and the system grants it.

use std::sync::OnceLock;
#[cfg(test)]
use std::sync::atomic::{AtomicBool, Ordering};

/// Set where a test emulates the tiles.
#[cfg(test)]
pub(super) static EMULATED: AtomicBool = AtomicBool::new(false);

/// Whether this process may use AMX on `bf16`. The kernel is asked once.
pub(crate) fn granted() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    #[cfg(test)]
    if EMULATED.load(Ordering::Acquire) {
        return true;
    }
    *GRANTED.get_or_init(request)
}

/// Whether the processor has AMX with `bf16`, the system saves it, and the kernel grants it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    /// `arch_prctl`: asks for a component of the processor's state, here the tiles' data.
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
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
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
        let states = u64::from(high) << 32 | u64::from(low);
        states & TILE_STATES == TILE_STATES
            && libc::syscall(
                libc::SYS_arch_prctl,
                ARCH_REQ_XCOMP_PERM,
                XFEATURE_XTILEDATA,
            ) == 0
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn request() -> bool {
    false
}
