//! Errors of this crate.

use bam_data::atomic_file::FileError;
use std::path::{Path, PathBuf};

/// An error with what it is about, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value that can't be used.
    #[error("{what}: expected {expected}, got {got}")]
    Value {
        /// The thing.
        what: &'static str,
        /// The value expected.
        expected: String,
        /// The value found.
        got: String,
    },
    /// Several problems of one thing, on one line.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<Error>),
    /// A setting of a recipe that its device can't do.
    #[error("{what} on {device}: {reason}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// The device.
        device: String,
        /// The reason.
        reason: String,
    },
    /// A token that the model does not know.
    #[error("token {index}: expected an id from 0 to {}, got {got}", vocabulary - 1)]
    Token {
        /// Its index.
        index: usize,
        /// Size of the vocabulary.
        vocabulary: usize,
        /// The id.
        got: i64,
    },
    /// A request for more tokens than there is memory for.
    #[error(
        "prompt and tokens to generate: expected at most {longest} tokens, which is what memory holds, \
         got {prompt} and {max_tokens}"
    )]
    TooLong {
        /// Tokens of the longest sequence there can be.
        longest: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens to generate.
        max_tokens: usize,
    },
    /// A tensor of a file that does not fit.
    #[error("{}: tensor {tensor}: expected {expected}, got {got}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The value expected.
        expected: String,
        /// The value found.
        got: String,
    },
    /// A file whose contents are not what its name says.
    #[error("{}: expected {expected}, got {got}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The contents expected.
        expected: String,
        /// The contents found.
        got: String,
    },
    /// The operating system said no.
    #[error(transparent)]
    Io(#[from] FileError),
    /// The loss or a gradient stopped being a number.
    #[error("step {step}: expected a finite {what}, got {got}")]
    NotFinite {
        /// The training step.
        step: u64,
        /// The quantity.
        what: &'static str,
        /// Its value.
        got: f64,
    },
    /// A rank that differs from the first.
    #[error("rank {rank}: {what}: expected {expected} as on rank 0, got {got}")]
    Rank {
        /// Its number.
        rank: usize,
        /// The thing that differs.
        what: &'static str,
        /// The value of rank 0.
        expected: String,
        /// Its own.
        got: String,
    },
    /// Attention refused its inputs.
    #[error(transparent)]
    Attention(#[from] bam_attention::AttentionError),
    /// A prior refused its parameters.
    #[error(transparent)]
    Prior(#[from] bam_prior::Error),
    /// The data could not be read.
    #[error(transparent)]
    Data(#[from] bam_data::DataError),
}

impl Error {
    /// Nothing where there is no problem, else all of them.
    pub(crate) fn all(mut problems: Vec<Self>) -> Result<(), Self> {
        match problems.len() {
            0 => Ok(()),
            1 => Err(problems.remove(0)),
            _ => Err(Self::Several(problems)),
        }
    }

    /// For `map_err`: names the file and what was being done to it.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let error = FileError::new(path, action);
        move |source| Self::Io(error(source))
    }
}

impl From<bam_attention::KernelError> for Error {
    fn from(error: bam_attention::KernelError) -> Self {
        Self::Attention(error.into())
    }
}

/// An [`Error::File`] about `path`.
pub(crate) fn not_as_expected(
    path: &Path,
    expected: impl Into<String>,
    got: impl Into<String>,
) -> Error {
    Error::File {
        path: path.to_owned(),
        expected: expected.into(),
        got: got.into(),
    }
}
