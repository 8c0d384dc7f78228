//! `bam eval passkey`.

use super::{check_models, check_out, names, show, tokens_of};
use crate::args::PasskeyArgs;
use crate::console::{self, Progress};
use crate::report::scores;
use crate::{report, runs};
use anyhow::Context;
use bam_lm::eval::passkey::{LengthPlan, PasskeyPlan};
use bam_lm::record::{Passkey, Record, RunRecords};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub fn run(args: &PasskeyArgs) -> anyhow::Result<ExitCode> {
    check_out(args.out.as_deref(), &args.models, runs::PASSKEY)?;
    check_models(&args.models)?;
    let records = args.models.iter().map(|dir| evaluate(args, dir));
    let records: Vec<Record<Passkey>> = records.collect::<anyhow::Result<_>>()?;
    if !args.json {
        headline(&args.models, &records)?;
    }
    show(&args.models, &records, args.json, scores::passkey)?;
    if !args.json {
        let mut stdout = std::io::stdout().lock();
        for (name, record) in names(&args.models, &records).iter().zip(&records) {
            if records.len() > 1 {
                write!(stdout, "\n{name}")?;
            }
            write!(stdout, "{}", report::table::skipped(&record.metrics))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What all the records say together, in a sentence.
fn headline(models: &[PathBuf], records: &[Record<Passkey>]) -> anyhow::Result<()> {
    let records_of = |record: &Record<Passkey>| RunRecords {
        passkey: Some(record.clone()),
        ..RunRecords::default()
    };
    let runs = names(models, records).into_iter();
    let runs: Vec<(String, RunRecords)> = runs.zip(records.iter().map(records_of)).collect();
    let headline = report::findings::headline(&runs);
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", headline.sentence)?;
    for detail in headline.comparison.iter().chain(&headline.details) {
        writeln!(stdout, "{detail}")?;
    }
    writeln!(stdout)?;
    Ok(())
}

fn evaluate(args: &PasskeyArgs, dir: &Path) -> anyhow::Result<Record<Passkey>> {
    let depths = args.depths()?;
    let model = runs::load_model(dir)?;
    let tokenizer = runs::load_tokenizer(dir, &model)?;
    let lengths = tokens_of(&args.lengths, &model);
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
    let out = args.out.clone();
    let out = out.unwrap_or_else(|| dir.join(runs::PASSKEY));
    let seconds = console::seconds() - start;
    runs::write_record(&out, &model, args.seed, seconds, metrics)
}
