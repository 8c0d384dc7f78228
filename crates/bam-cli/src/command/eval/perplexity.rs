//! `bam eval perplexity`.

use super::models::Models;
use crate::args::PerplexityArgs;
use crate::runs;
use bam_eval::perplexity::{PerplexityEvaluation, PerplexityPlan};
use bam_report::scores;
use std::process::ExitCode;

pub fn run(args: &PerplexityArgs) -> anyhow::Result<ExitCode> {
    let models = Models::new(&args.models, &args.output, &[], runs::PERPLEXITY)?;
    let title = args.document.file_stem().unwrap_or_default();
    let title = title.to_string_lossy();
    models.run(
        |loaded, session| {
            let text = runs::read_text(&args.document)?;
            let train_length = loaded.model.config().train_length;
            let plan = PerplexityPlan {
                title: &title,
                text: &text,
                length: args.length.map(|length| length.tokens(train_length)),
                window: args.window,
                certified_cache: args.certified_cache,
            };
            let evaluation = PerplexityEvaluation::new(loaded.subject(), plan)?;
            loaded.measure(&evaluation, 0, session)
        },
        scores::perplexities,
    )
}
