//! `bam tokenizer train`.

use crate::args::TokenizerTrainArgs;
use crate::{console, runs};
use bam_data::{Tokenizer, TokenizerConfig};
use std::process::ExitCode;

pub fn train(args: &TokenizerTrainArgs) -> anyhow::Result<ExitCode> {
    runs::ensure_writable(&args.out)?;
    let (mut documents, bar) = super::documents(&args.corpus, (0, 1))?;
    let config = TokenizerConfig {
        vocabulary: args.vocabulary,
        individual_digits: !args.merge_digits,
        ..TokenizerConfig::default()
    };
    let tokenizer = Tokenizer::train(&mut documents, &config, |at| {
        bar.set_message(format!("{} documents, {} bytes", at.documents, at.bytes));
        bar.tick();
    })?;
    bar.finish_and_clear();
    tokenizer.save(&args.out)?;
    console::note(&format!(
        "{}: {} tokens{}",
        args.out.display(),
        tokenizer.vocabulary_size(),
        super::left_out(documents.without_text())
    ));
    Ok(ExitCode::SUCCESS)
}
