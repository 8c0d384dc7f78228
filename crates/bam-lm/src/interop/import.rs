//! Models of other programs: [`hf`] in the layout of the Hugging Face hub, and two small trained ones
//! that are a check on our numbers as well.

use crate::Error;
use crate::error::not_as_expected;
use crate::model::checkpoint::read_bounded;

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
