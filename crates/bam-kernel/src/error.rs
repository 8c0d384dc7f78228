//! The errors of a call.

/// An input that does not fit: what it is, what was expected, what was given.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A shape does not fit the others.
    #[error("{what}: expected shape {expected}, got {got}")]
    Shape {
        /// The operand.
        what: &'static str,
        /// The shape that would fit.
        expected: String,
        /// The shape that was given.
        got: String,
    },
    /// A slice that is not as long as its shape says.
    #[error("{what}: expected {expected} numbers for the shape {shape}, got {got}")]
    Length {
        /// The operand.
        what: &'static str,
        /// Its shape.
        shape: String,
        /// Numbers that the shape wants, or at least wants.
        expected: String,
        /// Numbers in the slice.
        got: usize,
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
    /// Instructions that the processor lacks or the system does not grant.
    #[error("instructions: expected some that this processor has, got {got}")]
    Instructions {
        /// Those that were chosen.
        got: String,
    },
}

impl KernelError {
    /// `Ok` where `got` is `expected`.
    pub(crate) fn unless_shaped<const D: usize>(
        what: &'static str,
        got: [usize; D],
        expected: [usize; D],
    ) -> Result<(), Self> {
        if got == expected {
            return Ok(());
        }
        Err(Self::Shape {
            what,
            expected: format!("{expected:?}"),
            got: format!("{got:?}"),
        })
    }

    /// `Ok` where there are as many numbers as `shape` says.
    pub(crate) fn unless_long(
        what: &'static str,
        numbers: usize,
        shape: &[usize],
    ) -> Result<(), Self> {
        let mut sizes = shape.iter();
        match sizes.try_fold(1usize, |count, size| count.checked_mul(*size)) {
            Some(expected) if expected == numbers => Ok(()),
            expected => Err(Self::length(what, shape, expected, "", numbers)),
        }
    }

    /// Other numbers than a shape wants; `None` where those are more than memory can hold.
    pub(crate) fn length(
        what: &'static str,
        shape: &[usize],
        expected: Option<usize>,
        at_least: &str,
        got: usize,
    ) -> Self {
        let expected = expected.map_or(format!("over {}", usize::MAX), |count| count.to_string());
        Self::Length {
            what,
            shape: format!("{shape:?}"),
            expected: format!("{at_least}{expected}"),
            got,
        }
    }
}
