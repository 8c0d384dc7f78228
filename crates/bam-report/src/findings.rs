//! Findings of the records, in numbers and plain sentences, before any layout.

use crate::runs::{Runs, documents, passkeys, perplexities};
use crate::text::{interval, join, multiple, percent, perplexity, plain, thousands};
use bam_record::{Passkey, Perplexity, confidence_sequence, wilson_interval};
use std::collections::{BTreeMap, BTreeSet};

/// The samples of one length, all depths together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Tokens of a prompt and its key, at most.
    pub length: usize,
    /// Samples that were asked.
    pub samples: usize,
    /// Samples with the whole key right.
    pub correct: usize,
    /// Samples that would have been asked, where a sequential test ended them early.
    pub planned: Option<usize>,
}

impl Outcome {
    /// Share of samples that were right; `None` without samples.
    pub fn accuracy(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.correct as f64 / self.samples as f64)
    }

    /// A 95 % interval of the accuracy, as shares: Wilson's, or one that holds whenever the samples were ended.
    pub fn interval(&self) -> (f64, f64) {
        match self.planned {
            None => wilson_interval(self.correct, self.samples),
            Some(_) => confidence_sequence(self.correct, self.samples),
        }
    }

    /// The interval in whole percent: `57–100`.
    pub fn interval_text(&self) -> String {
        interval(self.interval())
    }

    fn above_half(&self) -> bool {
        self.accuracy().is_some_and(|accuracy| accuracy > 0.5)
    }
}

/// Outcomes by length, ascending; only lengths with samples.
pub fn outcomes(passkey: &Passkey) -> Vec<Outcome> {
    let mut by_length = BTreeMap::<usize, (usize, usize)>::new();
    for cell in &passkey.cells {
        let (samples, correct) = by_length.entry(cell.length).or_default();
        *samples = samples.saturating_add(cell.samples);
        *correct = correct.saturating_add(cell.correct.min(cell.samples));
    }
    let planned = |length| {
        let mut decided = passkey.decided.iter();
        Some(decided.find(|of| of.length == length)?.planned)
    };
    by_length
        .into_iter()
        .filter(|(_, (samples, _))| *samples > 0)
        .map(|(length, (samples, correct))| Outcome {
            length,
            samples,
            correct,
            planned: planned(length),
        })
        .collect()
}

/// The reach of an encoding: the lengths at which it retrieves the key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reach {
    /// The longest length with more than half of the samples right.
    pub last: Outcome,
    /// The longest length at which the whole interval lies above one half.
    pub certain: Option<Outcome>,
    /// The longest length with samples.
    pub longest: Outcome,
    /// Some shorter length was not above one half.
    pub gaps: bool,
}

/// `None` where no length is above one half.
pub fn reach(passkey: &Passkey) -> Option<Reach> {
    let outcomes = outcomes(passkey);
    let last = *outcomes.iter().rev().find(|outcome| outcome.above_half())?;
    Some(Reach {
        last,
        certain: outcomes
            .iter()
            .rev()
            .find(|outcome| outcome.interval().0 > 0.5)
            .copied(),
        longest: *outcomes.last()?,
        gaps: outcomes
            .iter()
            .any(|outcome| outcome.length < last.length && !outcome.above_half()),
    })
}

/// The finding a page or a terminal opens with.
#[derive(Clone, Debug, PartialEq)]
pub struct Headline {
    /// One sentence that says it.
    pub sentence: String,
    /// The next best, where there is one.
    pub comparison: Option<String>,
    /// Intervals, comparisons, and what was not run.
    pub details: Vec<String>,
}

impl Headline {
    fn new(sentence: impl Into<String>, details: Vec<String>) -> Self {
        Self {
            sentence: sentence.into(),
            comparison: None,
            details,
        }
    }
}

/// The finding of these runs.
pub fn headline(runs: &Runs) -> Headline {
    let measured: Vec<(&str, &Passkey)> = passkeys(runs)
        .filter(|(_, passkey)| !outcomes(passkey).is_empty())
        .collect();
    let mut ranked: Vec<(&str, &Passkey, Reach)> = measured
        .iter()
        .filter_map(|(name, passkey)| Some((*name, *passkey, reach(passkey)?)))
        .collect();
    ranked.sort_by(|a, b| {
        let key = |r: &Reach| (r.last.length, r.last.accuracy().unwrap_or(0.0));
        key(&b.2)
            .partial_cmp(&key(&a.2))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    let mut headline = match (ranked.as_slice(), measured.as_slice()) {
        ([best, others @ ..], _) => retrieved(best, others, measured.len()),
        ([], []) => without_passkey(runs),
        ([], _) => nothing_retrieved(&measured),
    };
    headline.details.extend(not_run(runs));
    headline
}

fn retrieved(
    (name, passkey, reach): &(&str, &Passkey, Reach),
    others: &[(&str, &Passkey, Reach)],
    measured: usize,
) -> Headline {
    let last = reach.last;
    let sentence = format!(
        "{} retrieves the key in {} of {} samples at {} tokens, {}.",
        plain(name),
        thousands(last.correct),
        thousands(last.samples),
        thousands(last.length),
        times_training(last.length, passkey.train_length),
    );
    let comparison = match others.first() {
        Some((other, _, theirs)) if theirs.last.length == last.length => Some(format!(
            "{} reaches the same length with {} of {}.",
            plain(other),
            thousands(theirs.last.correct),
            thousands(theirs.last.samples)
        )),
        Some((other, _, theirs)) => Some(format!(
            "The next best, {}, is last above one half at {} tokens{}.",
            plain(other),
            thousands(theirs.last.length),
            if theirs.last == theirs.longest {
                ", the longest it was tested at"
            } else {
                ""
            }
        )),
        None if measured > 1 => {
            Some("No other encoding is above one half at any length it was tested at.".to_string())
        }
        None => None,
    };
    let (low, _) = last.interval();
    let mut details = vec![format!(
        "That is {} % of the samples over all depths; the 95 % interval runs from {} %{}.",
        percent(last.accuracy().unwrap_or(0.0)),
        last.interval_text().replace('–', " to "),
        if low > 0.5 {
            ""
        } else {
            ", so one half is not excluded"
        }
    )];
    if reach.gaps {
        details.push(format!(
            "{} is not above one half at every shorter length.",
            plain(name)
        ));
    }
    if reach.longest != last {
        details.push(format!(
            "At the longest length it was tested at, {} tokens, {} finds the key in {} of {}.",
            thousands(reach.longest.length),
            plain(name),
            thousands(reach.longest.correct),
            thousands(reach.longest.samples)
        ));
    }
    Headline {
        sentence,
        comparison,
        details,
    }
}

fn nothing_retrieved(measured: &[(&str, &Passkey)]) -> Headline {
    let best = measured
        .iter()
        .flat_map(|(name, passkey)| outcomes(passkey).into_iter().map(move |o| (*name, o)))
        .max_by(|(_, a), (_, b)| {
            a.accuracy()
                .partial_cmp(&b.accuracy())
                .unwrap_or(std::cmp::Ordering::Equal)
        });
    let Some((name, outcome)) = best else {
        return Headline::new("No passkey sample was run.", Vec::new());
    };
    let detail = format!(
        "The best single result is {}: {} of {} at {} tokens (95 % interval {} %).",
        plain(name),
        thousands(outcome.correct),
        thousands(outcome.samples),
        thousands(outcome.length),
        outcome.interval_text()
    );
    let sentence =
        "No encoding retrieves the key in more than half of its samples at any length tested.";
    Headline::new(sentence, vec![detail])
}

fn without_passkey(runs: &Runs) -> Headline {
    let best = perplexities(runs)
        .filter_map(|(name, of)| {
            let end = longest(of)?;
            Some((name, end, mean_up_to(of, end)?))
        })
        .filter(|(_, _, cross_entropy)| cross_entropy.is_finite())
        .min_by(|a, b| a.2.total_cmp(&b.2));
    let documents = documents(runs).len();
    let sentence = match best {
        Some(_) if documents > 1 => {
            format!("Perplexity is of {documents} documents, so models are not compared by it.")
        }
        Some((name, end, cross_entropy)) => format!(
            "{} has the lowest perplexity over the last positions, {} up to position {}.",
            plain(name),
            perplexity(cross_entropy),
            thousands(end)
        ),
        None => "These records hold neither passkey retrieval nor perplexity.".to_string(),
    };
    Headline::new(
        sentence,
        vec!["Passkey retrieval was not measured.".to_string()],
    )
}

fn times_training(length: usize, train_length: usize) -> String {
    if length == train_length {
        "its training length".to_string()
    } else {
        format!(
            "{} × its training length",
            multiple(length, train_length.max(1))
        )
    }
}

/// One sentence for each reason, with the lengths and encodings it stopped.
fn not_run(runs: &Runs) -> Vec<String> {
    let mut by_reason: Vec<(String, Vec<String>, BTreeSet<usize>)> = Vec::new();
    for (name, passkey) in passkeys(runs) {
        let mut reasons = BTreeMap::<&str, BTreeSet<usize>>::new();
        for skipped in &passkey.not_run {
            let lengths = reasons.entry(&skipped.reason).or_default();
            lengths.insert(skipped.length);
        }
        for (reason, lengths) in reasons {
            match by_reason
                .iter_mut()
                .find(|(known, _, at)| known == reason && *at == lengths)
            {
                Some((_, names, _)) => names.push(plain(name)),
                None => by_reason.push((reason.to_string(), vec![plain(name)], lengths)),
            }
        }
    }
    by_reason
        .into_iter()
        .map(|(reason, names, lengths)| {
            let lengths: Vec<String> = lengths.into_iter().map(thousands).collect();
            let who = if names.len() == runs.len() && runs.len() > 1 {
                "for every encoding".to_string()
            } else {
                format!("for {}", join(&names))
            };
            format!(
                "Not run: {} tokens {who} ({}).",
                join(&lengths),
                plain(&reason)
            )
        })
        .collect()
}

/// End of the last window.
pub fn longest(perplexity: &Perplexity) -> Option<usize> {
    perplexity.windows.iter().map(|window| window.end).max()
}

/// Mean cross-entropy over the windows that end in the octave of positions `end/2..end`, weighted by their tokens.
/// Not finite where one of them is not; `None` where there is no such window.
pub fn mean_up_to(perplexity: &Perplexity, end: usize) -> Option<f64> {
    let mut total = 0.0;
    let mut tokens = 0.0;
    for window in &perplexity.windows {
        if window.end > end / 2 && window.end <= end && window.end > window.start {
            let count = (window.end - window.start) as f64;
            total += window.cross_entropy * count;
            tokens += count;
        }
    }
    (tokens > 0.0).then(|| total / tokens)
}

/// Nats per token as bits per UTF-8 byte.
pub fn bits_per_byte(cross_entropy: f64, bytes_per_token: f64) -> Option<f64> {
    let bits = cross_entropy / std::f64::consts::LN_2 / bytes_per_token;
    (bytes_per_token > 0.0 && bits.is_finite()).then_some(bits)
}
