use std::sync::mpsc::sync_channel;

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

/// Tokenizes documents on all threads and writes them in order, while the next are read. End the store
/// with [`ShardWriter::finish`] afterwards.
///
/// Holds some 32 MiB of text at a time, more only for single larger documents.
///
/// # Errors
///
/// The first error of `documents`, the tokenizer or the writer.
pub fn prepare(
    documents: impl Iterator<Item = Result<Document, DataError>> + Send,
    tokenizer: &Tokenizer,
    writer: &mut ShardWriter,
    mut progress: impl FnMut(PrepareProgress),
) -> Result<PrepareProgress, DataError> {
    let mut done = PrepareProgress::default();
    let mut write = |encoded: Vec<(Vec<u32>, u64)>| -> Result<PrepareProgress, DataError> {
        for (tokens, bytes) in encoded {
            writer.push(&tokens, bytes)?;
            done.documents += 1;
            done.tokens += tokens.len() as u64;
            done.bytes += bytes;
        }
        Ok(done)
    };
    std::thread::scope(|scope| {
        let (sender, batches) = sync_channel(1);
        scope.spawn(move || {
            let mut documents = documents.peekable();
            // An error of the other side ends this one.
            while documents.peek().is_some() && sender.send(batch(&mut documents)).is_ok() {}
        });
        let mut before = Vec::new();
        for batch in batches {
            let batch = batch?;
            let encode = || -> Result<Vec<(Vec<u32>, u64)>, DataError> {
                let texts = batch.par_iter().map(|document| &document.text);
                let encode = |text: &String| Ok((tokenizer.encode(text)?, text.len() as u64));
                texts.map(encode).collect()
            };
            let (encoded, written) = rayon::join(encode, || write(std::mem::take(&mut before)));
            progress(written?);
            before = encoded?;
        }
        let all = write(before)?;
        progress(all);
        Ok(all)
    })
}

/// Documents to encode at once.
fn batch(
    documents: impl Iterator<Item = Result<Document, DataError>>,
) -> Result<Vec<Document>, DataError> {
    const BYTES: usize = 1 << 23;
    const DOCUMENTS: usize = 1 << 14;

    let mut batch = Vec::new();
    let mut bytes = 0;
    for document in documents {
        let document = document?;
        bytes += document.text.len();
        batch.push(document);
        if bytes >= BYTES || batch.len() == DOCUMENTS {
            break;
        }
    }
    Ok(batch)
}
