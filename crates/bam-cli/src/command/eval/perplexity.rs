//! `bam eval perplexity`.

use super::{check_models, check_out, show};
use crate::args::PerplexityArgs;
use crate::console::{self, Progress};
use crate::report::scores;
use crate::runs;
use bam_lm::eval::perplexity::perplexity;
use bam_lm::record::{Perplexity, Record};
use std::path::Path;
use std::process::ExitCode;

pub fn run(args: &PerplexityArgs) -> anyhow::Result<ExitCode> {
    check_out(args.out.as_deref(), &args.models, runs::PERPLEXITY)?;
    check_models(&args.models)?;
    let records = args.models.iter().map(|dir| evaluate(args, dir));
    let records: Vec<Record<Perplexity>> = records.collect::<anyhow::Result<_>>()?;
    show(&args.models, &records, args.json, scores::perplexities)
}

fn evaluate(args: &PerplexityArgs, dir: &Path) -> anyhow::Result<Record<Perplexity>> {
    let model = runs::load_model(dir)?;
    let tokenizer = runs::load_tokenizer(dir, &model)?;
    let text = runs::read_text(&args.document)?;
    let title = args
        .document
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let length = match args.length {
        Some(length) => length.tokens(model.config().train_length),
        None => tokenizer.encode(&text)?.len(),
    };
    let progress = Progress::new(length as u64, "perplexity");
    let start = console::seconds();
    let metrics = perplexity(
        &model,
        &tokenizer,
        &title,
        &text,
        length,
        args.window,
        |read| progress.at(read as u64, ""),
    )?;
    progress.finish();
    let out = args.out.clone();
    let out = out.unwrap_or_else(|| dir.join(runs::PERPLEXITY));
    let seconds = console::seconds() - start;
    runs::write_record(&out, &model, 0, seconds, metrics)
}
