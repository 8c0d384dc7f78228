use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
    sync::Mutex,
};

use sha2::{Digest, Sha256};

use super::{
    DataError, TokenizerIdentity, hexadecimal,
    store_index::{DOCUMENTS_FILE, Index, shard_file},
};

/// The check of a store on disk when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// The index, the sizes of all files, and the document boundaries: a moment, whatever the size.
    Sizes,
    /// Also the SHA-256 of every shard: reads everything once.
    Checksums,
}

/// Tokenized documents: one long sequence of tokens and where each document in it ends.
///
/// The tokens of a store on disk stay there and are read by position, so a store may be far larger than
/// memory; what is held is 8 bytes a document. The system's own cache of files is the only cache.
#[derive(Debug)]
pub struct TokenStore {
    tokenizer: TokenizerIdentity,
    bytes: u64,
    /// The end of each document, in tokens; never descending.
    ends: Vec<u64>,
    tokens: Tokens,
}

#[derive(Debug)]
enum Tokens {
    Memory(Vec<u32>),
    Files {
        token_bytes: u64,
        shards: Vec<Shard>,
    },
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    /// Place in the whole store.
    range: Range<u64>,
    /// Opened when first read, then kept.
    file: Mutex<Option<File>>,
}

impl TokenStore {
    /// Opens what [`ShardWriter`](super::ShardWriter) wrote.
    ///
    /// # Errors
    ///
    /// If the store is unfinished, of another version, or its files are not what the index says.
    pub fn open(folder: &Path, verify: Verify) -> Result<Self, DataError> {
        let index = Index::read(folder)?;
        let ends = read_ends(folder, &index)?;
        let mut shards = Vec::with_capacity(index.shards.len());
        let mut start = 0;
        for (number, entry) in index.shards.iter().enumerate() {
            let path = folder.join(shard_file(number));
            let size = std::fs::metadata(&path)
                .map_err(DataError::io("open", &path))?
                .len();
            let expected = entry.tokens.saturating_mul(index.token_bytes);
            if size != expected {
                return Err(DataError::ShardSize {
                    path,
                    expected,
                    got: size,
                });
            }
            if verify == Verify::Checksums {
                let checksum = file_checksum(&path)?;
                check_sum(&path, &entry.sha256, checksum)?;
            }
            let range = start..start + entry.tokens;
            start = range.end;
            shards.push(Shard {
                path,
                range,
                file: Mutex::new(None),
            });
        }
        Ok(Self {
            tokenizer: index.tokenizer,
            bytes: index.bytes,
            ends,
            tokens: Tokens::Files {
                token_bytes: index.token_bytes,
                shards,
            },
        })
    }

    /// A store of a few documents, each its tokens and the UTF-8 bytes of its text together.
    ///
    /// # Errors
    ///
    /// For a token outside of the vocabulary, or a vocabulary that cannot be.
    pub fn in_memory(
        tokenizer: &TokenizerIdentity,
        documents: &[Vec<u32>],
        bytes: u64,
    ) -> Result<Self, DataError> {
        tokenizer.check()?;
        let mut tokens = Vec::new();
        let mut ends = Vec::with_capacity(documents.len());
        for document in documents {
            check_tokens(document, tokenizer.vocabulary)?;
            tokens.extend_from_slice(document);
            ends.push(tokens.len() as u64);
        }
        Ok(Self {
            tokenizer: tokenizer.clone(),
            bytes,
            ends,
            tokens: Tokens::Memory(tokens),
        })
    }

    /// The tokenizer that the tokens came from.
    #[must_use]
    pub fn tokenizer(&self) -> &TokenizerIdentity {
        &self.tokenizer
    }

    /// Tokens in all, without beginnings and ends of documents.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    #[must_use]
    pub fn documents(&self) -> u64 {
        self.ends.len() as u64
    }

    /// UTF-8 bytes of all texts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The place of a document's tokens; `None` past the last document.
    #[must_use]
    pub fn document_range(&self, document: u64) -> Option<Range<u64>> {
        let index = usize::try_from(document).ok()?;
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(start..end)
    }

    /// The end of each document, in tokens.
    pub(super) fn ends(&self) -> &[u64] {
        &self.ends
    }

    /// The tokens of one document.
    ///
    /// # Errors
    ///
    /// Past the last document, or where the file has changed.
    pub fn document(&self, document: u64) -> Result<Vec<u32>, DataError> {
        let range = self
            .document_range(document)
            .ok_or(DataError::DocumentIndex {
                document,
                documents: self.documents(),
            })?;
        self.read(range)
    }

    /// Any tokens, across documents and shards.
    ///
    /// # Errors
    ///
    /// Past the last token, or where a file has changed since it was opened: shorter, or with a token
    /// outside of the vocabulary.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u32>, DataError> {
        if range.start > range.end || range.end > self.tokens() {
            return Err(DataError::TokenRange {
                start: range.start,
                end: range.end,
                tokens: self.tokens(),
            });
        }
        match &self.tokens {
            // Within the vector, hence within usize.
            Tokens::Memory(tokens) => Ok(tokens[range.start as usize..range.end as usize].to_vec()),
            Tokens::Files {
                token_bytes,
                shards,
            } => {
                let mut tokens = Vec::new();
                let first = shards.partition_point(|shard| shard.range.end <= range.start);
                for shard in &shards[first..] {
                    if shard.range.start >= range.end {
                        break;
                    }
                    let start = range.start.max(shard.range.start) - shard.range.start;
                    let end = range.end.min(shard.range.end) - shard.range.start;
                    let bytes = shard.read(start * token_bytes, (end - start) * token_bytes)?;
                    decode(&bytes, *token_bytes, &mut tokens);
                }
                check_tokens(&tokens, self.tokenizer.vocabulary)?;
                Ok(tokens)
            }
        }
    }
}

impl Shard {
    fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, DataError> {
        // A reader that panicked left nothing behind but a position, which is set anew.
        let mut slot = self
            .file
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let file = match &mut *slot {
            Some(file) => file,
            None => slot.insert(File::open(&self.path).map_err(DataError::io("open", &self.path))?),
        };
        file.seek(SeekFrom::Start(offset))
            .map_err(DataError::io("read", &self.path))?;
        let mut bytes = Vec::new();
        file.take(length)
            .read_to_end(&mut bytes)
            .map_err(DataError::io("read", &self.path))?;
        if bytes.len() as u64 != length {
            return Err(DataError::ShardSize {
                path: self.path.clone(),
                expected: offset + length,
                got: offset + bytes.len() as u64,
            });
        }
        Ok(bytes)
    }
}

fn decode(bytes: &[u8], token_bytes: u64, tokens: &mut Vec<u32>) {
    match token_bytes {
        2 => tokens.extend(
            bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|&pair| u32::from(u16::from_le_bytes(pair))),
        ),
        _ => tokens.extend(
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|&four| u32::from_le_bytes(four)),
        ),
    }
}

fn check_tokens(tokens: &[u32], vocabulary: usize) -> Result<(), DataError> {
    match tokens.iter().find(|&&token| token as usize >= vocabulary) {
        Some(&token) => Err(DataError::UnknownToken { token, vocabulary }),
        None => Ok(()),
    }
}

/// Reads `documents.bin`, which is always checked whole: it is small and kept in memory.
fn read_ends(folder: &Path, index: &Index) -> Result<Vec<u64>, DataError> {
    const WIDTH: u64 = size_of::<u64>() as u64;
    let path = folder.join(DOCUMENTS_FILE);
    let file = File::open(&path).map_err(DataError::io("open", &path))?;
    let size = file.metadata().map_err(DataError::io("open", &path))?.len();
    let expected = index.documents.count.saturating_mul(WIDTH);
    if size != expected {
        return Err(DataError::ShardSize {
            path,
            expected,
            got: size,
        });
    }
    let mut bytes = Vec::new();
    file.take(expected)
        .read_to_end(&mut bytes)
        .map_err(DataError::io("read", &path))?;
    let checksum = hexadecimal(&Sha256::digest(&bytes));
    check_sum(&path, &index.documents.sha256, checksum)?;
    let ends: Vec<u64> = bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|&end| u64::from_le_bytes(end))
        .collect();
    let last = ends.last().copied().unwrap_or(0);
    if !ends.is_sorted() || last != index.tokens {
        return Err(DataError::Index {
            path,
            reason: format!(
                "expected document ends that ascend to {} tokens, got {last} as the last",
                index.tokens
            ),
        });
    }
    Ok(ends)
}

fn file_checksum(path: &Path) -> Result<String, DataError> {
    let mut file = File::open(path).map_err(DataError::io("open", path))?;
    let mut checksum = Sha256::new();
    std::io::copy(&mut file, &mut checksum).map_err(DataError::io("read", path))?;
    Ok(hexadecimal(&checksum.finalize()))
}

fn check_sum(path: &Path, expected: &str, got: String) -> Result<(), DataError> {
    if got == expected {
        return Ok(());
    }
    Err(DataError::ShardChecksum {
        path: path.to_path_buf(),
        expected: expected.to_owned(),
        got,
    })
}
