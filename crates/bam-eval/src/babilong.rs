//! BABILong: questions whose facts are scattered in a long text
//! ([arXiv 2406.10149](https://arxiv.org/abs/2406.10149)).
//!
//! Facts and questions are bAbI's, in files that the user has; the text around them is any text. A prompt
//! is made for a tokenizer, so that it and its answer have at most as many tokens as are asked for.
//! `docs/evaluation.md` says what differs from BABILong and why.

mod background;
mod facts;
mod prompt;
mod scoring;

pub use background::Background;
pub use facts::{BabiTask, Story, read_stories};
pub use prompt::{Prompt, PromptSet, make_prompts};
pub use scoring::is_right;

use super::continuation::{Answer, Answerer};
use super::watch::Watch;
use bam_lm::Error;
use bam_record::{BabilongAnswer, BabilongCell};

/// Tokens of an answer, at most.
pub const BUDGET: usize = 20;

/// Answers the prompts of a set. `clock` tells seconds. `None` where the watch says stop.
///
/// # Errors
/// If the model fails.
pub fn answer_prompts(
    answerer: Answerer,
    set: &PromptSet,
    clock: impl Fn() -> f64,
    watch: Watch<Answer>,
) -> Result<Option<BabilongCell>, Error> {
    let start = clock();
    let answerer = Answerer {
        budget: BUDGET,
        ..answerer
    };
    let prompts: Vec<&str> = set.prompts.iter().map(|of| of.text.as_str()).collect();
    let Some(answers) = answerer.answers(&prompts, watch)? else {
        return Ok(None);
    };
    let answered = set.prompts.iter().zip(answers);
    let answers: Vec<BabilongAnswer> = answered
        .map(|(prompt, answer)| BabilongAnswer {
            question: prompt.question.clone(),
            target: prompt.target.clone(),
            correct: is_right(set.task, &prompt.target, &answer.text, &prompt.question),
            answer: answer.text.trim().to_owned(),
            tokens: answer.prompt_tokens,
        })
        .collect();
    Ok(Some(BabilongCell {
        task: set.task.to_string(),
        label: set.label.clone(),
        length: set.length,
        correct: answers.iter().filter(|answer| answer.correct).count(),
        not_run: set.not_made.clone(),
        seconds: clock() - start,
        answers,
    }))
}
