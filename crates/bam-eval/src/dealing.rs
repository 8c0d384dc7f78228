//! Samples dealt to ranks: whoever is free takes the next one, so that none waits for a slow one but at the end.
//!
//! Rank 0 deals, keeps what is found, and works too. A rank asks it for a sample, and tells it of a finding, by messages; at the end
//! all ranks have all findings.

use bam_lm::Error;
use bam_lm::ranks::Ranks;
use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Time between two looks for a message: little beside a sample.
const LOOK: Duration = Duration::from_millis(1);

/// A message to rank 0; its answer to `Next` is a sample or nothing.
#[derive(Serialize, Deserialize)]
enum Word<F> {
    Next,
    Found(usize, F),
    /// No more from this rank, and whether it was told to stop.
    End(bool),
}

/// Findings by sample, and whether some rank was told to stop before all were found.
#[derive(Serialize, Deserialize)]
pub(crate) struct Dealt<F> {
    pub found: Vec<(usize, F)>,
    pub stopped: bool,
}

/// Made by all ranks with the same samples: finds them in their order, `at_once` of them on each rank. `find` gives nothing where it
/// was stopped; `keep` is told of every finding, on rank 0.
///
/// # Errors
/// Those of `find`, on the rank that has one.
pub(crate) fn dealt<F: Serialize + DeserializeOwned + Send + Sync>(
    ranks: &dyn Ranks,
    samples: &[usize],
    at_once: usize,
    find: impl Fn(usize) -> Result<Option<F>, Error> + Sync,
    keep: impl Fn(usize, &F) + Sync,
) -> Result<Dealt<F>, Error> {
    let own = match ranks.leads() {
        true => Some(deal(ranks, samples, at_once, find, keep)?),
        false => {
            take(ranks, at_once, find)?;
            None
        }
    };
    Ok(ranks.leaders(own.as_ref()))
}

/// Rank 0's side.
fn deal<F: Serialize + DeserializeOwned + Send + Sync>(
    ranks: &dyn Ranks,
    samples: &[usize],
    at_once: usize,
    find: impl Fn(usize) -> Result<Option<F>, Error> + Sync,
    keep: impl Fn(usize, &F) + Sync,
) -> Result<Dealt<F>, Error> {
    let (taken, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let found = Mutex::new(Vec::new());
    let next = || {
        let stopped = stopped.load(Ordering::Relaxed);
        let place = taken.fetch_add(1, Ordering::Relaxed);
        samples.get(place).copied().filter(|_| !stopped)
    };
    let keep = |at: usize, of: F| {
        keep(at, &of);
        found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((at, of));
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut others = ranks.size() - 1;
            while others > 0 {
                let Some((from, word)) = ranks.poll() else {
                    std::thread::sleep(LOOK);
                    continue;
                };
                match read::<Word<F>>(&word) {
                    Word::Next => ranks.send(from, &written(&next())),
                    Word::Found(at, of) => keep(at, of),
                    Word::End(was_stopped) => {
                        others -= 1;
                        stopped.fetch_or(was_stopped, Ordering::Relaxed);
                    }
                }
            }
        });
        let worked = work(at_once, &find, next, keep);
        if !matches!(worked, Ok(true)) {
            stopped.store(true, Ordering::Relaxed);
        }
        worked.map(drop)
    })?;
    Ok(Dealt {
        found: found.into_inner().unwrap_or_else(PoisonError::into_inner),
        stopped: stopped.into_inner(),
    })
}

/// The side of the other ranks.
fn take<F: Serialize + DeserializeOwned + Send + Sync>(
    ranks: &dyn Ranks,
    at_once: usize,
    find: impl Fn(usize) -> Result<Option<F>, Error> + Sync,
) -> Result<(), Error> {
    // An answer is that of the question before it.
    let asking = Mutex::new(());
    let next = || {
        let _asked = asking.lock().unwrap_or_else(PoisonError::into_inner);
        ranks.send(0, &written(&Word::<F>::Next));
        loop {
            match ranks.poll() {
                Some((_, answer)) => return read(&answer),
                None => std::thread::sleep(LOOK),
            }
        }
    };
    let tell = |at: usize, of: F| ranks.send(0, &written(&Word::Found(at, of)));
    let whole = work(at_once, &find, next, tell)?;
    ranks.send(0, &written(&Word::<F>::End(!whole)));
    Ok(())
}

/// Finds samples, so many at once, as long as there are some; `false` where it was told to stop.
fn work<F: Send>(
    at_once: usize,
    find: &(impl Fn(usize) -> Result<Option<F>, Error> + Sync),
    next: impl Fn() -> Option<usize> + Sync,
    found: impl Fn(usize, F) + Sync,
) -> Result<bool, Error> {
    let one_by_one = |_| {
        while let Some(at) = next() {
            match find(at)? {
                Some(of) => found(at, of),
                None => return Ok(false),
            }
        }
        Ok(true)
    };
    let ended = (0..at_once).into_par_iter().with_max_len(1).map(one_by_one);
    let ended: Vec<bool> = ended.collect::<Result<_, Error>>()?;
    Ok(ended.iter().all(|whole| *whole))
}

fn written<T: Serialize>(word: &T) -> Vec<u8> {
    serde_json::to_vec(word).expect("ranks tell each other plain data")
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> T {
    serde_json::from_slice(bytes).expect("all ranks run the same program")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bam_lm::ranks::threads;

    #[test]
    fn every_sample_is_found_once_whoever_is_free() {
        let samples: Vec<usize> = (0..40).rev().collect();
        for (size, at_once) in [(2, 1), (3, 2), (8, 1)] {
            let kept = Mutex::new(Vec::new());
            let all = threads::run(size, |ranks| {
                let slow = ranks.rank() == 1;
                let find = |at: usize| {
                    std::thread::sleep(Duration::from_millis(if slow { 50 } else { 2 }));
                    Ok(Some((at * at, ranks.rank())))
                };
                let keep = |at: usize, _: &(usize, usize)| kept.lock().unwrap().push(at);
                let dealt = dealt(&*ranks, &samples, at_once, find, keep).unwrap();
                assert!(!dealt.stopped);
                dealt.found
            });
            let mut kept = kept.into_inner().unwrap();
            kept.sort_unstable();
            assert_eq!(kept, (0..40).collect::<Vec<_>>());
            assert!(all.iter().all(|found| *found == all[0]));
            assert!(all[0].iter().all(|(at, (square, _))| at * at == *square));
            // Null control: cut into equal pieces, the slow rank would have a share of them.
            let of_slow = all[0].iter().filter(|(_, (_, rank))| *rank == 1).count();
            assert!(
                of_slow * size < 40,
                "{of_slow} of 40 on the slow one of {size}"
            );
        }
    }

    #[test]
    fn all_stop_where_one_is_told_to() {
        let samples: Vec<usize> = (0..1000).collect();
        for told in [0, 2] {
            let all = threads::run(3, |ranks| {
                let count = AtomicUsize::new(0);
                let find = |at: usize| {
                    std::thread::sleep(Duration::from_millis(1));
                    let stop = ranks.rank() == told && count.fetch_add(1, Ordering::Relaxed) == 5;
                    Ok((!stop).then_some(at))
                };
                let dealt = dealt(&*ranks, &samples, 1, find, |_, _| ()).unwrap();
                assert!(dealt.stopped);
                dealt.found.len()
            });
            assert!(all[0] >= 5 && all[0] < 900, "{all:?}");
            assert_eq!(all, [all[0]; 3]);
        }
    }
}
