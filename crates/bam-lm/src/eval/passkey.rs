//! Passkey retrieval over a grid of lengths and depths.
//!
//! A sample is right when every scored digit is the argmax given the right ones before it. That is
//! the same as an exact match of the greedy continuation: both fail at the first wrong digit.

use crate::Error;
use crate::data::Tokenizer;
use crate::inspect;
use crate::model::{Transformer, check_row, host_values};
use crate::passkey::{Key, PasskeyTask, SCORED_DIGITS};
use crate::record::{NotRun, Passkey, PasskeyCell, SkippedHead};
use bam_attention::{HeadSkips, Skipping};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::ops::ControlFlow;

/// How many samples a length gets, at which depths.
#[derive(Clone, Debug, PartialEq)]
pub struct LengthPlan {
    /// Tokens of prompt and answer, at most.
    pub length: usize,
    /// Samples in all, spread over the depths.
    pub samples: usize,
    /// Where the key stands.
    pub depths: Depths,
}

/// Where keys stand: 0 at the beginning, 1 right before the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depths {
    /// This many depths, evenly from beginning to end.
    Equidistant(usize),
    /// All at the beginning.
    Beginning,
    /// All at the end.
    End,
    /// Drawn anew for each sample.
    Random,
}

/// A grid to run.
#[derive(Clone, Debug, PartialEq)]
pub struct PasskeyPlan {
    /// Ascending lengths.
    pub lengths: Vec<LengthPlan>,
    /// Digits given away before the scored ones: 0 or 1.
    pub given_digits: usize,
    /// Greedy continuation instead of teacher forcing; the same answers, found token by token.
    pub greedy: bool,
    /// Stops after this many lengths in a row without a single right sample.
    pub patience: Option<usize>,
    /// Decides keys and random depths.
    pub seed: u64,
    /// What may be left unread.
    pub skipping: Skipping,
}

/// A sample that was run, for progress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleDone {
    /// Its length.
    pub length: usize,
    /// Its depth.
    pub depth: f64,
    /// Whether all digits were right.
    pub correct: bool,
}

/// Runs the grid. `clock` tells seconds. `None` where `progress` broke off.
///
/// # Errors
/// If a length is below the prompt's minimum (before anything runs), or the model fails.
pub fn passkey(
    model: &Transformer,
    tokenizer: &Tokenizer,
    plan: &PasskeyPlan,
    clock: impl Fn() -> f64,
    mut progress: impl FnMut(SampleDone) -> ControlFlow<()>,
) -> Result<Option<Passkey>, Error> {
    let task = PasskeyTask::new(tokenizer, plan.given_digits)?;
    check(&task, plan)?;
    let mut cells: Vec<PasskeyCell> = Vec::new();
    let mut not_run = Vec::new();
    let mut misses = 0;
    let mut skips: Vec<Vec<HeadSkips>> = Vec::new();
    for at in &plan.lengths {
        if plan.patience.is_some_and(|patience| misses >= patience) {
            let reason = format!("no sample right at {misses} shorter lengths in a row");
            not_run.push(NotRun {
                length: at.length,
                reason,
            });
            continue;
        }
        let mut right = 0;
        for sample in 0..at.samples {
            let mut random = sample_random(plan.seed, at.length, sample);
            let depth = at.depths.of(sample, at.samples, &mut random);
            let key = task.random_key(&mut random)?;
            let start = clock();
            let digits = correct_digits(model, &task, &key, (at.length, depth), plan, &mut skips)?;
            let correct = digits == key.answer.len();
            right += usize::from(correct);
            add(
                &mut cells,
                at.length,
                depth,
                correct,
                digits,
                clock() - start,
            );
            let done = SampleDone {
                length: at.length,
                depth,
                correct,
            };
            if progress(done).is_break() {
                return Ok(None);
            }
        }
        misses = if right == 0 { misses + 1 } else { 0 };
    }
    Ok(Some(Passkey {
        train_length: model.config().train_length,
        scored_digits: SCORED_DIGITS,
        given_digits: plan.given_digits,
        cells,
        not_run,
        skipping: plan.skipping.to_string(),
        heads: skipped_heads(model, plan, &skips)?,
    }))
}

/// Whether every prompt of a length's samples fits into it, keys with many tokens included.
///
/// # Errors
/// If the tokenizer can't encode the text.
pub fn fits(tokenizer: &Tokenizer, plan: &PasskeyPlan, at: &LengthPlan) -> Result<bool, Error> {
    let task = PasskeyTask::new(tokenizer, plan.given_digits)?;
    for sample in 0..at.samples {
        let mut random = sample_random(plan.seed, at.length, sample);
        let depth = at.depths.of(sample, at.samples, &mut random);
        let key = task.random_key(&mut random)?;
        if task.prompt(&key, at.length, depth).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What was left unread, by head, with the head's class over the longest row of the plan.
fn skipped_heads(
    model: &Transformer,
    plan: &PasskeyPlan,
    skips: &[Vec<HeadSkips>],
) -> Result<Vec<SkippedHead>, Error> {
    let longest = plan.lengths.iter().map(|at| at.length).max().unwrap_or(1);
    let heads = inspect::heads(model, longest)?.heads.into_iter();
    Ok(heads
        .map(|head| {
            let of_layer = skips.get(head.layer);
            let of = of_layer.and_then(|heads| heads.get(head.head));
            let of = of.copied().unwrap_or_default();
            SkippedHead {
                layer: head.layer,
                head: head.head,
                class: head.class,
                visible_tiles: of.visible_tiles,
                skipped_tiles: of.skipped_tiles,
                dropped_mass: of.dropped_mass,
            }
        })
        .collect())
}

fn add_skips(sums: &mut Vec<Vec<HeadSkips>>, of_sample: Vec<Vec<HeadSkips>>) {
    sums.resize(of_sample.len(), Vec::new());
    for (sums, heads) in sums.iter_mut().zip(of_sample) {
        sums.resize(heads.len(), HeadSkips::default());
        for (sum, head) in sums.iter_mut().zip(&heads) {
            sum.add(head);
        }
    }
}

impl Depths {
    fn of(self, sample: usize, samples: usize, random: &mut ChaCha8Rng) -> f64 {
        use rand::Rng;
        match self {
            Self::Beginning => 0.0,
            Self::End => 1.0,
            // Two decimals, so that cells of a grid can be told apart and written.
            Self::Random => f64::from(random.random_range(0..=100u8)) / 100.0,
            Self::Equidistant(count) => match count.min(samples) {
                0 | 1 => 0.5,
                count => (sample % count) as f64 / (count - 1) as f64,
            },
        }
    }
}

/// The same sample of the same length has the same key for every model.
fn sample_random(seed: u64, length: usize, sample: usize) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(((length as u64) << 24) ^ sample as u64);
    random
}

fn check(task: &PasskeyTask<'_>, plan: &PasskeyPlan) -> Result<(), Error> {
    if plan.lengths.is_empty() || plan.lengths.iter().any(|at| at.samples == 0) {
        return Err(Error::Value {
            what: "passkey grid",
            expected: "at least one length and one sample".into(),
            got: format!("{:?}", plan.lengths),
        });
    }
    for at in &plan.lengths {
        check_row(at.length)?;
        let key = task.random_key(&mut sample_random(plan.seed, at.length, 0))?;
        task.prompt(&key, at.length, 0.0)?;
    }
    Ok(())
}

fn add(
    cells: &mut Vec<PasskeyCell>,
    length: usize,
    depth: f64,
    correct: bool,
    digits: usize,
    seconds: f64,
) {
    let known = cells
        .iter()
        .position(|cell| cell.length == length && cell.depth == depth);
    let index = known.unwrap_or_else(|| {
        let empty = PasskeyCell {
            length,
            depth,
            samples: 0,
            correct: 0,
            correct_digits: 0,
            seconds: 0.0,
        };
        let after = cells
            .iter()
            .position(|cell| (cell.length, cell.depth) > (length, depth));
        let index = after.unwrap_or(cells.len());
        cells.insert(index, empty);
        index
    });
    let cell = &mut cells[index];
    cell.samples += 1;
    cell.correct += usize::from(correct);
    cell.correct_digits += digits;
    cell.seconds += seconds;
}

/// How many tokens of the answer are right.
fn correct_digits(
    model: &Transformer,
    task: &PasskeyTask<'_>,
    key: &Key,
    (length, depth): (usize, f64),
    plan: &PasskeyPlan,
    skips: &mut Vec<Vec<HeadSkips>>,
) -> Result<usize, Error> {
    let prompt = task.prompt(key, length, depth)?;
    let answer = &prompt.answer;
    let cache = model.cache(1, prompt.tokens.len() + answer.len())?;
    let mut cache = cache.with_skipping(plan.skipping);
    let mut guesses = Vec::new();
    if plan.greedy {
        let mut next = prompt.tokens.clone();
        while guesses.len() < answer.len() {
            let mut guess = 0;
            model.read(&next, &mut cache, 1, |_, logits| {
                guess = argmax_rows(logits)[0]
            })?;
            guesses.push(guess);
            next = vec![guess];
        }
    } else {
        let mut tokens = prompt.tokens;
        tokens.extend(&answer[..answer.len() - 1]);
        model.read(&tokens, &mut cache, answer.len(), |_, logits| {
            guesses.extend(argmax_rows(logits));
        })?;
    }
    add_skips(skips, cache.skips());
    Ok(guesses
        .iter()
        .zip(answer)
        .filter(|(guess, right)| guess == right)
        .count())
}

/// The most probable token of every row of `[1, rows, vocabulary]`.
fn argmax_rows(logits: burn::tensor::Tensor<3>) -> Vec<i32> {
    let [_, _, vocabulary] = logits.dims();
    host_values(logits)
        .chunks(vocabulary)
        .map(|row| {
            let best = (0..vocabulary).max_by(|&a, &b| row[a].total_cmp(&row[b]));
            best.unwrap_or(0) as i32
        })
        .collect()
}
