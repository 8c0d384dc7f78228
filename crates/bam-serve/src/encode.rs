//! Texts as tokens, within bounds.

use super::error::ApiError;
use axum::http::StatusCode;
use bam_data::{DataError, Tokenizer};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Texts of more bytes are encoded one after the other: encoding takes some hundred times their memory.
const LONG: usize = 1 << 18;

/// What bounds encoding.
pub struct Encoder {
    longest_row: usize,
    longest_token: usize,
    long_texts: Arc<Semaphore>,
}

impl Encoder {
    /// For rows of so many tokens of so many bytes, at most.
    pub fn new(longest_row: usize, longest_token: usize) -> Self {
        Self {
            longest_row,
            longest_token,
            long_texts: Arc::new(Semaphore::new(1)),
        }
    }

    /// A text's tokens, after the one that begins documents if wanted, found on a thread where that may
    /// take its time.
    ///
    /// # Errors
    /// If the text is longer than any row's, or the tokenizer can't spell it.
    pub async fn encode(
        &self,
        tokenizer: &Arc<Tokenizer>,
        text: String,
        begin: bool,
    ) -> Result<Vec<i32>, ApiError> {
        if text.len() / self.longest_token.max(1) > self.longest_row {
            return Err(self.too_long(text.len()));
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
            Ok::<_, DataError>(all.map(|id| id as i32).collect())
        });
        match encoded.await {
            Ok(Ok(tokens)) => Ok(tokens),
            Ok(Err(error)) => Err(ApiError::new(StatusCode::BAD_REQUEST, error.to_string())),
            Err(_) => Err(ApiError::internal("the tokenizer failed")),
        }
    }

    fn too_long(&self, bytes: usize) -> ApiError {
        let Self {
            longest_row,
            longest_token,
            ..
        } = self;
        ApiError {
            code: Some("context_length_exceeded"),
            ..ApiError::invalid(
                "prompt",
                format!(
                    "prompt: expected at most {longest_row} tokens, none longer than {longest_token} bytes; \
                     got a text of {bytes} bytes"
                ),
            )
        }
    }
}
