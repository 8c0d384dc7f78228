//! BABILong: questions whose facts are scattered in a long text
//! ([arXiv 2406.10149](https://arxiv.org/abs/2406.10149)).
//!
//! Facts and questions are bAbI's, in files that the user has; the text around them is any text. A prompt
//! is made for a tokenizer, so that it and its answer have at most as many tokens as are asked for.
//! `docs/evaluation.md` says what differs from BABILong and why.

mod background;
pub(crate) mod facts;
pub(crate) mod prompt;
mod scoring;

use crate::evaluation::{Evaluation, Found, Stop, Work};
use crate::greedy::{self, Answer, GreedyGenerator, PromptRows};
pub use background::Background;
use bam_lm::Error;
use bam_record::{Babilong, BabilongAnswer, BabilongCell};
pub use facts::{BabiTask, Story, read_stories};
pub use prompt::{BUDGET, Prompt, PromptSet, make_prompts};
pub use scoring::is_right;
use serde_json::Value;

/// Tasks at lengths; a cell is one of each.
pub struct BabilongEvaluation<'a> {
    /// The model that answers.
    pub generator: GreedyGenerator<'a>,
    /// The tasks with their stories.
    pub tasks: &'a [(BabiTask, Vec<Story>)],
    /// Lengths as they were asked for, and their tokens; `None` for facts only.
    pub lengths: Vec<(String, Option<usize>)>,
    /// Questions of each task and length, at most.
    pub count: usize,
    /// Decides the texts.
    pub seed: u64,
    /// The text around the facts.
    pub background: &'a Background,
}

impl<'a> Evaluation for BabilongEvaluation<'a> {
    type Cell = ((String, Option<usize>), &'a (BabiTask, Vec<Story>));
    type Set = PromptSet;
    type Ready = PromptRows;
    type Finding = Answer;
    type Score = BabilongCell;
    type Metrics = Babilong;

    const NAME: &'static str = "babilong";

    fn settings(&self) -> Value {
        self.generator.settings()
    }

    fn grid(&self) -> Vec<Self::Cell> {
        let at = |length: &(String, Option<usize>)| {
            let length = length.clone();
            self.tasks.iter().map(move |task| (length.clone(), task))
        };
        self.lengths.iter().flat_map(at).collect()
    }

    fn steps(&self, _: &Self::Cell) -> u64 {
        self.count as u64
    }

    fn set(&self, cell: &Self::Cell, _: &[BabilongCell], stop: Stop) -> Found<PromptSet> {
        let ((label, length), (task, stories)) = cell;
        let tokenizer = self.generator.subject.tokenizer;
        let (of, at) = ((*task, &stories[..]), (label.as_str(), *length));
        make_prompts(
            of,
            at,
            self.count,
            self.seed,
            tokenizer,
            self.background,
            stop,
        )
    }

    fn names(&self, set: &PromptSet) -> Vec<String> {
        let prompts = set.prompts.iter();
        prompts
            .map(|prompt| greedy::name(&prompt.text, BUDGET))
            .collect()
    }

    fn prepare(&self, set: &PromptSet) -> Result<PromptRows, Error> {
        let prompts = set.prompts.iter().map(|prompt| &prompt.text);
        self.generator.prepare(prompts, BUDGET)
    }

    fn at_once(&self, rows: &PromptRows) -> bool {
        rows.at_once()
    }

    fn length(&self, set: &PromptSet, sample: usize) -> usize {
        set.prompts[sample].text.len()
    }

    fn find(&self, _: &PromptSet, rows: &PromptRows, at: usize, work: &Work) -> Found<Answer> {
        self.generator.answer(rows, at, work.stop)
    }

    fn message(&self, set: &PromptSet, _: Option<&Answer>) -> String {
        format!("{} at {}", set.task, set.label)
    }

    fn score(&self, set: &PromptSet, answers: Vec<Answer>, seconds: f64) -> BabilongCell {
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
        BabilongCell {
            task: set.task.to_string(),
            label: set.label.clone(),
            length: set.length,
            correct: answers.iter().filter(|answer| answer.correct).count(),
            not_run: set.not_made.clone(),
            seconds,
            answers,
        }
    }

    fn record(&self, cells: Vec<BabilongCell>) -> Result<Babilong, Error> {
        Ok(Babilong {
            train_length: self.generator.subject.model.config().train_length,
            haystack: self.background.name().to_owned(),
            begin: self.generator.begin,
            skipping: self.generator.skipping.to_string(),
            cells,
        })
    }
}
