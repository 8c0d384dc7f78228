//! `bam eval synthetic`.

use super::models::Models;
use crate::args::SyntheticArgs;
use crate::runs;
use bam_data::synthetic_task::SyntheticTask;
use bam_eval::synthetic::{SyntheticEvaluation, SyntheticPlan};
use bam_report::scores;
use std::process::ExitCode;

pub fn run(args: &SyntheticArgs) -> anyhow::Result<ExitCode> {
    let models = Models::new(&args.models, &args.output, &[], runs::SYNTHETIC)?;
    let asked = |task: &SyntheticTask| args.tasks.is_empty() || args.tasks.contains(task);
    let tasks: Vec<_> = SyntheticTask::ALL.into_iter().filter(asked).collect();
    let stopping = args.ends.stopping()?;
    models.run(
        |loaded, session| {
            let plan = SyntheticPlan {
                tasks: tasks.clone(),
                lengths: loaded.tokens_of(&args.lengths),
                samples: args.samples as usize,
                patience: args.ends.patience(),
                stopping: stopping.clone(),
                seed: args.seed,
                skipping: args.skip,
            };
            let evaluation = SyntheticEvaluation::new(loaded.subject(), &plan)?;
            loaded.measure(&evaluation, args.seed, session)
        },
        scores::synthetic,
    )
}
