//! Passkey retrieval over a grid of lengths and depths.
//!
//! A sample is right when every scored digit is the argmax given the right ones before it. That is
//! the same as an exact match of the greedy continuation: both fail at the first wrong digit.

use crate::watch::{Watch, digest, exact};
use bam_attention::{HeadSkips, Skipping};
use bam_data::Tokenizer;
use bam_data::passkey::{Key, PasskeyTask, Prompt, SCORED_DIGITS};
use bam_lm::Error;
use bam_lm::analysis;
use bam_lm::model::{CachePriors, Horizons, KvCache, Transformer, check_length, host_values};
use bam_record::{NotRun, Passkey, PasskeyCell, SkippedHead};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

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
    /// Caches keep of every head only what its certified horizon can reach, with at most this share of a
    /// row's posterior in what they forget.
    pub certified_cache: Option<f64>,
}

/// What came of a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleResult {
    /// Its length.
    pub length: usize,
    /// Its depth; samples of one depth are one cell.
    #[serde(with = "exact")]
    pub depth: f64,
    /// How many tokens of the answer are right.
    pub digits: usize,
    /// Whether all are.
    pub correct: bool,
    /// How long it took.
    pub seconds: f64,
    /// What was left unread, by layer and head.
    pub skips: Vec<Vec<Unread>>,
}

/// [`HeadSkips`] as they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unread {
    visible_tiles: u64,
    skipped_tiles: u64,
    #[serde(with = "exact")]
    dropped_mass: f64,
}

/// Runs the grid. `clock` tells seconds. `None` where the watch says stop.
///
/// # Errors
/// If a length is below the prompt's minimum (before anything runs), or the model fails.
pub fn passkey(
    model: &Transformer,
    tokenizer: &Tokenizer,
    plan: &PasskeyPlan,
    clock: impl Fn() -> f64,
    watch: Watch<SampleResult>,
) -> Result<Option<Passkey>, Error> {
    let task = PasskeyTask::new(tokenizer, plan.given_digits)?;
    check(&task, plan)?;
    let mut passkey = Passkey {
        train_length: model.config().train_length,
        scored_digits: SCORED_DIGITS,
        given_digits: plan.given_digits,
        cells: Vec::new(),
        not_run: Vec::new(),
        skipping: plan.skipping.to_string(),
        heads: Vec::new(),
        certified_cache: None,
    };
    let mut misses = 0;
    let mut skips: Vec<Vec<HeadSkips>> = Vec::new();
    for at in &plan.lengths {
        if plan.patience.is_some_and(|patience| misses >= patience) {
            let reason = format!("no sample right at {misses} shorter lengths in a row");
            passkey.not_run.push(NotRun {
                length: at.length,
                reason,
            });
            continue;
        }
        let mut reader = Reader::new(model, plan, at.length);
        if let Some(epsilon) = plan.certified_cache {
            let horizons = model.horizons(at.length, epsilon)?;
            let cache = passkey.certified_cache.get_or_insert_default();
            cache.epsilon = epsilon;
            let kept = model.config().kept_keys(at.length, &horizons);
            cache.kept.push(kept);
            reader.horizons = Some(horizons);
        }
        let mut right = 0;
        for sample in 0..at.samples {
            let mut random = sample_random(plan.seed, at.length, sample);
            let depth = at.depths.of(sample, at.samples, &mut random);
            let key = task.random_key(&mut random)?;
            let asked = asked(plan, (at.length, depth), &key);
            let found = watch.finding(&asked, || {
                reader.sample(&task, &key, (at.length, depth), &clock, watch.stop)
            })?;
            let Some(result) = found else {
                return Ok(None);
            };
            right += usize::from(result.correct);
            add_skips(&mut skips, &result.skips);
            add(&mut passkey.cells, &result);
        }
        misses = if right == 0 { misses + 1 } else { 0 };
    }
    passkey.heads = skipped_heads(model, plan, &skips)?;
    Ok(Some(passkey))
}

/// What stands for a sample: length, depth and key make the prompt.
fn asked(plan: &PasskeyPlan, (length, depth): (usize, f64), key: &Key) -> String {
    let key = digest([format!("{key:?}").as_str()]);
    let how = if plan.greedy { "greedily" } else { "given" };
    format!("{length} tokens, at {depth}, answered {how}: {key}")
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
            sum.add(&HeadSkips {
                visible_tiles: head.visible_tiles,
                skipped_tiles: head.skipped_tiles,
                dropped_mass: head.dropped_mass,
            });
        }
    }
}

impl From<&HeadSkips> for Unread {
    fn from(skips: &HeadSkips) -> Self {
        Self {
            visible_tiles: skips.visible_tiles,
            skipped_tiles: skips.skipped_tiles,
            dropped_mass: skips.dropped_mass,
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
        check_length(at.length)?;
        let key = task.random_key(&mut sample_random(plan.seed, at.length, 0))?;
        task.prompt(&key, at.length, 0.0)?;
    }
    Ok(())
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

/// What the samples of a length share.
struct Reader<'a> {
    model: &'a Transformer,
    plan: &'a PasskeyPlan,
    length: usize,
    /// Made for the first sample that is not known.
    priors: Option<CachePriors>,
    horizons: Option<Horizons>,
}

impl<'a> Reader<'a> {
    fn new(model: &'a Transformer, plan: &'a PasskeyPlan, length: usize) -> Self {
        Self {
            model,
            plan,
            length,
            priors: None,
            horizons: None,
        }
    }

    fn sample(
        &mut self,
        task: &PasskeyTask<'_>,
        key: &Key,
        (length, depth): (usize, f64),
        clock: impl Fn() -> f64,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<SampleResult>, Error> {
        let start = clock();
        let prompt = task.prompt(key, length, depth)?;
        let room = prompt.tokens.len() + prompt.answer.len();
        let priors = match &self.priors {
            Some(priors) => priors,
            None => self.priors.insert(self.model.priors(self.length)?),
        };
        let horizons = self.horizons.as_ref();
        let cache = self.model.cache_with(1, room, priors, horizons)?;
        let mut cache = cache.with_skipping(self.plan.skipping);
        let guesses = match self.plan.greedy {
            true => continued(self.model, &prompt, &mut cache, stop)?,
            false => forced(self.model, &prompt, &mut cache, stop)?,
        };
        let Some(guesses) = guesses else {
            return Ok(None);
        };
        let pairs = guesses.iter().zip(&prompt.answer);
        let digits = pairs.filter(|(guess, right)| guess == right).count();
        let skips = cache.skips();
        let skips = skips.iter().map(|heads| heads.iter().map(Unread::from));
        Ok(Some(SampleResult {
            length,
            depth,
            digits,
            correct: digits == prompt.answer.len(),
            skips: skips.map(Iterator::collect).collect(),
            seconds: clock() - start,
        }))
    }
}

/// As many tokens as the answer has, each the most probable one after those before it.
fn continued(
    model: &Transformer,
    prompt: &Prompt,
    cache: &mut KvCache,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Vec<i32>>, Error> {
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
) -> Result<Option<Vec<i32>>, Error> {
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
