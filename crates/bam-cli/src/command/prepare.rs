//! `bam prepare`.

use crate::args::PrepareArgs;
use crate::console;
use bam_data::{DataError, ShardOptions, ShardWriter, Tokenizer};
use std::process::ExitCode;

pub fn run(args: &PrepareArgs) -> anyhow::Result<ExitCode> {
    let tokenizer = Tokenizer::from_file(&args.tokenizer)?;
    let (mut documents, bar) = super::documents(&args.corpus)?;
    let options = ShardOptions {
        replace: args.replace,
        ..ShardOptions::default()
    };
    let writer = ShardWriter::create(&args.out, tokenizer.identity(), &options);
    let mut writer = writer.map_err(|error| match error {
        DataError::FolderNotEmpty { path, found } => anyhow::anyhow!(
            "{}: expected an empty folder, got {found:?} in it; choose another, or --replace",
            path.display()
        ),
        error => error.into(),
    })?;
    let prepared = bam_data::prepare(&mut documents, &tokenizer, &mut writer, |at| {
        bar.set_message(format!("{} documents, {} tokens", at.documents, at.tokens));
        bar.tick();
    });
    let total = match prepared {
        Ok(total) => total,
        Err(error) => {
            writer.discard()?;
            return Err(error.into());
        }
    };
    writer.finish()?;
    bar.finish_and_clear();
    console::note(&format!(
        "{}: {} documents, {} tokens, {} bytes{}",
        args.out.display(),
        total.documents,
        total.tokens,
        total.bytes,
        super::left_out(&documents)
    ));
    if tokenizer.eos().is_none() {
        console::note(&format!(
            "{}: no token ends a document: none is called an end, by the files beside it or by its name; \
             say which as eos_token in a tokenizer_config.json beside it",
            args.tokenizer.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}
