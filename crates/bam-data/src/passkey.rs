//! The passkey task's text, for training documents and for evaluation.
//!
//! A prompt is `task, k × filler, information, (K − k) × filler, question`, each piece tokenised by
//! itself and joined as tokens, then the leading digits that are given. The rest of the key is the
//! answer.

use crate::{DataError, Tokenizer};
use rand::Rng;

const TASK: &str = "There is an important info hidden inside a lot of irrelevant text. Find it and \
                    memorize them. I will quiz you about the important information there.";
const FILLER: &str =
    " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";
const QUESTION: &str = " What is the pass key? The pass key is";

/// Digits of a key that are scored.
pub const SCORED_DIGITS: usize = 5;

/// The task's sentences with a place for the key, for training a tokenizer that has seen them.
#[must_use]
pub fn sample_text(key: &str) -> String {
    format!("{TASK}{FILLER}{}{QUESTION} {key}", information(key))
}

fn information(key: &str) -> String {
    format!(" The pass key is {key}. Remember it. {key} is the pass key.")
}

/// The task in a tokenizer's tokens.
#[derive(Debug)]
pub struct PasskeyTask<'a> {
    tokenizer: &'a Tokenizer,
    /// Digits of the key that the prompt gives away, before the scored ones.
    given: usize,
    task: Vec<i32>,
    filler: Vec<i32>,
    question: Vec<i32>,
}

/// A key in tokens: where it is told, and what is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The information line.
    pub information: Vec<i32>,
    /// The digits that are given after the question.
    pub given: Vec<i32>,
    /// The scored digits.
    pub answer: Vec<i32>,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Everything up to the answer.
    pub tokens: Vec<i32>,
    /// The answer that should follow.
    pub answer: Vec<i32>,
}

impl<'a> PasskeyTask<'a> {
    /// # Errors
    /// If the tokenizer can't encode the text, or more than one digit is to be given.
    pub fn new(tokenizer: &'a Tokenizer, given: usize) -> Result<Self, DataError> {
        if given > 1 {
            return Err(DataError::Value {
                what: "given digits",
                expected: "0 or 1".into(),
                got: given.to_string(),
            });
        }
        Ok(Self {
            tokenizer,
            given,
            task: encode(tokenizer, TASK)?,
            filler: encode(tokenizer, FILLER)?,
            question: encode(tokenizer, QUESTION)?,
        })
    }

    /// Digits that are given.
    #[must_use]
    pub fn given_digits(&self) -> usize {
        self.given
    }

    /// The task sentence.
    #[must_use]
    pub fn task(&self) -> &[i32] {
        &self.task
    }

    /// The filler.
    #[must_use]
    pub fn filler(&self) -> &[i32] {
        &self.filler
    }

    /// The question.
    #[must_use]
    pub fn question(&self) -> &[i32] {
        &self.question
    }

    /// A random key of the prompt's length. Digits are drawn one by one, so it may begin with zeros.
    ///
    /// # Errors
    /// If the tokenizer can't encode it.
    pub fn random_key(&self, random: &mut impl Rng) -> Result<Key, DataError> {
        self.random_key_of(self.given + SCORED_DIGITS, random)
    }

    /// A random key of any number of digits.
    ///
    /// # Errors
    /// If the tokenizer can't encode it.
    pub fn random_key_of(&self, digits: usize, random: &mut impl Rng) -> Result<Key, DataError> {
        let digits: String = (0..digits)
            .map(|_| char::from(random.random_range(b'0'..=b'9')))
            .collect();
        let (given, scored) = digits.split_at(self.given);
        let (given, answer) = match self.given {
            0 => (Vec::new(), encode(self.tokenizer, &format!(" {scored}"))?),
            _ => (
                encode(self.tokenizer, &format!(" {given}"))?,
                encode(self.tokenizer, scored)?,
            ),
        };
        Ok(Key {
            information: encode(self.tokenizer, &information(&digits))?,
            given,
            answer,
        })
    }

    /// The longest prompt whose tokens and answer are at most `length` together, with the key at
    /// `depth` of the fillers: 0 right after the task, 1 right before the question.
    ///
    /// # Errors
    /// If not even a prompt without filler fits.
    pub fn prompt(&self, key: &Key, length: usize, depth: f64) -> Result<Prompt, DataError> {
        let bos = self.tokenizer.bos().map(|id| id as i32);
        let fixed = usize::from(bos.is_some())
            + self.task.len()
            + key.information.len()
            + self.question.len()
            + key.given.len()
            + key.answer.len();
        let room = length.checked_sub(fixed).ok_or_else(|| DataError::Value {
            what: "passkey length",
            expected: format!("at least the {fixed} tokens of a prompt without filler"),
            got: length.to_string(),
        })?;
        let fillers = room / self.filler.len();
        let before = (depth.clamp(0.0, 1.0) * fillers as f64).round() as usize;
        let mut tokens: Vec<i32> = bos.into_iter().chain(self.task.iter().copied()).collect();
        tokens.extend(self.filler.repeat(before));
        tokens.extend(&key.information);
        tokens.extend(self.filler.repeat(fillers - before));
        tokens.extend(&self.question);
        tokens.extend(&key.given);
        Ok(Prompt {
            tokens,
            answer: key.answer.clone(),
        })
    }
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<i32>, DataError> {
    Ok(tokenizer
        .encode(text)?
        .into_iter()
        .map(|id| id as i32)
        .collect())
}
