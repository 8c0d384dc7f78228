//! `bam eval loglikelihood`.

use crate::args::LoglikelihoodArgs;
use crate::console::{self, Progress};
use crate::runs;
use bam_lm::eval::loglikelihood::{Questions, loglikelihood};
use bam_lm::record::{Loglikelihood, Record};
use std::io::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

pub fn run(args: &LoglikelihoodArgs) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        args.out.is_none() || args.models.len() == 1,
        "--out: expected one model, got {}",
        args.models.len()
    );
    let mut questions = Questions::default();
    for path in &args.requests {
        let read = Questions::read(path)?;
        questions.unconditional += read.unconditional;
        for (task, read) in read.tasks {
            questions.tasks.entry(task).or_default().extend(read);
        }
    }
    let questions = questions.first(args.limit.unwrap_or(usize::MAX));
    console::catch_interrupts();
    let mut records = Vec::new();
    for dir in &args.models {
        let model = runs::load_model(dir)?;
        let tokenizer = runs::load_tokenizer(dir, &model)?;
        let progress = Progress::new(questions.count() as u64, "loglikelihood");
        let start = console::seconds();
        let done = AtomicU64::new(0);
        let metrics = loglikelihood(&model, &tokenizer, &questions, args.begin, || {
            progress.at(done.fetch_add(1, Ordering::Relaxed) + 1, "");
            match console::interrupted() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        progress.finish();
        let Some(metrics) = metrics else {
            return Ok(ExitCode::from(console::INTERRUPTED));
        };
        let seconds = console::seconds() - start;
        let out = args.out.clone();
        let out = out.unwrap_or_else(|| dir.join(runs::LOGLIKELIHOOD));
        records.push(runs::write_record(&out, &model, 0, seconds, metrics)?);
    }
    let mut stdout = std::io::stdout().lock();
    match args.json {
        true => writeln!(stdout, "{}", serde_json::to_string_pretty(&records)?)?,
        false => write!(stdout, "{}", table(&records))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(records: &[Record<Loglikelihood>]) -> String {
    let mut text = format!(
        "{:<16} {:<20} {:>9} {:>15} {:>15} {:>11} {:>9}\n",
        "model", "task", "questions", "right", "per character", "perplexity", "bits/byte"
    );
    let share = |(mean, error): (f64, f64)| format!("{:.1} ± {:.1} %", 100.0 * mean, 100.0 * error);
    for record in records {
        for score in &record.metrics.tasks {
            text += &format!(
                "{:<16} {:<20} {:>9} {:>15} {:>15} {:>11} {:>9.3}\n",
                record.name,
                score.task,
                score.questions,
                share(score.accuracy),
                score.accuracy_per_character.map_or("–".into(), share),
                score.perplexity.map_or("–".into(), |of| format!("{of:.1}")),
                score.bits_per_byte,
            );
        }
    }
    text
}
