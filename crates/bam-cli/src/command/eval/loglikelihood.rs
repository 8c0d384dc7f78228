//! `bam eval loglikelihood`.

use super::outbox::Outbox;
use super::{check_exports, check_models, check_out, moment, show};
use crate::args::LoglikelihoodArgs;
use crate::console::{self, Progress};
use crate::report::exchange::{self, Run, lm_eval};
use crate::report::scores;
use crate::runs;
use bam_lm::eval::loglikelihood::{Questions, loglikelihood};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

pub fn run(args: &LoglikelihoodArgs) -> anyhow::Result<ExitCode> {
    check_out(args.out.as_deref(), &args.models, runs::LOGLIKELIHOOD)?;
    check_exports(&args.export, &args.models)?;
    let mut questions = Questions::default();
    for path in &args.requests {
        let read = Questions::read(path)?;
        questions.unconditional += read.unconditional;
        for (task, read) in read.tasks {
            questions.tasks.entry(task).or_default().extend(read);
        }
    }
    let questions = questions.first(args.limit.unwrap_or(usize::MAX));
    anyhow::ensure!(
        questions.count() > 0,
        "--requests: expected at least one question, got none"
    );
    check_models(&args.models)?;
    console::catch_interrupts();
    let mut outbox = Outbox::open(args.export.iter().map(|export| export.dir.as_path()))?;
    let mut records = Vec::new();
    for dir in &args.models {
        let began = moment();
        let model = runs::load_model(dir)?;
        let tokenizer = runs::load_tokenizer(dir, &model)?;
        let progress = Progress::new(questions.count() as u64, "loglikelihood");
        let start = console::seconds();
        let done = AtomicU64::new(0);
        let metrics = loglikelihood(&model, &tokenizer, &questions, args.begin, || {
            progress.at(done.fetch_add(1, Ordering::Relaxed) + 1, "");
            console::unless_interrupted()
        })?;
        progress.finish();
        let Some(metrics) = metrics else {
            return Ok(ExitCode::from(console::INTERRUPTED));
        };
        let seconds = console::seconds() - start;
        let out = args.out.clone();
        let out = out.unwrap_or_else(|| dir.join(runs::LOGLIKELIHOOD));
        let record = runs::write_record(&out, &model, 0, seconds, metrics)?;
        let folder = dir.to_string_lossy();
        let run = Run {
            folder: &folder,
            began: &began,
        };
        for export in &args.export {
            let results = lm_eval::loglikelihood(&record, &run);
            let path = export.dir.join(exchange::folder_name(&folder));
            let path = path.join(format!("results_{}.json", began.stamp));
            outbox.add(path, &[serde_json::to_string_pretty(&results)?])?;
        }
        records.push(record);
    }
    outbox.deliver()?;
    show(&args.models, &records, args.json, scores::loglikelihood)
}
