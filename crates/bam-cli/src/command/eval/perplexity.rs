//! `bam eval perplexity`.

use super::unfinished::Unfinished;
use super::{check_models, check_out, show};
use crate::args::PerplexityArgs;
use crate::console::{self, Progress};
use crate::runs;
use bam_data::Tokenizer;
use bam_eval::perplexity::{PerplexityPlan, perplexity};
use bam_lm::model::Transformer;
use bam_record::{Perplexity, Record};
use bam_report::scores;
use serde_json::json;
use std::cell::OnceCell;
use std::path::Path;
use std::process::ExitCode;

/// What the same command does with what is kept.
const BEGINS_ANEW: &str =
    "a document is read from its beginning, so the same command begins it anew";

pub fn run(args: &PerplexityArgs) -> anyhow::Result<ExitCode> {
    check_out(args.out.as_deref(), &args.models, runs::PERPLEXITY)?;
    check_models(&args.models)?;
    console::catch_interrupts();
    let each = Unfinished::each(&args.models, BEGINS_ANEW, |dir, unfinished| {
        evaluate(args, dir, unfinished)
    })?;
    let Some((unfinished, records)) = each else {
        return Ok(ExitCode::from(console::INTERRUPTED));
    };
    unfinished.finished()?;
    show(&args.models, &records, args.json, scores::perplexities)
}

/// One model on the document. `None` after Ctrl-C.
fn evaluate(
    args: &PerplexityArgs,
    dir: &Path,
    unfinished: &mut Unfinished,
) -> anyhow::Result<Option<Record<Perplexity>>> {
    let model = runs::load_model(dir)?;
    let tokenizer = runs::load_tokenizer(dir, &model)?;
    let text = runs::read_text(&args.document)?;
    let title = args.document.file_stem().unwrap_or_default();
    let train_length = model.config().train_length;
    let plan = PerplexityPlan {
        title: &title.to_string_lossy(),
        text: &text,
        length: args.length.map(|length| length.tokens(train_length)),
        window: args.window,
        certified_cache: args.certified_cache,
    };
    let out = args.out.clone();
    let out = out.unwrap_or_else(|| dir.join(runs::PERPLEXITY));
    let of = (dir, &model, &tokenizer);
    measure("perplexity", 0, of, &plan, &out, unfinished)
}

/// Reads a document and writes the record, with a seed that decides nothing here. `None` after Ctrl-C.
pub fn measure(
    title: &str,
    seed: u64,
    (dir, model, tokenizer): (&Path, &Transformer, &Tokenizer),
    plan: &PerplexityPlan,
    out: &Path,
    unfinished: &mut Unfinished,
) -> anyhow::Result<Option<Record<Perplexity>>> {
    let settings = json!({
        "evaluation": "perplexity",
        "length": plan.length,
        "certified_cache": plan.certified_cache,
    });
    let findings = unfinished.of((dir, model, tokenizer), out, settings)?;
    let bar = OnceCell::new();
    let progress = |read: usize, of: usize| {
        let bar = bar.get_or_init(|| Progress::new(of as u64, title));
        bar.at(read as u64, "");
    };
    let start = console::seconds();
    let metrics = findings.watched(&|_| (), |watch| {
        perplexity(model, tokenizer, plan, progress, watch)
    })?;
    bar.get().map(Progress::finish);
    let Some(metrics) = metrics else {
        return Ok(None);
    };
    let seconds = console::seconds() - start + findings.seconds_before();
    runs::write_record(out, model, seed, seconds, metrics).map(Some)
}
