//! Log-likelihood of given continuations: last words (LAMBADA) and multiple choice (HellaSwag, ARC, PIQA).
//!
//! Requests are JSON lines, as evaluation programs write them down: a context and a continuation, the
//! task and the document they belong to, and for multiple choice the number of the right one. What
//! counts as right is what lm-eval counts: of one continuation, that it is the greedy one; of several,
//! that the right one has the largest `ln p` (`acc`), or the largest per character (`acc_norm`).

use crate::watch::{Watch, digest, exact};
use bam_data::{DataError, Tokenizer, json_values};
use bam_lm::Error;
use bam_lm::model::{KvCache, Transformer, score_of};
use bam_record::LoglikelihoodScore;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// A context and what may follow it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question {
    /// What comes before; may be empty.
    pub context: String,
    /// The continuations, in the order of their numbers.
    pub continuations: Vec<String>,
    /// The number of the right one.
    pub right: usize,
    /// The number of the document that it is of, where the requests give one.
    pub document: Option<u64>,
    /// What the requests hold of that document besides.
    pub contents: Option<Value>,
}

/// The questions of some tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Questions {
    /// By the task's name.
    pub tasks: BTreeMap<String, Vec<Question>>,
    /// Requests that ask for a continuation without its question, and are not used.
    pub unconditional: usize,
}

impl Questions {
    /// Reads requests from a `.jsonl` file, perhaps compressed.
    ///
    /// A line is `{"task_name", "doc_id", "idx", "request": {"context", "continuation"}, "label"}`; the
    /// label is the number of the right continuation, or not a number where there is one only. Also
    /// `{"context", "continuations" or "continuation", "label", "task"}`, one line a question.
    ///
    /// # Errors
    /// If the file can't be read, or a line is no request.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut read = Self::default();
        let mut several: BTreeMap<(String, String), BTreeMap<usize, Line>> = BTreeMap::new();
        let mut order = Vec::new();
        for (number, value) in json_values(path)?.enumerate() {
            let value = value?;
            let line = Line::of(&value).ok_or_else(|| Error::File {
                path: path.to_owned(),
                expected: "a context and a continuation on each line".into(),
                got: format!("line {}: {}", number + 1, shortened(&value)),
            })?;
            if line.context.trim() == "Answer:" {
                read.unconditional += 1;
                continue;
            }
            let document = match &line.document {
                Some(document) => document.to_string(),
                None => format!("line {number}"),
            };
            let key = (line.task.clone(), document);
            let lines = several.entry(key.clone()).or_default();
            if lines.is_empty() {
                order.push(key);
            }
            let index = line.index.unwrap_or(lines.len());
            lines.insert(index, line);
        }
        for key in order {
            let lines = several.remove(&key).unwrap_or_default();
            read.tasks
                .entry(key.0)
                .or_default()
                .push(Line::question(lines, path)?);
        }
        Ok(read)
    }

    /// The first `count` questions of every task.
    #[must_use]
    pub fn first(mut self, count: usize) -> Self {
        self.tasks
            .values_mut()
            .for_each(|task| task.truncate(count));
        self
    }

    /// Questions in all.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tasks.values().map(Vec::len).sum()
    }
}

/// One line of a file.
struct Line {
    task: String,
    document: Option<Value>,
    contents: Option<Value>,
    index: Option<usize>,
    context: String,
    continuations: Vec<String>,
    right: Option<usize>,
}

impl Line {
    fn of(value: &Value) -> Option<Self> {
        let request = value.get("request").unwrap_or(value);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let continuations = match (request.get("continuation"), request.get("continuations")) {
            (Some(one), None) => vec![text(one)?],
            (None, Some(Value::Array(several))) => {
                several.iter().map(text).collect::<Option<_>>()?
            }
            _ => return None,
        };
        let number = |name: &str| value.get(name)?.as_u64().map(|n| n as usize);
        let task = value.get("task_name").or_else(|| value.get("task"));
        Some(Self {
            task: task
                .and_then(text)
                .unwrap_or_else(|| "loglikelihood".into()),
            document: value.get("doc_id").cloned(),
            contents: value.get("doc").cloned(),
            index: number("idx"),
            context: text(request.get("context")?)?,
            continuations,
            right: number("label"),
        })
    }

    /// The lines of a document as one question.
    fn question(lines: BTreeMap<usize, Self>, path: &Path) -> Result<Question, Error> {
        let mut lines = lines.into_values();
        let Some(mut first) = lines.next() else {
            return Ok(Question::default());
        };
        for line in lines {
            if first.context != line.context {
                return Err(Error::File {
                    path: path.to_owned(),
                    expected: "one context for the continuations of a document".into(),
                    got: format!("{:?} and {:?}", first.context, line.context),
                });
            }
            first.continuations.extend(line.continuations);
        }
        let right = match (first.continuations.len(), first.right) {
            (1, _) => 0,
            (count, Some(right)) if right < count => right,
            (count, right) => {
                return Err(Error::File {
                    path: path.to_owned(),
                    expected: format!("a label below the {count} continuations"),
                    got: format!("{right:?} after {:?}", first.context),
                });
            }
        };
        Ok(Question {
            context: first.context,
            continuations: first.continuations,
            right,
            document: first.document.and_then(|document| document.as_u64()),
            contents: first.contents,
        })
    }
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    text.chars().take(120).collect()
}

/// How probable a continuation is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Likelihood {
    /// `ln p` of all its tokens after the context.
    #[serde(with = "exact")]
    pub ln_probability: f64,
    /// Whether each token was the most probable one.
    pub greedy: bool,
}

/// A context and a continuation as tokens, cut where lm-eval cuts them: spaces at the context's end
/// belong to the continuation, and the continuation is what is left of both together.
///
/// # Errors
/// If the tokenizer can't spell the text, or no token is left for the continuation.
pub fn token_pair(
    tokenizer: &Tokenizer,
    context: &str,
    continuation: &str,
) -> Result<(Vec<i32>, Vec<i32>), Error> {
    let kept = context.trim_end();
    let whole = format!("{context}{continuation}");
    let ids = |text: &str| -> Result<Vec<i32>, DataError> {
        Ok(tokenizer
            .encode(text)?
            .into_iter()
            .map(|id| id as i32)
            .collect())
    };
    let (whole, context) = (ids(&whole)?, ids(kept)?);
    let rest = whole.get(context.len()..).unwrap_or_default().to_vec();
    if rest.is_empty() {
        return Err(Error::Value {
            what: "continuation",
            expected: "at least one token".into(),
            got: format!("{continuation:?}"),
        });
    }
    Ok((context, rest))
}

/// The likelihood of each continuation. The context is read once for those that begin with the same
/// tokens.
///
/// As in lm-eval, a row begins with the context's first token; with the token that begins documents
/// where there is no context, or where `begin` asks for it.
///
/// # Errors
/// If the text has no tokens, or the model fails.
pub fn likelihoods(
    model: &Transformer,
    tokenizer: &Tokenizer,
    question: &Question,
    begin: bool,
) -> Result<Vec<Likelihood>, Error> {
    let pairs: Vec<(Vec<i32>, Vec<i32>)> = question
        .continuations
        .iter()
        .map(|continuation| token_pair(tokenizer, &question.context, continuation))
        .collect::<Result<_, _>>()?;
    let beginning = tokenizer.bos().or(tokenizer.eos()).map(|id| id as i32);
    let longest = pairs.iter().map(|(a, b)| a.len() + b.len()).max();
    let mut cache = model.cache(1, longest.unwrap_or(0) + 1)?;
    let mut read: Vec<i32> = Vec::new();
    let mut after = Vec::new();
    let mut found = Vec::with_capacity(pairs.len());
    for (context, continuation) in pairs {
        let before = beginning.filter(|_| begin || context.is_empty());
        let context: Vec<i32> = before.into_iter().chain(context).collect();
        if context != read || read.is_empty() {
            cache.truncate(0);
            after = model.prefill_to_logits(&context, &mut cache)?;
            read = context;
        }
        cache.truncate(read.len());
        found.push(likelihood(model, &mut cache, &after, &continuation)?);
    }
    Ok(found)
}

/// The likelihood of `continuation` after what is in the cache, given the logits after it.
fn likelihood(
    model: &Transformer,
    cache: &mut KvCache,
    after: &[f32],
    continuation: &[i32],
) -> Result<Likelihood, Error> {
    let mut scores = vec![score_of(after, continuation[0], 1)];
    if continuation.len() > 1 {
        scores.extend(model.score(continuation, cache, 1, 1)?.0);
    }
    let pairs = scores.iter().zip(continuation);
    Ok(Likelihood {
        ln_probability: scores.iter().map(|score| score.ln_probability).sum(),
        greedy: pairs.clone().all(|(score, token)| score.is_greedy(*token)),
    })
}

/// The likelihoods of all continuations of some questions. `None` where the watch says stop.
///
/// # Errors
/// Those of [`likelihoods`].
pub fn answer_questions(
    model: &Transformer,
    tokenizer: &Tokenizer,
    questions: &[Question],
    begin: bool,
    watch: Watch<Vec<Likelihood>>,
) -> Result<Option<Vec<Vec<Likelihood>>>, Error> {
    let answer = |question: &Question| {
        let texts = question.continuations.iter().map(String::as_str);
        let asked = digest([question.context.as_str()].into_iter().chain(texts));
        watch.finding(&asked, || {
            likelihoods(model, tokenizer, question, begin).map(Some)
        })
    };
    questions.par_iter().map(answer).collect()
}

impl Question {
    /// Whether it was answered rightly: the right continuation is the most probable one, of equals the
    /// first; a single one is greedy.
    #[must_use]
    pub fn is_right(&self, likelihoods: &[Likelihood]) -> bool {
        match likelihoods {
            [only] => only.greedy,
            several => self.best_by(several, |_| 1.0) == self.right,
        }
    }

    /// The same by `ln p` per character; `None` where there is one continuation only.
    #[must_use]
    pub fn is_right_per_character(&self, likelihoods: &[Likelihood]) -> Option<bool> {
        // The space before an answer is no part of it.
        let characters = |text: &str| text.trim_start().chars().count().max(1) as f64;
        let several = likelihoods.len() > 1;
        several.then(|| self.best_by(likelihoods, characters) == self.right)
    }

    /// The number of the continuation with the largest `ln p` by some size of its text; of equals the
    /// first, as NumPy has it.
    fn best_by(&self, likelihoods: &[Likelihood], size: impl Fn(&str) -> f64) -> usize {
        let values = likelihoods.iter().zip(&self.continuations);
        let values: Vec<f64> = values
            .map(|(of, text)| of.ln_probability / size(text))
            .collect();
        let larger = |best: usize, index: usize| match values[index] > values[best] {
            true => index,
            false => best,
        };
        (0..values.len()).fold(0, larger)
    }
}

/// A task's score from its questions and the likelihoods of their continuations.
#[must_use]
pub fn score(
    task: &str,
    questions: &[Question],
    likelihoods: &[Vec<Likelihood>],
) -> LoglikelihoodScore {
    let answered = || questions.iter().zip(likelihoods);
    let choice = questions.iter().any(|of| of.continuations.len() > 1);
    let share = |right: &dyn Fn(&Question, &[Likelihood]) -> bool| {
        let right = answered().map(|(question, of)| f64::from(u8::from(right(question, of))));
        mean_and_error(&right.collect::<Vec<_>>())
    };
    let of_right = answered().map(|(question, of)| of[question.right].ln_probability);
    let of_right: Vec<f64> = of_right.collect();
    let right = questions.iter().map(|of| &of.continuations[of.right]);
    let bytes: usize = right.map(String::len).sum();
    LoglikelihoodScore {
        task: task.to_owned(),
        questions: questions.len(),
        accuracy: share(&Question::is_right),
        accuracy_per_character: choice.then(|| {
            share(&|question, of| {
                let alone = || question.is_right(of);
                question.is_right_per_character(of).unwrap_or_else(alone)
            })
        }),
        perplexity: (!choice).then(|| (-mean_and_error(&of_right).0).exp()),
        bits_per_byte: -of_right.iter().sum::<f64>() / std::f64::consts::LN_2 / bytes.max(1) as f64,
    }
}

/// The mean and its standard error, `√(Σ(x − mean)² / (n − 1) / n)`.
pub(super) fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0).max(1.0) / n).sqrt())
}
