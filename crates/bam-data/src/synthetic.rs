//! Rows that are made up as they are asked for: passkey documents, random copies, tasks of exact difficulty.
//!
//! Both teach retrieval at the training length. A row depends on the seed and its index only.

use super::permutation::generator;
use super::{DataError, Row, RowSource, TokenStore, Tokenizer};
use crate::passkey::PasskeyTask;
use crate::synthetic_task::{ALPHABET, SyntheticTask};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The make-up of passkey documents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PasskeyRowsConfig {
    /// Fewest and most digits of a key. They vary, so that a length is not learned.
    pub digits: [usize; 2],
    /// The share of documents that begin with the task sentence.
    pub task_probability: f64,
    /// The share of documents in which the key is hidden in text of the corpus instead of fillers.
    pub text_probability: f64,
    /// The share of these in which the text fills the document and lies on one side of the key only.
    pub edge_probability: f64,
    /// The weight of a token of the answer in the loss, against 1 for the others.
    pub answer_weight: f32,
}

impl Default for PasskeyRowsConfig {
    fn default() -> Self {
        Self {
            digits: [4, 12],
            task_probability: 0.5,
            text_probability: 0.4,
            edge_probability: 0.3,
            answer_weight: 4.0,
        }
    }
}

/// Rows of passkey documents of random length, as many as fit, the rest a copy document.
pub struct PasskeyRows {
    tokenizer: Arc<Tokenizer>,
    text: Arc<TokenStore>,
    config: PasskeyRowsConfig,
    length: usize,
    seed: u64,
}

/// Rows that repeat a random run of tokens.
pub struct CopyRows {
    vocabulary: usize,
    bos: Option<i32>,
    length: usize,
    seed: u64,
}

/// The make-up of rows of [`SyntheticTask`]s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SyntheticRowsConfig {
    /// Each is drawn as often as the others. One for which no room is left ends the row, so long ones come less often.
    pub tasks: Vec<SyntheticTask>,
    /// The weight of a token that is no answer in the loss, against 1 for answers. Most can't be foreseen.
    pub context_weight: f32,
}

impl Default for SyntheticRowsConfig {
    fn default() -> Self {
        Self {
            tasks: SyntheticTask::ALL.into(),
            context_weight: 0.0,
        }
    }
}

/// Rows of such tasks, documents of random lengths until one drawn does not fit, the rest a copy document.
pub struct SyntheticRows {
    config: SyntheticRowsConfig,
    vocabulary: usize,
    bos: Option<i32>,
    length: usize,
    seed: u64,
}

impl SyntheticRows {
    /// # Errors
    /// If there is no task, a row has no room for one of them, or the vocabulary is smaller than their alphabet.
    pub fn new(
        tokenizer: &Tokenizer,
        config: SyntheticRowsConfig,
        length: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        let value = |what, expected, got| {
            Err(DataError::Value {
                what,
                expected,
                got,
            })
        };
        let vocabulary = tokenizer.vocabulary_size();
        if vocabulary < ALPHABET {
            let expected = format!("at least {ALPHABET} tokens");
            return value(
                "vocabulary for synthetic tasks",
                expected,
                vocabulary.to_string(),
            );
        }
        if config.tasks.is_empty() {
            return value("data.synthetic.tasks", "at least one".into(), "none".into());
        }
        let weight = config.context_weight;
        if !(weight >= 0.0 && weight.is_finite()) {
            let expected = "a number from 0 up".into();
            return value(
                "data.synthetic.context_weight",
                expected,
                weight.to_string(),
            );
        }
        let bos = tokenizer.bos().map(|id| id as i32);
        let room = length + 1 - usize::from(bos.is_some());
        if let Some(task) = config.tasks.iter().find(|task| task.shortest() > room) {
            let needed = task.shortest() + length - room;
            let expected = format!("at least {needed} tokens for {task}");
            return value("length of synthetic rows", expected, length.to_string());
        }
        Ok(Self {
            config,
            vocabulary,
            bos,
            length,
            seed,
        })
    }

    /// A document of at most `room` tokens, if its task has one.
    fn document(
        &self,
        room: usize,
        random: &mut ChaCha8Rng,
    ) -> Result<Option<SyntheticDocument>, DataError> {
        let task = self.config.tasks[random.random_range(0..self.config.tasks.len())];
        let room = room.saturating_sub(usize::from(self.bos.is_some()));
        if room < task.shortest() {
            return Ok(None);
        }
        let of = task.document(random.random_range(task.shortest()..=room), random)?;
        let mut document = SyntheticDocument::default();
        document.extend(self.bos, self.config.context_weight);
        let start = document.tokens.len();
        document.extend(of.tokens, self.config.context_weight);
        for answer in of.answers {
            document.weights[start + answer] = 1.0;
        }
        Ok(Some(document))
    }
}

impl RowSource for SyntheticRows {
    fn length(&self) -> usize {
        self.length
    }

    fn row(&self, index: u64) -> Result<Row, DataError> {
        let mut random = generator(self.seed ^ TASK_STREAM, index);
        let (mut documents, room) =
            documents_in(self.length + 1, |room| self.document(room, &mut random))?;
        if room > 0 {
            let mut rest = SyntheticDocument::copy(room, self.vocabulary, self.bos, &mut random);
            rest.weights.fill(self.config.context_weight);
            documents.push(rest);
        }
        Ok(row_of(documents, self.length))
    }
}

/// Longest run that a copy document repeats.
const LONGEST_RUN: usize = 48;

impl PasskeyRows {
    /// `text` hides the keys that fillers do not.
    ///
    /// # Errors
    /// If a row has no room for a passkey document.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        text: Arc<TokenStore>,
        config: PasskeyRowsConfig,
        length: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        let [fewest, most] = config.digits;
        let probabilities = [
            config.task_probability,
            config.text_probability,
            config.edge_probability,
        ];
        if fewest < 2
            || fewest > most
            || !probabilities.iter().all(|p| (0.0..=1.0).contains(p))
            || !(config.answer_weight >= 0.0)
        {
            return Err(DataError::PasskeyRows {
                got: format!(
                    "digits {:?}, probabilities {probabilities:?} and weight {}",
                    config.digits, config.answer_weight
                ),
            });
        }
        let rows = Self {
            tokenizer,
            text,
            config,
            length,
            seed,
        };
        let shortest = {
            let task = rows.task()?;
            SyntheticDocument::shortest(
                &task,
                &task.random_key_of(fewest, &mut generator(seed, 0))?,
            )
        };
        if shortest > length + 1 {
            return Err(DataError::PasskeyRow {
                length,
                needed: shortest - 1,
            });
        }
        Ok(rows)
    }

    fn task(&self) -> Result<PasskeyTask<'_>, DataError> {
        PasskeyTask::new(&self.tokenizer, 1)
    }

    /// A passkey document of at most `room` tokens.
    fn document(
        &self,
        task: &PasskeyTask<'_>,
        room: usize,
        random: &mut ChaCha8Rng,
    ) -> Result<Option<SyntheticDocument>, DataError> {
        let [fewest, most] = self.config.digits;
        let mut digits = random.random_range(fewest..=most);
        let (key, mut room) = loop {
            let key = task.random_key_of(digits, random)?;
            match room.checked_sub(SyntheticDocument::shortest(task, &key)) {
                Some(room) => break (key, room),
                None if digits > fewest => digits -= 1,
                None => return Ok(None),
            }
        };
        let mut document = SyntheticDocument::default();
        document.extend(self.tokenizer.bos().map(|id| id as i32), 1.0);
        if room >= task.task().len() && random.random_bool(self.config.task_probability) {
            document.extend(task.task().iter().copied(), 1.0);
            room -= task.task().len();
        }
        let (before, after) = if random.random_bool(self.config.text_probability) {
            let on_edge = random.random_bool(self.config.edge_probability);
            let size = if on_edge {
                room
            } else {
                random.random_range(0..=room)
            };
            let size = size.min(self.text.tokens() as usize);
            let before = match on_edge {
                true if random.random_bool(0.7) => 0,
                true => size,
                false => random.random_range(0..=size),
            };
            (
                self.text_run(before, random)?,
                self.text_run(size - before, random)?,
            )
        } else {
            let fillers = random.random_range(0..=room / task.filler().len());
            let before = random.random_range(0..=fillers);
            (
                task.filler().repeat(before),
                task.filler().repeat(fillers - before),
            )
        };
        document.extend(before, 1.0);
        document.extend(key.information, 1.0);
        document.extend(after, 1.0);
        document.extend(task.question().iter().copied(), 1.0);
        let weight = self.config.answer_weight;
        document.extend(key.given, weight);
        document.extend(key.answer, weight);
        document.extend(self.tokenizer.eos().map(|id| id as i32), 1.0);
        Ok(Some(document))
    }

    /// `size` consecutive tokens of the corpus.
    fn text_run(&self, size: usize, random: &mut ChaCha8Rng) -> Result<Vec<i32>, DataError> {
        let start = random.random_range(0..=self.text.tokens() - size as u64);
        let ids = self.text.read(start..start + size as u64)?;
        Ok(ids.into_iter().map(|id| id as i32).collect())
    }
}

/// Tokens of one document with what each counts in the loss.
#[derive(Default)]
struct SyntheticDocument {
    tokens: Vec<i32>,
    weights: Vec<f32>,
}

impl SyntheticDocument {
    /// Tokens of a passkey document without task and filler.
    fn shortest(task: &PasskeyTask<'_>, key: &crate::passkey::Key) -> usize {
        2 + key.information.len() + task.question().len() + key.given.len() + key.answer.len()
    }

    fn extend(&mut self, tokens: impl IntoIterator<Item = i32>, weight: f32) {
        self.tokens.extend(tokens);
        self.weights.resize(self.tokens.len(), weight);
    }

    /// A random run of tokens, repeated to the size.
    fn copy(size: usize, vocabulary: usize, bos: Option<i32>, random: &mut ChaCha8Rng) -> Self {
        let longest = (size / 2).clamp(1, LONGEST_RUN);
        let count = random.random_range(longest.min(4)..=longest);
        // The first two ids are the ends of documents in the tokenizers that we train.
        let lowest = if vocabulary > 2 { 2 } else { 0 };
        let run: Vec<i32> = (0..count)
            .map(|_| random.random_range(lowest..vocabulary as i32))
            .collect();
        let mut document = Self::default();
        document.extend(
            bos.into_iter().chain(run.into_iter().cycle()).take(size),
            1.0,
        );
        document
    }
}

/// Documents until one does not fit, and the room that they leave.
fn documents_in(
    mut room: usize,
    mut next: impl FnMut(usize) -> Result<Option<SyntheticDocument>, DataError>,
) -> Result<(Vec<SyntheticDocument>, usize), DataError> {
    let mut documents = Vec::new();
    while let Some(document) = next(room)? {
        room -= document.tokens.len();
        documents.push(document);
    }
    Ok((documents, room))
}

/// Documents one after the other as a row; what follows a document's end does not count.
fn row_of(documents: Vec<SyntheticDocument>, length: usize) -> Row {
    let (mut tokens, mut weights, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for (document, id) in documents.into_iter().zip(0..) {
        ids.resize(ids.len() + document.tokens.len(), id);
        tokens.extend(document.tokens);
        weights.extend(document.weights);
    }
    Row {
        weights: (1..=length)
            .map(|target| {
                if ids[target] == ids[target - 1] {
                    weights[target]
                } else {
                    0.0
                }
            })
            .collect(),
        targets: tokens[1..=length].to_vec(),
        tokens: tokens[..length].to_vec(),
        document_ids: ids[..length].to_vec(),
    }
}

impl RowSource for PasskeyRows {
    fn length(&self) -> usize {
        self.length
    }

    fn row(&self, index: u64) -> Result<Row, DataError> {
        let task = self.task()?;
        let mut random = generator(self.seed ^ PASSKEY_STREAM, index);
        let (mut documents, room) = documents_in(self.length + 1, |room| {
            self.document(&task, room, &mut random)
        })?;
        if room > 0 {
            let bos = self.tokenizer.bos().map(|id| id as i32);
            let vocabulary = self.tokenizer.vocabulary_size();
            documents.push(SyntheticDocument::copy(room, vocabulary, bos, &mut random));
        }
        Ok(row_of(documents, self.length))
    }
}

impl CopyRows {
    /// Rows over the tokenizer's whole vocabulary.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer, length: usize, seed: u64) -> Self {
        Self {
            vocabulary: tokenizer.vocabulary_size(),
            bos: tokenizer.bos().map(|id| id as i32),
            length,
            seed,
        }
    }
}

impl RowSource for CopyRows {
    fn length(&self) -> usize {
        self.length
    }

    fn row(&self, index: u64) -> Result<Row, DataError> {
        let mut random = generator(self.seed ^ COPY_STREAM, index);
        let document =
            SyntheticDocument::copy(self.length + 1, self.vocabulary, self.bos, &mut random);
        Ok(row_of(vec![document], self.length))
    }
}

/// Keep the two kinds of rows apart where they share a seed.
const PASSKEY_STREAM: u64 = 0x7061_7373_6b65_7900;
const COPY_STREAM: u64 = 0x636f_7079_0000_0000;
const TASK_STREAM: u64 = 0x7461_736b_0000_0000;
