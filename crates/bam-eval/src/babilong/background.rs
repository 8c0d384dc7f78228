//! The text around the facts.

use crate::sentences::sentences;
use bam_data::Tokenizer;
use bam_lm::Error;
use rand::Rng;

/// Sentences of some texts, in order.
#[derive(Clone, Debug)]
pub struct Background {
    name: String,
    sentences: Vec<String>,
}

/// Shorter sentences are left out, as BABILong does.
const FEWEST: usize = 10;

impl Background {
    /// # Errors
    /// If there is no sentence.
    pub fn new<'a>(name: &str, texts: impl Iterator<Item = &'a str>) -> Result<Self, Error> {
        let sentences: Vec<String> = texts.flat_map(sentences).collect();
        if sentences.is_empty() {
            return Err(Error::Value {
                what: "haystack",
                expected: "at least one sentence".into(),
                got: format!("none in {name}"),
            });
        }
        Ok(Self {
            name: name.to_owned(),
            sentences,
        })
    }

    /// Its name in records.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sentences of about `tokens` tokens in all, never more, from a random one on; the last one may be
    /// cut.
    pub(super) fn draw(
        &self,
        tokens: usize,
        tokenizer: &Tokenizer,
        random: &mut impl Rng,
    ) -> Result<Vec<String>, Error> {
        let count = |text: &str| -> Result<usize, Error> {
            // With the space before it.
            Ok(tokenizer.encode(&format!(" {text}"))?.len())
        };
        let start = random.random_range(0..self.sentences.len());
        let mut left = tokens;
        let mut drawn = Vec::new();
        let mut refused = 0;
        for sentence in self.sentences.iter().cycle().skip(start) {
            // Where no sentence is long enough, any will do.
            let size = count(sentence)?;
            if size < FEWEST && refused < self.sentences.len() {
                refused += 1;
                continue;
            }
            if size <= left {
                left -= size;
                drawn.push(sentence.clone());
                continue;
            }
            let mut words: Vec<&str> = sentence.split(' ').collect();
            while !words.is_empty() && count(&words.join(" "))? > left {
                words.pop();
            }
            drawn.extend((!words.is_empty()).then(|| words.join(" ")));
            break;
        }
        Ok(drawn)
    }
}
