//! Errors in a prior's parameters, and the checks that find them.

use std::borrow::Cow;

/// A value outside the domain of a prior or of a question about it.
///
/// The message says what was wrong, what is accepted and what came.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A real number outside its domain; NaN is outside of every domain.
    #[error("{what}: expected {expected}, got {got}")]
    Value {
        /// The quantity, with its family: `"laplace slope"`.
        what: Cow<'static, str>,
        /// The values that are accepted.
        expected: &'static str,
        /// The value that came.
        got: f64,
    },
    /// A count (heads, keys, buckets, components, parameters) that does not fit.
    #[error("{what}: expected {expected}, got {got}")]
    Count {
        /// The things that are counted.
        what: Cow<'static, str>,
        /// The counts that are accepted.
        expected: Cow<'static, str>,
        /// The count that came.
        got: usize,
    },
    /// A prior that a family's parameters can't say.
    #[error("prior: expected one that {family} heads can have, got {got}")]
    Family {
        /// The name of the family.
        family: &'static str,
        /// The prior that came.
        got: String,
    },
    /// A text that names no family.
    #[error("family: expected one of {expected}, got {got}")]
    FamilyName {
        /// The names that there are.
        expected: String,
        /// The text.
        got: String,
    },
}

impl Error {
    /// The same of a quantity with another name.
    pub(crate) fn about(self, name: String) -> Self {
        match self {
            Self::Value { expected, got, .. } => Self::Value {
                what: name.into(),
                expected,
                got,
            },
            other => other,
        }
    }
}

/// `got` if it is a finite number above zero.
pub(crate) fn positive(what: &'static str, got: f64) -> Result<f64, Error> {
    within(what, "a finite number above 0", got, |x| x > 0.0)
}

/// `got` if it is finite and `accepted`, which NaN and ±∞ never reach.
pub(crate) fn within(
    what: impl Into<Cow<'static, str>>,
    expected: &'static str,
    got: f64,
    accepted: impl Fn(f64) -> bool,
) -> Result<f64, Error> {
    if got.is_finite() && accepted(got) {
        Ok(got)
    } else {
        Err(Error::Value {
            what: what.into(),
            expected,
            got,
        })
    }
}

/// `got` if it is finite.
pub(crate) fn finite(what: impl Into<Cow<'static, str>>, got: f64) -> Result<f64, Error> {
    within(what, "a finite number", got, |_| true)
}

/// The `N` values of a family's parameters, from a slice of unknown length.
pub(crate) fn exactly<const N: usize>(
    what: &'static str,
    values: &[f64],
) -> Result<[f64; N], Error> {
    values.try_into().map_err(|_| Error::Count {
        what: what.into(),
        expected: N.to_string().into(),
        got: values.len(),
    })
}

/// `values` if there are `expected` of them.
pub(crate) fn as_many(
    what: impl Into<Cow<'static, str>>,
    expected: usize,
    values: &[f64],
) -> Result<&[f64], Error> {
    if values.len() == expected {
        Ok(values)
    } else {
        Err(Error::Count {
            what: what.into(),
            expected: expected.to_string().into(),
            got: values.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_says_what_expected_and_got() {
        let message = positive("laplace slope", -0.5).unwrap_err().to_string();
        assert_eq!(
            message,
            "laplace slope: expected a finite number above 0, got -0.5"
        );
        let message = exactly::<2>("kerple_log parameters", &[1.0])
            .unwrap_err()
            .to_string();
        assert_eq!(message, "kerple_log parameters: expected 2, got 1");
    }

    #[test]
    fn nan_and_infinity_are_outside_of_every_domain() {
        for got in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(finite("x", got).is_err());
            assert!(positive("x", got).is_err());
        }
    }
}
