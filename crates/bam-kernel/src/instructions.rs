//! The processor's vector instructions, to be detected or chosen.

pub(crate) mod amx;

use crate::error::KernelError;
use pulp::Arch;

/// A set of vector instructions. All give the same results up to rounding.
///
/// A program has no reason to choose: [`Instructions::detect`] is the default. Tests and benchmarks
/// choose, so that every path is run wherever it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    /// One number at a time, on any processor.
    Scalar,
    /// AVX2 and FMA, on x86-64.
    Avx2,
    /// AVX-512 (F, BW, CD, DQ, VL), on x86-64.
    Avx512,
    /// NEON, on AArch64.
    Neon,
    /// AMX tiles for the products of `bf16` of many rows, forward and back, AVX-512 for everything else, on
    /// x86-64 under Linux. Rounds what numbers are weighed by to `bf16`.
    Amx,
}

impl Instructions {
    /// All that there are, on whatever processor.
    pub const ALL: [Self; 5] = [
        Self::Scalar,
        Self::Avx2,
        Self::Avx512,
        Self::Neon,
        Self::Amx,
    ];

    /// The best that this processor has and the system grants.
    #[must_use]
    pub fn detect() -> Self {
        match Self::Amx.arch() {
            Some(_) => Self::Amx,
            None => Self::name_of(Arch::new()),
        }
    }

    /// Those that this processor has.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let has = |instructions: &Self| instructions.arch().is_some();
        Self::ALL.into_iter().filter(has).collect()
    }

    pub(crate) fn check(self) -> Result<(), KernelError> {
        match self.arch() {
            Some(_) => Ok(()),
            None => Err(KernelError::Instructions {
                got: format!("{self:?}"),
            }),
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn arch(self) -> Option<Arch> {
        match self {
            Self::Scalar => Some(Arch::Scalar),
            Self::Avx2 => pulp::x86::V3::try_new().map(Arch::V3),
            Self::Avx512 => pulp::x86::V4::try_new().map(Arch::V4),
            Self::Neon => None,
            // Where there is no AVX-512, a test emulates the tiles.
            Self::Amx if amx::permission::granted() => Self::Avx512.arch().or(Self::Avx2.arch()),
            Self::Amx => None,
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn name_of(arch: Arch) -> Self {
        match arch {
            Arch::V4(_) => Self::Avx512,
            Arch::V3(_) => Self::Avx2,
            _ => Self::Scalar,
        }
    }

    #[cfg(target_arch = "aarch64")]
    pub(crate) fn arch(self) -> Option<Arch> {
        match self {
            Self::Scalar => Some(Arch::Scalar),
            Self::Neon => pulp::aarch64::Neon::try_new().map(Arch::Neon),
            Self::Avx2 | Self::Avx512 | Self::Amx => None,
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn name_of(arch: Arch) -> Self {
        match arch {
            Arch::Neon(_) => Self::Neon,
            _ => Self::Scalar,
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(crate) fn arch(self) -> Option<Arch> {
        (self == Self::Scalar).then(Arch::new)
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn name_of(_: Arch) -> Self {
        Self::Scalar
    }
}
