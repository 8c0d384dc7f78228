//! `bam train`.

mod plan;

use crate::args::TrainArgs;
use crate::console::{self, Progress};
use crate::{device, ranks, runs::read_text};
use anyhow::{Context, bail, ensure};
use bam_data::{TokenStore, Tokenizer, Verify};
use bam_lm::device::{DeviceName, panic_text};
use bam_lm::train::plan::Plan;
use bam_lm::train::{Outcome, Recipe, RunFolder, Trainer, Workers};
use bam_record::TrainingStep;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

pub fn run(args: &TrainArgs) -> anyhow::Result<ExitCode> {
    let threads = args.threads.unwrap_or_else(rayon::current_num_threads);
    let Some(out) = args.out.as_deref().filter(|_| !args.plan.plan) else {
        let (recipe, tokenizer) = given(args)?;
        let recipe = recipe.context("the command line demands a recipe")?;
        let vocabulary = tokenizer.map(|of| of.vocabulary_size());
        let vocabulary = vocabulary.or(args.plan.vocabulary);
        let vocabulary = vocabulary.context("the command line demands a vocabulary")?;
        return plan::run(&args.plan, &recipe, vocabulary, threads);
    };
    // Whatever can be wrong comes before the folder is made, so that a mistake leaves nothing.
    let ready = ranks::agree(Ready::new(args, out, threads), Ready::same)?;
    let mut trainer = ready.trainer;
    let folder = begin(out, &ready.recipe, &ready.tokenizer, ready.begun)?;
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
                "stopped after step {}; continue with: bam train --resume --out {}{}",
                trainer.step(),
                folder.dir().display(),
                device::flag(&args.device)
            ));
            Ok(ExitCode::from(console::INTERRUPTED))
        }
    }
}

/// The recipe and the tokenizer of a command line.
fn given(args: &TrainArgs) -> anyhow::Result<(Option<Recipe>, Option<Tokenizer>)> {
    let recipe = args.recipe.as_deref();
    let recipe = recipe
        .map(|path| read_recipe(path, &args.overrides))
        .transpose()?;
    let tokenizer = args.tokenizer.as_deref().map(Tokenizer::from_file);
    Ok((
        recipe.map(|recipe| recipe.on(&args.device)),
        tokenizer.transpose()?,
    ))
}

/// All that a run needs besides its folder.
struct Ready {
    recipe: Recipe,
    tokenizer: Arc<Tokenizer>,
    trainer: Trainer,
    /// Whether the folder holds the run already.
    begun: bool,
}

impl Ready {
    fn new(args: &TrainArgs, out: &Path, threads: usize) -> anyhow::Result<Self> {
        let (recipe, tokenizer, begun) = match given(args)? {
            (Some(recipe), Some(tokenizer)) if !args.resume => (recipe, tokenizer, false),
            (given, given_tokenizer) => {
                let (_, recipe, tokenizer) = RunFolder::open(out)?;
                if let Some(given) = given {
                    goes_on(out, &recipe, &given)?;
                }
                ensure!(
                    given_tokenizer.is_none_or(|given| given.sha256() == tokenizer.sha256()),
                    "{}: expected the tokenizer that this run was begun with, or none; got another one",
                    out.display()
                );
                (recipe.on(&args.device), tokenizer, true)
            }
        };
        let tokenizer = Arc::new(tokenizer);
        Ok(Self {
            trainer: open_trainer(recipe.clone(), &tokenizer, threads)?,
            recipe,
            tokenizer,
            begun,
        })
    }

    /// All that decides a run's bits, which ranks must have alike: also the way that their devices multiply.
    fn same(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let data = &self.recipe.data;
        let stores = std::iter::once(&data.tokens).chain(&data.validation);
        let stores = stores
            .map(|dir| dir.join(bam_data::INDEX_FILE))
            .collect::<Vec<_>>();
        let device = device::info(self.recipe.train.device)?;
        let multiplies = serde_json::to_string(&device.attention)?;
        // Places may differ: cuda:0 on one, cuda:1 on the other.
        let recipe = self.recipe.clone().on(&[DeviceName::Cpu]);
        Ok(vec![
            ("recipe", recipe.to_toml()),
            ("tokenizer", self.tokenizer.sha256().to_owned()),
            ("tokens", bam_data::sha256_of(&stores)?),
            ("device", format!("{} {multiplies}", device.target)),
            ("--resume", self.begun.to_string()),
        ])
    }
}

/// The folder of a run, which the first rank makes where it was not begun yet.
pub fn begin(
    dir: &Path,
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    begun: bool,
) -> anyhow::Result<RunFolder> {
    let folder = match ranks::leads() && !begun {
        true => RunFolder::create(dir, recipe, tokenizer),
        false => Ok(RunFolder::of_another_rank(dir)),
    };
    ranks::agree(folder.map_err(Into::into), |_| Ok(Vec::new()))
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
    let (start, first) = (console::seconds(), ranks::traffic());
    let train = || folder.train(trainer, console::seconds, console::interrupted, show);
    let trained = catch_unwind(AssertUnwindSafe(train));
    progress.finish();
    let size = ranks::all().size();
    if size > 1 {
        let (traffic, all) = (ranks::traffic() - first, console::seconds() - start);
        console::note(&format!(
            "{size} ranks: {:.2} of {all:.2} s in {} exchanges with others, waiting for them included; {:.1} MiB sent",
            traffic.seconds,
            traffic.calls,
            traffic.bytes as f64 / f64::from(1 << 20)
        ));
    }
    trained
        .unwrap_or_else(|panic| {
            if device::in_use().is_some() {
                console::note(&advice(trainer, panic_text(&*panic)));
            }
            resume_unwind(panic)
        })
        .map_err(Into::into)
}

/// A way on for someone whose device failed in the middle of a run.
fn advice(trainer: &Trainer, reason: &str) -> String {
    let recipe = trainer.recipe();
    let train = &recipe.train;
    let kept = match trainer.step() {
        0 => "no step was taken; --resume begins again, on any --device".to_owned(),
        step => format!(
            "step {step} was the last; --resume goes on from the last checkpoint, on any --device"
        ),
    };
    if !device::is_out_of_memory(reason) {
        return kept;
    }
    let (rows, length) = (train.rows / train.parts, train.length);
    let vocabulary = trainer.model().config().vocabulary;
    let plan = Plan::new(recipe, vocabulary, None, 1, 1).ok();
    let memory = device::info(train.device).ok().and_then(|info| info.memory);
    // The plan knows no fragments: it may name a number that was too small just now.
    let fewest = plan
        .and_then(|plan| plan.fewest_parts(memory?))
        .unwrap_or(0);
    let fewest = fewest.max(train.parts + 1);
    let less = match (fewest..=train.rows).find(|parts| train.rows.is_multiple_of(*parts)) {
        Some(parts) => format!("train.parts={parts} reads {} at once", train.rows / parts),
        None => format!("train.length={} needs a quarter at most", length / 2),
    };
    format!(
        "{kept}; {rows} rows of {length} tokens were read at once: a new run with {less} (bam train --plan)"
    )
}

fn read_recipe(path: &Path, overrides: &[String]) -> anyhow::Result<Recipe> {
    let text = read_text(path)?;
    Ok(Recipe::from_toml(&text, overrides, path)?)
}

/// That a run in `dir` can go on with another recipe than it was begun with.
pub fn goes_on(dir: &Path, begun: &Recipe, other: &Recipe) -> anyhow::Result<()> {
    match begun.unlike(other) {
        None => Ok(()),
        Some([expected, got]) => bail!(
            "{}: expected the recipe that this run was begun with, {expected}; got {got}",
            dir.display()
        ),
    }
}

/// A run's trainer at its start, with the tokens that its recipe names.
pub fn open_trainer(
    recipe: Recipe,
    tokenizer: &Arc<Tokenizer>,
    threads: usize,
) -> anyhow::Result<Trainer> {
    let (text, validation) = open_tokens(&recipe, tokenizer)?;
    let tokenizer = Arc::clone(tokenizer);
    let open = |name: &DeviceName| {
        let opened = device::open(*name);
        opened.with_context(|| format!("train.device = {name} (--device names another)"))
    };
    // The first is the one in use.
    let devices = recipe.devices();
    let mut devices: Vec<_> = devices.iter().rev().map(open).collect::<Result<_, _>>()?;
    devices.reverse();
    let workers = Workers {
        devices,
        threads,
        ranks: ranks::all(),
    };
    if let Some(name) = device::in_use() {
        console::note(&format!("training on {name}, {}", name.info()?.hardware));
    }
    Ok(Trainer::new(recipe, tokenizer, text, validation, &workers)?)
}

type Stores = (Arc<TokenStore>, Option<Arc<TokenStore>>);

fn open_tokens(recipe: &Recipe, tokenizer: &Tokenizer) -> anyhow::Result<Stores> {
    let open = |dir: &Path| -> anyhow::Result<Arc<TokenStore>> {
        let store = TokenStore::open(dir, Verify::Checksums)?;
        ensure!(
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
