use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokenizers::{
    AddedToken, ModelWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, Trainer,
    models::bpe::{BPE, BpeTrainer},
    pre_tokenizers::{byte_level::ByteLevel, digits::Digits, sequence::Sequence},
};

use super::{DataError, Document, StreamDecoder};

/// Text to token ids and back.
///
/// Holds any `tokenizer.json`, or one trained here. Text is only ever text: a document that spells
/// `</s>` is cut into ordinary tokens, so that document boundaries cannot be forged. The file's own
/// truncation and padding are dropped: no text is ever silently shortened.
///
/// ```
/// use bam_lm::data::{Document, Tokenizer, TokenizerConfig};
///
/// let text = "the cat sat on the mat, the dog sat on the cat";
/// let document = Document { text: text.to_owned(), origin: "here".to_owned() };
/// let config = TokenizerConfig { vocabulary: 264, ..TokenizerConfig::default() };
/// let tokenizer = Tokenizer::train([Ok(document)].into_iter(), &config, |_| {})?;
/// let tokens = tokenizer.encode(text)?;
/// assert_eq!(tokenizer.decode(&tokens)?, text);
/// # Ok::<(), bam_lm::data::DataError>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    pub(super) inner: tokenizers::Tokenizer,
    identity: TokenizerIdentity,
}

/// What tokens mean: enough to tell whether two stores of tokens, or a store and a model, belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerIdentity {
    /// SHA-256 of the compact `tokenizer.json`, in hexadecimal: the same for any layout of the same file.
    pub sha256: String,
    /// All tokens are below this.
    pub vocabulary: usize,
    /// The token before each document, where the tokenizer has one.
    pub bos: Option<u32>,
    /// The token after each document, where the tokenizer has one.
    pub eos: Option<u32>,
}

/// How to train a byte-level BPE tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// Tokens in all: `<s>`, `</s>`, the 256 bytes, and merges.
    pub vocabulary: usize,
    /// Makes every digit a token of its own, so that numbers are spelled alike wherever they stand.
    pub individual_digits: bool,
    /// Training takes whole documents until it has this much text. At most 2³¹-1: pairs are counted in 32 bits.
    pub training_bytes: u64,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self {
            vocabulary: 32_768,
            individual_digits: true,
            training_bytes: 1 << 29,
        }
    }
}

/// How much text the training of a tokenizer has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrainingProgress {
    pub documents: u64,
    pub bytes: u64,
}

/// Larger files are refused before they are parsed.
const FILE_LIMIT: u64 = 1 << 27;
/// Larger vocabularies are refused: an id this large is a corrupt file, and a model would allocate for it.
const VOCABULARY_LIMIT: usize = 1 << 24;
const BEGIN: &str = "<s>";
const END: &str = "</s>";
const BYTES: usize = 256;

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, is larger than 128 MiB, is no tokenizer, or asks for what we do not do.
    pub fn from_file(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io("open", path))?;
        let mut bytes = Vec::new();
        file.take(FILE_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(DataError::io("read", path))?;
        Self::parse(&bytes, &path.display().to_string())
    }

    /// Parses the contents of a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// As [`Self::from_file`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DataError> {
        Self::parse(bytes, "in memory")
    }

    fn parse(bytes: &[u8], origin: &str) -> Result<Self, DataError> {
        if bytes.len() as u64 > FILE_LIMIT {
            return Err(DataError::TokenizerTooLarge {
                origin: origin.to_owned(),
                bytes: bytes.len() as u64,
                limit: FILE_LIMIT,
            });
        }
        let inner =
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| DataError::TokenizerFile {
                origin: origin.to_owned(),
                reason: error.to_string(),
            })?;
        Self::new(inner, origin)
    }

    fn new(mut inner: tokenizers::Tokenizer, origin: &str) -> Result<Self, DataError> {
        let unsupported = |reason: String| DataError::TokenizerUnsupported {
            origin: origin.to_owned(),
            reason,
        };
        if let ModelWrapper::BPE(bpe) = inner.get_model()
            && let Some(dropout) = bpe.dropout
            && dropout != 0.0
        {
            let reason = format!("expected no dropout (encoding is deterministic), got {dropout}");
            return Err(unsupported(reason));
        }
        inner
            .with_truncation(None)
            .map_err(|error| unsupported(error.to_string()))?;
        inner.with_padding(None);
        inner.set_encode_special_tokens(true);
        // Ids may have holes, so the count of tokens would be too small.
        let last = inner.get_vocab(true).into_values().max();
        let vocabulary = last.map_or(0, |id| id as usize + 1);
        if !(1..=VOCABULARY_LIMIT).contains(&vocabulary) {
            return Err(DataError::VocabularySize {
                vocabulary,
                minimum: 1,
                maximum: VOCABULARY_LIMIT,
            });
        }
        let json = inner
            .to_string(false)
            .map_err(|error| unsupported(error.to_string()))?;
        let identity = TokenizerIdentity {
            sha256: hexadecimal(&Sha256::digest(&json)),
            vocabulary,
            bos: special(
                &inner,
                &[
                    BEGIN,
                    "<|begin_of_text|>",
                    "<bos>",
                    "<|startoftext|>",
                    "<|endoftext|>",
                ],
            ),
            eos: special(&inner, &[END, "<|end_of_text|>", "<eos>", "<|endoftext|>"]),
        };
        Ok(Self { inner, identity })
    }

    /// Learns a byte-level BPE: GPT-2's splitting, `<s>` as 0, `</s>` as 1, then the bytes and the merges.
    /// The same text gives the same tokenizer, byte for byte, whatever the number of threads.
    ///
    /// # Errors
    ///
    /// The first error of `documents`; a vocabulary too small for the bytes or too large for the text.
    pub fn train(
        documents: impl Iterator<Item = Result<Document, DataError>> + Send,
        config: &TokenizerConfig,
        mut progress: impl FnMut(TrainingProgress) + Send,
    ) -> Result<Self, DataError> {
        const PAIR_COUNT_LIMIT: u64 = i32::MAX as u64;
        let minimum = BYTES + 2;
        if !(minimum..=VOCABULARY_LIMIT).contains(&config.vocabulary) {
            return Err(DataError::VocabularySize {
                vocabulary: config.vocabulary,
                minimum,
                maximum: VOCABULARY_LIMIT,
            });
        }
        if !(1..=PAIR_COUNT_LIMIT).contains(&config.training_bytes) {
            return Err(DataError::TrainingBytes {
                bytes: config.training_bytes,
                maximum: PAIR_COUNT_LIMIT,
            });
        }
        let pre_tokenizer = splitting(config);
        let mut trainer = BpeTrainer::builder()
            .vocab_size(config.vocabulary)
            .show_progress(false)
            .special_tokens(vec![
                AddedToken::from(BEGIN, true),
                AddedToken::from(END, true),
            ])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let mut failure = None;
        let mut read = TrainingProgress::default();
        let texts = documents.map_while(|document| match document {
            Ok(document) => {
                let bytes = read.bytes + document.text.len() as u64;
                // A first document beyond the budget is still taken, cut at a character.
                let text = match read.documents {
                    0 => prefix(document.text, config.training_bytes),
                    _ if bytes > config.training_bytes => return None,
                    _ => document.text,
                };
                read.documents += 1;
                read.bytes += text.len() as u64;
                progress(read);
                Some(text)
            }
            Err(error) => {
                failure = Some(error);
                None
            }
        });
        let fed = trainer.feed(texts, |text| words(&pre_tokenizer, text));
        if let Some(error) = failure {
            return Err(error);
        }
        let mut model = BPE::default();
        let specials = fed
            .and_then(|()| trainer.train(&mut model))
            .map_err(|error| tokenize_error("train", &*error))?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(pre_tokenizer));
        inner.with_decoder(Some(ByteLevel::new(false, false, true)));
        inner.add_special_tokens(&specials);
        let trained = Self::new(inner, "just trained")?;
        if trained.vocabulary_size() < config.vocabulary {
            return Err(DataError::VocabularyNotReached {
                vocabulary: config.vocabulary,
                reached: trained.vocabulary_size(),
            });
        }
        Ok(trained)
    }

    /// The tokens of a text, nothing added before or after.
    ///
    /// # Errors
    ///
    /// Where this tokenizer cannot spell the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| tokenize_error("encode", &*error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of some tokens; special ones have none. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    ///
    /// For a token outside of the vocabulary.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, DataError> {
        for &token in tokens {
            self.check(token)?;
        }
        self.inner
            .decode(tokens, true)
            .map_err(|error| tokenize_error("decode", &*error))
    }

    /// Decodes tokens as they come, in pieces of whole characters.
    #[must_use]
    pub fn stream_decoder(&self) -> StreamDecoder<'_> {
        StreamDecoder::new(self)
    }

    pub(super) fn check(&self, token: u32) -> Result<(), DataError> {
        if (token as usize) < self.identity.vocabulary {
            return Ok(());
        }
        Err(DataError::UnknownToken {
            token,
            vocabulary: self.identity.vocabulary,
        })
    }

    /// How the vocabulary spells a token, for reports: `Ġthe`, `</s>`.
    #[must_use]
    pub fn spelling(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// The token that begins a document.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.identity.bos
    }

    /// The token that ends a document. GPT-2's `<|endoftext|>` is both.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.identity.eos
    }

    /// One more than the largest token.
    #[must_use]
    pub fn vocabulary_size(&self) -> usize {
        self.identity.vocabulary
    }

    /// SHA-256 of the compact `tokenizer.json`, in hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.identity.sha256
    }

    #[must_use]
    pub fn identity(&self) -> &TokenizerIdentity {
        &self.identity
    }

    /// The `tokenizer.json`, laid out for reading, as [`Self::save`] writes it.
    ///
    /// # Errors
    ///
    /// Where the tokenizer cannot be written as JSON.
    pub fn to_json(&self) -> Result<String, DataError> {
        self.inner
            .to_string(true)
            .map_err(|error| tokenize_error("write JSON", &*error))
    }

    /// Writes the `tokenizer.json` in one step: another process sees the old file or the new one, whole.
    ///
    /// # Errors
    ///
    /// Where the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        let json = self.to_json()?;
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = Path::new(&partial);
        let mut file = File::create(partial).map_err(DataError::io("create", partial))?;
        file.write_all(json.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(DataError::io("write", partial))?;
        std::fs::rename(partial, path).map_err(DataError::io("rename to", path))
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter
            .debug_tuple("Tokenizer")
            .field(&self.identity)
            .finish()
    }
}

fn splitting(config: &TokenizerConfig) -> PreTokenizerWrapper {
    let bytes = PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true));
    if !config.individual_digits {
        return bytes;
    }
    Sequence::new(vec![PreTokenizerWrapper::Digits(Digits::new(true)), bytes]).into()
}

fn words(pre_tokenizer: &PreTokenizerWrapper, text: &str) -> tokenizers::Result<Vec<String>> {
    let mut text = PreTokenizedString::from(text);
    pre_tokenizer.pre_tokenize(&mut text)?;
    let words = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Ok(words
        .into_iter()
        .map(|(word, _, _)| word.to_owned())
        .collect())
}

fn prefix(mut text: String, bytes: u64) -> String {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    text.truncate(text.floor_char_boundary(bytes));
    text
}

/// The first of these names that is a special token; an ordinary token of that spelling is not one.
fn special(tokenizer: &tokenizers::Tokenizer, names: &[&str]) -> Option<u32> {
    let vocabulary = tokenizer.get_added_vocabulary();
    names
        .iter()
        .filter(|name| vocabulary.is_special_token(name))
        .find_map(|name| tokenizer.token_to_id(name))
}

fn tokenize_error(action: &'static str, error: &dyn std::error::Error) -> DataError {
    DataError::Tokenize {
        action,
        reason: error.to_string(),
    }
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
