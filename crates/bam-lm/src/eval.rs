//! What a trained model can do beyond its training length.

pub mod passkey;
pub mod perplexity;

use crate::Error;
use crate::model::{Cache, TokenRows, Transformer};
use burn::tensor::Tensor;

/// Rows of a chunk when a long row is read: bounds the memory beside the cache.
const CHUNK: usize = 2048;

/// Reads `tokens` into the cache, chunk by chunk, and hands every chunk's logits of the last `tail`
/// tokens to `sink`, with the position of the first of them.
fn read_in_chunks(
    model: &Transformer,
    cache: &mut Cache,
    tokens: &[i32],
    tail: usize,
    mut sink: impl FnMut(usize, Tensor<3>),
) -> Result<(), Error> {
    let first_read = tokens.len() - tail.min(tokens.len());
    for (number, chunk) in tokens.chunks(CHUNK).enumerate() {
        let start = number * CHUNK;
        let read = first_read.saturating_sub(start).min(chunk.len())..chunk.len();
        let rows = TokenRows::new(1, chunk.to_vec(), model.config().vocabulary)?;
        if let Some(logits) = model.extend(&rows, cache, read.clone())? {
            sink(start + read.start, logits);
        }
    }
    Ok(())
}
