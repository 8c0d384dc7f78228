//! `bam eval passkey`.

use super::tokens_of;
use crate::args::{DepthChoice, PasskeyArgs};
use crate::console::{self, Progress};
use crate::{report, runs};
use anyhow::Context;
use bam_lm::eval::passkey::{Depths, LengthPlan, PasskeyPlan};
use bam_lm::record::RunRecords;
use std::io::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;

pub fn run(args: &PasskeyArgs) -> anyhow::Result<ExitCode> {
    let model = runs::load_model(&args.model)?;
    let tokenizer = runs::load_tokenizer(&args.model, &model)?;
    let depths = match args.depths {
        DepthChoice::Equidistant => Depths::Equidistant(args.depth_count as usize),
        DepthChoice::Beginning => Depths::Beginning,
        DepthChoice::End => Depths::End,
        DepthChoice::Random => Depths::Random,
    };
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
