use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{DataError, NotText, TokenizerIdentity, parse_json};

/// The name of a token store's index.
pub const INDEX_FILE: &str = "index.json";
pub(super) const DOCUMENTS_FILE: &str = "documents.bin";

/// `index.json`: what the other files of a token store must be. Written last, so that a store without
/// one is an unfinished one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    pub version: u32,
    /// Bytes of a token in the shards: 2 for vocabularies of up to 65,536, else 4. Little-endian.
    pub token_bytes: u64,
    pub tokenizer: TokenizerIdentity,
    pub tokens: u64,
    /// UTF-8 bytes of all texts: with `tokens` it turns nats per token into bits per byte.
    pub bytes: u64,
    pub documents: DocumentsEntry,
    pub shards: Vec<ShardEntry>,
}

impl Index {
    pub const VERSION: u32 = 1;

    /// Reads the index of a store, and checks that it can be one.
    pub fn read(folder: &Path) -> Result<Self, DataError> {
        /// A shard takes a hundred bytes of index; this is room for hundreds of thousands.
        const LIMIT: u64 = 1 << 26;
        #[derive(serde::Deserialize)]
        struct Version {
            version: u32,
        }

        let path = folder.join(INDEX_FILE);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(DataError::NoIndex {
                    path: folder.to_path_buf(),
                });
            }
            file => file.map_err(DataError::io("open", &path))?,
        };
        let mut json = Vec::new();
        file.take(LIMIT)
            .read_to_end(&mut json)
            .map_err(DataError::io("read", &path))?;
        let error = |reason: String| DataError::Index {
            path: path.clone(),
            reason,
        };
        let parse = |parsed: NotText| error(parsed.to_string());
        // Before the rest: another version may have other fields.
        let Version { version } = parse_json(&json).map_err(parse)?;
        if version != Self::VERSION {
            return Err(DataError::IndexVersion {
                path,
                expected: Self::VERSION,
                got: version,
            });
        }
        let index: Self = parse_json(&json).map_err(parse)?;
        index.check().map_err(error)?;
        Ok(index)
    }

    fn check(&self) -> Result<(), String> {
        let tokenizer = &self.tokenizer;
        tokenizer.check().map_err(|error| error.to_string())?;
        let expected = token_bytes(tokenizer.vocabulary);
        if self.token_bytes != expected {
            return Err(format!(
                "expected {expected} bytes a token for a vocabulary of {}, got {}",
                tokenizer.vocabulary, self.token_bytes
            ));
        }
        let sum = self
            .shards
            .iter()
            .try_fold(0_u64, |sum, shard| sum.checked_add(shard.tokens));
        if sum != Some(self.tokens) {
            return Err(format!(
                "expected shards of {} tokens together, got {sum:?}",
                self.tokens
            ));
        }
        Ok(())
    }
}

/// `documents.bin`: where each document ends, in tokens from the beginning of the store, as
/// little-endian u64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DocumentsEntry {
    pub count: u64,
    pub sha256: String,
}

/// `tokens-00000.bin` and so on, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShardEntry {
    pub tokens: u64,
    pub sha256: String,
}

pub(super) fn shard_file(shard: usize) -> String {
    format!("tokens-{shard:05}.bin")
}

pub(super) fn token_bytes(vocabulary: usize) -> u64 {
    if vocabulary <= 1 << 16 { 2 } else { 4 }
}
