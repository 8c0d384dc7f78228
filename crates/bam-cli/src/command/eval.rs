//! `bam eval passkey` and `bam eval perplexity`.

use crate::args::{DepthChoice, Length, PasskeyArgs, PerplexityArgs};
use crate::console::{self, Progress};
use crate::{report, runs};
use anyhow::Context;
use bam_lm::eval::passkey::{Depths, LengthPlan, PasskeyPlan};
use bam_lm::record::{Perplexity, RunRecords};
use std::io::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;

pub fn passkey(args: &PasskeyArgs) -> anyhow::Result<ExitCode> {
    let model = runs::load_model(&args.model)?;
    let tokenizer = runs::load_tokenizer(&args.model, &model)?;
    let train_length = model.config().train_length;
    let depths = match args.depths {
        DepthChoice::Equidistant => Depths::Equidistant(args.depth_count as usize),
        DepthChoice::Beginning => Depths::Beginning,
        DepthChoice::End => Depths::End,
        DepthChoice::Random => Depths::Random,
    };
    let mut lengths: Vec<usize> = args
        .lengths
        .iter()
        .map(|length| match length {
            Length::Tokens(tokens) => *tokens,
            Length::Times(times) => (times * train_length as f64).round() as usize,
        })
        .collect();
    lengths.sort_unstable();
    lengths.dedup();
    let plan = PasskeyPlan {
        lengths: lengths
            .into_iter()
            .map(|length| LengthPlan {
                length,
                samples: args.samples as usize,
                depths,
            })
            .collect(),
        given_digits: args.given as usize,
        greedy: args.greedy,
        patience: args.patience.map(|lengths| lengths as usize),
        seed: args.seed,
        skipping: args.skip,
    };
    let total: usize = plan.lengths.iter().map(|at| at.samples).sum();
    let progress = Progress::new(total as u64, "passkey");
    let start = console::seconds();
    let mut samples = 0;
    let metrics =
        bam_lm::eval::passkey::passkey(&model, &tokenizer, &plan, console::seconds, |done| {
            samples += 1;
            progress.at(samples, &format!("{} tokens", done.length));
            ControlFlow::Continue(())
        })?
        .context("nothing stops this evaluation")?;
    progress.finish();
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| args.model.join(runs::PASSKEY));
    let seconds = console::seconds() - start;
    let record = runs::write_record(&out, &model, args.seed, seconds, metrics)?;
    let mut stdout = std::io::stdout().lock();
    if args.json {
        writeln!(stdout, "{}", serde_json::to_string_pretty(&record)?)?;
    } else {
        let skipped = report::table::skipped(&record.metrics);
        let name = record.name.clone();
        let records = RunRecords {
            passkey: Some(record),
            ..RunRecords::default()
        };
        write!(stdout, "{}", report::table::summary(&[(name, records)]))?;
        write!(stdout, "{skipped}")?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn perplexity(args: &PerplexityArgs) -> anyhow::Result<ExitCode> {
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
