//! Models of other programs: [`hf`] in the layout of the Hugging Face hub, and two small trained ones
//! that are a check on our numbers as well.

use crate::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;

pub mod alilama;
pub mod hf;
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

/// The bytes of a file, which must not be larger than `limit`.
fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::io(path, "open it"))?;
    let mut bytes = Vec::new();
    let read = file.take(limit + 1).read_to_end(&mut bytes);
    let read = read.map_err(Error::io(path, "read it"))?;
    match read as u64 > limit {
        true => Err(not_as_expected(
            path,
            format!("at most {limit} bytes"),
            "more",
        )),
        false => Ok(bytes),
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
