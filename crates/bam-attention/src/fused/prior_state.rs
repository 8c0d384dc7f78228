//! Backends' knowledge of a prior besides its tensor.

use bam_kernel::PriorRanges;
use std::sync::OnceLock;

/// Found at the first call with a prior and kept with it; each backend has a field of its own.
#[derive(Debug, Default)]
pub(crate) struct PriorState {
    /// On Flex.
    pub ranges: OnceLock<PriorRanges>,
    /// On a GPU.
    #[cfg(feature = "cube")]
    pub cube: OnceLock<burn_cubecl::tensor::CubeTensor>,
}
