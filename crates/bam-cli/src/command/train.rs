//! `bam train`.

use crate::args::TrainArgs;
use crate::console::{self, Progress};
use anyhow::Context;
use bam_lm::data::{TokenStore, Tokenizer, Verify};
use bam_lm::record::TrainingStep;
use bam_lm::train::{Outcome, Recipe, RunFolder, Trainer};
use burn::tensor::Device;
use std::process::ExitCode;
use std::sync::Arc;

pub fn run(args: &TrainArgs) -> anyhow::Result<ExitCode> {
    let (folder, recipe, tokenizer) = match (&args.recipe, &args.tokenizer) {
        (Some(recipe), Some(tokenizer)) if !args.resume => {
            let text = std::fs::read_to_string(recipe)
                .with_context(|| format!("{}: could not read it", recipe.display()))?;
            let recipe = Recipe::from_toml(&text, &args.overrides, recipe)?;
            let tokenizer = Tokenizer::from_file(tokenizer)?;
            // The data is opened before the folder is made, so that a wrong path leaves nothing.
            open_tokens(&recipe, &tokenizer)?;
            let folder = RunFolder::create(&args.out, &recipe, &tokenizer)?;
            (folder, recipe, tokenizer)
        }
        _ => RunFolder::open(&args.out)?,
    };
    let (text, validation) = open_tokens(&recipe, &tokenizer)?;
    let threads = args.threads.unwrap_or_else(available_threads);
    let mut trainer = Trainer::new(
        recipe,
        Arc::new(tokenizer),
        text,
        validation,
        &Device::flex(),
        threads,
    )?;
    let from = folder.restore(&mut trainer)?;
    if from > 0 {
        console::note(&format!("continuing after step {from}"));
    }
    match train(&folder, &mut trainer, "training")? {
        Outcome::Finished => {
            console::note(&format!("the model is in {}", folder.dir().display()));
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Stopped => {
            console::note(&format!(
                "stopped after step {}; continue with: bam train --resume --out {}",
                trainer.step(),
                folder.dir().display()
            ));
            Ok(ExitCode::from(130))
        }
    }
}

/// Trains with a progress bar; Ctrl-C stops after the running step with a checkpoint.
pub fn train(folder: &RunFolder, trainer: &mut Trainer, what: &str) -> anyhow::Result<Outcome> {
    console::catch_interrupts();
    let progress = Progress::new(trainer.recipe().train.steps, what);
    progress.start_at(trainer.step());
    let mut validation = String::new();
    let show = |line: &TrainingStep| {
        if let Some(loss) = line.validation_loss {
            validation = format!(" validation {loss:.3}");
        }
        let rate = line.tokens_per_second;
        let message = format!("loss {:.3}{validation} {rate:.0} tokens/s", line.loss);
        progress.at(line.step, &message);
    };
    let outcome = folder.train(trainer, console::seconds, console::interrupted, show)?;
    progress.finish();
    Ok(outcome)
}

type Stores = (Arc<TokenStore>, Option<Arc<TokenStore>>);

fn open_tokens(recipe: &Recipe, tokenizer: &Tokenizer) -> anyhow::Result<Stores> {
    let open = |dir: &std::path::Path| -> anyhow::Result<Arc<TokenStore>> {
        let store = TokenStore::open(dir, Verify::Checksums)?;
        anyhow::ensure!(
            store.tokenizer().sha256 == tokenizer.sha256(),
            "{}: expected tokens of the given tokenizer, got those of another one",
            dir.display()
        );
        Ok(Arc::new(store))
    };
    let text = open(&recipe.data.tokens)?;
    let validation = recipe.data.validation.as_deref().map(open).transpose()?;
    Ok((text, validation))
}

pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
