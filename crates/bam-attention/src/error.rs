//! Errors of the operation and of its modules.

use bam_kernel::KernelError;

/// An input or a configuration that does not fit: what it is, what was expected, what was given.
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
        /// Its abilities.
        expected: &'static str,
        /// The request.
        got: String,
    },
    /// A number or a setting that does not fit the others.
    #[error("{what}: expected {expected}, got {got}")]
    Value {
        /// The number or setting.
        what: &'static str,
        /// The values that would fit.
        expected: String,
        /// The value that was given.
        got: String,
    },
    /// A device that is not there, or failed.
    #[error("device {device}: {reason}")]
    Device {
        /// Its name.
        device: String,
        /// The reason.
        reason: String,
    },
    /// A prior that a head can't have, or parameters that are none.
    #[error(transparent)]
    Prior(#[from] bam_prior::Error),
}

/// A number or a setting that does not fit the others.
pub(crate) fn wrong<T>(
    what: &'static str,
    expected: impl ToString,
    got: impl ToString,
) -> Result<T, AttentionError> {
    let (expected, got) = (expected.to_string(), got.to_string());
    Err(AttentionError::Value {
        what,
        expected,
        got,
    })
}
