//! Passkey retrieval over a grid of lengths and depths.
//!
//! A sample is right when every scored digit is the argmax given the right ones before it. That is
//! the same as an exact match of the greedy continuation: both fail at the first wrong digit.

use crate::evaluation::{Evaluation, Found, Stop, Subject, Work};
use crate::journal::{digest, exact};
use crate::stopping::Stopping;
use bam_attention::{HeadSkips, Skipping};
use bam_data::Tokenizer;
use bam_data::passkey::{Key, PasskeyTask, Prompt, SCORED_DIGITS};
use bam_lm::Error;
use bam_lm::analysis;
use bam_lm::engine::generate::argmax;
use bam_lm::model::{CachePriors, Horizons, KvCache, Transformer, check_length, host_values};
use bam_record::{CertifiedCache, Decided, KeptKeys, NotRun, Passkey, PasskeyCell, SkippedHead};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The samples of a length, and their depths.
#[derive(Clone, Debug, PartialEq)]
pub struct LengthPlan {
    /// Tokens of prompt and answer, at most.
    pub length: usize,
    /// Samples in all, spread over the depths.
    pub samples: usize,
    /// The places of the key.
    pub depths: Depths,
    /// The length is asked only where at least this share of the samples of the one before was right.
    pub after: Option<f64>,
}

/// Places of keys: 0 at the beginning, 1 right before the question.
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
    /// Ends the samples of a length early; samples of a length are then asked in batches, and depths take turns.
    pub stopping: Option<Stopping>,
    /// Decides keys and random depths.
    pub seed: u64,
    /// Keys that may be left unread.
    pub skipping: Skipping,
    /// Caches keep of every head only what its certified horizon can reach, with at most this share of a
    /// row's posterior in what they forget.
    pub certified_cache: Option<f64>,
}

/// The outcome of a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleResult {
    /// Its length.
    pub length: usize,
    /// Its depth; samples of one depth are one cell.
    #[serde(with = "exact")]
    pub depth: f64,
    /// Tokens of the answer that are right.
    pub digits: usize,
    /// Whether all are.
    pub correct: bool,
    /// The time it took.
    pub seconds: f64,
    /// The keys that were left unread, by layer and head.
    pub skips: Vec<Vec<Unread>>,
}

/// [`HeadSkips`] as a resume journal keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Unread(#[serde(with = "ExactSkips")] HeadSkips);

#[derive(Serialize, Deserialize)]
#[serde(remote = "HeadSkips")]
struct ExactSkips {
    visible_tiles: u64,
    skipped_tiles: u64,
    #[serde(with = "exact")]
    dropped_mass: f64,
}

/// Passkeys over a grid of lengths; a cell is a length here, or a batch of its samples where a sequential test may end
/// them, and its record has one for each depth.
pub struct PasskeyEvaluation<'a> {
    model: &'a Transformer,
    task: PasskeyTask<'a>,
    plan: &'a PasskeyPlan,
}

/// The samples of a length, or some of them.
pub struct PasskeySet<'a> {
    at: &'a LengthPlan,
    /// Depths and keys.
    samples: Vec<(f64, Key)>,
    /// Why there are none.
    not_run: Option<NotRun>,
    horizons: Option<Horizons>,
    /// Right ones so far, those of shorter lengths included.
    right: AtomicUsize,
}

/// The outcome of a set.
pub struct PasskeyScore {
    length: usize,
    results: Vec<SampleResult>,
    not_run: Option<NotRun>,
    kept: Option<KeptKeys>,
}

impl PasskeyScore {
    fn right(&self) -> usize {
        self.results.iter().filter(|result| result.correct).count()
    }
}

/// Right samples, and samples, of each length that was run.
fn by_length(scores: &[PasskeyScore]) -> Vec<(usize, usize, usize)> {
    let lengths = scores.chunk_by(|a, b| a.length == b.length);
    let run = lengths.filter(|of| of.iter().any(|score| !score.results.is_empty()));
    run.map(|of| {
        let right = of.iter().map(PasskeyScore::right).sum();
        let samples = of.iter().map(|score| score.results.len()).sum();
        (of[0].length, right, samples)
    })
    .collect()
}

impl PasskeyPlan {
    /// The task, where all that is planned can be asked with this tokenizer.
    ///
    /// # Errors
    /// If there is no sample, or a length is below the prompt's minimum.
    pub fn check<'a>(&self, tokenizer: &'a Tokenizer) -> Result<PasskeyTask<'a>, Error> {
        let task = PasskeyTask::new(tokenizer, self.given_digits)?;
        if self.lengths.is_empty() || self.lengths.iter().any(|at| at.samples == 0) {
            return Err(Error::Value {
                what: "passkey grid",
                expected: "at least one length and one sample".into(),
                got: format!("{:?}", self.lengths),
            });
        }
        for at in &self.lengths {
            check_length(at.length)?;
            let key = task.random_key(&mut sample_random(self.seed, at.length, 0))?;
            task.prompt(&key, at.length, 0.0)?;
        }
        Ok(task)
    }

    /// Why a length is not asked after others: of each its tokens, right samples, and samples.
    fn unasked(&self, at: &LengthPlan, known: &[(usize, usize, usize)]) -> Option<String> {
        let misses = known.iter().rev().take_while(|(_, right, _)| *right == 0);
        let misses = misses.count();
        if self.patience.is_some_and(|patience| misses >= patience) {
            return Some(format!(
                "no sample right at {misses} shorter lengths in a row"
            ));
        }
        let (&(before, right, samples), least) = (known.last()?, at.after?);
        (right as f64 / (samples as f64) < least).then(|| {
            format!(
                "{right} of {samples} right at {before} tokens, and {least} of them were wanted"
            )
        })
    }
}

impl<'a> PasskeyEvaluation<'a> {
    /// # Errors
    /// Those of [`PasskeyPlan::check`].
    pub fn new(subject: Subject<'a>, plan: &'a PasskeyPlan) -> Result<Self, Error> {
        Ok(Self {
            model: subject.model,
            task: plan.check(subject.tokenizer)?,
            plan,
        })
    }
}

impl<'a> Evaluation for PasskeyEvaluation<'a> {
    type Cell = (&'a LengthPlan, Range<usize>);
    type Set = PasskeySet<'a>;
    type Ready = CachePriors;
    type Finding = SampleResult;
    type Score = PasskeyScore;
    type Metrics = Passkey;

    const NAME: &'static str = "passkey";

    fn settings(&self) -> Value {
        let plan = self.plan;
        json!({"skip": plan.skipping.to_string(), "certified_cache": plan.certified_cache})
    }

    fn grid(&self) -> Vec<(&'a LengthPlan, Range<usize>)> {
        let batches = |at: &'a LengthPlan| {
            let batches = Stopping::batches(self.plan.stopping.as_ref(), at.samples);
            batches.into_iter().map(move |samples| (at, samples))
        };
        self.plan.lengths.iter().flat_map(batches).collect()
    }

    fn steps(&self, (_, samples): &Self::Cell) -> u64 {
        samples.len() as u64
    }

    fn set(
        &self,
        (at, samples): &Self::Cell,
        before: &[PasskeyScore],
        _: Stop,
    ) -> Found<PasskeySet<'a>> {
        let mut set = PasskeySet {
            at,
            samples: Vec::new(),
            not_run: None,
            horizons: None,
            right: before.iter().map(PasskeyScore::right).sum::<usize>().into(),
        };
        let known = by_length(before);
        if samples.start > 0 {
            let of = known.last().filter(|(length, ..)| *length == at.length);
            let so_far = of.map(|(_, right, samples)| (*right, *samples));
            if !Stopping::goes_on(self.plan.stopping.as_ref(), so_far) {
                return Ok(Some(set));
            }
        } else if let Some(reason) = self.plan.unasked(at, &known) {
            let length = at.length;
            set.not_run = Some(NotRun { length, reason });
            return Ok(Some(set));
        }
        let horizons = |epsilon| self.model.horizons(at.length, epsilon);
        set.horizons = self.plan.certified_cache.map(horizons).transpose()?;
        for sample in samples.clone() {
            set.samples.push(draw(&self.task, self.plan, at, sample)?);
        }
        Ok(Some(set))
    }

    /// Length, depth and key make the prompt.
    fn names(&self, set: &PasskeySet) -> Vec<String> {
        let (length, greedy) = (set.at.length, self.plan.greedy);
        let answered = if greedy { "greedily" } else { "given" };
        let name = |(depth, key): &(f64, Key)| {
            let key = digest([format!("{key:?}")]);
            format!("{length} tokens, at {depth}, answered {answered}: {key}")
        };
        set.samples.iter().map(name).collect()
    }

    fn prepare(&self, set: &PasskeySet) -> Result<CachePriors, Error> {
        self.model.priors(set.at.length)
    }

    fn find(
        &self,
        set: &PasskeySet,
        priors: &CachePriors,
        at: usize,
        work: &Work,
    ) -> Found<SampleResult> {
        let start = (work.clock)();
        let (length, (depth, key)) = (set.at.length, &set.samples[at]);
        let prompt = self.task.prompt(key, length, *depth)?;
        let room = prompt.tokens.len() + prompt.answer.len();
        let cache = self
            .model
            .cache_with(1, room, priors, set.horizons.as_ref())?;
        let mut cache = cache.with_skipping(self.plan.skipping);
        let guesses = match self.plan.greedy {
            true => continued(self.model, &prompt, &mut cache, work.stop)?,
            false => forced(self.model, &prompt, &mut cache, work.stop)?,
        };
        let Some(guesses) = guesses else {
            return Ok(None);
        };
        let pairs = guesses.iter().zip(&prompt.answer);
        let digits = pairs.filter(|(guess, right)| guess == right).count();
        let unread = |heads: Vec<HeadSkips>| heads.into_iter().map(Unread).collect();
        Ok(Some(SampleResult {
            length,
            depth: *depth,
            digits,
            correct: digits == prompt.answer.len(),
            skips: cache.skips().into_iter().map(unread).collect(),
            seconds: (work.clock)() - start,
        }))
    }

    fn message(&self, set: &PasskeySet, latest: Option<&SampleResult>) -> String {
        let more = usize::from(latest.is_some_and(|result| result.correct));
        let right = set.right.fetch_add(more, Ordering::Relaxed) + more;
        format!("{right} right, now {} tokens", set.at.length)
    }

    fn score(&self, set: &PasskeySet, results: Vec<SampleResult>, _: f64) -> PasskeyScore {
        let kept = |horizons| self.model.config().kept_keys(set.at.length, horizons);
        PasskeyScore {
            length: set.at.length,
            results,
            not_run: set.not_run.clone(),
            kept: set.horizons.as_ref().map(kept),
        }
    }

    fn record(&self, scores: Vec<PasskeyScore>) -> Result<Passkey, Error> {
        let mut cells = Vec::new();
        let mut skips: Vec<Vec<HeadSkips>> = Vec::new();
        for result in scores.iter().flat_map(|score| &score.results) {
            add_skips(&mut skips, &result.skips);
            add(&mut cells, result);
        }
        let mut kept: Vec<KeptKeys> = scores.iter().filter_map(|score| score.kept).collect();
        kept.dedup_by_key(|of| of.length);
        let planned = |length| {
            let of = self.plan.lengths.iter().filter(|at| at.length == length);
            of.map(|at| at.samples).sum()
        };
        let known = by_length(&scores).into_iter();
        let decided = known.map(|(length, _, samples)| Decided {
            length,
            samples,
            planned: planned(length),
        });
        let decided = decided.filter(|of| of.samples < of.planned).collect();
        Ok(Passkey {
            train_length: self.model.config().train_length,
            scored_digits: SCORED_DIGITS,
            given_digits: self.plan.given_digits,
            cells,
            decided,
            not_run: scores.into_iter().filter_map(|of| of.not_run).collect(),
            skipping: self.plan.skipping.to_string(),
            heads: skipped_heads(self.model, self.plan, &skips)?,
            certified_cache: self
                .plan
                .certified_cache
                .map(|epsilon| CertifiedCache { epsilon, kept }),
        })
    }
}

/// A sample's depth and key: the same for every model.
fn draw(
    task: &PasskeyTask,
    plan: &PasskeyPlan,
    at: &LengthPlan,
    sample: usize,
) -> Result<(f64, Key), Error> {
    let mut random = sample_random(plan.seed, at.length, sample);
    let depth = at.depths.of(sample, at.samples, &mut random);
    Ok((depth, task.random_key(&mut random)?))
}

/// Whether every prompt of a length's samples fits into it, keys with many tokens included.
///
/// # Errors
/// If the tokenizer can't encode the text.
pub fn fits(tokenizer: &Tokenizer, plan: &PasskeyPlan, at: &LengthPlan) -> Result<bool, Error> {
    let task = PasskeyTask::new(tokenizer, plan.given_digits)?;
    for sample in 0..at.samples {
        let (depth, key) = draw(&task, plan, at, sample)?;
        if task.prompt(&key, at.length, depth).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The keys that were left unread, by head, with the head's class over the longest row of the plan.
fn skipped_heads(
    model: &Transformer,
    plan: &PasskeyPlan,
    skips: &[Vec<HeadSkips>],
) -> Result<Vec<SkippedHead>, Error> {
    let longest = plan.lengths.iter().map(|at| at.length).max().unwrap_or(1);
    let heads = analysis::heads(model, longest)?.heads.into_iter();
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

fn add_skips(sums: &mut Vec<Vec<HeadSkips>>, of_sample: &[Vec<Unread>]) {
    sums.resize(of_sample.len(), Vec::new());
    for (sums, heads) in sums.iter_mut().zip(of_sample) {
        sums.resize(heads.len(), HeadSkips::default());
        for (sum, head) in sums.iter_mut().zip(heads) {
            sum.add(&head.0);
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

fn add(cells: &mut Vec<PasskeyCell>, result: &SampleResult) {
    let (length, depth) = (result.length, result.depth);
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
    cell.correct += usize::from(result.correct);
    cell.correct_digits += result.digits;
    cell.seconds += result.seconds;
}

/// As many tokens as the answer has, each the most probable one after those before it.
fn continued(
    model: &Transformer,
    prompt: &Prompt,
    cache: &mut KvCache,
    stop: &dyn Fn() -> bool,
) -> Found<Vec<i32>> {
    let mut guesses = Vec::new();
    let mut next = prompt.tokens.clone();
    while guesses.len() < prompt.answer.len() {
        let mut guess = 0;
        let read = model.prefill_unless(stop, &next, cache, 1, |_, logits| {
            guess = argmax_rows(logits)[0];
        })?;
        if read.is_none() {
            return Ok(None);
        }
        guesses.push(guess);
        next = vec![guess];
    }
    Ok(Some(guesses))
}

/// The most probable token in the place of each of the answer's, given the right ones before it.
fn forced(
    model: &Transformer,
    prompt: &Prompt,
    cache: &mut KvCache,
    stop: &dyn Fn() -> bool,
) -> Found<Vec<i32>> {
    let answer = &prompt.answer;
    let mut guesses = Vec::new();
    let mut tokens = prompt.tokens.clone();
    tokens.extend(&answer[..answer.len() - 1]);
    let read = model.prefill_unless(stop, &tokens, cache, answer.len(), |_, logits| {
        guesses.extend(argmax_rows(logits));
    })?;
    Ok(read.map(|()| guesses))
}

/// The most probable token of every row of `[1, rows, vocabulary]`.
pub(crate) fn argmax_rows(logits: burn::tensor::Tensor<3>) -> Vec<i32> {
    let [_, _, vocabulary] = logits.dims();
    host_values(logits)
        .chunks(vocabulary)
        .map(|row| argmax(row) as i32)
        .collect()
}
