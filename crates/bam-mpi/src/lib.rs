//! MPI's ranks as `bam_lm::ranks::Ranks`: the only crate that knows MPI.
//!
//! Errors of MPI are fatal, as they are unless told otherwise: it names the rank and ends the job. Calls come from several threads,
//! one at a time (`MPI_THREAD_SERIALIZED`).
#![forbid(unsafe_code)]
#![cfg(feature = "mpi")]

use bam_lm::ranks::Ranks;
use mpi::Threading;
use mpi::collective::CommunicatorCollectives;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::traits::{Destination, MatchedReceiveVec, Source};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// This process among those that a launcher began. The last one that is dropped waits for the others, as `MPI_Finalize` does.
pub struct MpiRanks {
    /// Locked for every call.
    universe: Mutex<Universe>,
    rank: usize,
    size: usize,
}

impl MpiRanks {
    /// Joins the others. Once in a process.
    ///
    /// # Errors
    /// If MPI was begun before, or bears one thread only.
    pub fn begin() -> Result<Self, String> {
        let expected =
            "expected an MPI whose calls may come from several threads (MPI_THREAD_SERIALIZED)";
        let begun = mpi::initialize_with_threading(Threading::Serialized);
        let (universe, threading) =
            begun.ok_or("MPI: expected to be begun once, got begun before")?;
        if threading < Threading::Serialized {
            return Err(format!("{expected}, got {threading:?}"));
        }
        let world = universe.world();
        Ok(Self {
            rank: world.rank() as usize,
            size: world.size() as usize,
            universe: Mutex::new(universe),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Universe> {
        self.universe.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends all ranks, this one with this exit code; the launcher says which rank it was.
pub fn abort(code: u8) -> ! {
    SimpleCommunicator::world().abort(code.into())
}

/// MPI counts in 32 bits.
fn count(of: usize) -> i32 {
    i32::try_from(of)
        .unwrap_or_else(|_| panic!("MPI: expected fewer than 2³¹ numbers in one call, got {of}"))
}

/// Places of what lies one after the other.
fn places(counts: &[i32]) -> Vec<i32> {
    let mut end = 0;
    let place = |of: &i32| {
        end += of;
        end - of
    };
    counts.iter().map(place).collect()
}

impl Ranks for MpiRanks {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&self, values: &[f32], to: &[Range<usize>], counts: &[usize]) -> Vec<f32> {
        let mut got = vec![0.0; counts.iter().sum()];
        count(values.len().max(got.len()));
        let sizes: Vec<i32> = to.iter().map(|range| count(range.len())).collect();
        let starts: Vec<i32> = to.iter().map(|range| count(range.start)).collect();
        let counts: Vec<i32> = counts.iter().map(|of| count(*of)).collect();
        let given = Partition::new(values, sizes, starts);
        let places = places(&counts);
        let mut taken = PartitionMut::new(&mut got[..], counts, places);
        let universe = self.lock();
        universe
            .world()
            .all_to_all_varcount_into(&given, &mut taken);
        got
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let universe = self.lock();
        let world = universe.world();
        let mut counts = vec![0; self.size];
        world.all_gather_into(&count(bytes.len()), &mut counts[..]);
        let places = places(&counts);
        let all: i64 = counts.iter().copied().map(i64::from).sum();
        // Open MPI refuses to gather nothing.
        if all == 0 {
            return vec![Vec::new(); self.size];
        }
        let mut got = vec![0; count(all as usize) as usize];
        let mut taken = PartitionMut::new(&mut got[..], &counts[..], &places[..]);
        world.all_gather_varcount_into(bytes, &mut taken);
        let pieces = counts.iter().zip(&places);
        pieces
            .map(|(count, place)| got[*place as usize..][..*count as usize].to_vec())
            .collect()
    }

    fn send(&self, to: usize, message: &[u8]) {
        let universe = self.lock();
        universe.world().process_at_rank(count(to)).send(message);
    }

    fn poll(&self) -> Option<(usize, Vec<u8>)> {
        let universe = self.lock();
        let message = universe.world().any_process().immediate_matched_probe()?;
        let (bytes, status) = message.matched_receive_vec();
        Some((status.source_rank() as usize, bytes))
    }
}
