//! Scalable softmax: a temperature per head and row that grows with the keys in sight.

use crate::error::AttentionError;
use crate::options::Options;
use bam_kernel::{KernelError, visible_counts};
use burn::tensor::{Device, Tensor, TensorData};

/// Scalable softmax (arXiv 2501.19399): `τ_{h,i} = s_h · ln n_i`, `n_i` the number of keys that
/// row `i` sees, itself included, inside its own document. A row of one key has `τ = 0`, weight 1.
///
/// # Shapes
/// - `scale`: `[heads]`, the learned `s_h`
/// - result: `[batch or 1, heads, queries]`; 1 where no documents tell the rows apart
///
/// # Errors
/// If `options` carries documents of another size.
pub fn scalable_softmax(
    scale: Tensor<1>,
    queries: usize,
    keys: usize,
    options: &Options,
) -> Result<Tensor<3>, AttentionError> {
    let positions = options.call().positions(queries, keys);
    let documents = options.documents.as_deref();
    if let Some(documents) = documents {
        let (batch, got_queries, got_keys) = documents.dims();
        if (got_queries, got_keys) != (queries, keys) {
            return Err(KernelError::Shape {
                what: "documents (queries, keys)",
                expected: format!("[{batch}, {queries}] and [{batch}, {keys}]"),
                got: format!("[{batch}, {got_queries}] and [{batch}, {got_keys}]"),
            }
            .into());
        }
    }
    let batch = documents.map_or(1, |documents| documents.dims().0);
    let ln_counts: Vec<f32> = visible_counts(&positions, batch, documents)
        .into_iter()
        .map(|n| (n.max(1) as f32).ln())
        .collect();
    let device: Device = scale.device();
    let ln_counts_bq = Tensor::<2>::from_data(
        TensorData::new(ln_counts, [batch, queries]),
        (&device, scale.dtype()),
    );
    let [heads] = scale.dims();
    Ok(scale.reshape([1, heads, 1]) * ln_counts_bq.reshape([batch, 1, queries]))
}
