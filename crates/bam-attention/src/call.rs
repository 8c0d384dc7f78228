//! A call that was checked: what `attend` hands to an implementation besides tensors.

use crate::position::Positions;
use crate::skipping::{KeyNorms, SkipLog};
use crate::{Documents, Instructions, Skipping, TemperatureScope};
use std::sync::Arc;

/// Everything about a call that is not differentiable. Knows no tensor.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub positions: Positions,
    pub documents: Option<Arc<Documents>>,
    /// Query heads that share one key head.
    pub group: usize,
    /// `1/√D`.
    pub content_scale: f64,
    pub temperature_scope: Option<TemperatureScope>,
    pub skipping: Skipping,
    pub key_norms: Option<Arc<KeyNorms>>,
    pub skip_log: Option<Arc<SkipLog>>,
    pub instructions: Instructions,
}

impl Call {
    /// Whether a query is padding: its row is not to be read and sees nothing.
    pub fn is_padding_query(&self, batch: usize, row: usize) -> bool {
        let documents = self.documents.as_deref();
        documents.is_some_and(|d| Documents::is_padding(d.query_ids(batch)[row]))
    }

    /// Whether a key is padding: neither it nor its value is to be read.
    pub fn is_padding_key(&self, batch: usize, key: usize) -> bool {
        let documents = self.documents.as_deref();
        documents.is_some_and(|d| Documents::is_padding(d.key_ids(batch)[key]))
    }
}
