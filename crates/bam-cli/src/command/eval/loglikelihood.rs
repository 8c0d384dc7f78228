//! `bam eval loglikelihood`.

use super::models::Models;
use crate::args::LoglikelihoodArgs;
use crate::{console, runs};
use bam_eval::loglikelihood::{LoglikelihoodEvaluation, Questions};
use bam_report::scores;
use std::collections::BTreeSet;
use std::process::ExitCode;

pub fn run(args: &LoglikelihoodArgs) -> anyhow::Result<ExitCode> {
    let (models, export) = (&args.models, &args.export);
    let models = Models::new(models, &args.output, export, runs::LOGLIKELIHOOD)?;
    let mut questions = Questions::default();
    let mut together = BTreeSet::new();
    for path in &args.requests {
        let read = Questions::read(path)?;
        questions.unconditional += read.unconditional;
        for (task, read) in read.tasks {
            let of_task = questions.tasks.entry(task.clone()).or_default();
            if !of_task.is_empty() {
                together.insert(task);
            }
            of_task.extend(read);
        }
    }
    for task in together {
        console::note(&format!(
            "{task}: more than one file has questions of this name; they are scored together"
        ));
    }
    let questions = questions.first(args.limit.unwrap_or(usize::MAX));
    anyhow::ensure!(
        questions.count() > 0,
        "--requests: expected at least one question, got none"
    );
    models.run(
        |loaded, session| {
            let evaluation = LoglikelihoodEvaluation {
                subject: loaded.subject(),
                questions: &questions,
                begin: args.begin,
            };
            loaded.measure(&evaluation, 0, session)
        },
        scores::loglikelihood,
    )
}
