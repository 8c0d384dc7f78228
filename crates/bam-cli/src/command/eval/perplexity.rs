//! `bam eval perplexity`.

use crate::args::PerplexityArgs;
use crate::console::{self, Progress};
use crate::runs;
use anyhow::Context;
use bam_lm::record::Perplexity;
use std::io::Write;
use std::process::ExitCode;

pub fn run(args: &PerplexityArgs) -> anyhow::Result<ExitCode> {
    let model = runs::load_model(&args.model)?;
    let tokenizer = runs::load_tokenizer(&args.model, &model)?;
    let text = std::fs::read_to_string(&args.document)
        .with_context(|| format!("{}: could not read it as UTF-8", args.document.display()))?;
    let title = args
        .document
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let length = match args.length {
        Some(length) => length,
        None => tokenizer.encode(&text)?.len(),
    };
    let progress = Progress::new(length as u64, "perplexity");
    let start = console::seconds();
    let metrics: Perplexity = bam_lm::eval::perplexity::perplexity(
        &model,
        &tokenizer,
        &title,
        &text,
        length,
        args.window,
        |read| progress.at(read as u64, ""),
    )?;
    progress.finish();
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| args.model.join(runs::PERPLEXITY));
    let seconds = console::seconds() - start;
    let record = runs::write_record(&out, &model, 0, seconds, metrics)?;
    let mut stdout = std::io::stdout().lock();
    if args.json {
        writeln!(stdout, "{}", serde_json::to_string_pretty(&record)?)?;
    } else {
        writeln!(stdout, "{:>10} {:>10} {:>12}", "from", "to", "perplexity")?;
        for window in &record.metrics.windows {
            writeln!(
                stdout,
                "{:>10} {:>10} {:>12.3}",
                window.start,
                window.end,
                window.cross_entropy.exp()
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
