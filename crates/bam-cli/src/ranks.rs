//! The processes that this one works with, where a launcher began several: `mpirun -n 8 bam train …`.
//!
//! MPI is begun where a launcher's variables are set, and only for commands that share their work. So a program that was built with
//! it runs everywhere as one without.

use crate::error_text::text_of;
use anyhow::{Context, ensure};
use bam_lm::ranks::counted::{Counted, Traffic};
use bam_lm::ranks::{Alone, Ranks};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
#[cfg(feature = "mpi")]
use std::time::Instant;

/// Variables by which launchers tell a process that it is one of several: Open MPI's, MPICH's and Intel's, Slurm's by PMI and PMIx.
#[cfg(feature = "mpi")]
const LAUNCHERS: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"];

/// Those that say how many.
const SIZES: [&str; 2] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];

static OURS: Mutex<Option<Arc<Counted>>> = Mutex::new(None);

/// Joins the processes of a launcher, if there is one. `shared`: the command shares its work with them.
///
/// # Errors
/// If there are several that this program or command can't work with.
pub fn begin(shared: bool) -> anyhow::Result<()> {
    let sizes = SIZES
        .iter()
        .filter_map(|name| std::env::var(name).ok()?.parse().ok());
    let size = sizes.max().unwrap_or(1_usize);
    ensure!(
        shared || size == 1,
        "expected one process, got one of {size}: train, eval, quickstart and prepare share their work, other commands do not"
    );
    #[cfg(feature = "mpi")]
    if shared
        && LAUNCHERS
            .iter()
            .any(|name| std::env::var_os(name).is_some())
    {
        let ranks = bam_mpi::MpiRanks::begin().map_err(anyhow::Error::msg)?;
        let begun = Instant::now();
        let counted = Counted::new(Arc::new(ranks), move || begun.elapsed().as_secs_f64());
        *ours() = Some(Arc::new(counted));
        return Ok(());
    }
    ensure!(
        size == 1,
        "expected one process, got one of {size}, and a program that was built without MPI; build it with: \
         cargo build --release --features mpi"
    );
    Ok(())
}

/// Leaves the other processes, which all do; an agreed error is no reason to end them.
pub fn end() {
    drop(ours().take());
}

/// Ends all processes, where there are others. If all fail alike, the first one's word is enough: it is given time to end the rest.
pub fn fail(code: u8, say: impl FnOnce(&str)) {
    let Some((rank, size)) = of_several() else {
        return say("");
    };
    if rank > 0 {
        std::thread::sleep(Duration::from_secs(1));
    }
    say(&format!("rank {rank} of {size}: "));
    #[cfg(feature = "mpi")]
    bam_mpi::abort(code);
    #[cfg(not(feature = "mpi"))]
    let _ = code;
}

/// The processes, this one alone if no launcher began others.
pub fn all() -> Arc<dyn Ranks> {
    match &*ours() {
        Some(ranks) => Arc::clone(ranks) as Arc<dyn Ranks>,
        None => Arc::new(Alone),
    }
}

/// Whether this process is the one that writes and is heard.
pub fn leads() -> bool {
    all().leads()
}

/// Everything that passed between this process and the others.
pub fn traffic() -> Traffic {
    let ours = ours();
    ours.as_ref()
        .map_or_else(Traffic::default, |ranks| ranks.traffic())
}

fn of_several() -> Option<(usize, usize)> {
    let ranks = all();
    ranks.are_several().then(|| (ranks.rank(), ranks.size()))
}

fn ours() -> std::sync::MutexGuard<'static, Option<Arc<Counted>>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error that all ranks know of: the first one says it, and all end.
#[derive(Debug)]
pub struct Agreed(String);

impl std::fmt::Display for Agreed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Agreed {}

/// A rank's word on whether it can begin, and with what.
#[derive(Serialize, Deserialize)]
struct Word {
    error: Option<String>,
    /// Names and values that must be the same everywhere.
    same: Vec<(String, String)>,
}

/// Made by all ranks: what each has made ready, if all could and have the same.
///
/// # Errors
/// On all ranks the same, with the rank that has it.
pub fn agree<T>(
    made: anyhow::Result<T>,
    same: impl FnOnce(&T) -> anyhow::Result<Vec<(&'static str, String)>>,
) -> anyhow::Result<T> {
    let ranks = all();
    if !ranks.are_several() {
        return made;
    }
    let made = made.and_then(|made| Ok((same(&made)?, made)));
    let words = ranks.gather_values(&match &made {
        Ok((same, _)) => Word {
            error: None,
            same: same
                .iter()
                .map(|(name, value)| ((*name).into(), value.clone()))
                .collect(),
        },
        Err(error) => Word {
            error: Some(text_of(error)),
            same: Vec::new(),
        },
    });
    match refusal(&words) {
        Some(refusal) => Err(Agreed(refusal).into()),
        None => Ok(made.context("no rank has an error")?.1),
    }
}

fn refusal(words: &[Word]) -> Option<String> {
    let failed = |(rank, word): (usize, &Word)| Some((rank, word.error.clone()?));
    if let Some((rank, error)) = words.iter().enumerate().find_map(failed) {
        let all = words.iter().all(|word| word.error.as_ref() == Some(&error));
        return Some(match all {
            true => error,
            false => format!("rank {rank} of {}: {error}", words.len()),
        });
    }
    words.iter().enumerate().find_map(|(rank, word)| {
        let mut pairs = words[0].same.iter().zip(&word.same);
        let ((name, expected), (_, got)) = pairs.find(|(expected, got)| expected != got)?;
        let (expected, got) = different_lines(expected, got);
        Some(format!(
            "rank {rank} of {}: {name}: expected {expected} as on rank 0, got {got}",
            words.len()
        ))
    })
}

/// A command's words, without those that may differ between ranks: their threads and devices.
pub fn command(words: impl IntoIterator<Item = String>) -> String {
    const OWN: [&str; 2] = ["--threads", "--device"];
    let mut words = words.into_iter();
    let mut same = Vec::new();
    while let Some(word) = words.next() {
        let (name, value) = word
            .split_once('=')
            .map_or((&*word, false), |of| (of.0, true));
        match OWN.contains(&name) {
            true if value => {}
            true => drop(words.next()),
            false => same.push(word),
        }
    }
    same.join(" ")
}

/// The lines that are not in both, a few of them; of texts of one line, those.
fn different_lines(one: &str, other: &str) -> (String, String) {
    const FEW: usize = 3;
    let only = |of: &str, not: &str| {
        let known: HashSet<&str> = not.lines().collect();
        let lines = of.lines().filter(|line| !known.contains(line));
        let lines: Vec<&str> = lines.collect();
        let more = lines.len().saturating_sub(FEW);
        let few = lines[..lines.len() - more].join(", ");
        match (lines.len(), more) {
            (0, _) => "no such line".into(),
            (_, 0) => few,
            _ => format!("{few} and {more} more"),
        }
    };
    (only(one, other), only(other, one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(error: Option<&str>, recipe: &str) -> Word {
        Word {
            error: error.map(str::to_owned),
            same: vec![
                ("version".into(), "1".into()),
                ("recipe".into(), recipe.into()),
            ],
        }
    }

    #[test]
    fn refusals_name_the_rank() {
        let fine = || word(None, "a = 1\nb = 2");
        assert_eq!(refusal(&[fine(), fine()]), None);
        let other = refusal(&[fine(), fine(), word(None, "a = 1\nb = 3")]).unwrap();
        assert_eq!(
            other,
            "rank 2 of 3: recipe: expected b = 2 as on rank 0, got b = 3"
        );
        let failed = || word(Some("no file"), "");
        assert_eq!(
            refusal(&[fine(), failed()]).unwrap(),
            "rank 1 of 2: no file"
        );
        assert_eq!(refusal(&[failed(), failed()]).unwrap(), "no file");
    }

    #[test]
    fn a_few_of_the_lines_that_differ_are_told() {
        let (all, two) = ("a\nb\nc\nd\ne\nf", "f\ne");
        let expected = ("a, b, c and 1 more".to_owned(), "no such line".to_owned());
        assert_eq!(different_lines(all, two), expected);
        assert_eq!(different_lines("a", "b"), ("a".into(), "b".into()));
    }

    #[test]
    fn threads_and_devices_are_a_ranks_own() {
        let of = |text: &str| command(text.split(' ').map(str::to_owned));
        let expected = "train r.toml --set train.device=\"cpu\" --out a";
        for own in ["--threads 3 ", "--threads=3 --device cuda:1 ", ""] {
            let words = format!("train r.toml {own}--set train.device=\"cpu\" --out a");
            assert_eq!(of(&words), expected);
        }
        assert_eq!(of("eval --threads"), "eval");
        assert_ne!(of("train r.toml --seed 1"), of("train r.toml --seed 2"));
    }
}
