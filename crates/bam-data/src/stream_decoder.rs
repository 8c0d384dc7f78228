use super::{DataError, Tokenizer, byte_pairs::spelled_byte};

/// Decodes tokens one by one into pieces of whole characters.
///
/// A token may end in the middle of a character; its bytes wait until the character is whole, or until
/// it is certain that it never will be, when they become U+FFFD. So text is never held back for more
/// than three bytes, whatever tokens a model produces. The pieces, joined, are [`Tokenizer::decode`] of
/// all tokens; only for SentencePiece tokenizers (`<0xE2>`) may runs of bytes that are no UTF-8 hold
/// another number of U+FFFD.
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    spelling: Spelling,
    /// The beginning of a character: at most three bytes.
    bytes: Vec<u8>,
    /// Some decoders treat the first token of a text differently.
    started: bool,
}

/// The vocabulary's way to spell tokens.
#[derive(Clone)]
enum Spelling {
    /// Every character stands for a byte, as in GPT-2.
    Bytes,
    /// Text, but for `<0xE2>` and the like. `anchor` is a token with the text `anchor_text` that decoders
    /// leave alone: what they make of `[anchor, token]` tells the text of a token that is not the first.
    Text {
        anchor: Vec<u32>,
        anchor_text: String,
    },
}

impl Tokenizer {
    /// Decodes tokens as they come, in pieces of whole characters.
    #[must_use]
    pub fn stream_decoder(&self) -> StreamDecoder<'_> {
        StreamDecoder::new(self)
    }
}

impl<'a> StreamDecoder<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Self {
        let decoder = serde_json::to_string(&tokenizer.inner.get_decoder()).unwrap_or_default();
        let spelling = if decoder.contains(r#""type":"ByteLevel""#) {
            Spelling::Bytes
        } else {
            let anchor = tokenizer.encode("a").unwrap_or_default();
            let anchor_text = tokenizer.decode(&anchor).unwrap_or_default();
            Spelling::Text {
                anchor,
                anchor_text,
            }
        };
        Self {
            tokenizer,
            spelling,
            bytes: Vec::new(),
            started: false,
        }
    }

    /// Takes one token and gives the text that is now certain; often none, as of an id without a token.
    ///
    /// # Errors
    ///
    /// If the tokenizer's decoder fails.
    pub fn push(&mut self, token: u32) -> Result<String, DataError> {
        let inner = &self.tokenizer.inner;
        let Some(name) = inner.id_to_token(token) else {
            return Ok(String::new());
        };
        if inner.get_added_vocabulary().is_special_token(&name) {
            return Ok(String::new());
        }
        let mut text = String::new();
        match &self.spelling {
            Spelling::Bytes => self.bytes.extend(spelled_bytes(&name)),
            Spelling::Text {
                anchor,
                anchor_text,
            } => match fallback_byte(&name) {
                Some(byte) => self.bytes.push(byte),
                None => {
                    let piece = if self.started {
                        let with_anchor = [anchor.as_slice(), &[token]].concat();
                        let both = self.tokenizer.decode(&with_anchor)?;
                        match both.strip_prefix(anchor_text.as_str()) {
                            Some(piece) => piece.to_owned(),
                            None => self.tokenizer.decode(&[token])?,
                        }
                    } else {
                        self.tokenizer.decode(&[token])?
                    };
                    text.push_str(&self.finish());
                    text.push_str(&piece);
                }
            },
        }
        self.started = true;
        text.push_str(&self.take_certain());
        Ok(text)
    }

    /// The text of a token by itself, as it is in the middle of a text, for reports: special tokens by
    /// their names, and bytes that are no whole characters as `bytes:\\xe2\\x80`. And its own bytes. An id
    /// without a token has neither.
    ///
    /// # Errors
    ///
    /// If the tokenizer's decoder fails.
    pub fn spell(&self, token: u32) -> Result<(String, Vec<u8>), DataError> {
        let mut alone = Self {
            tokenizer: self.tokenizer,
            spelling: self.spelling.clone(),
            bytes: Vec::new(),
            started: true,
        };
        let text = alone.push(token)?;
        let waiting: Vec<u8> = std::mem::take(&mut alone.bytes);
        let name = self.tokenizer.spelling(token).unwrap_or_default();
        let bytes = match &self.spelling {
            Spelling::Bytes => spelled_bytes(&name),
            Spelling::Text { .. } => fallback_byte(&name).into_iter().collect(),
        };
        let whole = |text: String| {
            let bytes = text.as_bytes().to_vec();
            (text, bytes)
        };
        if waiting.is_empty() && !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER) {
            return Ok(whole(text));
        }
        let special = self.tokenizer.inner.get_added_vocabulary();
        if bytes.is_empty() || special.is_special_token(&name) {
            return Ok(whole(name));
        }
        let hexadecimal = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
        Ok((format!("bytes:{}", hexadecimal.collect::<String>()), bytes))
    }

    /// Ends the text: what still waits becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        self.bytes.clear();
        text
    }

    /// The bytes but for an unfinished character at their end.
    fn take_certain(&mut self) -> String {
        let mut text = String::new();
        let mut unfinished = 0;
        let mut chunks = self.bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            let last = chunks.peek().is_none();
            if last && could_go_on(invalid) {
                unfinished = invalid.len();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        let certain = self.bytes.len() - unfinished;
        self.bytes.drain(..certain);
        text
    }
}

/// Whether these bytes are the beginning of a character.
fn could_go_on(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

fn fallback_byte(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2)
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}

/// The bytes that a byte-level token stands for. A name with any other character, such as that of an
/// added token, stands for itself.
fn spelled_bytes(name: &str) -> Vec<u8> {
    name.chars()
        .map(spelled_byte)
        .collect::<Option<Vec<u8>>>()
        .unwrap_or_else(|| name.as_bytes().to_vec())
}
