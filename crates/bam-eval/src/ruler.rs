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
mod sample;
mod scoring;
mod sources;
mod task;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod variable_tracking;
mod words;

pub use sample::{Sample, SampleSet, read_samples};
pub use scoring::{Matching, cleaned};
pub use sources::{Essays, Paragraphs, Sources};
pub use task::Task;

use super::continuation::{Answer, Answerer};
use super::loglikelihood::mean_and_error;
use super::watch::Watch;
use bam_data::Tokenizer;
use bam_lm::Error;
use bam_lm::model::check_length;
use bam_record::{RulerAnswer, RulerCell};
use fit::Frame;

/// Makes `count` samples of a task. The same seed gives the same samples, sample by sample: fewer are the
/// first of more. `None` where `stop` says so.
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
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Option<SampleSet>, Error> {
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

/// Answers the samples of a set; `answerer` is told the task's budget. `clock` tells seconds. `None` where
/// the watch says stop.
///
/// # Errors
/// If the model fails.
pub fn answer_samples(
    answerer: Answerer,
    set: &SampleSet,
    clock: impl Fn() -> f64,
    watch: Watch<Answer>,
) -> Result<Option<RulerCell>, Error> {
    let start = clock();
    let answerer = Answerer {
        budget: set.task.budget(),
        ..answerer
    };
    let prompts: Vec<String> = set.samples.iter().map(Sample::prompt).collect();
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let Some(answers) = answerer.answers(&prompts, watch)? else {
        return Ok(None);
    };
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
    Ok(Some(RulerCell {
        task: set.task.name().to_owned(),
        length: set.length,
        score: (!scores.is_empty()).then(|| mean_and_error(&scores)),
        nulls: nulls.count(),
        not_run: set.not_made.clone(),
        seconds: clock() - start,
        answers,
    }))
}
