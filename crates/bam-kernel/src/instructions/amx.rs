//! AMX: matrix products of `bf16` pairs in the processor's tiles, summed in `f32`.
//!
//! A tile is 16 rows of 64 bytes. One instruction multiplies 16 rows of 16 pairs by 16 pairs of 16
//! columns and adds 16 × 16 sums. The registers are large, so a Linux process has to ask for them.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod emulator;
pub(crate) mod permission;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;
#[cfg_attr(
    not(all(target_arch = "x86_64", target_os = "linux")),
    path = "amx/absent.rs"
)]
pub(crate) mod tiles;
