use rayon::prelude::*;

use super::{DataError, Document, ShardWriter, Tokenizer};

/// The progress of [`prepare`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrepareProgress {
    pub documents: u64,
    pub tokens: u64,
    /// UTF-8 bytes of the texts.
    pub bytes: u64,
}

/// Tokenizes documents on all threads and writes them in order. End the store with
/// [`ShardWriter::finish`] afterwards.
///
/// Holds some 16 MiB of text at a time, more only for a single larger document.
///
/// # Errors
///
/// The first error of `documents`, the tokenizer or the writer.
pub fn prepare(
    documents: impl Iterator<Item = Result<Document, DataError>>,
    tokenizer: &Tokenizer,
    writer: &mut ShardWriter,
    mut progress: impl FnMut(PrepareProgress),
) -> Result<PrepareProgress, DataError> {
    const BATCH_BYTES: usize = 1 << 24;
    const BATCH_DOCUMENTS: usize = 1 << 14;

    let mut done = PrepareProgress::default();
    let mut documents = documents.peekable();
    while documents.peek().is_some() {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES && batch.len() < BATCH_DOCUMENTS {
            let Some(document) = documents.next() else {
                break;
            };
            let document = document?;
            bytes += document.text.len();
            batch.push(document);
        }
        let encoded: Vec<Vec<u32>> = batch
            .par_iter()
            .map(|document| tokenizer.encode(&document.text))
            .collect::<Result<_, _>>()?;
        for (document, tokens) in batch.iter().zip(&encoded) {
            let bytes = document.text.len() as u64;
            writer.push(tokens, bytes)?;
            done.documents += 1;
            done.tokens += tokens.len() as u64;
            done.bytes += bytes;
        }
        progress(done);
    }
    Ok(done)
}
