//! Errors on their way to Python.

use pyo3::PyErr;
use pyo3::exceptions::PyValueError;

/// An error's words as a `ValueError`.
pub fn value_error(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}
