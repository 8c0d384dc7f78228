//! Trained models of other programs: weights that somebody else learned, as a check on our numbers.

use crate::Error;
use std::path::Path;

pub mod alilama;
pub mod llama2c;

/// The bytes that every token stands for. It decodes; text is never encoded with it.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    pieces: Vec<Vec<u8>>,
}

impl Vocabulary {
    /// Number of tokens.
    #[must_use]
    pub fn size(&self) -> usize {
        self.pieces.len()
    }

    /// The text of the tokens; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// If an id is outside the vocabulary.
    pub fn decode(&self, tokens: &[i32]) -> Result<String, Error> {
        let mut bytes = Vec::new();
        for (index, &token) in tokens.iter().enumerate() {
            let piece = usize::try_from(token)
                .ok()
                .and_then(|id| self.pieces.get(id));
            bytes.extend(piece.ok_or_else(|| Error::Token {
                index,
                vocabulary: self.size(),
                got: i64::from(token),
            })?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// An [`Error::File`] about `path`.
fn not_as_expected(path: &Path, expected: impl Into<String>, got: impl Into<String>) -> Error {
    Error::File {
        path: path.to_owned(),
        expected: expected.into(),
        got: got.into(),
    }
}
