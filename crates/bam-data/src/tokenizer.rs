use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::ModelWrapper;

use super::special_tokens::{Roles, SpecialTokens, Vocabulary};
use super::{
    DataError, bounded, byte_pairs::BytePairs, caught::caught, hexadecimal, parse_json, patterns,
    text_of,
};
use crate::atomic_file;

/// Text to token ids and back.
///
/// Holds any `tokenizer.json`, or one trained here. Text is only ever text: a document that spells
/// `</s>` is cut into ordinary tokens, so that document boundaries cannot be forged. The file's own
/// truncation and padding are dropped: no text is ever silently shortened.
///
/// ```
/// use bam_data::{Document, Tokenizer, TokenizerConfig};
///
/// let text = "the cat sat on the mat, the dog sat on the cat";
/// let document = Document { text: text.to_owned(), origin: "here".to_owned() };
/// let config = TokenizerConfig { vocabulary: 264, ..TokenizerConfig::default() };
/// let tokenizer = Tokenizer::train([Ok(document)].into_iter(), &config, |_| {})?;
/// let tokens = tokenizer.encode(text)?;
/// assert_eq!(tokenizer.decode(&tokens)?, text);
/// # Ok::<(), bam_data::DataError>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    pub(super) inner: tokenizers::Tokenizer,
    /// The file as it was read or trained: writing `inner` again could change it.
    json: String,
    identity: TokenizerIdentity,
    /// Not for text that spells special tokens.
    fast: Option<Arc<Fast>>,
    special: SpecialTokens,
}

/// The same ids faster, where the file is understood. The tables are made when there is enough text for them:
/// most commands read a prompt.
#[derive(Default)]
struct Fast {
    /// Bytes that the library has encoded.
    slowly: AtomicUsize,
    pairs: OnceLock<Option<BytePairs>>,
}

/// Text that the library encodes in about the time that the tables take.
const ENOUGH: usize = 1 << 15;

/// The identity of a tokenizer: enough to tell whether two stores of tokens, or a store and a model, belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerIdentity {
    /// SHA-256, in hexadecimal, of the `tokenizer.json` written compactly with sorted keys and without its
    /// truncation and padding: the same for any layout of the same tokenizer.
    pub sha256: String,
    /// All tokens are below this.
    pub vocabulary: usize,
    /// The token before each document, where the tokenizer has one.
    pub bos: Option<u32>,
    /// The token after each document, where the tokenizer has one.
    pub eos: Option<u32>,
}

impl TokenizerIdentity {
    /// Whether such a tokenizer can be: one that was read or trained here is.
    pub(super) fn check(&self) -> Result<(), DataError> {
        check_vocabulary(self.vocabulary, 1)?;
        match [self.bos, self.eos].into_iter().flatten().max() {
            Some(token) if token as usize >= self.vocabulary => Err(DataError::UnknownToken {
                token,
                vocabulary: self.vocabulary,
            }),
            _ => Ok(()),
        }
    }
}

pub(super) fn check_vocabulary(vocabulary: usize, minimum: usize) -> Result<(), DataError> {
    if (minimum..=VOCABULARY_LIMIT).contains(&vocabulary) {
        return Ok(());
    }
    Err(DataError::VocabularySize {
        vocabulary,
        minimum,
        maximum: VOCABULARY_LIMIT,
    })
}

/// The name of a tokenizer's file in a model's folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// Larger files are refused before they are parsed.
const FILE_LIMIT: u64 = 1 << 27;
/// Larger vocabularies are refused: an id this large is a corrupt file, and a model would allocate for it.
const VOCABULARY_LIMIT: usize = 1 << 24;
pub(super) const BEGIN: &str = "<s>";
pub(super) const END: &str = "</s>";

impl Tokenizer {
    /// Reads a `tokenizer.json`, and the roles of special tokens from the files beside it. A file of another
    /// name may lie among those of other models, and stands for itself.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is larger than 128 MiB, is no tokenizer, asks for what we do not do, or
    /// has expressions that can take forever; if a file beside it is not what its name says.
    pub fn from_file(path: &Path) -> Result<Self, DataError> {
        let bytes = bounded::read(path, FILE_LIMIT)?;
        let beside = || match (path.file_name(), path.parent()) {
            (Some(name), Some(folder)) if name == TOKENIZER_FILE => Roles::read(folder),
            _ => Ok(Roles::default()),
        };
        Self::parse(&bytes, &path.display().to_string(), beside)
    }

    /// The same tokenizer, with the roles that the files of a folder give to its tokens.
    ///
    /// # Errors
    ///
    /// If one of them is not what its name says.
    pub fn with_roles_of(mut self, folder: &Path) -> Result<Self, DataError> {
        let contents = serde_json::from_str(&self.json).unwrap_or_default();
        self.special = special_tokens(&self.inner, &Roles::read(folder)?, &contents);
        self.identity.bos = self.special.beginning;
        self.identity.eos = self.special.eos;
        Ok(self)
    }

    /// Parses the contents of a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// As [`Self::from_file`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DataError> {
        Self::parse(bytes, "in memory", || Ok(Roles::default()))
    }

    /// `roles` are asked for when all else is known to be right.
    pub(super) fn parse(
        bytes: &[u8],
        origin: &str,
        roles: impl FnOnce() -> Result<Roles, DataError>,
    ) -> Result<Self, DataError> {
        if bytes.len() as u64 > FILE_LIMIT {
            return Err(DataError::TokenizerTooLarge {
                origin: origin.to_owned(),
                bytes: bytes.len() as u64,
                limit: FILE_LIMIT,
            });
        }
        let unreadable = |reason: String| DataError::TokenizerFile {
            origin: origin.to_owned(),
            reason,
        };
        let json = text_of(bytes).map_err(|error| unreadable(error.to_string()))?;
        let contents =
            parse_json(json.as_bytes()).map_err(|error| unreadable(error.to_string()))?;
        if let Some(reason) = patterns::hazard(&contents) {
            return Err(DataError::TokenizerUnsupported {
                origin: origin.to_owned(),
                reason,
            });
        }
        // The library asserts some of what a damaged file can violate.
        let inner = caught(|| tokenizers::Tokenizer::from_bytes(json))
            .ok_or_else(|| unreadable("its parts do not fit together".to_owned()))?
            .map_err(|error| unreadable(error.to_string()))?;
        Self::new(inner, json.to_owned(), contents, origin, roles)
    }

    fn new(
        mut inner: tokenizers::Tokenizer,
        json: String,
        contents: Value,
        origin: &str,
        roles: impl FnOnce() -> Result<Roles, DataError>,
    ) -> Result<Self, DataError> {
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
        check_vocabulary(vocabulary, 1)?;
        let special = special_tokens(&inner, &roles()?, &contents);
        let identity = TokenizerIdentity {
            sha256: hexadecimal(&Sha256::digest(canonical(contents).to_string())),
            vocabulary,
            bos: special.beginning,
            eos: special.eos,
        };
        Ok(Self {
            inner,
            json,
            identity,
            fast: Some(Arc::default()),
            special,
        })
    }

    /// The tokens of a text, nothing added before or after.
    ///
    /// # Errors
    ///
    /// If this tokenizer cannot spell the text, or its regular expressions take too long on it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        in_time("encode", || {
            if let Some(tokens) = self.pairs(text).and_then(|pairs| pairs.encode(text)) {
                return Ok(tokens);
            }
            let encoding = self.inner.encode_fast(text, false)?;
            Ok(encoding.get_ids().to_vec())
        })
    }

    /// The tables, once there was enough text.
    fn pairs(&self, text: &str) -> Option<&BytePairs> {
        let fast = self.fast.as_ref()?;
        if let Some(made) = fast.pairs.get() {
            return made.as_ref();
        }
        let before = fast.slowly.fetch_add(text.len(), Ordering::Relaxed);
        let make = || BytePairs::of(&parse_json(self.json.as_bytes()).ok()?);
        let enough = before.saturating_add(text.len()) >= ENOUGH;
        enough.then(|| fast.pairs.get_or_init(make).as_ref())?
    }

    /// A tokenizer for text that is trusted to spell special tokens, as a chat template does.
    #[must_use]
    pub fn reading_special_tokens(&self) -> Self {
        let mut other = self.clone();
        other.inner.set_encode_special_tokens(false);
        other.fast = None;
        other
    }

    /// The special token of this name.
    #[must_use]
    pub fn special_named(&self, name: &str) -> Option<u32> {
        special_named(&self.inner, name)
    }

    /// The first special token that a text spells.
    #[must_use]
    pub fn special_in(&self, text: &str) -> Option<String> {
        let added = self.inner.get_added_tokens_decoder();
        let mut special = added.values().filter(|token| token.special);
        special
            .find(|token| text.contains(&token.content))
            .map(|token| token.content.clone())
    }

    /// The text of some tokens. Special ones have none, and neither have ids without a token: many models
    /// have more rows than their tokenizer has tokens. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    ///
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, DataError> {
        in_time("decode", || self.inner.decode(tokens, true))
    }

    /// The vocabulary's spelling of a token, for reports: `Ġthe`, `</s>`.
    #[must_use]
    pub fn spelling(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// The id of a token, by the vocabulary's spelling.
    #[must_use]
    pub fn token_id(&self, spelling: &str) -> Option<u32> {
        self.inner.token_to_id(spelling)
    }

    /// The token that begins a document, where documents of this tokenizer begin with one.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.identity.bos
    }

    /// The token that ends a document. GPT-2's `<|endoftext|>` is both.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.identity.eos
    }

    /// Special tokens by role, as the tokenizer's folder has them.
    #[must_use]
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Whether a token ends an answer.
    #[must_use]
    pub fn is_end(&self, token: u32) -> bool {
        self.special.ends.contains(&token)
    }

    /// The token that stands for nothing at all: a beginning, also where texts have none, or an end.
    #[must_use]
    pub fn nothing(&self) -> Option<u32> {
        self.bos().or(self.special.bos).or(self.eos())
    }

    /// The name of the token for what the vocabulary cannot spell, where it has one.
    #[must_use]
    pub fn unknown(&self) -> Option<String> {
        if let Some(name) = self.special.name("unk_token") {
            return Some(name.to_owned());
        }
        match self.inner.get_model() {
            ModelWrapper::BPE(bpe) => bpe.unk_token.clone(),
            ModelWrapper::WordPiece(pieces) => Some(pieces.unk_token.clone()),
            ModelWrapper::WordLevel(words) => Some(words.unk_token.clone()),
            ModelWrapper::Unigram(_) => {
                let json: Value = serde_json::from_str(&self.json).ok()?;
                self.spelling(json["model"]["unk_id"].as_u64()?.try_into().ok()?)
            }
        }
    }

    /// One more than the largest token.
    #[must_use]
    pub fn vocabulary_size(&self) -> usize {
        self.identity.vocabulary
    }

    /// See [`TokenizerIdentity::sha256`].
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.identity.sha256
    }

    #[must_use]
    pub fn identity(&self) -> &TokenizerIdentity {
        &self.identity
    }

    /// The `tokenizer.json`, as it was read or trained.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Writes the `tokenizer.json` in one step: another process sees the old file or the new one, whole.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        atomic_file::write(path, self.json.as_bytes()).map_err(DataError::io("write", path))
    }

    /// Writes the `tokenizer.json` into a folder, after the roles of its tokens where the file alone does not
    /// say them, so that it is the same tokenizer there.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn save_into(&self, folder: &Path) -> Result<(), DataError> {
        let alone = Self::from_bytes(self.json.as_bytes())?;
        if alone.special != self.special {
            self.special.write(folder)?;
        }
        self.save(&folder.join(TOKENIZER_FILE))
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

/// The special token of a name; an ordinary token of that spelling is not one.
fn special_named(tokenizer: &tokenizers::Tokenizer, name: &str) -> Option<u32> {
    let added = tokenizer.get_added_vocabulary();
    let special = added.is_special_token(name);
    special.then(|| tokenizer.token_to_id(name))?
}

fn special_tokens(
    tokenizer: &tokenizers::Tokenizer,
    roles: &Roles,
    contents: &Value,
) -> SpecialTokens {
    roles.of(&Vocabulary {
        id: &|name| tokenizer.token_to_id(name),
        special: &|name| special_named(tokenizer, name),
        name: &|id| tokenizer.id_to_token(id),
        json: contents,
    })
}

/// A regular expression that takes too long panics in the library. It holds no lock while it does.
fn in_time<T>(
    action: &'static str,
    work: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, DataError> {
    match caught(work) {
        Some(result) => result.map_err(|error| tokenize_error(action, &*error)),
        None => Err(DataError::Tokenize {
            action,
            reason: "the tokenizer's expressions take too long on this text".to_owned(),
        }),
    }
}

pub(super) fn tokenize_error(action: &'static str, error: &dyn std::error::Error) -> DataError {
    DataError::Tokenize {
        action,
        reason: error.to_string(),
    }
}

/// The text that the digest is taken of: keys sorted, and nothing that is dropped when the file is read.
fn canonical(mut contents: Value) -> Value {
    if let Value::Object(file) = &mut contents {
        file.remove("truncation");
        file.remove("padding");
    }
    sorted(contents)
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> = fields.into_iter().collect();
            let sorted = fields.into_iter().map(|(key, value)| (key, sorted(value)));
            Value::Object(sorted.collect())
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}
