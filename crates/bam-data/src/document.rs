use std::path::Path;

use super::{DataError, bounded, text::into_text};

/// One text and where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub text: String,
    /// The file, and for files of many documents its line or row, from 1: `books.jsonl.zst:17`.
    pub origin: String,
}

/// Larger single documents are refused: one is held in memory at a time, and a corrupt file must not fill it.
pub(super) const DOCUMENT_LIMIT: usize = 1 << 28;

impl Document {
    /// A text file as one document.
    pub(super) fn read(path: &Path) -> Result<Self, DataError> {
        let bytes = bounded::read(path, DOCUMENT_LIMIT as u64)?;
        if bytes.len() > DOCUMENT_LIMIT {
            return Err(DataError::DocumentTooLarge {
                path: path.to_path_buf(),
                row: 1,
                limit: DOCUMENT_LIMIT,
            });
        }
        let text = into_text(bytes).map_err(|reason| DataError::NotText {
            path: path.to_path_buf(),
            reason,
        })?;
        Ok(Self {
            text,
            origin: path.display().to_string(),
        })
    }
}
