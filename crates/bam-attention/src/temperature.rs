//! Scalable softmax: a temperature per head and row that grows with the keys in sight.

use crate::AttentionError;
use crate::attend::Options;
use crate::mask::visible_counts;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// What the temperature multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemperatureScope {
    /// `τ·(q·k/√D + ln w)`: likelihood and prior, the reference's default ("prior scaled").
    LikelihoodAndPrior,
    /// `τ·q·k/√D + ln w`: the likelihood only ("content scaled").
    Likelihood,
}

/// A factor per batch row, head and query on the logits.
#[derive(Clone, Debug)]
pub struct Temperature {
    /// `[batch or 1, heads, queries]`.
    pub values: Tensor<3>,
    /// What it multiplies.
    pub scope: TemperatureScope,
}

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
    let positions = options.positions(queries, keys);
    let documents = options.documents.as_deref();
    if let Some(documents) = documents {
        let (batch, got_queries, got_keys) = documents.dims();
        if (got_queries, got_keys) != (queries, keys) {
            return Err(AttentionError::Shape {
                what: "documents (queries, keys)",
                expected: format!("[{batch}, {queries}] and [{batch}, {keys}]"),
                got: format!("[{batch}, {got_queries}] and [{batch}, {got_keys}]"),
            });
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
