//! Ranks whose calls are counted.

use super::Ranks;
use serde::{Deserialize, Serialize};
use std::ops::{Range, Sub};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Calls of others, the bytes that they carried away, and the seconds that they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Calls that move something to or from other ranks.
    pub calls: u64,
    /// Bytes that went from this rank to others; what it keeps for itself is not counted.
    pub bytes: u64,
    /// Seconds in these calls: of moving, and of waiting for ranks that come later.
    pub seconds: f64,
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            calls: self.calls - before.calls,
            bytes: self.bytes - before.bytes,
            seconds: self.seconds - before.seconds,
        }
    }
}

/// Ranks, and what passed between this one and the others.
pub struct Counted {
    ranks: Arc<dyn Ranks>,
    clock: Box<dyn Fn() -> f64 + Send + Sync>,
    traffic: Mutex<Traffic>,
}

impl Counted {
    /// `clock` tells seconds.
    pub fn new(ranks: Arc<dyn Ranks>, clock: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        Self {
            ranks,
            clock: Box::new(clock),
            traffic: Mutex::default(),
        }
    }

    /// Everything since it was made.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        *self.locked()
    }

    fn locked(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counted<T>(&self, bytes: usize, call: impl FnOnce() -> T) -> T {
        let start = (self.clock)();
        let done = call();
        let seconds = (self.clock)() - start;
        let mut traffic = self.locked();
        traffic.calls += 1;
        traffic.bytes += bytes as u64;
        traffic.seconds += seconds;
        done
    }
}

impl Ranks for Counted {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn exchange(&self, values: &[f32], to: &[Range<usize>], counts: &[usize]) -> Vec<f32> {
        let others = to.iter().enumerate().filter(|(to, _)| *to != self.rank());
        let numbers: usize = others.map(|(_, range)| range.len()).sum();
        let bytes = numbers * size_of::<f32>();
        self.counted(bytes, || self.ranks.exchange(values, to, counts))
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let sent = bytes.len() * (self.size() - 1);
        self.counted(sent, || self.ranks.gather(bytes))
    }

    fn send(&self, to: usize, message: &[u8]) {
        self.counted(message.len(), || self.ranks.send(to, message));
    }

    /// Looking is not counted: who looks has something else to do.
    fn poll(&self) -> Option<(usize, Vec<u8>)> {
        self.ranks.poll()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks::threads;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn bytes_to_others_are_counted_and_each_call_takes_a_tick() {
        let all = threads::run(3, |ranks| {
            let ticks = AtomicU64::new(0);
            let clock = move || ticks.fetch_add(1, Ordering::Relaxed) as f64;
            let counted = Counted::new(ranks, clock);
            let rank = counted.rank();
            // Five numbers to every rank, itself among them.
            let got = counted.exchange(&[1.5; 5], &[0..5, 0..5, 0..5], &[5; 3]);
            assert_eq!(got, [1.5; 15]);
            counted.gather(&vec![7; rank]);
            let before = counted.traffic();
            if rank == 1 {
                counted.send(0, b"four");
            }
            counted.gather(&[]);
            assert_eq!(counted.poll().is_some(), rank == 0);
            (before, counted.traffic() - before)
        });
        for (rank, (before, after)) in all.into_iter().enumerate() {
            let (calls, bytes) = (2, 4 * 5 * 2 + 2 * rank as u64);
            assert_eq!(before, traffic(calls, bytes));
            let sent = u64::from(rank == 1);
            assert_eq!(after, traffic(1 + sent, 4 * sent));
        }
    }

    fn traffic(calls: u64, bytes: u64) -> Traffic {
        Traffic {
            calls,
            bytes,
            seconds: calls as f64,
        }
    }
}
