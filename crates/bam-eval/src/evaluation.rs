//! One way to run every evaluation: cells of a grid, samples of a cell, findings, scores, a record.

use crate::dealing::{Dealt, dealt};
use crate::journal::Journal;
use bam_data::{Tokenizer, hexadecimal};
use bam_lm::Error;
use bam_lm::model::Transformer;
use bam_lm::model::checkpoint::weights_sha256;
use bam_lm::ranks::{Alone, Ranks};
use rayon::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether to stop; asked before every sample, and before every piece of a long row.
pub type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// Something that is looked for; `None` where it was stopped before it was found.
pub type Found<T> = Result<Option<T>, Error>;

/// A model under evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The model.
    pub model: &'a Transformer,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
}

/// Surroundings of an evaluation: the person who may stop it and is told how far it is, and the time.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub stop: Stop<'a>,
    /// Seconds since some moment.
    pub clock: &'a (dyn Fn() -> f64 + Sync),
    /// Told how many steps are done, of how many, and a few words; first of none.
    pub progress: &'a (dyn Fn(u64, u64, &str) + Sync),
    /// Processes that share the samples: all evaluate the same and have the same figures in the end.
    pub ranks: &'a dyn Ranks,
}

impl Default for Context<'_> {
    /// Nobody: it goes on to the end, in no time, alone.
    fn default() -> Self {
        Self {
            stop: &|| false,
            clock: &|| 0.0,
            progress: &|_, _, _| (),
            ranks: &Alone,
        }
    }
}

/// Surroundings of one sample.
pub struct Work<'a> {
    pub stop: Stop<'a>,
    /// Seconds since some moment.
    pub clock: &'a (dyn Fn() -> f64 + Sync),
    /// Told of steps that are done, where an evaluation counts others than samples.
    pub step: &'a (dyn Fn(u64) + Sync),
}

/// An evaluation of one model: a grid of cells with samples.
///
/// A finding follows from its sample's name, the model, its tokenizer and the [settings](Self::settings),
/// and from nothing else. So it does not matter in which order samples are found, or where, and it may come
/// from an earlier run, whatever else that run was asked.
pub trait Evaluation: Sync {
    /// One cell's place in the grid.
    type Cell;
    /// The samples of a cell.
    type Set: Sync;
    /// Anything that samples of a set share and that is made only where one is to be found.
    type Ready: Sync;
    /// The outcome of one sample; a resume journal keeps it to the bit.
    type Finding: Serialize + DeserializeOwned + Send + Sync;
    /// The outcome of a cell.
    type Score;
    /// The record's figures.
    type Metrics: Serialize;

    /// Its name in progress and in journals.
    const NAME: &'static str;
    /// Whether samples are found each by itself. Otherwise one goes on from the one before: they are found
    /// in their order, and what is known of a set is of use only where all of it is.
    const INDEPENDENT: bool = true;

    /// All that decides a finding besides model, tokenizer and the sample's name.
    fn settings(&self) -> Value;

    /// The cells, in the order in which they run.
    fn grid(&self) -> Vec<Self::Cell>;

    /// Steps of a cell, as progress counts them: samples, as far as can be known before they are made.
    fn steps(&self, cell: &Self::Cell) -> u64;

    /// The samples of a cell, given the scores of those before it.
    ///
    /// # Errors
    /// If they can't be made.
    fn set(&self, cell: &Self::Cell, before: &[Self::Score], stop: Stop) -> Found<Self::Set>;

    /// A name for each sample that nothing else has.
    fn names(&self, set: &Self::Set) -> Vec<String>;

    /// Makes ready to find samples.
    ///
    /// # Errors
    /// If that can't be done.
    fn prepare(&self, set: &Self::Set) -> Result<Self::Ready, Error>;

    /// Whether many samples are found at once. One at a time is better for rows that are long enough to give
    /// all threads work: one cache is in memory then, instead of one a thread.
    fn at_once(&self, _ready: &Self::Ready) -> bool {
        false
    }

    /// Something that grows with the time that a sample takes: ranks that share samples begin with the longest.
    fn length(&self, _set: &Self::Set, _sample: usize) -> usize {
        0
    }

    /// Finds a sample.
    ///
    /// # Errors
    /// If the model fails.
    fn find(
        &self,
        set: &Self::Set,
        ready: &Self::Ready,
        sample: usize,
        work: &Work,
    ) -> Found<Self::Finding>;

    /// A few words for the person, after a finding or at the end of a set.
    fn message(&self, set: &Self::Set, latest: Option<&Self::Finding>) -> String;

    /// The score of a cell that took so many seconds.
    fn score(&self, set: &Self::Set, findings: Vec<Self::Finding>, seconds: f64) -> Self::Score;

    /// The record's figures.
    ///
    /// # Errors
    /// If they can't be computed.
    fn record(&self, scores: Vec<Self::Score>) -> Result<Self::Metrics, Error>;
}

/// Runs an evaluation: its figures, and the seconds that they took, earlier runs' included. Where it is
/// stopped, all that was found is in the journal. `scored` is told of every cell.
///
/// Of several ranks all call it with the same evaluation. They share the samples of a cell; the journal is rank 0's.
///
/// # Errors
/// Those of the evaluation and of `scored`.
pub fn evaluate<E: Evaluation>(
    evaluation: &E,
    context: &Context,
    journal: Option<&Journal>,
    mut scored: impl FnMut(&E::Set, &E::Score) -> Result<(), Error>,
) -> Found<(E::Metrics, f64)> {
    let begun = (context.clock)();
    let mut earlier = 0.0;
    let grid = evaluation.grid();
    let runner = Runner {
        evaluation,
        context,
        journal,
        done: AtomicU64::new(0),
        total: grid.iter().map(|cell| evaluation.steps(cell)).sum(),
    };
    (context.progress)(0, runner.total, "");
    let mut expected = 0;
    let mut scores = Vec::new();
    for cell in grid {
        let Some(set) = evaluation.set(&cell, &scores, context.stop)? else {
            return Ok(None);
        };
        let start = (context.clock)();
        let Some(findings) = runner.findings(&set)? else {
            return Ok(None);
        };
        let before = journal.map_or(0.0, Journal::seconds_before);
        earlier += before;
        let seconds = runner.leaders((context.clock)() - start + before);
        let score = evaluation.score(&set, findings, seconds);
        scored(&set, &score)?;
        scores.push(score);
        expected += evaluation.steps(&cell);
        runner.over(expected, &set);
    }
    let metrics = evaluation.record(scores)?;
    Ok(Some((metrics, (context.clock)() - begun + earlier)))
}

struct Runner<'a, E> {
    evaluation: &'a E,
    context: &'a Context<'a>,
    journal: Option<&'a Journal>,
    /// Steps, of so many.
    done: AtomicU64,
    total: u64,
}

impl<E: Evaluation> Runner<'_, E> {
    /// The findings of a set: those that are known, and those that are not.
    fn findings(&self, set: &E::Set) -> Found<Vec<E::Finding>> {
        let names = self.evaluation.names(set);
        let known = |name: &String| self.journal?.known(name);
        let findings: Vec<Option<E::Finding>> = names.iter().map(known).collect();
        let mut findings = self.leaders(findings);
        let missing = |findings: &[Option<E::Finding>]| -> Vec<usize> {
            (0..findings.len())
                .filter(|at| findings[*at].is_none())
                .collect()
        };
        let mut wanted = missing(&findings);
        if !E::INDEPENDENT && !wanted.is_empty() {
            findings.fill_with(|| None);
            wanted = missing(&findings);
            // Nothing is taken up, so its time does not count.
            self.journal.map(Journal::seconds_before);
        }
        for known in findings.iter().flatten() {
            self.found(set, known);
        }
        if !wanted.is_empty() {
            let Dealt { found, stopped } = match self.context.ranks.are_several() {
                true => self.shared(set, &names, wanted)?,
                false => self.alone(set, &names, &wanted)?,
            };
            if stopped {
                return Ok(None);
            }
            for (at, found) in found {
                findings[at] = Some(found);
            }
        }
        Ok(Some(findings.into_iter().flatten().collect()))
    }

    /// Findings of this process alone.
    fn alone(
        &self,
        set: &E::Set,
        names: &[String],
        wanted: &[usize],
    ) -> Result<Dealt<E::Finding>, Error> {
        let ready = self.evaluation.prepare(set)?;
        let find = |at: &usize| {
            let found = self.find(set, &ready, *at, &names[*at])?;
            Ok::<_, Error>(found.map(|found| (*at, found)))
        };
        let found: Option<Vec<_>> = match self.evaluation.at_once(&ready) {
            true => wanted.par_iter().map(find).collect::<Result<_, _>>()?,
            false => wanted.iter().map(find).collect::<Result<_, _>>()?,
        };
        Ok(Dealt {
            stopped: found.is_none(),
            found: found.unwrap_or_default(),
        })
    }

    /// Made by all ranks: findings that all of them have then.
    fn shared(
        &self,
        set: &E::Set,
        names: &[String],
        mut wanted: Vec<usize>,
    ) -> Result<Dealt<E::Finding>, Error> {
        let ranks = self.context.ranks;
        if !E::INDEPENDENT {
            // One goes on from the one before, so there is nothing to share.
            let own = ranks.leads().then(|| self.alone(set, names, &wanted));
            return Ok(ranks.leaders(own.transpose()?.as_ref()));
        }
        wanted.sort_by_cached_key(|at| std::cmp::Reverse(self.evaluation.length(set, *at)));
        let ready = self.evaluation.prepare(set)?;
        let at_once = match self.evaluation.at_once(&ready) {
            true => rayon::current_num_threads(),
            false => 1,
        };
        let find = |at: usize| self.look(set, &ready, at);
        let keep = |at: usize, found: &E::Finding| self.keep(set, found, &names[at]);
        dealt(ranks, &wanted, at_once, find, keep)
    }

    /// Rank 0's value, on all of them.
    fn leaders<T: Serialize + DeserializeOwned>(&self, value: T) -> T {
        match self.context.ranks.are_several() {
            true => self.context.ranks.leaders(Some(&value)),
            false => value,
        }
    }

    /// Finds a sample, unless it is time to stop, and keeps what is found.
    fn find(&self, set: &E::Set, ready: &E::Ready, at: usize, name: &str) -> Found<E::Finding> {
        let found = self.look(set, ready, at)?;
        if let Some(found) = &found {
            self.keep(set, found, name);
        }
        Ok(found)
    }

    fn look(&self, set: &E::Set, ready: &E::Ready, at: usize) -> Found<E::Finding> {
        if E::INDEPENDENT && (self.context.stop)() {
            return Ok(None);
        }
        let work = Work {
            stop: self.context.stop,
            clock: self.context.clock,
            step: &|steps| self.step(steps, ""),
        };
        self.evaluation.find(set, ready, at, &work)
    }

    fn keep(&self, set: &E::Set, found: &E::Finding, name: &str) {
        if let Some(journal) = self.journal {
            journal.keep(name, found, (self.context.clock)());
        }
        self.found(set, found);
    }

    fn found(&self, set: &E::Set, found: &E::Finding) {
        if E::INDEPENDENT {
            self.step(1, &self.evaluation.message(set, Some(found)));
        }
    }

    fn step(&self, steps: u64, message: &str) {
        let done = self.done.fetch_add(steps, Ordering::Relaxed) + steps;
        (self.context.progress)(done, self.total, message);
    }

    /// A set is over, and with it so many steps in all; what could not be made is done too.
    fn over(&self, expected: u64, set: &E::Set) {
        if self.done.swap(expected, Ordering::Relaxed) < expected {
            let message = self.evaluation.message(set, None);
            (self.context.progress)(expected, self.total, &message);
        }
    }
}

/// All that findings depend on besides their samples' names, as a digest: the version of the
/// program, the model in `dir`, its tokenizer, and settings.
///
/// # Errors
/// If the model's weights can't be read.
pub fn run_digest<E: Evaluation>(
    version: &str,
    dir: &Path,
    subject: Subject,
    evaluation: &E,
) -> Result<String, Error> {
    let run = json!([
        version,
        weights_sha256(dir)?,
        subject.model.config(),
        subject.tokenizer.sha256(),
        E::NAME,
        evaluation.settings(),
    ]);
    Ok(hexadecimal(&Sha256::digest(run.to_string())))
}
