//! Tokens that are none, as Burn says it, and documents that are packed into a row.

use crate::{AttentionError, Documents};
use bam_kernel::KernelError;
use burn::tensor::{Bool, Tensor, TensorData};
use std::sync::Arc;

/// Everything that hides keys besides position: padding, or the boundaries of packed documents.
///
/// Padding may stand anywhere. No query sees it, what its keys and values hold is not read, and its own
/// rows give zeros (before an output projection with its bias). Lags count positions: tokens keep the
/// same lags to each other whether padding is on their left or on their right.
///
/// Cheap to clone; the tensor is read once, here, and not again in every layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask(pub(super) Arc<Documents>);

impl Mask {
    /// Rows with padding, where queries and keys are the same tokens.
    ///
    /// # Shapes
    /// - `padding`: `[batch, length]`, true where there is **no** token, as in
    ///   [`burn::nn::attention::MhaInput::mask_pad`]
    ///
    /// # Errors
    /// Without rows.
    pub fn padding(padding: Tensor<2, Bool>) -> Result<Self, AttentionError> {
        let [batch, _] = padding.dims();
        Ok(Documents::new(batch, ids(padding))?.into())
    }

    /// Rows with padding that look at a memory with padding of its own, for cross-attention.
    ///
    /// # Shapes
    /// - `queries`: `[batch, queries]`, `memory`: `[batch, keys]`; true where there is no token
    ///
    /// # Errors
    /// If the batches differ.
    pub fn cross_padding(
        queries: Tensor<2, Bool>,
        memory: Tensor<2, Bool>,
    ) -> Result<Self, AttentionError> {
        let [batch, _] = queries.dims();
        let [got, keys] = memory.dims();
        if got != batch {
            return Err(KernelError::Shape {
                what: "padding of the memory",
                expected: format!("[{batch}, {keys}]"),
                got: format!("[{got}, {keys}]"),
            }
            .into());
        }
        Ok(Documents::with_cache(batch, ids(queries), ids(memory))?.into())
    }
}

impl From<Documents> for Mask {
    fn from(documents: Documents) -> Self {
        Self(Arc::new(documents))
    }
}

impl From<Arc<Documents>> for Mask {
    fn from(documents: Arc<Documents>) -> Self {
        Self(documents)
    }
}

/// Logarithms of the forget gates of the last keys that `documents` knows, `[batch, heads, keys]`: 0 at padding, which forgets
/// nothing. Documents that do not fit are refused by attention.
pub(super) fn forgetting_tokens(ln_f: Tensor<3>, documents: Option<&Documents>) -> Tensor<3> {
    let [batch, _, keys] = ln_f.dims();
    let fits = |of: &&Documents| of.dims().0 == batch && of.dims().2 >= keys;
    let Some(documents) = documents.filter(fits) else {
        return ln_f;
    };
    let last = |row| &documents.key_ids(row)[documents.dims().2 - keys..];
    let padding = (0..batch).flat_map(last);
    let padding: Vec<bool> = padding.map(|id| Documents::is_padding(*id)).collect();
    if !padding.contains(&true) {
        return ln_f;
    }
    let padding = TensorData::new(padding, [batch, 1, keys]);
    let padding = Tensor::<3, Bool>::from_data(padding, &ln_f.device());
    ln_f.mask_fill(padding, 0.0)
}

/// All tokens are one document.
fn ids(padding: Tensor<2, Bool>) -> Vec<i32> {
    let padding = padding.into_data();
    let ids = padding.iter::<bool>().map(|none| match none {
        true => Documents::PADDING,
        false => 0,
    });
    ids.collect()
}
