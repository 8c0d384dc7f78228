//! `bam eval loglikelihood`.

use super::outbox::Outbox;
use super::unfinished::{GOES_ON, Unfinished};
use super::{Tally, check_exports, check_models, check_out, moment, show};
use crate::args::LoglikelihoodArgs;
use crate::{console, runs};
use bam_eval::exchange::lm_eval::{self, SampleLines, TaskHashes};
use bam_eval::exchange::{self, Run};
use bam_eval::loglikelihood::{Likelihood, Questions, answer_questions, score};
use bam_record::{Loglikelihood, Record};
use bam_report::scores;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

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
    let each = Unfinished::each(&args.models, GOES_ON, |dir, unfinished| {
        evaluate(args, &questions, dir, &mut outbox, unfinished)
    })?;
    let Some((unfinished, records)) = each else {
        return Ok(ExitCode::from(console::INTERRUPTED));
    };
    outbox.deliver()?;
    unfinished.finished()?;
    show(&args.models, &records, args.json, scores::loglikelihood)
}

/// One model on all questions. `None` after Ctrl-C.
fn evaluate(
    args: &LoglikelihoodArgs,
    questions: &Questions,
    dir: &Path,
    outbox: &mut Outbox,
    unfinished: &mut Unfinished,
) -> anyhow::Result<Option<Record<Loglikelihood>>> {
    let (began, start) = (moment(), console::seconds());
    let model = runs::load_model(dir)?;
    let tokenizer = runs::load_tokenizer(dir, &model)?;
    let out = args.out.clone();
    let out = out.unwrap_or_else(|| dir.join(runs::LOGLIKELIHOOD));
    let settings = json!({"evaluation": "loglikelihood", "begin": args.begin});
    let findings = unfinished.of((dir, &model, &tokenizer), &out, settings)?;
    let tally = Tally::new(questions.count() as u64, "loglikelihood");
    let folder = dir.to_string_lossy();
    let exports = args.export.iter();
    let exports = exports.map(|export| export.dir.join(exchange::folder_name(&folder)));
    let exports: Vec<PathBuf> = exports.collect();
    let mut hashes = TaskHashes::new();
    let mut metrics = Loglikelihood {
        train_length: model.config().train_length,
        unconditional: questions.unconditional,
        tasks: Vec::new(),
    };
    for (task, questions) in &questions.tasks {
        let tick = |_: &Vec<Likelihood>| tally.answered(task);
        let answers = findings.watched(&tick, |watch| {
            answer_questions(&model, &tokenizer, questions, args.begin, watch)
        })?;
        let Some(answers) = answers else {
            return Ok(None);
        };
        metrics.tasks.push(score(task, questions, &answers));
        if !exports.is_empty() {
            let mut samples = SampleLines::default();
            let lines = samples.loglikelihood(questions, &answers);
            for dir in &exports {
                outbox.add(dir.join(began.samples_file(task)), &lines)?;
            }
            hashes.insert(task.clone(), samples.digest());
        }
    }
    tally.progress.finish();
    let seconds = console::seconds() - start + findings.seconds_before();
    let record = runs::write_record(&out, &model, 0, seconds, metrics)?;
    let run = Run {
        folder: &folder,
        began: &began,
    };
    for dir in &exports {
        let results = lm_eval::loglikelihood(&record, &run, &hashes);
        let path = dir.join(began.results_file());
        outbox.add(path, &[serde_json::to_string_pretty(&results)?])?;
    }
    Ok(Some(record))
}
