//! `bam eval passkey`.

use super::unfinished::{GOES_ON, Unfinished};
use super::{Tally, check_models, check_out, names, show, tokens_of};
use crate::args::PasskeyArgs;
use crate::{console, runs};
use bam_data::Tokenizer;
use bam_eval::passkey::{LengthPlan, PasskeyPlan, SampleResult, passkey};
use bam_lm::model::Transformer;
use bam_record::{Passkey, Record, RunRecords};
use bam_report::scores;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

pub fn run(args: &PasskeyArgs) -> anyhow::Result<ExitCode> {
    check_out(args.out.as_deref(), &args.models, runs::PASSKEY)?;
    check_models(&args.models)?;
    console::catch_interrupts();
    let each = Unfinished::each(&args.models, GOES_ON, |dir, unfinished| {
        evaluate(args, dir, unfinished)
    })?;
    let Some((unfinished, records)) = each else {
        return Ok(ExitCode::from(console::INTERRUPTED));
    };
    unfinished.finished()?;
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
            write!(stdout, "{}", bam_report::table::skipped(&record.metrics))?;
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
    let headline = bam_report::findings::headline(&runs);
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", headline.sentence)?;
    for detail in headline.comparison.iter().chain(&headline.details) {
        writeln!(stdout, "{detail}")?;
    }
    writeln!(stdout)?;
    Ok(())
}

/// One model on the whole grid. `None` after Ctrl-C.
fn evaluate(
    args: &PasskeyArgs,
    dir: &Path,
    unfinished: &mut Unfinished,
) -> anyhow::Result<Option<Record<Passkey>>> {
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
        certified_cache: args.certified_cache,
    };
    let out = args.out.clone();
    let out = out.unwrap_or_else(|| dir.join(runs::PASSKEY));
    let of = (dir, &model, &tokenizer);
    measure("passkey", of, &plan, &out, unfinished)
}

/// Runs a plan and writes its record. `None` after Ctrl-C.
pub fn measure(
    title: &str,
    (dir, model, tokenizer): (&Path, &Transformer, &Tokenizer),
    plan: &PasskeyPlan,
    out: &Path,
    unfinished: &mut Unfinished,
) -> anyhow::Result<Option<Record<Passkey>>> {
    let settings = json!({
        "evaluation": "passkey",
        "skip": plan.skipping.to_string(),
        "certified_cache": plan.certified_cache,
    });
    let findings = unfinished.of((dir, model, tokenizer), out, settings)?;
    let total: usize = plan.lengths.iter().map(|at| at.samples).sum();
    let tally = Tally::new(total as u64, title);
    let right = AtomicU64::new(0);
    let tick = |sample: &SampleResult| {
        let more = u64::from(sample.correct);
        let right = right.fetch_add(more, Ordering::Relaxed) + more;
        tally.answered(&format!("{right} right, now {} tokens", sample.length));
    };
    let start = console::seconds();
    let metrics = findings.watched(&tick, |watch| {
        passkey(model, tokenizer, plan, console::seconds, watch)
    })?;
    tally.progress.finish();
    let Some(metrics) = metrics else {
        return Ok(None);
    };
    let seconds = console::seconds() - start + findings.seconds_before();
    runs::write_record(out, model, plan.seed, seconds, metrics).map(Some)
}
