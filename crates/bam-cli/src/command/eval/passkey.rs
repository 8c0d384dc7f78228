//! `bam eval passkey`.

use super::models::Models;
use crate::args::PasskeyArgs;
use crate::{console, runs};
use bam_eval::passkey::{LengthPlan, PasskeyEvaluation, PasskeyPlan};
use bam_record::{Passkey, Record, RunRecords};
use bam_report::scores;
use std::io::Write;
use std::process::ExitCode;

pub fn run(args: &PasskeyArgs) -> anyhow::Result<ExitCode> {
    let models = Models::new(&args.models, &args.output, &[], runs::PASSKEY)?;
    let (depths, stopping) = (args.depths()?, args.ends.stopping()?);
    let records = models.records(|loaded, session| {
        let at = |length| LengthPlan {
            length,
            samples: args.samples as usize,
            depths,
            after: None,
        };
        let lengths = loaded.tokens_of(&args.lengths);
        let plan = PasskeyPlan {
            lengths: lengths.into_iter().map(at).collect(),
            given_digits: args.given as usize,
            greedy: args.greedy,
            patience: args.ends.patience(),
            stopping: stopping.clone(),
            seed: args.seed,
            skipping: args.skip,
            certified_cache: args.certified_cache,
        };
        let evaluation = PasskeyEvaluation::new(loaded.subject(), &plan)?;
        loaded.measure(&evaluation, args.seed, session)
    })?;
    let Some(records) = records else {
        return Ok(ExitCode::from(console::INTERRUPTED));
    };
    if args.output.json {
        return models.show(&records, scores::passkey);
    }
    let names = models.names(&records);
    headline(&names, &records)?;
    models.show(&records, scores::passkey)?;
    let mut stdout = std::io::stdout().lock();
    for (name, record) in names.iter().zip(&records) {
        if records.len() > 1 {
            write!(stdout, "\n{name}")?;
        }
        write!(stdout, "{}", bam_report::table::skipped(&record.metrics))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// All the records together, in a sentence.
fn headline(names: &[String], records: &[Record<Passkey>]) -> anyhow::Result<()> {
    let records_of = |record: &Record<Passkey>| RunRecords {
        passkey: Some(record.clone()),
        ..RunRecords::default()
    };
    let runs = names.iter().cloned();
    let runs: Vec<(String, RunRecords)> = runs.zip(records.iter().map(records_of)).collect();
    let headline = bam_report::findings::headline(&runs);
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", headline.sentence)?;
    for detail in headline.comparison.iter().chain(&headline.details) {
        writeln!(stdout, "{detail}")?;
    }
    writeln!(stdout)?;
    Ok(())
}
