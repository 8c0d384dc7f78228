//! RULER: what a model finds, follows and counts in long texts
//! ([arXiv 2404.06654](https://arxiv.org/abs/2404.06654)).
//!
//! Thirteen tasks with RULER's names, prompts, budgets and scores, at any length: samples are made for a
//! tokenizer, so that prompt and answer have at most that many tokens, or are read from files that other
//! programs wrote. Where a length is too short for a task, there is a reason instead of samples.
//! `docs/evaluation.md` says what differs from RULER and why.

mod fit;
mod lexicon;
mod needle;
mod questions;
pub(crate) mod sample;
mod scoring;
mod sources;
pub(crate) mod task;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod variable_tracking;
mod words;

use crate::evaluation::{Evaluation, Found, Stop, Work};
use crate::greedy::{self, Answer, GreedyGenerator, PromptRows};
use crate::loglikelihood::mean_and_error;
use bam_data::Tokenizer;
use bam_lm::Error;
use bam_lm::model::check_length;
use bam_record::{Ruler, RulerAnswer, RulerCell};
use fit::Frame;
pub use sample::{Sample, SampleSet, read_samples};
pub use scoring::{Matching, cleaned};
use serde_json::Value;
pub use sources::{Essays, Paragraphs, Sources};
use std::borrow::Cow;
pub use task::Task;

/// The origin of samples.
pub enum RulerSamples {
    /// Files of other programs.
    Read(Vec<SampleSet>),
    /// Texts, a number of samples for each task and length, and a seed.
    Made(Box<Sources>, usize, u64),
}

/// Every task at every length, in the order of the lengths.
#[must_use]
pub fn grid(tasks: &[Task], lengths: &[usize]) -> Vec<(Task, usize)> {
    let of = |length| tasks.iter().map(move |task| (*task, length));
    lengths.iter().copied().flat_map(of).collect()
}

impl RulerSamples {
    /// The tasks and lengths to run, shortest lengths first: those that were read, or else those asked for.
    #[must_use]
    pub fn grid(&self, tasks: &[Task], lengths: &[usize]) -> Vec<(Task, usize)> {
        match self {
            Self::Read(sets) => sets.iter().map(|set| (set.task, set.length)).collect(),
            Self::Made(..) => grid(tasks, lengths),
        }
    }

    fn of(&self, (task, length): (Task, usize)) -> Option<&SampleSet> {
        match self {
            Self::Read(sets) => sets
                .iter()
                .find(|set| (set.task, set.length) == (task, length)),
            Self::Made(..) => None,
        }
    }
}

/// Tasks at lengths; a cell is one of each.
pub struct RulerEvaluation<'a> {
    /// The model that answers.
    pub generator: GreedyGenerator<'a>,
    /// The samples.
    pub samples: &'a RulerSamples,
    /// The tasks and lengths.
    pub grid: Vec<(Task, usize)>,
    /// Files that the samples were read from, for the record.
    pub samples_from: Vec<String>,
}

impl<'a> Evaluation for RulerEvaluation<'a> {
    type Cell = (Task, usize);
    type Set = Cow<'a, SampleSet>;
    type Ready = PromptRows;
    type Finding = Answer;
    type Score = RulerCell;
    type Metrics = Ruler;

    const NAME: &'static str = "ruler";

    fn settings(&self) -> Value {
        self.generator.settings()
    }

    fn grid(&self) -> Vec<(Task, usize)> {
        self.grid.clone()
    }

    fn steps(&self, cell: &(Task, usize)) -> u64 {
        match self.samples {
            RulerSamples::Made(_, count, _) => *count as u64,
            read => read.of(*cell).map_or(0, |set| set.samples.len() as u64),
        }
    }

    fn set(&self, cell: &(Task, usize), _: &[RulerCell], stop: Stop) -> Found<Self::Set> {
        let (task, length) = *cell;
        let tokenizer = self.generator.subject.tokenizer;
        match self.samples {
            RulerSamples::Made(sources, count, seed) => {
                let made = make_samples(task, length, *count, *seed, tokenizer, sources, stop)?;
                Ok(made.map(Cow::Owned))
            }
            read => Ok(read.of(*cell).map(Cow::Borrowed)),
        }
    }

    fn names(&self, set: &Cow<SampleSet>) -> Vec<String> {
        let budget = set.task.budget();
        let name = |sample: &Sample| greedy::name(&sample.prompt(), budget);
        set.samples.iter().map(name).collect()
    }

    fn prepare(&self, set: &Cow<SampleSet>) -> Result<PromptRows, Error> {
        let prompts = set.samples.iter().map(Sample::prompt);
        self.generator.prepare(prompts, set.task.budget())
    }

    fn at_once(&self, rows: &PromptRows) -> bool {
        rows.at_once()
    }

    fn length(&self, set: &Cow<SampleSet>, sample: usize) -> usize {
        set.samples[sample].prompt().len()
    }

    fn find(&self, _: &Self::Set, rows: &PromptRows, at: usize, work: &Work) -> Found<Answer> {
        self.generator.answer(rows, at, work.stop)
    }

    fn message(&self, set: &Cow<SampleSet>, _: Option<&Answer>) -> String {
        format!("{} at {}", set.task, set.length)
    }

    fn score(&self, set: &Cow<SampleSet>, answers: Vec<Answer>, seconds: f64) -> RulerCell {
        let answered = set.samples.iter().zip(answers);
        let answers: Vec<RulerAnswer> = answered
            .map(|(sample, answer)| RulerAnswer {
                index: sample.index,
                tokens: answer.prompt_tokens,
                score: set.task.matching().score(&answer.text, &sample.outputs),
                outputs: sample.outputs.clone(),
                answer: answer.text,
            })
            .collect();
        let scores: Vec<f64> = answers.iter().map(|answer| answer.score).collect();
        let nulls = answers.iter().filter(|of| cleaned(&of.answer).is_empty());
        RulerCell {
            task: set.task.name().to_owned(),
            length: set.length,
            score: (!scores.is_empty()).then(|| mean_and_error(&scores)),
            nulls: nulls.count(),
            not_run: set.not_made.clone(),
            seconds,
            answers,
        }
    }

    fn record(&self, cells: Vec<RulerCell>) -> Result<Ruler, Error> {
        let essays = match self.samples {
            RulerSamples::Read(_) => "",
            RulerSamples::Made(sources, ..) => sources.essays.name(),
        };
        Ok(Ruler {
            train_length: self.generator.subject.model.config().train_length,
            essays: essays.to_owned(),
            samples_from: self.samples_from.clone(),
            begin: self.generator.begin,
            skipping: self.generator.skipping.to_string(),
            cells,
        })
    }
}

/// Makes `count` samples of a task. The same seed gives the same samples, sample by sample: fewer are the
/// first of more.
///
/// # Errors
/// If the length is no row's, the tokenizer can't spell a prompt, or the file of the task is missing.
pub fn make_samples(
    task: Task,
    length: usize,
    count: usize,
    seed: u64,
    tokenizer: &Tokenizer,
    sources: &Sources,
    stop: Stop,
) -> Found<SampleSet> {
    check_length(length)?;
    let frame = Frame {
        stop,
        tokenizer,
        task,
        length,
        seed,
    };
    let made = match (task, task.needles()) {
        (_, Some(needles)) => frame.filled(count, needles.smallest(), |size, random| {
            needles.draft(&sources.essays, size, random)
        }),
        (Task::VariableTracking, None) => variable_tracking::samples(&frame, count),
        (Task::CommonWords, None) => words::common(&frame, count),
        (Task::FrequentWords, None) => words::frequent(&frame, count),
        (task, None) => questions::samples(&frame, sources.paragraphs(task)?, count),
    }?;
    if stop() {
        return Ok(None);
    }
    let (samples, not_made) = match made {
        Ok(samples) => (samples, None),
        Err(reason) => (Vec::new(), Some(reason)),
    };
    Ok(Some(SampleSet {
        task,
        length,
        samples,
        not_made,
    }))
}
