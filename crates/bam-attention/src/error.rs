//! Errors of the operation and of its modules.

/// An input or a configuration that does not fit: what it is, what was expected, what was given.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AttentionError {
    /// A tensor's shape does not fit the others.
    #[error("{what}: expected shape {expected}, got {got}")]
    Shape {
        /// The tensor.
        what: &'static str,
        /// The shape that would fit.
        expected: String,
        /// The shape that was given.
        got: String,
    },
    /// Query heads that can't be shared out over the key heads.
    #[error("query heads: expected a multiple of the {key_heads} key heads, got {query_heads}")]
    HeadGroups {
        /// Heads of `q`.
        query_heads: usize,
        /// Heads of `k` and `v`.
        key_heads: usize,
    },
    /// The log-prior does not hold every lag that the rows need.
    #[error("log-prior: expected the lags {first}..={last}, got {got_first}..={got_last}")]
    Lags {
        /// Smallest lag needed.
        first: i64,
        /// Largest lag needed.
        last: i64,
        /// Smallest lag given.
        got_first: i64,
        /// Largest lag given.
        got_last: i64,
    },
    /// Something that must hold at least one element holds none.
    #[error("{what}: expected at least 1, got 0")]
    Empty {
        /// The thing that is empty.
        what: &'static str,
    },
    /// A share of the posterior that can't be one.
    #[error("epsilon of skipping: expected a number above 0 and below 1, got {got}")]
    Epsilon {
        /// The number that was given.
        got: f64,
    },
    /// A text that names no way of skipping.
    #[error("skipping: expected off, exact, or a number above 0 and below 1, got {got}")]
    SkippingName {
        /// The text.
        got: String,
    },
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
    /// A number or a setting that does not fit the others.
    #[error("{what}: expected {expected}, got {got}")]
    Value {
        /// What it is.
        what: &'static str,
        /// What would fit.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A prior that a head can't have, or parameters that are none.
    #[error(transparent)]
    Prior(#[from] bam_prior::Error),
}
