//! Ranks that are threads of one process: what is built on [`Ranks`] can be tested with eight of them and without MPI.

use super::Ranks;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Barrier, Mutex};

/// A sender and its bytes.
type Message = (usize, Vec<u8>);

/// One of several threads that work together.
pub struct ThreadRank {
    rank: usize,
    shared: Arc<Shared>,
}

struct Shared {
    barrier: Barrier,
    /// By rank: the pieces for every other rank.
    numbers: Mutex<Vec<Vec<Vec<f32>>>>,
    bytes: Mutex<Vec<Vec<u8>>>,
    /// By rank: messages that it has not seen yet.
    messages: Mutex<Vec<VecDeque<Message>>>,
}

/// Calls a function on so many ranks at once, each with a pool of threads of its own, as processes have; the results, by rank.
///
/// # Panics
/// If a rank does. Others that wait for it then wait forever, as ranks without a launcher do.
pub fn run<T: Send>(size: usize, work: impl Fn(Arc<dyn Ranks>) -> T + Sync) -> Vec<T> {
    let shared = Arc::new(Shared {
        barrier: Barrier::new(size),
        numbers: Mutex::new(vec![Vec::new(); size]),
        bytes: Mutex::new(vec![Vec::new(); size]),
        messages: Mutex::new(vec![VecDeque::new(); size]),
    });
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..size)
            .map(|rank| {
                let shared = Arc::clone(&shared);
                // In one pool the samples of a rank could take every thread, and others would wait.
                let pool = rayon::ThreadPoolBuilder::new();
                let pool = pool.num_threads(rayon::current_num_threads()).build();
                let pool = pool.expect("threads can be begun");
                scope.spawn(move || pool.install(|| work(Arc::new(ThreadRank { rank, shared }))))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

impl ThreadRank {
    /// Gives something to all, and takes from what all gave.
    fn meet<S, T>(&self, of: &Mutex<Vec<S>>, give: S, take: impl FnOnce(&mut Vec<S>) -> T) -> T {
        let locked = || of.lock().expect("no rank panicked");
        locked()[self.rank] = give;
        self.shared.barrier.wait();
        let taken = take(&mut locked());
        // Nobody gives again before all have taken.
        self.shared.barrier.wait();
        taken
    }
}

impl Ranks for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.messages.lock().expect("no rank panicked").len()
    }

    fn exchange(&self, values: &[f32], to: &[Range<usize>], counts: &[usize]) -> Vec<f32> {
        let give = to.iter().map(|range| values[range.clone()].to_vec());
        self.meet(&self.shared.numbers, give.collect(), |all| {
            let mine = all.iter().map(|of| of[self.rank].as_slice());
            let mine: Vec<&[f32]> = mine.collect();
            let sent = mine.iter().map(|of| of.len());
            assert!(
                sent.eq(counts.iter().copied()),
                "counts of rank {}",
                self.rank
            );
            mine.concat()
        })
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.meet(&self.shared.bytes, bytes.to_vec(), |all| all.clone())
    }

    fn send(&self, to: usize, message: &[u8]) {
        let mut messages = self.shared.messages.lock().expect("no rank panicked");
        messages[to].push_back((self.rank, message.to_vec()));
    }

    fn poll(&self) -> Option<(usize, Vec<u8>)> {
        self.shared.messages.lock().expect("no rank panicked")[self.rank].pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_exchange_gather_and_send() {
        for size in [1, 2, 3, 8] {
            let all = run(size, |ranks| {
                let rank = ranks.rank();
                // Rank r gives rank q the numbers 10·r + q, q + 1 of them.
                let given = (0..size).flat_map(|q| vec![(10 * rank + q) as f32; q + 1]);
                let given: Vec<f32> = given.collect();
                let ends: Vec<usize> = (0..=size).map(|q| q * (q + 1) / 2).collect();
                let to: Vec<_> = ends.windows(2).map(|pair| pair[0]..pair[1]).collect();
                let counts = vec![rank + 1; size];
                let got = ranks.exchange(&given, &to, &counts);
                let expected = (0..size).flat_map(|r| vec![(10 * r + rank) as f32; rank + 1]);
                assert_eq!(got, expected.collect::<Vec<_>>());
                assert!(ranks.any(rank + 1 == size) && !ranks.any(false));
                let leader = ranks.leads().then_some("the first");
                let leader: String = ranks.leaders(leader.map(str::to_owned).as_ref());
                assert_eq!(leader, "the first");
                assert!(ranks.same("a word", "same").is_ok());
                let other = ranks.same("a word", &rank.min(1).to_string());
                if size > 1 {
                    let message = other.unwrap_err().to_string();
                    assert_eq!(message, "rank 1: a word: expected 0 as on rank 0, got 1");
                }
                if rank > 0 {
                    ranks.send(0, &[rank as u8]);
                }
                ranks.wait();
                let messages: Vec<_> = std::iter::from_fn(|| ranks.poll()).collect();
                ranks.gather_values(&messages.len())
            });
            let mut expected = vec![0; size];
            expected[0] = size - 1;
            assert_eq!(all, vec![expected; size]);
        }
    }
}
