//! Tasks of exact difficulty ([`SyntheticTask`]) over a grid of lengths.
//!
//! An answer is right when it is the argmax given all that is before it, right answers included; a sample is right when
//! all of its answers are.

use crate::evaluation::{Evaluation, Found, Stop, Subject, Work};
use crate::passkey::argmax_rows;
use crate::stopping::Stopping;
use bam_attention::Skipping;
use bam_data::synthetic_task::{ALPHABET, SyntheticTask, TaskDocument};
use bam_lm::Error;
use bam_lm::model::{CachePriors, check_length};
use bam_record::{Synthetic, SyntheticCell, SyntheticNotRun};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A grid to run.
#[derive(Clone, Debug, PartialEq)]
pub struct SyntheticPlan {
    /// Tasks.
    pub tasks: Vec<SyntheticTask>,
    /// Ascending lengths in tokens, answers included.
    pub lengths: Vec<usize>,
    /// Samples of a task and length.
    pub samples: usize,
    /// Of a task, stops after this many lengths in a row without a single right answer.
    pub patience: Option<usize>,
    /// Ends the samples of a task and length early; they are then asked in batches.
    pub stopping: Option<Stopping>,
    /// Decides the samples.
    pub seed: u64,
    /// Keys that may be left unread.
    pub skipping: Skipping,
}

/// The outcome of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Answers that were asked.
    pub answers: usize,
    /// Those that are right.
    pub right: usize,
}

/// Synthetic tasks over lengths; a cell is a task at a length, or a batch of its samples where a sequential test may end
/// them.
pub struct SyntheticEvaluation<'a> {
    subject: Subject<'a>,
    plan: &'a SyntheticPlan,
}

impl<'a> SyntheticEvaluation<'a> {
    /// # Errors
    /// If there is nothing to ask, or the model's tokenizer has fewer tokens than the tasks' alphabet.
    pub fn new(subject: Subject<'a>, plan: &'a SyntheticPlan) -> Result<Self, Error> {
        let tokens = subject.tokenizer.vocabulary_size();
        if tokens < ALPHABET {
            return Err(Error::Value {
                what: "vocabulary for synthetic tasks",
                expected: format!("at least {ALPHABET} tokens"),
                got: tokens.to_string(),
            });
        }
        if plan.tasks.is_empty() || plan.lengths.is_empty() || plan.samples == 0 {
            return Err(Error::Value {
                what: "synthetic grid",
                expected: "at least one task, length and sample".into(),
                got: format!("{plan:?}"),
            });
        }
        plan.lengths
            .iter()
            .try_for_each(|length| check_length(*length))?;
        Ok(Self { subject, plan })
    }

    /// A sample: the same for every model whose documents begin alike.
    fn document(
        &self,
        task: SyntheticTask,
        length: usize,
        sample: usize,
    ) -> Result<TaskDocument, Error> {
        let mut random = ChaCha8Rng::seed_from_u64(self.plan.seed);
        let number = SyntheticTask::ALL
            .iter()
            .position(|of| *of == task)
            .unwrap_or(0) as u64;
        random.set_stream((number << 56) ^ ((length as u64) << 24) ^ sample as u64);
        let bos = self.subject.tokenizer.bos().map(|id| id as i32);
        let begun = usize::from(bos.is_some());
        let mut document = task.document(length - begun, &mut random)?;
        document.tokens.splice(0..0, bos);
        document
            .answers
            .iter_mut()
            .for_each(|answer| *answer += begun);
        Ok(document)
    }

    /// Tokens of a task's shortest sample.
    fn shortest(&self, task: SyntheticTask) -> usize {
        task.shortest() + usize::from(self.subject.tokenizer.bos().is_some())
    }
}

/// The samples of a task at a length, or some of them.
pub struct SyntheticSet {
    task: SyntheticTask,
    length: usize,
    samples: Range<usize>,
    not_run: Option<String>,
    /// Right samples so far.
    right: AtomicUsize,
}

/// The outcome of a set.
pub struct SyntheticScore {
    task: SyntheticTask,
    length: usize,
    results: Vec<Answered>,
    not_run: Option<String>,
    seconds: f64,
}

/// The sets of one task and length.
fn by_cell(scores: &[SyntheticScore]) -> impl DoubleEndedIterator<Item = &[SyntheticScore]> {
    scores.chunk_by(|a, b| (a.task, a.length) == (b.task, b.length))
}

/// Results of several sets: samples that are right, and samples.
fn samples(sets: &[SyntheticScore]) -> (usize, usize) {
    let results = || sets.iter().flat_map(|set| &set.results);
    let right = results().filter(|of| of.right == of.answers);
    (right.count(), results().count())
}

impl Evaluation for SyntheticEvaluation<'_> {
    type Cell = (SyntheticTask, usize, Range<usize>);
    type Set = SyntheticSet;
    type Ready = CachePriors;
    type Finding = Answered;
    type Score = SyntheticScore;
    type Metrics = Synthetic;

    const NAME: &'static str = "synthetic";

    fn settings(&self) -> Value {
        json!({"skip": self.plan.skipping.to_string()})
    }

    fn grid(&self) -> Vec<Self::Cell> {
        let plan = self.plan;
        let batches = Stopping::batches(plan.stopping.as_ref(), plan.samples);
        let mut grid = Vec::new();
        for &task in &plan.tasks {
            for &length in &plan.lengths {
                let of = batches.iter().cloned();
                grid.extend(of.map(|samples| (task, length, samples)));
            }
        }
        grid
    }

    fn steps(&self, (_, _, samples): &Self::Cell) -> u64 {
        samples.len() as u64
    }

    fn set(
        &self,
        (task, length, asked): &Self::Cell,
        before: &[SyntheticScore],
        _: Stop,
    ) -> Found<SyntheticSet> {
        let (task, length) = (*task, *length);
        let mut set = SyntheticSet {
            task,
            length,
            samples: 0..0,
            not_run: None,
            right: AtomicUsize::new(0),
        };
        let of_task = by_cell(before).rev().take_while(|of| of[0].task == task);
        let mut run = of_task.filter(|of| samples(of).1 > 0).peekable();
        let shortest = self.shortest(task);
        if asked.start > 0 {
            let of = run.next_if(|of| of[0].length == length);
            if Stopping::goes_on(self.plan.stopping.as_ref(), of.map(samples)) {
                set.samples = asked.clone();
            }
        } else if length < shortest {
            set.not_run = Some(format!("a sample has at least {shortest} tokens"));
        } else {
            let wrong = |sets: &&[SyntheticScore]| {
                let mut results = sets.iter().flat_map(|set| &set.results);
                results.all(|of| of.right == 0)
            };
            let misses = run.take_while(wrong).count();
            match self.plan.patience {
                Some(patience) if misses >= patience => {
                    set.not_run = Some(format!(
                        "no answer right at {misses} shorter lengths in a row"
                    ));
                }
                _ => set.samples = asked.clone(),
            }
        }
        Ok(Some(set))
    }

    fn names(&self, set: &SyntheticSet) -> Vec<String> {
        let (task, length, seed) = (set.task, set.length, self.plan.seed);
        let name = |sample| format!("{task}, {length} tokens, seed {seed}, {sample}");
        set.samples.clone().map(name).collect()
    }

    fn prepare(&self, set: &SyntheticSet) -> Result<CachePriors, Error> {
        self.subject.model.priors(set.length)
    }

    fn find(
        &self,
        set: &SyntheticSet,
        priors: &CachePriors,
        at: usize,
        work: &Work,
    ) -> Found<Answered> {
        let TaskDocument { tokens, answers } =
            self.document(set.task, set.length, set.samples.start + at)?;
        let model = self.subject.model;
        let cache = model.cache_with(1, tokens.len(), priors, None)?;
        let mut cache = cache.with_skipping(self.plan.skipping);
        let read = &tokens[..tokens.len() - 1];
        let tail = tokens.len() - answers[0];
        let mut right = 0;
        let mut open = answers.iter().peekable();
        let done = model.prefill_unless(work.stop, read, &mut cache, tail, |first, logits| {
            for (row, guess) in argmax_rows(logits).into_iter().enumerate() {
                // The row at a place foretells the token after it.
                if open.next_if(|answer| **answer == first + row + 1).is_some() {
                    right += usize::from(guess == tokens[first + row + 1]);
                }
            }
        })?;
        let answers = answers.len();
        Ok(done.map(|()| Answered { answers, right }))
    }

    fn message(&self, set: &SyntheticSet, latest: Option<&Answered>) -> String {
        let more = usize::from(latest.is_some_and(|of| of.right == of.answers));
        let right = set.right.fetch_add(more, Ordering::Relaxed) + more;
        format!("{}, {} tokens: {right} right", set.task, set.length)
    }

    fn score(&self, set: &SyntheticSet, results: Vec<Answered>, seconds: f64) -> SyntheticScore {
        SyntheticScore {
            task: set.task,
            length: set.length,
            results,
            not_run: set.not_run.clone(),
            seconds,
        }
    }

    fn record(&self, scores: Vec<SyntheticScore>) -> Result<Synthetic, Error> {
        let (mut cells, mut not_run) = (Vec::new(), Vec::new());
        for sets in by_cell(&scores) {
            let (task, length) = (sets[0].task.to_string(), sets[0].length);
            if let Some(reason) = &sets[0].not_run {
                not_run.push(SyntheticNotRun {
                    task,
                    length,
                    reason: reason.clone(),
                });
                continue;
            }
            let results = || sets.iter().flat_map(|set| &set.results);
            let (correct, samples) = samples(sets);
            cells.push(SyntheticCell {
                task,
                length,
                samples,
                correct,
                answers: results().map(|of| of.answers).sum(),
                correct_answers: results().map(|of| of.right).sum(),
                seconds: sets.iter().map(|set| set.seconds).sum(),
                planned: (samples < self.plan.samples).then_some(self.plan.samples),
            });
        }
        Ok(Synthetic {
            train_length: self.subject.model.config().train_length,
            skipping: self.plan.skipping.to_string(),
            cells,
            not_run,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::{Context, evaluate};
    use crate::ruler::testing::tokenizer;
    use bam_attention::Implementation;
    use bam_lm::model::{ModelConfig, TokenRows, Transformer};
    use bam_lm::testing::{lively, small};
    use burn::tensor::Device;

    fn model() -> Transformer {
        let config = ModelConfig {
            vocabulary: tokenizer().vocabulary_size(),
            ..small("bam+ssmax")
        };
        lively(config, 4, &Device::flex())
    }

    fn plan() -> SyntheticPlan {
        SyntheticPlan {
            tasks: SyntheticTask::ALL.into(),
            lengths: vec![60, 1100],
            samples: 2,
            patience: None,
            stopping: None,
            seed: 3,
            skipping: Skipping::Exact,
        }
    }

    /// Right answers, from the logits of a whole pass without a cache.
    fn counted(model: &Transformer, document: &TaskDocument) -> usize {
        let vocabulary = model.config().vocabulary;
        let rows = TokenRows::new(1, document.tokens.clone(), vocabulary).unwrap();
        let guesses = argmax_rows(model.forward(&rows, None, Implementation::Fused).unwrap());
        let right = |answer: &&usize| guesses[**answer - 1] == document.tokens[**answer];
        document.answers.iter().filter(right).count()
    }

    #[test]
    fn answers_are_those_of_a_whole_pass() {
        let (model, plan) = (model(), plan());
        let subject = Subject {
            model: &model,
            tokenizer: tokenizer(),
        };
        let evaluation = SyntheticEvaluation::new(subject, &plan).unwrap();
        let found = evaluate(&evaluation, &Context::default(), None, |_, _| Ok(()));
        let (record, _) = found.unwrap().unwrap();
        // Recall of 32 pairs does not fit 60 tokens.
        assert_eq!((record.cells.len(), record.not_run.len()), (13, 1));
        assert!(
            record.not_run[0].reason.contains("at least 8"),
            "{record:?}"
        );
        let mut right = 0;
        for cell in &record.cells {
            let documents = (0..2).map(|sample| {
                evaluation
                    .document(cell.task.parse().unwrap(), cell.length, sample)
                    .unwrap()
            });
            let documents: Vec<_> = documents.collect();
            assert_ne!(documents[0], documents[1]);
            assert!(documents.iter().all(|of| of.tokens.len() == cell.length));
            let expected: Vec<usize> = documents.iter().map(|of| counted(&model, of)).collect();
            assert_eq!(
                cell.correct_answers,
                expected.iter().sum::<usize>(),
                "{cell:?}"
            );
            assert_eq!(
                cell.answers,
                documents.iter().map(|of| of.answers.len()).sum::<usize>()
            );
            let whole = documents
                .iter()
                .zip(&expected)
                .filter(|(of, right)| of.answers.len() == **right);
            assert_eq!(cell.correct, whole.count());
            right += cell.correct_answers;
        }
        assert!(right > 0, "counts that are 0 whatever is counted");
    }

    /// The samples that are asked are the first of those of a plan without the test.
    #[test]
    fn a_sequential_test_ends_the_samples_of_a_cell() {
        let model = model();
        let found = |samples, stopping| {
            let plan = SyntheticPlan {
                tasks: vec![SyntheticTask::Induction, SyntheticTask::Copy],
                samples,
                stopping,
                ..plan()
            };
            let subject = Subject {
                model: &model,
                tokenizer: tokenizer(),
            };
            let evaluation = SyntheticEvaluation::new(subject, &plan).unwrap();
            let found = evaluate(&evaluation, &Context::default(), None, |_, _| Ok(()));
            found.unwrap().unwrap().0.cells
        };
        let mut tested = found(25, Some(Stopping::new(&[0.5], 4).unwrap()));
        assert_eq!(tested.len(), 4);
        assert!(
            tested.iter().all(|cell| cell.planned == Some(25)),
            "{tested:?}"
        );
        tested.iter_mut().for_each(|cell| cell.planned = None);
        assert_eq!(tested, found(8, None));
    }

    #[test]
    fn a_task_ends_after_so_many_lengths_without_a_right_answer() {
        let model = model();
        let plan = SyntheticPlan {
            tasks: vec![SyntheticTask::Induction, SyntheticTask::Latest],
            lengths: vec![50, 60, 70],
            patience: Some(1),
            ..plan()
        };
        let subject = Subject {
            model: &model,
            tokenizer: tokenizer(),
        };
        let evaluation = SyntheticEvaluation::new(subject, &plan).unwrap();
        let (record, _) = evaluate(&evaluation, &Context::default(), None, |_, _| Ok(()))
            .unwrap()
            .unwrap();
        // Guesses of random weights among 800 tokens: a miss at the first length ends a task, and its own only.
        assert!(
            record.cells.iter().any(|cell| cell.task == "latest"),
            "{record:?}"
        );
        assert!(
            record
                .not_run
                .iter()
                .all(|of| of.reason.contains("in a row")),
            "{record:?}"
        );
        assert!(!record.not_run.is_empty());
    }
}
