//! A factor on the logits of each row.

use bam_kernel::TemperatureScope;
use burn::tensor::Tensor;

/// A factor per batch row, head and query on the logits.
#[derive(Clone, Debug)]
pub struct Temperature {
    /// `[batch or 1, heads, queries]`.
    pub values: Tensor<3>,
    /// The terms that it multiplies.
    pub scope: TemperatureScope,
}
