//! From text to rows of tokens.
//!
//! ```text
//! Source ─→ Corpus ─→ Document ─→ Tokenizer ─→ ShardWriter ─→ TokenStore ─→ PackedRows ─→ Batch
//!  where    which text  one text     ids         on disk       any range    one row      some rows
//! ```
//!
//! Everything here is host data: no tensors, no devices. Nothing prints, reads the environment or takes
//! randomness by itself: progress is a callback, seeds and cache folders are arguments. Every stage
//! streams, so a corpus never has to fit into memory, and every stage is deterministic: the same files,
//! tokenizer and seed give the same rows, on any machine and from any starting row.
#![forbid(unsafe_code)]

pub mod atomic_file;
mod bounded;
mod byte_pairs;
mod caught;
mod chat_templates;
mod corpus;
mod digest;
mod document;
mod error;
mod folder;
mod gzip;
mod hub;
mod hub_address;
mod json_lines;
mod mixture;
mod pack;
mod parquet_rows;
pub mod passkey;
mod patterns;
mod permutation;
mod prepare;
mod pretokens;
mod shard;
mod special_tokens;
mod store;
mod store_index;
mod stream_decoder;
mod synthetic;
pub mod synthetic_task;
mod text;
mod tokenizer;
mod train_tokenizer;

pub use caught::panics_are_caught;
pub use chat_templates::ChatTemplates;
pub use corpus::{Corpus, Documents, Source};
pub use digest::{hexadecimal, sha256_of};
pub use document::Document;
pub use error::DataError;
pub use hub::{HubAccess, HubProgress};
pub use hub_address::HubAddress;
pub use json_lines::json_values;
pub use mixture::Mixture;
pub use pack::{Batch, PackedRows, Row, RowSource};
pub use prepare::{PrepareProgress, prepare};
pub use shard::{ShardOptions, ShardWriter};
pub use special_tokens::SpecialTokens;
pub use store::{TokenStore, Verify};
pub use store_index::INDEX_FILE;
pub use stream_decoder::StreamDecoder;
pub use synthetic::{CopyRows, PasskeyRows, PasskeyRowsConfig, SyntheticRows, SyntheticRowsConfig};
pub use text::{NotText, parse_json, read_text, text_of};
pub use tokenizer::{TOKENIZER_FILE, Tokenizer, TokenizerIdentity};
pub use train_tokenizer::{TokenizerConfig, TrainingProgress};
