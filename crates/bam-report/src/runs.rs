//! The runs that are shown side by side, and their records of each kind.

use crate::text::plain;
use bam_record::{Heads, Passkey, Perplexity, RunRecords};
use std::collections::BTreeSet;

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

/// The name of a record's document among those of the runs: its title, and the beginning of its SHA-256 where
/// other documents have that title.
pub fn document(runs: &Runs, of: &Perplexity) -> String {
    let title = plain(&of.document);
    let named = perplexities(runs).filter(|(_, other)| plain(&other.document) == title);
    let named: BTreeSet<&String> = named
        .filter_map(|(_, of)| of.document_sha256.as_ref())
        .collect();
    match &of.document_sha256 {
        Some(sha256) if named.len() > 1 => {
            let begin: String = sha256.chars().take(8).collect();
            plain(&format!("{title} ({begin}…)"))
        }
        None if named.len() > 1 => format!("{title} (one of them)"),
        _ => title,
    }
}

/// The documents that perplexity is of.
pub fn documents(runs: &Runs) -> BTreeSet<String> {
    let all = perplexities(runs);
    all.map(|(_, of)| document(runs, of)).collect()
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
