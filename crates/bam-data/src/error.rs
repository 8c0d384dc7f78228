use std::{io, path::PathBuf};

use super::NotText;

/// Errors between a source of text and a row of tokens.
///
/// Every message says what failed, what was expected and what was found instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    #[error("{what}: expected {expected}, got {got}")]
    Value {
        what: &'static str,
        expected: String,
        got: String,
    },

    // The corpus.
    #[error("{corpus}: expected at least one document with text, got none")]
    EmptyCorpus { corpus: String },
    #[error("{}: expected a file of JSON lines, ending in .jsonl, .jsonl.gz or .jsonl.zst", path.display())]
    NotJsonLines { path: PathBuf },
    #[error(
        "{}: expected a file ending in .txt, .md, .jsonl, .jsonl.gz, .jsonl.zst or .parquet; \
         convert it, or keep it out of the folder",
        path.display()
    )]
    UnknownExtension { path: PathBuf },
    #[error("{}: expected folders nested at most {limit} deep (is there a loop of links?)", path.display())]
    FolderDepth { path: PathBuf, limit: usize },
    #[error("{}: expected UTF-8, got {reason}", path.display())]
    NotText { path: PathBuf, reason: NotText },
    #[error("{}: expected a document of at most {limit} bytes, got more at row {row}", path.display())]
    DocumentTooLarge {
        path: PathBuf,
        row: u64,
        limit: usize,
    },
    #[error("{}, line {line}, column {column}: expected a JSON object: {reason}", path.display())]
    Json {
        path: PathBuf,
        line: u64,
        column: usize,
        reason: String,
    },
    #[error("{}, line {line}: expected a field {field:?}, got {}", path.display(), names(found))]
    MissingField {
        path: PathBuf,
        line: u64,
        field: String,
        found: Vec<String>,
    },
    #[error("{}, line {line}: expected field {field:?} to be a string, got {found}", path.display())]
    FieldType {
        path: PathBuf,
        line: u64,
        field: String,
        found: &'static str,
    },
    #[error("{}: expected a whole {format} stream: {reason}", path.display())]
    Compressed {
        path: PathBuf,
        format: &'static str,
        reason: String,
    },
    #[error("{}: expected a whole parquet file: {reason}", path.display())]
    Parquet { path: PathBuf, reason: String },
    #[error(
        "{}: expected parquet pages compressed with snappy, gzip, zstd, lz4 or brotli, or not at all, got {got}",
        path.display()
    )]
    ParquetCompression { path: PathBuf, got: &'static str },
    #[error("{}: expected a column {column:?}, got {}", path.display(), names(found))]
    MissingColumn {
        path: PathBuf,
        column: String,
        found: Vec<String>,
    },
    #[error("{}: expected column {column:?} to hold strings, got {found}", path.display())]
    ColumnType {
        path: PathBuf,
        column: String,
        found: String,
    },

    // The Hugging Face hub.
    #[error(
        "expected an address like hf://datasets/OWNER/NAME/path/to/file@revision, got {address:?}: {reason}"
    )]
    HubAddress { address: String, reason: String },
    #[error(
        "dataset {dataset}: reading it from the hub needs a cache folder; \
         give one, or download its files and give their folder instead"
    )]
    HubAccessMissing { dataset: String },
    #[error("dataset {dataset}: expected files under {path:?} at revision {revision}, got none")]
    HubNoFiles {
        dataset: String,
        path: String,
        revision: String,
    },
    #[error(
        "dataset {dataset}: cannot read {what} at revision {revision} from {endpoint}: {reason}; \
         check the name and the access rights, or, without a network, download the files elsewhere \
         and give their local folder instead"
    )]
    Hub {
        dataset: String,
        what: String,
        revision: String,
        endpoint: String,
        reason: String,
    },
    #[error(
        "dataset {dataset}: expected {what} from {endpoint}, got no data for {seconds} s; \
         try again, or download the files elsewhere and give their local folder instead"
    )]
    HubStalled {
        dataset: String,
        what: String,
        endpoint: String,
        seconds: f64,
    },

    // The tokenizer.
    #[error("tokenizer {origin}: expected at most {limit} bytes, got {bytes}")]
    TokenizerTooLarge {
        origin: String,
        bytes: u64,
        limit: u64,
    },
    #[error("tokenizer {origin}: expected a tokenizer.json: {reason}")]
    TokenizerFile { origin: String, reason: String },
    #[error("tokenizer {origin}: unsupported: {reason}")]
    TokenizerUnsupported { origin: String, reason: String },
    #[error("{}: {reason}", path.display())]
    TokenizerSettings { path: PathBuf, reason: String },
    #[error("expected a vocabulary of {minimum} to {maximum} tokens, got {vocabulary}")]
    VocabularySize {
        vocabulary: usize,
        minimum: usize,
        maximum: usize,
    },
    #[error(
        "expected a vocabulary of {vocabulary} tokens, but the text only supports {reached}: \
         ask for at most that, or train on more text"
    )]
    VocabularyNotReached { vocabulary: usize, reached: usize },
    #[error("expected to train on 1 to {maximum} bytes of text, got {bytes}")]
    TrainingBytes { bytes: u64, maximum: u64 },
    #[error("cannot {action} with this tokenizer: {reason}")]
    Tokenize {
        action: &'static str,
        reason: String,
    },
    #[error("expected a token below the vocabulary size {vocabulary}, got {token}")]
    UnknownToken { token: u32, vocabulary: usize },

    // Token shards.
    #[error(
        "{}: expected an empty folder, got {found:?} in it; \
         choose another, or ask for it to be replaced",
        path.display()
    )]
    FolderNotEmpty { path: PathBuf, found: String },
    #[error("{}: will not replace a folder that holds {found:?}, which is no part of a token store", path.display())]
    ForeignFile { path: PathBuf, found: String },
    #[error("{}: expected an index of prepared tokens, got none: was `prepare` interrupted?", path.display())]
    NoIndex { path: PathBuf },
    #[error("{}: not a usable index: {reason}", path.display())]
    Index { path: PathBuf, reason: String },
    #[error("{}: expected version {expected}, got {got}", path.display())]
    IndexVersion {
        path: PathBuf,
        expected: u32,
        got: u32,
    },
    #[error("{}: expected {expected} bytes, got {got}", path.display())]
    ShardSize {
        path: PathBuf,
        expected: u64,
        got: u64,
    },
    #[error("{}: expected SHA-256 {expected}, got {got}", path.display())]
    ShardChecksum {
        path: PathBuf,
        expected: String,
        got: String,
    },
    #[error("expected tokens within 0..{tokens}, got {start}..{end}")]
    TokenRange { start: u64, end: u64, tokens: u64 },
    #[error("expected a document below {documents}, got {document}")]
    DocumentIndex { document: u64, documents: u64 },
    #[error("expected at least {minimum} tokens a shard, got {got}")]
    ShardTokens { minimum: u64, got: u64 },

    // Rows.
    #[error("expected a row length of 1 to {maximum} tokens, got {length}")]
    RowLength { length: usize, maximum: usize },
    #[error("expected at least {needed} tokens for one row and its last target, got {tokens}")]
    NotEnoughTokens { tokens: u64, needed: u64 },
    #[error("passkey rows: expected a length of at least {needed} tokens, got {length}")]
    PasskeyRow { length: usize, needed: usize },
    #[error(
        "passkey rows: expected at least 2 digits, the fewest first, probabilities from 0 to 1 and \
         a weight from 0 up, got {got}"
    )]
    PasskeyRows { got: String },
    #[error("mixture: {reason}")]
    Mixture { reason: String },
    #[error("expected a batch of at least one row, got rows {first}..{first}+{rows}")]
    BatchRows { first: u64, rows: usize },
}

impl DataError {
    /// For `map_err`: names the file and what was being done to it.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

fn names(found: &[String]) -> String {
    if found.is_empty() {
        return "none".to_owned();
    }
    const SHOWN: usize = 20;
    let mut list = found
        .iter()
        .take(SHOWN)
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ");
    if found.len() > SHOWN {
        list.push_str(&format!(" and {} more", found.len() - SHOWN));
    }
    list
}
