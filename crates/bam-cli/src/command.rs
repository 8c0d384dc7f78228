//! The work of each command.

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
pub mod tokenizer;
pub mod train;
pub mod upcycle;

use crate::args::CorpusArgs;
use bam_data::{Corpus, HubAccess};

/// The corpus that was named, with hub access for those that live there.
fn corpus(args: &CorpusArgs) -> anyhow::Result<Corpus> {
    let source = args.corpus.parse()?;
    let hub = HubAccess::public(args.cache.clone());
    Ok(Corpus::new(source)
        .with_field(args.field.clone())
        .with_hub(hub))
}
