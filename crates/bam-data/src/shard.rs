use std::{
    io::Write,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    DataError, TokenStore, TokenizerIdentity, Verify, hexadecimal,
    store_index::{
        DOCUMENTS_FILE, DocumentsEntry, INDEX_FILE, Index, ShardEntry, shard_file, token_bytes,
    },
};
use crate::atomic_file::{NewFile, name_of};

/// Settings of the writing of a token store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardOptions {
    /// Tokens in a full shard. Documents may go on from one shard to the next.
    pub shard_tokens: u64,
    /// Replaces the token store that the folder holds. Anything else in it is still refused.
    pub replace: bool,
}

impl Default for ShardOptions {
    fn default() -> Self {
        Self {
            shard_tokens: 100_000_000,
            replace: false,
        }
    }
}

/// Writes tokenized documents to a folder, to be read as a [`TokenStore`].
///
/// Files get their names when they are whole, the index last of all: a writer that is dropped or killed
/// before [`Self::finish`] leaves a folder that [`TokenStore::open`] refuses.
pub struct ShardWriter {
    folder: PathBuf,
    /// Whether the folder was not there before.
    made_folder: bool,
    tokenizer: TokenizerIdentity,
    shard_tokens: u64,
    shard: Option<SummedFile>,
    /// Tokens in the shard at hand.
    filled: u64,
    shards: Vec<ShardEntry>,
    documents: SummedFile,
    document_count: u64,
    tokens: u64,
    bytes: u64,
}

impl ShardWriter {
    /// Begins a store in an empty or new folder.
    ///
    /// # Errors
    ///
    /// If the folder holds anything that `options` do not allow to be replaced, or cannot be written.
    pub fn create(
        folder: &Path,
        tokenizer: &TokenizerIdentity,
        options: &ShardOptions,
    ) -> Result<Self, DataError> {
        if options.shard_tokens == 0 {
            return Err(DataError::ShardTokens {
                minimum: 1,
                got: options.shard_tokens,
            });
        }
        tokenizer.check()?;
        let made_folder = !folder.exists();
        std::fs::create_dir_all(folder).map_err(DataError::io("create", folder))?;
        clear(folder, options.replace)?;
        Ok(Self {
            folder: folder.to_path_buf(),
            made_folder,
            tokenizer: tokenizer.clone(),
            shard_tokens: options.shard_tokens,
            shard: None,
            filled: 0,
            shards: Vec::new(),
            documents: SummedFile::create(folder, DOCUMENTS_FILE)?,
            document_count: 0,
            tokens: 0,
            bytes: 0,
        })
    }

    /// Adds a document: its tokens, without beginning or end, and the UTF-8 bytes of its text.
    ///
    /// # Errors
    ///
    /// For a token outside of the vocabulary, before anything is written, or a failed write.
    pub fn push(&mut self, tokens: &[u32], bytes: u64) -> Result<(), DataError> {
        let vocabulary = self.tokenizer.vocabulary;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(DataError::UnknownToken { token, vocabulary });
        }
        let mut rest = tokens;
        while !rest.is_empty() {
            let room = self.shard_tokens - self.filled;
            let (now, later) = rest.split_at(rest.len().min(room.try_into().unwrap_or(usize::MAX)));
            let shard = match &mut self.shard {
                Some(shard) => shard,
                None => {
                    let name = shard_file(self.shards.len());
                    self.shard.insert(SummedFile::create(&self.folder, &name)?)
                }
            };
            shard.write(&little_endian(now, token_bytes(vocabulary)))?;
            self.filled += now.len() as u64;
            if self.filled == self.shard_tokens {
                self.end_shard()?;
            }
            rest = later;
        }
        self.tokens += tokens.len() as u64;
        self.bytes += bytes;
        self.document_count += 1;
        self.documents.write(&self.tokens.to_le_bytes())
    }

    fn end_shard(&mut self) -> Result<(), DataError> {
        if let Some(shard) = self.shard.take() {
            self.shards.push(ShardEntry {
                tokens: self.filled,
                sha256: shard.finish()?,
            });
        }
        self.filled = 0;
        Ok(())
    }

    /// Gives the store up: what was written of it goes, and the folder where it was made for it.
    ///
    /// # Errors
    ///
    /// If something cannot be removed.
    pub fn discard(self) -> Result<(), DataError> {
        discard(&self.folder, self.made_folder)
    }

    /// Ends the store and opens it.
    ///
    /// # Errors
    ///
    /// If a write fails; the store is discarded then.
    pub fn finish(self) -> Result<TokenStore, DataError> {
        let (folder, made_folder) = (self.folder.clone(), self.made_folder);
        self.write_rest().inspect_err(|_| {
            // The write's error says more than one of this would.
            let _ = discard(&folder, made_folder);
        })
    }

    fn write_rest(mut self) -> Result<TokenStore, DataError> {
        self.end_shard()?;
        let index = Index {
            version: Index::VERSION,
            token_bytes: token_bytes(self.tokenizer.vocabulary),
            tokenizer: self.tokenizer,
            tokens: self.tokens,
            bytes: self.bytes,
            documents: DocumentsEntry {
                count: self.document_count,
                sha256: self.documents.finish()?,
            },
            shards: self.shards,
        };
        let path = self.folder.join(INDEX_FILE);
        let json = serde_json::to_string_pretty(&index).map_err(|error| DataError::Index {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let mut file = SummedFile::create(&self.folder, INDEX_FILE)?;
        file.write(json.as_bytes())?;
        file.finish()?;
        // The checksums were just taken from the same bytes.
        TokenStore::open(&self.folder, Verify::Sizes)
    }
}

fn little_endian(tokens: &[u32], token_bytes: u64) -> Vec<u8> {
    match token_bytes {
        2 => tokens
            .iter()
            // Checked against a vocabulary of at most 65,536 above.
            .flat_map(|&token| (token as u16).to_le_bytes())
            .collect(),
        _ => tokens
            .iter()
            .flat_map(|token| token.to_le_bytes())
            .collect(),
    }
}

/// Removes what was written of a store, and its folder if it was made for it.
fn discard(folder: &Path, made_folder: bool) -> Result<(), DataError> {
    clear(folder, true)?;
    match made_folder {
        true => std::fs::remove_dir(folder).map_err(DataError::io("remove", folder)),
        false => Ok(()),
    }
}

/// Empties a folder of an older store, if that is allowed; the index goes first, so that there is never
/// an index without its files.
fn clear(folder: &Path, replace: bool) -> Result<(), DataError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(DataError::io("list", folder))? {
        let entry = entry.map_err(DataError::io("list", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        match (replace, is_file && is_ours(&name)) {
            (false, _) => {
                return Err(DataError::FolderNotEmpty {
                    path: folder.to_path_buf(),
                    found: name,
                });
            }
            (true, false) => {
                return Err(DataError::ForeignFile {
                    path: folder.to_path_buf(),
                    found: name,
                });
            }
            (true, true) => files.push(name),
        }
    }
    files.sort_by_key(|name| name != INDEX_FILE);
    for name in files {
        let path = folder.join(name);
        std::fs::remove_file(&path).map_err(DataError::io("remove", &path))?;
    }
    Ok(())
}

fn is_ours(name: &str) -> bool {
    // A killed writer leaves temporary names.
    let name = name_of(name).unwrap_or(name);
    let shard = name
        .strip_prefix("tokens-")
        .and_then(|rest| rest.strip_suffix(".bin"))
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    shard || name == INDEX_FILE || name == DOCUMENTS_FILE
}

/// A new file, with the checksum of what was written so far.
struct SummedFile {
    path: PathBuf,
    file: NewFile,
    checksum: Sha256,
}

impl SummedFile {
    fn create(folder: &Path, name: &str) -> Result<Self, DataError> {
        let path = folder.join(name);
        Ok(Self {
            file: NewFile::create(&path).map_err(DataError::io("create", &path))?,
            path,
            checksum: Sha256::new(),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.checksum.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(DataError::io("write", &self.path))
    }

    /// Gives the file its name and returns its SHA-256.
    fn finish(self) -> Result<String, DataError> {
        self.file
            .finish()
            .map_err(DataError::io("write", &self.path))?;
        Ok(hexadecimal(&self.checksum.finalize()))
    }
}
