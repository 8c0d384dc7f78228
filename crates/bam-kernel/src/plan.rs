//! A call: how it is asked for, and how it is once its shapes are known to fit.

use crate::documents::Documents;
use crate::error::KernelError;
use crate::instructions::Instructions;
use crate::key_norms::KeyNorms;
use crate::operands::Shapes;
use crate::position::{Lags, Positions, Visibility};
use crate::skipping::{SkipLog, Skipping};
use std::sync::Arc;

/// Everything about a call besides its numbers.
#[derive(Clone, Debug)]
pub struct Call {
    /// Position of the first query among the keys: the tokens already in the cache.
    pub offset: usize,
    /// The side of its own position that a row may look to.
    pub visibility: Visibility,
    /// Keys at this distance and beyond are hidden.
    pub window: Option<usize>,
    /// Documents packed into a row, and padding.
    pub documents: Option<Arc<Documents>>,
    /// The keys that may be left unread.
    pub skipping: Skipping,
    /// Norms of the keys that are known already, for skipping.
    pub key_norms: Option<Arc<KeyNorms>>,
    /// The place where what was skipped is written down.
    pub skip_log: Option<Arc<SkipLog>>,
    /// The processor's instructions to use.
    pub instructions: Instructions,
}

impl Call {
    /// Causal attention from the first key on, skipping what can't change a bit.
    #[must_use]
    pub fn causal() -> Self {
        Self {
            offset: 0,
            visibility: Visibility::Causal,
            window: None,
            documents: None,
            skipping: Skipping::Exact,
            key_norms: None,
            skip_log: None,
            instructions: Instructions::detect(),
        }
    }

    /// Attention in both directions.
    #[must_use]
    pub fn full() -> Self {
        Self {
            visibility: Visibility::Full,
            ..Self::causal()
        }
    }

    /// The positions of so many queries among so many keys.
    #[must_use]
    pub fn positions(&self, queries: usize, keys: usize) -> Positions {
        Positions {
            queries,
            keys,
            offset: self.offset,
            visibility: self.visibility,
            window: self.window,
        }
    }
}

/// A call whose shapes fit: checked once, run as often as wanted.
#[derive(Clone, Debug)]
pub struct Plan {
    call: Call,
    shapes: Shapes,
    positions: Positions,
}

impl Plan {
    /// Checks that the shapes fit each other and the call.
    ///
    /// # Errors
    /// Shapes that don't fit, lags that are missing, an epsilon that is no share, norms of other keys,
    /// and instructions that this processor lacks. Nothing is ignored.
    pub fn new(call: Call, shapes: Shapes) -> Result<Self, KernelError> {
        let [batch, query_heads, queries, dim] = shapes.q;
        let [_, key_heads, keys, _] = shapes.k;
        for (what, size) in [
            ("batch", batch),
            ("query heads", query_heads),
            ("key heads", key_heads),
            ("queries", queries),
            ("keys", keys),
            ("head dimension", dim),
        ] {
            if size == 0 {
                return Err(KernelError::Empty { what });
            }
        }
        let of_keys = [batch, key_heads, keys, dim];
        KernelError::unless_shaped("k", shapes.k, of_keys)?;
        KernelError::unless_shaped("v", shapes.v, of_keys)?;
        if query_heads % key_heads != 0 {
            return Err(KernelError::HeadGroups {
                query_heads,
                key_heads,
            });
        }
        let lags = shapes.lags;
        let of_prior = [shapes.prior_heads, lags.count()];
        KernelError::unless_shaped("log-prior", of_prior, [query_heads, lags.count()])?;
        let positions = call.positions(queries, keys);
        let (first, last) = positions.needed_lags();
        if first < lags.first() || last > lags.last() {
            return Err(KernelError::Lags {
                first,
                last,
                got_first: lags.first(),
                got_last: lags.last(),
            });
        }
        if call.visibility == Visibility::Causal && call.offset + queries > keys {
            return Err(KernelError::Shape {
                what: "keys of causal attention",
                expected: format!("at least offset + queries = {}", call.offset + queries),
                got: keys.to_string(),
            });
        }
        if let Some(documents) = &call.documents {
            let (b, i, j) = documents.dims();
            let what = "documents (batch, queries, keys)";
            KernelError::unless_shaped(what, [b, i, j], [batch, queries, keys])?;
        }
        if let Some(got) = shapes.temperature {
            let rows = if got[0] == 1 { 1 } else { batch };
            KernelError::unless_shaped("temperature", got, [rows, query_heads, queries])?;
        }
        if let Some(got) = shapes.key_prior {
            let heads = if got[1] == key_heads {
                key_heads
            } else {
                query_heads
            };
            KernelError::unless_shaped("prior over keys", got, [batch, heads, keys])?;
        }
        call.skipping.check()?;
        if let Some(norms) = &call.key_norms {
            norms.check(batch, key_heads, keys)?;
        }
        call.instructions.check()?;
        Ok(Self {
            call,
            shapes,
            positions,
        })
    }

    /// The call as it was asked for.
    #[must_use]
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// The shapes that fit it.
    #[must_use]
    pub fn shapes(&self) -> &Shapes {
        &self.shapes
    }

    /// The positions of queries and keys.
    #[must_use]
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// The lags of the log-weights' columns.
    #[must_use]
    pub fn lags(&self) -> &Lags {
        &self.shapes.lags
    }

    /// The documents, if rows are packed or padded.
    #[must_use]
    pub fn documents(&self) -> Option<&Documents> {
        self.call.documents.as_deref()
    }

    /// Query heads that share one key head.
    #[must_use]
    pub fn group(&self) -> usize {
        self.shapes.q[1] / self.shapes.k[1]
    }

    /// `1/√D`.
    #[must_use]
    pub fn content_scale(&self) -> f64 {
        1.0 / (self.shapes.q[3] as f64).sqrt()
    }

    /// Whether a query is padding: its row is not to be read and sees nothing.
    #[must_use]
    pub fn is_padding_query(&self, batch: usize, row: usize) -> bool {
        let documents = self.documents();
        documents.is_some_and(|d| Documents::is_padding(d.query_ids(batch)[row]))
    }

    /// Whether a key is padding: neither it nor its value is to be read.
    #[must_use]
    pub fn is_padding_key(&self, batch: usize, key: usize) -> bool {
        let documents = self.documents();
        documents.is_some_and(|d| Documents::is_padding(d.key_ids(batch)[key]))
    }
}
