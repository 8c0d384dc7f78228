//! Everything about a call besides its tensors, the way to compute it included.

use crate::key_norms::KeyNorms;
use crate::key_prior::KeyPrior;
use crate::temperature::Temperature;
use bam_kernel::{Call, Documents, Instructions, SkipLog, Skipping, Visibility};
use std::sync::Arc;

/// A way to compute the operation. All mean the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
    /// Bayes' rule with every score in memory: any backend, any float type. The oracle.
    Reference,
    /// Streamed over tiles of keys with an online softmax: memory `O(N)`, parallel, the same bits for
    /// any number of threads. On Burn's Flex; `q`, `k` and `v` in `f32` or `bf16`, sums in `f32`.
    Fused,
}

/// Everything about a call besides its tensors.
#[derive(Clone, Debug)]
pub struct Options {
    /// The way to compute.
    pub implementation: Implementation,
    /// The directions in which rows may look.
    pub visibility: Visibility,
    /// Position of the first query among the keys: the tokens already in the cache.
    pub query_offset: usize,
    /// Hides keys at this distance and beyond: a row sees itself and `window − 1` keys before it. (A
    /// certified horizon `h` allows distance `h`, which is the window `h + 1`.)
    pub window: Option<usize>,
    /// Documents packed into a row, and padding.
    pub documents: Option<Arc<Documents>>,
    /// A factor on the logits of each row.
    pub temperature: Option<Temperature>,
    /// A prior over keys beside the one over lags.
    pub key_prior: Option<KeyPrior>,
    /// Keys that may be left unread; [`Skipping::Off`] for the reference, which reads them all.
    pub skipping: Skipping,
    /// Norms of the keys that are known already, for skipping.
    pub key_norms: Option<Arc<KeyNorms>>,
    /// A log of skipped tiles.
    pub skip_log: Option<Arc<SkipLog>>,
    /// The processor's instructions that the fused implementation uses.
    pub instructions: Instructions,
}

impl Options {
    /// Causal attention from the first key on. The fused implementation skips what can't change a bit.
    #[must_use]
    pub fn causal(implementation: Implementation) -> Self {
        Self {
            implementation,
            visibility: Visibility::Causal,
            query_offset: 0,
            window: None,
            documents: None,
            temperature: None,
            key_prior: None,
            skipping: match implementation {
                Implementation::Reference => Skipping::Off,
                Implementation::Fused => Skipping::Exact,
            },
            key_norms: None,
            skip_log: None,
            instructions: Instructions::detect(),
        }
    }

    /// Attention in both directions.
    #[must_use]
    pub fn full(implementation: Implementation) -> Self {
        Self {
            visibility: Visibility::Full,
            ..Self::causal(implementation)
        }
    }

    /// The queries follow `offset` keys that are in a cache.
    #[must_use]
    pub fn with_query_offset(self, offset: usize) -> Self {
        Self {
            query_offset: offset,
            ..self
        }
    }

    /// Keys at distance `window` and beyond are hidden.
    #[must_use]
    pub fn with_window(self, window: usize) -> Self {
        Self {
            window: Some(window),
            ..self
        }
    }

    /// Rows hold several documents, or padding.
    #[must_use]
    pub fn with_documents(self, documents: Arc<Documents>) -> Self {
        Self {
            documents: Some(documents),
            ..self
        }
    }

    /// Logits are multiplied per row.
    #[must_use]
    pub fn with_temperature(self, temperature: Temperature) -> Self {
        Self {
            temperature: Some(temperature),
            ..self
        }
    }

    /// Keys count by a log-weight of their own.
    #[must_use]
    pub fn with_key_prior(self, key_prior: KeyPrior) -> Self {
        Self {
            key_prior: Some(key_prior),
            ..self
        }
    }

    /// Keys that can't matter may be left unread.
    #[must_use]
    pub fn with_skipping(self, skipping: Skipping) -> Self {
        Self { skipping, ..self }
    }

    /// The norms of the keys are known.
    #[must_use]
    pub fn with_key_norms(self, norms: Arc<KeyNorms>) -> Self {
        Self {
            key_norms: Some(norms),
            ..self
        }
    }

    /// Skipped tiles are counted in `log`.
    #[must_use]
    pub fn with_skip_log(self, log: Arc<SkipLog>) -> Self {
        Self {
            skip_log: Some(log),
            ..self
        }
    }

    /// The fused implementation uses these instructions.
    #[must_use]
    pub fn with_instructions(self, instructions: Instructions) -> Self {
        Self {
            instructions,
            ..self
        }
    }

    /// The call as every implementation sees it.
    pub(crate) fn call(&self) -> Call {
        Call {
            offset: self.query_offset,
            visibility: self.visibility,
            window: self.window,
            documents: self.documents.clone(),
            skipping: self.skipping,
            key_norms: self.key_norms.as_ref().map(|norms| norms.on_host()),
            skip_log: self.skip_log.clone(),
            instructions: self.instructions,
        }
    }
}
