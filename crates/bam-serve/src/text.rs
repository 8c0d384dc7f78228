//! Tokens as the text of an answer: whole characters, and nothing from a stop string on.

use bam_data::{DataError, StreamDecoder, Tokenizer};

/// The text of one answer as its tokens come.
pub struct AnswerText<'t> {
    decoder: StreamDecoder<'t>,
    stops: &'t [String],
    /// Text that may be the beginning of a stop string.
    held: String,
    /// Characters decoded, and of them said.
    decoded: usize,
    said: usize,
    stopped: bool,
}

impl<'t> AnswerText<'t> {
    pub fn new(tokenizer: &'t Tokenizer, stops: &'t [String]) -> Self {
        Self {
            decoder: tokenizer.stream_decoder(),
            stops,
            held: String::new(),
            decoded: 0,
            said: 0,
            stopped: false,
        }
    }

    /// The decoder knows what the answer follows, as some treat the first token of a text differently.
    pub fn after(mut self, prompt: &[i32]) -> Result<Self, DataError> {
        for token in prompt.iter().rev().take(1) {
            self.decoder.push(*token as u32)?;
        }
        self.decoder.finish();
        Ok(self)
    }

    /// Whether a stop string came.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The place where the next token begins: characters of the text, said or not.
    pub fn decoded(&self) -> usize {
        self.decoded
    }

    /// Whether a token that begins there is certain to be part of the answer.
    pub fn has_said(&self, at: usize) -> bool {
        // Without stops nothing is taken back.
        at < self.said || self.stops.is_empty()
    }

    /// Takes a token and gives the text that is certain to be part of the answer; often none.
    pub fn push(&mut self, token: i32) -> Result<String, DataError> {
        let text = self.decoder.push(token as u32)?;
        Ok(self.take(&text))
    }

    /// Ends the answer: what was held back.
    pub fn finish(&mut self) -> String {
        let text = self.decoder.finish();
        let mut certain = self.take(&text);
        if !self.stopped {
            certain += &self.say(self.held.len());
        }
        certain
    }

    fn take(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held += text;
        self.decoded += text.chars().count();
        let found = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()));
        if let Some(at) = found.min() {
            self.stopped = true;
            self.held.truncate(at);
            return self.say(at);
        }
        self.say(self.held.len() - self.possible_beginning())
    }

    /// The first bytes of what is held.
    fn say(&mut self, bytes: usize) -> String {
        let said: String = self.held.drain(..bytes).collect();
        self.said += said.chars().count();
        said
    }

    /// Bytes at the end of what is held that a stop string may begin with.
    fn possible_beginning(&self) -> usize {
        let held = &self.held;
        let begins = |stop: &String| {
            let mut ends = (0..held.len()).filter(|at| held.is_char_boundary(*at));
            ends.find(|at| stop.starts_with(&held[*at..]))
                .map(|at| held.len() - at)
        };
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bam_data::{Document, TokenizerConfig};

    pub fn tokenizer() -> Tokenizer {
        let document = Document {
            text: "one two three".into(),
            origin: "here".into(),
        };
        let config = TokenizerConfig {
            vocabulary: 258,
            ..TokenizerConfig::default()
        };
        Tokenizer::train([Ok(document)].into_iter(), &config, |_| {}).unwrap()
    }

    /// The pieces of a text, and whether it was stopped.
    fn pieces(text: &str, stops: &[&str]) -> (Vec<String>, bool) {
        let tokenizer = tokenizer();
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut answer = AnswerText::new(&tokenizer, &stops);
        let mut pieces = Vec::new();
        for token in tokenizer.encode(text).unwrap() {
            pieces.push(answer.push(token as i32).unwrap());
            if answer.is_stopped() {
                break;
            }
        }
        pieces.push(answer.finish());
        (pieces, answer.is_stopped())
    }

    #[test]
    fn nothing_of_a_stop_string_is_said() {
        for (text, stops, expected) in [
            ("abcdef", &["cd"][..], "ab"),
            ("abcdef", &["cx", "def"], "abc"),
            ("aaab", &["aab"], "a"),
            ("abcab", &["abd"], "abcab"),
            ("héllo €uro", &["€"], "héllo "),
            ("ab", &["b", "ab"], ""),
            ("\n\nQ", &["\n\n"], ""),
            ("none", &[], "none"),
        ] {
            let (pieces, stopped) = pieces(text, stops);
            assert_eq!(pieces.concat(), expected, "{text} until {stops:?}");
            assert_eq!(stopped, expected != text);
        }
    }

    #[test]
    fn tokens_are_certain_when_their_text_is() {
        let tokenizer = tokenizer();
        let stops = ["bd".to_owned(), "é".to_owned()];
        let mut answer = AnswerText::new(&tokenizer, &stops);
        let mut certain = Vec::new();
        let mut begins = Vec::new();
        // The last character is two tokens, and both go.
        for token in tokenizer.encode("abcé").unwrap() {
            begins.push(answer.decoded());
            answer.push(token as i32).unwrap();
            certain.push(begins.iter().filter(|at| answer.has_said(**at)).count());
        }
        assert_eq!(begins, [0, 1, 2, 3, 3]);
        assert_eq!(certain, [1, 1, 3, 3, 3]);
        assert!(answer.is_stopped());
        // Null control: without stops a token is certain at once.
        assert!(AnswerText::new(&tokenizer, &[]).has_said(0));
    }

    #[test]
    fn text_is_held_back_only_as_long_as_it_may_stop() {
        let (pieces, _) = pieces("abcd", &["bd"]);
        assert_eq!(pieces, ["a", "", "bc", "d", ""]);
    }
}
