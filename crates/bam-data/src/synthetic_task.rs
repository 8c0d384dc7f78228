//! Tasks of exact difficulty over a small alphabet, at any length, for training and for evaluation.
//!
//! A tokenizer's ids from 2 on are the symbols: marks, keys, values and noise. Text has no part in them.

use crate::DataError;
use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// A task; its name is what recipes and records call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum SyntheticTask {
    /// `copy`: a random string, a mark, the string again, which is the answer (arXiv 2402.01032).
    Copy,
    /// `recall-8`, `recall-32`: so many pairs of a key and its value somewhere in noise, then a mark and keys of eight
    /// pairs, the value after each is an answer (multi-query associative recall, arXiv 2312.04927).
    Recall(usize),
    /// `induction`: random symbols that end with one that was there once before; the answer is what followed it then.
    Induction,
    /// `latest`: four variables get values again and again somewhere in noise; then a mark and the variables, the latest
    /// value after each is an answer.
    Latest,
    /// `flip-flop`, `flip-flop-sparse`: a bit is written, ignored or read; the bit after a read is the one written last and
    /// an answer (arXiv 2306.00946). Of ten instructions eight are to be ignored, of the sparse one's fifty 49.
    FlipFlop {
        /// Whether nearly all instructions are to be ignored.
        sparse: bool,
    },
}

/// Tokens of one document, and the places among them that are to be predicted from those before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskDocument {
    /// As many as were asked for.
    pub tokens: Vec<i32>,
    /// Ascending.
    pub answers: Vec<usize>,
}

/// Ids that a tokenizer must have.
pub const ALPHABET: usize = NOISE.end as usize;

const ASK: i32 = 2;
const WRITE: i32 = 3;
const IGNORE: i32 = 4;
const READ: i32 = 5;
const KEYS: Range<i32> = 10..74;
const VALUES: Range<i32> = 74..138;
const NOISE: Range<i32> = 138..202;
const VARIABLES: usize = 4;
const ASSIGNMENTS: usize = 16;
const QUESTIONS: usize = 8;

impl SyntheticTask {
    /// All that have a name.
    pub const ALL: [Self; 7] = [
        Self::Copy,
        Self::Recall(8),
        Self::Recall(32),
        Self::Induction,
        Self::Latest,
        Self::FlipFlop { sparse: false },
        Self::FlipFlop { sparse: true },
    ];

    /// Tokens of its shortest document.
    #[must_use]
    pub fn shortest(self) -> usize {
        match self {
            Self::Copy => 9,
            Self::Recall(pairs) => 2 * pairs + 1 + 2 * pairs.min(QUESTIONS),
            Self::Induction => 4,
            Self::Latest => 2 * ASSIGNMENTS + 1 + 2 * VARIABLES,
            Self::FlipFlop { .. } => 4,
        }
    }

    /// A random document of so many tokens.
    ///
    /// # Errors
    /// If it is shorter than the [shortest](Self::shortest).
    pub fn document(self, length: usize, random: &mut impl Rng) -> Result<TaskDocument, DataError> {
        if length < self.shortest() {
            return Err(DataError::Value {
                what: "length of a synthetic task",
                expected: format!("at least {} tokens for {self}", self.shortest()),
                got: length.to_string(),
            });
        }
        Ok(match self {
            Self::Copy => copy(length, random),
            Self::Recall(pairs) => recall(length, pairs, random),
            Self::Induction => induction(length, random),
            Self::Latest => latest(length, random),
            Self::FlipFlop { sparse } => flip_flop(length, if sparse { 0.98 } else { 0.8 }, random),
        })
    }
}

fn some(of: Range<i32>, count: usize, random: &mut impl Rng) -> Vec<i32> {
    (0..count)
        .map(|_| random.random_range(of.clone()))
        .collect()
}

fn different_keys(count: usize, random: &mut impl Rng) -> Vec<i32> {
    let mut keys: Vec<i32> = KEYS.collect();
    keys.shuffle(random);
    keys.truncate(count);
    keys
}

fn copy(length: usize, random: &mut impl Rng) -> TaskDocument {
    let size = (length - 1) / 2;
    let string = some(NOISE, size, random);
    // One symbol more where halves would not fill it.
    let mut tokens = some(KEYS, length - 1 - 2 * size, random);
    tokens.extend(&string);
    tokens.push(ASK);
    tokens.extend(&string);
    TaskDocument {
        answers: (length - size..length).collect(),
        tokens,
    }
}

/// Pairs, in their order, at random places in noise, then the questions.
fn in_noise(
    length: usize,
    pairs: &[[i32; 2]],
    questions: &[[i32; 2]],
    random: &mut impl Rng,
) -> TaskDocument {
    let context = length - 1 - 2 * questions.len();
    let free = context - 2 * pairs.len();
    let mut before: Vec<usize> = pairs
        .iter()
        .map(|_| random.random_range(0..=free))
        .collect();
    before.sort_unstable();
    let mut tokens = Vec::with_capacity(length);
    for (index, (pair, before)) in pairs.iter().zip(before).enumerate() {
        let noise = before + 2 * index - tokens.len();
        tokens.extend(some(NOISE, noise, random));
        tokens.extend(pair);
    }
    let noise = context - tokens.len();
    tokens.extend(some(NOISE, noise, random));
    tokens.push(ASK);
    tokens.extend(questions.as_flattened());
    TaskDocument {
        answers: (0..questions.len())
            .map(|question| context + 2 + 2 * question)
            .collect(),
        tokens,
    }
}

fn recall(length: usize, pairs: usize, random: &mut impl Rng) -> TaskDocument {
    let keys = different_keys(pairs, random).into_iter();
    let mut pairs: Vec<[i32; 2]> = keys.map(|key| [key, random.random_range(VALUES)]).collect();
    let told = pairs.clone();
    pairs.shuffle(random);
    pairs.truncate(QUESTIONS);
    in_noise(length, &told, &pairs, random)
}

fn latest(length: usize, random: &mut impl Rng) -> TaskDocument {
    let mut variables = different_keys(VARIABLES, random);
    // Each is assigned at least once.
    let mut assigned: Vec<usize> = (0..VARIABLES).collect();
    assigned.resize_with(ASSIGNMENTS, || random.random_range(0..VARIABLES));
    assigned.shuffle(random);
    let told: Vec<[i32; 2]> = assigned
        .into_iter()
        .map(|variable| [variables[variable], random.random_range(VALUES)])
        .collect();
    variables.shuffle(random);
    let value = |variable: &i32| {
        told.iter()
            .rev()
            .find(|[key, _]| key == variable)
            .map(|pair| pair[1])
    };
    let questions: Vec<[i32; 2]> = variables
        .iter()
        .filter_map(|variable| Some([*variable, value(variable)?]))
        .collect();
    in_noise(length, &told, &questions, random)
}

fn induction(length: usize, random: &mut impl Rng) -> TaskDocument {
    let symbols = KEYS.start..NOISE.end;
    let asked = random.random_range(symbols.clone());
    let place = random.random_range(0..length - 3);
    let mut tokens: Vec<i32> = (0..length)
        .map(
            |_| match random.random_range(symbols.start..symbols.end - 1) {
                symbol if symbol >= asked => symbol + 1,
                symbol => symbol,
            },
        )
        .collect();
    tokens[place] = asked;
    tokens[length - 2] = asked;
    tokens[length - 1] = tokens[place + 1];
    TaskDocument {
        tokens,
        answers: vec![length - 1],
    }
}

fn flip_flop(length: usize, ignored: f64, random: &mut impl Rng) -> TaskDocument {
    let count = length / 2;
    let mut tokens = some(NOISE, length % 2, random);
    let (mut bit, mut answers) = (0, Vec::new());
    for index in 0..count {
        let instruction = match index {
            0 => WRITE,
            _ if index + 1 == count => READ,
            _ if random.random_bool(ignored) => IGNORE,
            _ if random.random_bool(0.5) => WRITE,
            _ => READ,
        };
        let drawn = random.random_range(0..2);
        if instruction == WRITE {
            bit = drawn;
        }
        let told = if instruction == IGNORE { drawn } else { bit };
        tokens.extend([instruction, VALUES.start + told]);
        if instruction == READ {
            answers.push(tokens.len() - 1);
        }
    }
    TaskDocument { tokens, answers }
}

impl fmt::Display for SyntheticTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy => f.write_str("copy"),
            Self::Recall(pairs) => write!(f, "recall-{pairs}"),
            Self::Induction => f.write_str("induction"),
            Self::Latest => f.write_str("latest"),
            Self::FlipFlop { sparse: false } => f.write_str("flip-flop"),
            Self::FlipFlop { sparse: true } => f.write_str("flip-flop-sparse"),
        }
    }
}

impl FromStr for SyntheticTask {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        let known = Self::ALL.into_iter().find(|task| task.to_string() == name);
        known.ok_or_else(|| DataError::Value {
            what: "synthetic task",
            expected: Self::ALL.map(|task| task.to_string()).join(", "),
            got: name.to_owned(),
        })
    }
}

impl From<SyntheticTask> for String {
    fn from(task: SyntheticTask) -> Self {
        task.to_string()
    }
}

impl TryFrom<String> for SyntheticTask {
    type Error = DataError;

    fn try_from(name: String) -> Result<Self, DataError> {
        name.parse()
    }
}
