//! Norms of the keys that a cache keeps, from their tensor.

use crate::error::AttentionError;
use bam_kernel::{KeyNorms, Rows};
use burn::tensor::Tensor;

/// Takes into `norms` the keys `k`, which stand from position `start` on: [`KeyNorms::extend`].
///
/// # Shapes
/// - `k`: `[batch, key_heads, length, dim]`
///
/// # Errors
/// If batch or heads are others than before, or keys between those known and `start` are missing.
pub fn extend_key_norms(
    norms: &mut KeyNorms,
    start: usize,
    k: &Tensor<4>,
) -> Result<(), AttentionError> {
    let values = k.clone().inner().into_data().convert::<f32>();
    let values = values.as_slice::<f32>().expect("converted to f32");
    Ok(norms.extend(start, &Rows::new(values, k.dims())?)?)
}
