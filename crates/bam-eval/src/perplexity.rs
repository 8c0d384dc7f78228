//! Cross-entropy by position: one long document read in one go.

use crate::evaluation::{Evaluation, Found, Stop, Subject, Work};
use crate::journal::{digest, exact};
use bam_data::{Tokenizer, hexadecimal};
use bam_lm::Error;
use bam_lm::model::{CHUNK, Horizons, KvCache, Transformer};
use bam_record::{CertifiedCache, KeptKeys, Perplexity, PerplexityWindow};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::ops::{ControlFlow, Range};
use std::sync::{Mutex, PoisonError};

/// A document, and how it is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PerplexityPlan<'a> {
    /// The document's name.
    pub title: &'a str,
    /// The document.
    pub text: &'a str,
    /// Its first so many tokens; all if not given.
    pub length: Option<usize>,
    /// Consecutive positions that are one figure.
    pub window: usize,
    /// The cache keeps of every head only what its certified horizon can reach, with at most this share of
    /// a row's posterior in what it forgets.
    pub certified_cache: Option<f64>,
}

impl PerplexityPlan<'_> {
    /// The document's tokens, where all that is planned can be read with this tokenizer.
    ///
    /// # Errors
    /// If the text has too few tokens, or windows are empty.
    pub fn check(&self, tokenizer: &Tokenizer) -> Result<Vec<i32>, Error> {
        let ids = tokens_of(tokenizer, self.text)?;
        let length = self.length.unwrap_or(ids.len());
        if self.window == 0 {
            return Err(Error::Value {
                what: "perplexity length",
                expected: "windows of at least 1".into(),
                got: format!("{length} in windows of 0"),
            });
        }
        check_length(self.title, &ids, length)?;
        Ok(ids)
    }
}

/// A window that was read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowRead {
    /// Its first position.
    pub start: usize,
    /// The position after its last.
    pub end: usize,
    /// Nats per token.
    #[serde(with = "exact")]
    pub cross_entropy: f64,
}

/// Cross-entropy of the first tokens of a text in windows of consecutive positions. BOS and EOS are not
/// scored; a BOS stands before the text where the tokenizer has one. Its one cell is the document, its
/// samples are the windows.
pub struct PerplexityEvaluation<'a> {
    model: &'a Transformer,
    plan: PerplexityPlan<'a>,
    row: Row,
    windows: Vec<Range<usize>>,
    bytes_per_token: f64,
}

impl<'a> PerplexityEvaluation<'a> {
    /// # Errors
    /// If the text has too few tokens, or windows are empty.
    pub fn new(subject: Subject<'a>, plan: PerplexityPlan<'a>) -> Result<Self, Error> {
        let ids = plan.check(subject.tokenizer)?;
        let length = plan.length.unwrap_or(ids.len());
        let row = Row::new(subject.tokenizer, &ids[..length]);
        let end = row.inputs().len();
        let starts = (0..end).step_by(plan.window);
        Ok(Self {
            model: subject.model,
            windows: starts
                .map(|start| start..(start + plan.window).min(end))
                .collect(),
            bytes_per_token: plan.text.len() as f64 / ids.len().max(1) as f64,
            plan,
            row,
        })
    }
}

/// A document under way.
pub struct Reading {
    cache: KvCache,
    /// Nats of the tokens that were read.
    nats: Vec<f64>,
}

impl Evaluation for PerplexityEvaluation<'_> {
    type Cell = ();
    type Set = Option<Horizons>;
    type Ready = Mutex<Reading>;
    type Finding = WindowRead;
    type Score = (Vec<PerplexityWindow>, Option<KeptKeys>);
    type Metrics = Perplexity;

    const NAME: &'static str = "perplexity";
    const INDEPENDENT: bool = false;

    fn settings(&self) -> Value {
        json!({"length": self.plan.length, "certified_cache": self.plan.certified_cache})
    }

    fn grid(&self) -> Vec<()> {
        vec![()]
    }

    /// Tokens to read.
    fn steps(&self, _: &()) -> u64 {
        self.row.inputs().len() as u64
    }

    fn set(&self, _: &(), _: &[Self::Score], _: Stop) -> Found<Option<Horizons>> {
        let length = self.row.inputs().len();
        let horizons = |epsilon| self.model.horizons(length, epsilon);
        Ok(Some(self.plan.certified_cache.map(horizons).transpose()?))
    }

    fn names(&self, _: &Option<Horizons>) -> Vec<String> {
        let document = digest([self.plan.text]);
        let name = |at: &Range<usize>| format!("tokens {} to {} of {document}", at.start, at.end);
        self.windows.iter().map(name).collect()
    }

    fn prepare(&self, horizons: &Option<Horizons>) -> Result<Mutex<Reading>, Error> {
        let length = self.row.inputs().len();
        let cache = match horizons {
            Some(horizons) => self.model.certified_cache(1, length, horizons)?,
            None => self.model.cache(1, length)?,
        };
        Ok(Mutex::new(Reading {
            cache,
            nats: Vec::new(),
        }))
    }

    fn find(
        &self,
        _: &Option<Horizons>,
        ready: &Mutex<Reading>,
        window: usize,
        work: &Work,
    ) -> Found<WindowRead> {
        let mut reading = ready.lock().unwrap_or_else(PoisonError::into_inner);
        let Reading { cache, nats } = &mut *reading;
        let at = self.windows[window].clone();
        while nats.len() < at.end {
            if (work.stop)() {
                return Ok(None);
            }
            let more = self.row.read_on(self.model, cache, nats.len())?;
            nats.extend(more.iter().map(|x| f64::from(*x)));
            (work.step)(more.len() as u64);
        }
        Ok(Some(WindowRead {
            start: at.start,
            end: at.end,
            cross_entropy: nats[at.clone()].iter().sum::<f64>() / at.len() as f64,
        }))
    }

    fn message(&self, _: &Option<Horizons>, _: Option<&WindowRead>) -> String {
        String::new()
    }

    fn score(&self, horizons: &Option<Horizons>, windows: Vec<WindowRead>, _: f64) -> Self::Score {
        let windows = windows.into_iter().map(|window| PerplexityWindow {
            start: window.start,
            end: window.end,
            cross_entropy: window.cross_entropy,
        });
        let length = self.row.inputs().len();
        let kept = |horizons| self.model.config().kept_keys(length, horizons);
        (windows.collect(), horizons.as_ref().map(kept))
    }

    fn record(&self, scores: Vec<Self::Score>) -> Result<Perplexity, Error> {
        let (windows, kept): (Vec<_>, Vec<_>) = scores.into_iter().unzip();
        let certified_cache = self.plan.certified_cache.map(|epsilon| CertifiedCache {
            epsilon,
            kept: kept.into_iter().flatten().collect(),
        });
        Ok(Perplexity {
            train_length: self.model.config().train_length,
            document: self.plan.title.to_owned(),
            document_sha256: Some(hexadecimal(&Sha256::digest(self.plan.text))),
            bytes_per_token: self.bytes_per_token,
            windows: windows.concat(),
            certified_cache,
        })
    }
}

/// The tokens of a text.
///
/// # Errors
/// If the tokenizer can't encode it.
pub fn tokens_of(tokenizer: &Tokenizer, text: &str) -> Result<Vec<i32>, Error> {
    let ids = tokenizer.encode(text)?.into_iter();
    Ok(ids.map(|id| id as i32).collect())
}

/// Cross-entropy at every position below `length`, the mean over the first `pieces` whole pieces of that
/// many tokens, each read by itself after the tokenizer's BOS, if it has one. `None` where `progress`,
/// which is told how many tokens were read, broke off.
///
/// # Errors
/// If there is not one whole piece of at least 2 tokens, or the model fails.
pub fn by_position(
    model: &Transformer,
    tokenizer: &Tokenizer,
    (title, ids): (&str, &[i32]),
    length: usize,
    pieces: usize,
    mut progress: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<Option<Vec<f64>>, Error> {
    check_length(title, ids, length)?;
    let count = pieces.min(ids.len() / length);
    if count == 0 {
        return Err(Error::Value {
            what: "pieces",
            expected: "at least 1".into(),
            got: "0".into(),
        });
    }
    let mut sums = Vec::new();
    let mut read = 0;
    for piece in ids.chunks_exact(length).take(count) {
        let row = Row::new(tokenizer, piece);
        let mut cache = model.cache(1, row.inputs().len())?;
        sums.resize(row.inputs().len(), 0.0);
        for start in (0..row.inputs().len()).step_by(CHUNK) {
            let nats = row.read_on(model, &mut cache, start)?;
            for (sum, nats) in sums[start..].iter_mut().zip(&nats) {
                *sum += f64::from(*nats);
            }
            read += nats.len();
            if progress(read).is_break() {
                return Ok(None);
            }
        }
    }
    Ok(Some(
        sums.into_iter().map(|sum| sum / count as f64).collect(),
    ))
}

fn check_length(title: &str, ids: &[i32], length: usize) -> Result<(), Error> {
    if ids.len() < 2 {
        return Err(Error::Value {
            what: "perplexity",
            expected: format!("at least 2 tokens in {title}"),
            got: ids.len().to_string(),
        });
    }
    match (2..=ids.len()).contains(&length) {
        true => Ok(()),
        false => Err(Error::Value {
            what: "perplexity length",
            expected: format!("from 2 to the {} tokens of {title}", ids.len()),
            got: length.to_string(),
        }),
    }
}

/// Tokens to be read in one go, after the tokenizer's BOS, if it has one.
struct Row(Vec<i32>);

impl Row {
    fn new(tokenizer: &Tokenizer, ids: &[i32]) -> Self {
        let bos = tokenizer.bos().map(|id| id as i32);
        Self(bos.into_iter().chain(ids.iter().copied()).collect())
    }

    /// The tokens to read: position p of the logits predicts token p + 1, and the last one's next token is
    /// not there.
    fn inputs(&self) -> &[i32] {
        &self.0[..self.0.len() - 1]
    }

    /// Reads the next chunk, from `start` on: `−ln p` of the token after each of its own.
    fn read_on(
        &self,
        model: &Transformer,
        cache: &mut KvCache,
        start: usize,
    ) -> Result<Vec<f32>, Error> {
        let inputs = self.inputs();
        let chunk = &inputs[start..(start + CHUNK).min(inputs.len())];
        let mut nats = Vec::new();
        model.prefill(chunk, cache, chunk.len(), |_, logits| {
            nats = cross_entropies(logits, &self.0[start + 1..]);
        })?;
        Ok(nats)
    }
}

/// `−ln p(next)` of every row.
fn cross_entropies(logits: Tensor<3>, next: &[i32]) -> Vec<f32> {
    let [_, rows, vocabulary] = logits.dims();
    let device = logits.device();
    let targets = TensorData::new(next[..rows].to_vec(), [rows, 1]);
    let targets = Tensor::<2, Int>::from_data(targets, &device);
    let ln_probabilities = log_softmax(logits.reshape([rows, vocabulary]), 1);
    bam_lm::model::host_values(ln_probabilities.gather(1, targets).neg())
}
