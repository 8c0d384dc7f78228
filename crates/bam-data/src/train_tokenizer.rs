use tokenizers::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, Trainer,
    models::bpe::{BPE, BpeTrainer},
    pre_tokenizers::{byte_level::ByteLevel, digits::Digits, sequence::Sequence},
};

use super::special_tokens::Roles;
use super::{
    DataError, Document, Tokenizer,
    tokenizer::{BEGIN, END, check_vocabulary, tokenize_error},
};

/// Settings of the training of a byte-level BPE tokenizer.
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

/// The progress of the training of a tokenizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrainingProgress {
    pub documents: u64,
    pub bytes: u64,
}

const BYTES: usize = 256;

impl Tokenizer {
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
        check_vocabulary(config.vocabulary, BYTES + 2)?;
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
        let json = inner
            .to_string(true)
            .map_err(|error| tokenize_error("write", &*error))?;
        let trained = Self::parse(json.as_bytes(), "just trained", || Ok(Roles::default()))?;
        if trained.vocabulary_size() < config.vocabulary {
            return Err(DataError::VocabularyNotReached {
                vocabulary: config.vocabulary,
                reached: trained.vocabulary_size(),
            });
        }
        Ok(trained)
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
