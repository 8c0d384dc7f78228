//! `bam upcycle`: go on with a trained model's priors alone, or without its rotations.
//!
//! ```text
//! OUT/plan.json  held-out.txt  tokens/      what is measured and learned from
//! OUT/start/                                the model with the new priors, before any step
//! OUT/before.json                           measured before
//! OUT/recipe.toml … model.safetensors       a run of `bam train` that begins with OUT/start
//! OUT/upcycle.json  passkey.json            measured after, beside before
//! ```

mod begin;
mod measure;
mod plan;

use crate::args::UpcycleArgs;
use crate::command::train::{open_trainer, train};
use crate::{console, device, runs};
use bam_data::Tokenizer;
use bam_lm::model::Transformer;
use bam_lm::model::checkpoint::read_json;
use bam_lm::train::{Outcome, RunFolder, Trainer};
use bam_record::{Upcycle, UpcycleLength};
use burn::tensor::Device;
use measure::{Measured, Measuring};
use plan::{HELD_OUT, PLAN, Plan, START};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

const BEFORE: &str = "before.json";

/// Measurements before the first step.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Before {
    encoding: String,
    train_length: usize,
    /// As it was.
    before: Measured,
    /// Nats per token by position with the new priors.
    start: Vec<f64>,
}

pub fn run(args: &UpcycleArgs) -> anyhow::Result<ExitCode> {
    let threads = args.threads.unwrap_or_else(rayon::current_num_threads);
    if !args.resume {
        // Before any text is read, which takes longer.
        args.device.unwrap_or_default().open()?;
        begin::begin(args)?;
    }
    let (folder, recipe, tokenizer) = RunFolder::open(&args.out)?;
    let plan: Plan = read_json(&args.out.join(PLAN), "the plan of bam upcycle")?;
    let tokenizer = Arc::new(tokenizer);
    let trainer = open_trainer(recipe.on(args.device.as_slice()), &tokenizer, threads);
    let mut trainer = match trainer {
        Ok(trainer) => trainer,
        Err(error) if !args.resume => {
            // Nothing was done in it yet.
            let _ = std::fs::remove_dir_all(&args.out);
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    match finish(args, &plan, &folder, &tokenizer, &mut trainer)? {
        true => Ok(ExitCode::SUCCESS),
        false => {
            console::note(&format!(
                "stopped; continue with: bam upcycle --resume --out {}{}",
                args.out.display(),
                device::flag(args.device.as_slice())
            ));
            Ok(ExitCode::from(console::INTERRUPTED))
        }
    }
}

/// Measures, trains and measures again; whether it came to the end.
fn finish(
    args: &UpcycleArgs,
    plan: &Plan,
    folder: &RunFolder,
    tokenizer: &Tokenizer,
    trainer: &mut Trainer,
) -> anyhow::Result<bool> {
    let begun = console::seconds();
    console::catch_interrupts();
    let device = trainer.model().device().inner();
    let measuring = Measuring::new(&args.out.join(HELD_OUT), plan, tokenizer)?;
    let path = args.out.join(BEFORE);
    if !path.exists() {
        let Some(before) = before(&args.out, plan, &measuring, &device)? else {
            return Ok(false);
        };
        runs::write_json(&path, &before)?;
    }
    let before: Before = read_json(&path, "what was measured before")?;
    let from = folder.restore(trainer)?;
    if from > 0 {
        console::note(&format!("continuing after step {from}"));
    }
    let title = match trainer.recipe().train.learn.is_all() {
        true => "learn without rotations",
        false => "learn the priors",
    };
    if train(folder, trainer, title)? == Outcome::Stopped {
        return Ok(false);
    }
    let model = runs::load_model(&args.out, &device)?;
    let Some(after) = measuring.all(&model, "after")? else {
        return Ok(false);
    };
    let seconds = console::seconds() - begun;
    if let Some(passkey) = &after.passkey {
        let path = args.out.join(runs::PASSKEY);
        runs::write_record(&path, &model, plan.seed, seconds, passkey.clone())?;
    }
    let metrics = summary(plan, &before, &after, &measuring, trainer);
    let path = args.out.join(runs::UPCYCLE);
    let record = runs::write_record(&path, &model, plan.seed, seconds, metrics)?;
    console::answer(args.json, &record, || bam_report::upcycling::table(&record))?;
    Ok(true)
}

fn before(
    out: &Path,
    plan: &Plan,
    measuring: &Measuring<'_>,
    device: &Device,
) -> anyhow::Result<Option<Before>> {
    let model = runs::load_model(&plan.model, device)?;
    let Some(before) = measuring.all(&model, "before")? else {
        return Ok(None);
    };
    let start = runs::load_model(&out.join(START), device)?;
    let start = measuring.cross_entropies(&start, "at the start")?;
    Ok(start.map(|start| Before {
        encoding: model.config().encoding.to_string(),
        train_length: model.config().train_length,
        before,
        start,
    }))
}

fn summary(
    plan: &Plan,
    before: &Before,
    after: &Measured,
    measuring: &Measuring<'_>,
    trainer: &Trainer,
) -> Upcycle {
    let train = &trainer.recipe().train;
    let mut from = 0;
    let at = plan.lengths.iter().map(|&length| {
        let mean = |nats: &[f64]| {
            // Without a BOS the first token is not predicted, and there is one number less.
            let some = &nats[from.min(nats.len())..length.min(nats.len())];
            some.iter().sum::<f64>() / some.len().max(1) as f64
        };
        let at = UpcycleLength {
            from,
            length,
            before: mean(&before.before.nats),
            start: mean(&before.start),
            after: mean(&after.nats),
            passkey: before
                .before
                .found(length)
                .zip(after.found(length))
                .map(<[_; 2]>::from),
        };
        from = length;
        at
    });
    let (learned, parameters) = sizes(trainer.model(), &train.learn);
    Upcycle {
        before: before.encoding.clone(),
        train_length: before.train_length,
        steps: train.steps,
        rows: train.rows,
        length: train.length,
        at: at.collect(),
        learned,
        parameters,
        document: plan.document.clone(),
        pieces: measuring.pieces(),
    }
}

/// Numbers that could change, and all.
fn sizes(model: &Transformer, learn: &bam_lm::train::Learn) -> (usize, usize) {
    let mut sizes = (0, 0);
    for info in model.parameters() {
        let size = info.stored_shape.iter().product::<usize>();
        sizes.1 += size;
        if learn.includes(&info) {
            sizes.0 += size;
        }
    }
    sizes
}
