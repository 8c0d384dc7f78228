//! Log-likelihood of given continuations: last words (LAMBADA) and multiple choice (HellaSwag, ARC, PIQA).
//!
//! Requests are JSON lines, as evaluation programs write them down: a context and a continuation, the
//! task and the document they belong to, and for multiple choice the number of the right one. What
//! counts as right is what lm-eval counts: of one continuation, that it is the greedy one; of several,
//! that the right one has the largest `ln p` (`acc`), or the largest per character (`acc_norm`).

mod questions;

use crate::evaluation::{Evaluation, Found, Stop, Subject, Work};
use crate::journal::{digest, exact};
use bam_data::{DataError, Tokenizer};
use bam_lm::Error;
use bam_lm::engine::generate::argmax;
use bam_lm::model::{KvCache, Transformer, score_of};
use bam_record::{Loglikelihood, LoglikelihoodScore};
pub use questions::{Question, Questions};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The questions of some tasks; a cell is a task.
pub struct LoglikelihoodEvaluation<'a> {
    /// The model.
    pub subject: Subject<'a>,
    /// The tasks.
    pub questions: &'a Questions,
    /// Whether every row begins with the token that begins documents.
    pub begin: bool,
}

/// The outcome of a task.
pub struct TaskScore {
    /// Its figures.
    pub score: LoglikelihoodScore,
    /// Those of each question's continuations.
    pub likelihoods: Vec<Vec<Likelihood>>,
}

impl<'a> Evaluation for LoglikelihoodEvaluation<'a> {
    type Cell = (&'a str, &'a [Question]);
    type Set = (&'a str, &'a [Question]);
    type Ready = ();
    type Finding = Vec<Likelihood>;
    type Score = TaskScore;
    type Metrics = Loglikelihood;

    const NAME: &'static str = "loglikelihood";

    fn settings(&self) -> Value {
        json!({"begin": self.begin})
    }

    fn grid(&self) -> Vec<Self::Cell> {
        let tasks = self.questions.tasks.iter();
        let cell = |(task, questions): (&'a String, &'a Vec<Question>)| (&**task, &**questions);
        tasks.map(cell).collect()
    }

    fn steps(&self, (_, questions): &Self::Cell) -> u64 {
        questions.len() as u64
    }

    fn set(&self, cell: &Self::Cell, _: &[TaskScore], _: Stop) -> Found<Self::Set> {
        Ok(Some(*cell))
    }

    fn names(&self, (_, questions): &Self::Set) -> Vec<String> {
        let texts = |question: &'a Question| {
            let continuations = question.continuations.iter();
            digest(std::iter::once(&question.context).chain(continuations))
        };
        questions.iter().map(texts).collect()
    }

    fn prepare(&self, _: &Self::Set) -> Result<(), Error> {
        Ok(())
    }

    fn at_once(&self, (): &()) -> bool {
        true
    }

    fn length(&self, (_, questions): &Self::Set, sample: usize) -> usize {
        let question = &questions[sample];
        let continuations = question.continuations.iter().map(String::len);
        question.continuations.len() * question.context.len() + continuations.sum::<usize>()
    }

    fn find(
        &self,
        (_, questions): &Self::Set,
        (): &(),
        sample: usize,
        _: &Work,
    ) -> Found<Vec<Likelihood>> {
        let Subject { model, tokenizer } = self.subject;
        likelihoods(model, tokenizer, &questions[sample], self.begin).map(Some)
    }

    fn message(&self, (task, _): &Self::Set, _: Option<&Vec<Likelihood>>) -> String {
        (*task).to_owned()
    }

    fn score(
        &self,
        (task, questions): &Self::Set,
        likelihoods: Vec<Vec<Likelihood>>,
        _: f64,
    ) -> TaskScore {
        TaskScore {
            score: score(task, questions, &likelihoods),
            likelihoods,
        }
    }

    fn record(&self, scores: Vec<TaskScore>) -> Result<Loglikelihood, Error> {
        Ok(Loglikelihood {
            train_length: self.subject.model.config().train_length,
            unconditional: self.questions.unconditional,
            tasks: scores.into_iter().map(|task| task.score).collect(),
        })
    }
}

/// The probability of a continuation.
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
    let beginning = tokenizer.nothing().map(|id| id as i32);
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
        argmax(&values)
    }
}

/// A task's score from its questions and the likelihoods of their continuations.
fn score(
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
