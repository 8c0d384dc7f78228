//! The runs that are shown side by side, and their records of each kind.

use bam_record::{Heads, Passkey, Perplexity, RunRecords};

/// Runs in the order in which they are shown, each with its name, for example `bam+ssmax`.
pub type Runs = [(String, RunRecords)];

/// Passkey retrieval, by name, of the runs with a record of it.
pub fn passkeys(runs: &Runs) -> impl Iterator<Item = (&str, &Passkey)> + Clone {
    runs.iter()
        .filter_map(|(name, run)| Some((name.as_str(), &run.passkey.as_ref()?.metrics)))
}

/// Perplexity, by name, of the runs with a record of it.
pub fn perplexities(runs: &Runs) -> impl Iterator<Item = (&str, &Perplexity)> {
    runs.iter()
        .filter_map(|(name, run)| Some((name.as_str(), &run.perplexity.as_ref()?.metrics)))
}

/// Heads, by place among the runs and by name, of the runs with some.
pub fn heads(runs: &Runs) -> impl Iterator<Item = (usize, &str, &Heads)> {
    runs.iter()
        .enumerate()
        .filter_map(|(index, (name, run))| {
            Some((index, name.as_str(), &run.heads.as_ref()?.metrics))
        })
        .filter(|(_, _, heads)| !heads.heads.is_empty())
}
