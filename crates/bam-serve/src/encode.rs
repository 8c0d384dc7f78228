//! Texts as tokens, within bounds.

use super::error::ApiError;
use bam_data::Tokenizer;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Texts of more bytes are encoded one after the other: encoding takes some hundred times their memory.
const LONG: usize = 1 << 18;

/// The bounds of encoding.
pub struct Encoder {
    pub longest_sequence: usize,
    longest_token: usize,
    long_texts: Arc<Semaphore>,
}

impl Encoder {
    /// For sequences of so many tokens of so many bytes, at most.
    pub fn new(longest_sequence: usize, longest_token: usize) -> Self {
        Self {
            longest_sequence,
            longest_token,
            long_texts: Arc::new(Semaphore::new(1)),
        }
    }

    /// A text's tokens, after the one that begins documents if wanted, found on a thread where that may
    /// take its time.
    ///
    /// # Errors
    /// If the text is longer than any sequence's, or the tokenizer can't spell it; the error names the field
    /// that the text is of.
    pub async fn encode(
        &self,
        tokenizer: &Arc<Tokenizer>,
        field: &'static str,
        text: String,
        begin: bool,
    ) -> Result<Vec<i32>, ApiError> {
        let (longest, token) = (self.longest_sequence, self.longest_token);
        if text.len() / token.max(1) > longest {
            let bytes = text.len();
            let told = format!(
                "{field}: expected at most {longest} tokens, none longer than {token} bytes; \
                 got a text of {bytes} bytes"
            );
            return Err(ApiError::TooLong { field, told });
        }
        let turn = match text.len() > LONG {
            true => Arc::clone(&self.long_texts).acquire_owned().await.ok(),
            false => None,
        };
        let tokenizer = Arc::clone(tokenizer);
        let encoded = tokio::task::spawn_blocking(move || {
            // Also where nobody waits for the tokens any more, the next text waits for its turn.
            let _turn = turn;
            let bos = tokenizer.bos().filter(|_| begin);
            let tokens = tokenizer.encode(&text)?;
            let all = bos.into_iter().chain(tokens);
            Ok(all.map(|id| id as i32).collect())
        });
        match encoded.await {
            Ok(tokens) => tokens.map_err(|error| ApiError::text(field, &error)),
            Err(_) => Err(ApiError::failed("the tokenizer failed")),
        }
    }
}
