//! Processes that work on one thing: MPI's ranks, or threads that stand in for them.
//!
//! Nothing here knows MPI. What is built on it is built so that its results do not depend on the number of ranks: whoever
//! computes a number, it is added where and when one process would add it.
//!
//! A call that all ranks make together is made by all of them in the same order. None of them fails: where a rank is lost, its
//! launcher ends the others.

pub mod counted;
pub mod threads;

use crate::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::Range;

/// This process among others.
pub trait Ranks: Send + Sync {
    /// Its number, from 0. Rank 0 leads: it alone writes and is heard.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// Made by all: `values[to[r]]` goes to rank `r`, and `counts[r]` numbers come from it; they are given back one rank's after
    /// the other's. The ranges of `to` may overlap. As `MPI_Alltoallv`.
    fn exchange(&self, values: &[f32], to: &[Range<usize>], counts: &[usize]) -> Vec<f32>;

    /// Made by all: the bytes of every rank, by rank. As `MPI_Allgatherv`.
    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>>;

    /// A message to another rank, which [`Ranks::poll`] finds there. The messages of a rank to another come in their order.
    fn send(&self, to: usize, message: &[u8]);

    /// A message that has come, and its sender.
    fn poll(&self) -> Option<(usize, Vec<u8>)>;
}

/// The only process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn exchange(&self, values: &[f32], to: &[Range<usize>], _counts: &[usize]) -> Vec<f32> {
        values[to[0].clone()].to_vec()
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        vec![bytes.to_vec()]
    }

    fn send(&self, to: usize, _message: &[u8]) {
        panic!("expected another rank to send to, got rank {to} of 1");
    }

    fn poll(&self) -> Option<(usize, Vec<u8>)> {
        None
    }
}

impl dyn Ranks + '_ {
    /// Whether it is rank 0.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there are others.
    #[must_use]
    pub fn are_several(&self) -> bool {
        self.size() > 1
    }

    /// Made by all: the values of every rank, by rank, as JSON carries them.
    ///
    /// # Panics
    /// If a rank runs another program.
    pub fn gather_values<T: Serialize + DeserializeOwned>(&self, value: &T) -> Vec<T> {
        let bytes = serde_json::to_vec(value).expect("ranks tell each other plain data");
        let all = self.gather(&bytes).into_iter();
        all.map(|bytes| serde_json::from_slice(&bytes).expect("all ranks run the same program"))
            .collect()
    }

    /// Made by all: the value of rank 0.
    ///
    /// # Panics
    /// If a rank runs another program.
    pub fn leaders<T: Serialize + DeserializeOwned>(&self, value: Option<&T>) -> T {
        let bytes = match value.filter(|_| self.leads()) {
            Some(value) => serde_json::to_vec(value).expect("ranks tell each other plain data"),
            None => Vec::new(),
        };
        serde_json::from_slice(&self.gather(&bytes)[0])
            .expect("rank 0 says what the others wait for")
    }

    /// Made by all: whether any rank says so.
    pub fn any(&self, one: bool) -> bool {
        self.are_several() && self.gather(&[u8::from(one)]).contains(&vec![1]) || one
    }

    /// Made by all: nobody goes on before all have come.
    pub fn wait(&self) {
        self.gather(&[]);
    }

    /// Made by all: refuses ranks that say something else than rank 0 does. `what` is for the message.
    ///
    /// # Errors
    /// Names the first rank that does.
    pub fn same(&self, what: &'static str, value: &str) -> Result<(), Error> {
        let all = self.gather(value.as_bytes());
        match all.iter().position(|other| *other != all[0]) {
            None => Ok(()),
            Some(rank) => Err(Error::Rank {
                rank,
                what,
                expected: String::from_utf8_lossy(&all[0]).into_owned(),
                got: String::from_utf8_lossy(&all[rank]).into_owned(),
            }),
        }
    }
}
