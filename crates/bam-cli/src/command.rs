//! The work of each command.

pub mod devices;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod generate;
pub mod import;
pub mod inspect;
pub mod prepare;
pub mod prior;
pub mod quickstart;
pub mod reference;
pub mod report;
pub mod serve;
pub mod study;
pub mod tokenizer;
pub mod train;
pub mod upcycle;

use crate::args::CorpusArgs;
use bam_data::{Corpus, Documents, HubAccess};
use indicatif::ProgressBar;

/// The documents of the corpus that was named, with hub access for those that live there, and a sign
/// of life while they are read; those of one of so many runs of its files.
fn documents(
    args: &CorpusArgs,
    (index, of): (usize, usize),
) -> anyhow::Result<(Documents<'static>, ProgressBar)> {
    let hub = HubAccess::public(args.cache.clone());
    let corpus = Corpus::new(args.corpus.parse()?)
        .with_field(args.field.clone())
        .with_hub(hub)
        .run_of_files(index, of);
    let bar = match crate::ranks::leads() {
        true => ProgressBar::new_spinner(),
        false => ProgressBar::hidden(),
    };
    let downloads = bar.clone();
    let documents = corpus.documents(move |at| {
        downloads.set_message(format!("downloading {} ({} bytes)", at.file, at.received));
    })?;
    Ok((documents, bar))
}

/// Rows that were no documents, for the line at the end.
fn left_out(rows: u64) -> String {
    match rows {
        0 => String::new(),
        1 => "; 1 row without text (null) left out".to_owned(),
        rows => format!("; {rows} rows without text (null) left out"),
    }
}
