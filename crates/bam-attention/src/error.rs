//! What can be wrong with a call of [`attend`](crate::attend).

use bam_kernel::KernelError;

/// An input of the operation that does not fit: what it is, what was expected, what was given.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AttentionError {
    /// Shapes, lags or options that don't fit, whatever computes.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The chosen implementation can't do what was asked. It never falls back by itself.
    #[error("{implementation} attention: expected {expected}, got {got}")]
    Unsupported {
        /// The implementation that was chosen.
        implementation: &'static str,
        /// What it can do.
        expected: &'static str,
        /// What was asked of it.
        got: String,
    },
}
