//! `bam quickstart`: the main job, from text to report, with nothing but the program.
//!
//! Every stage leaves its files in the run's folder and is skipped where they are there already, so
//! an interrupted quickstart goes on with `--resume`.

use crate::args::{EncodingList, QuickstartArgs};
use crate::command::eval::models::Session;
use crate::command::train::{available_threads, begin, train};
use crate::console::{self, Progress};
use crate::corpus::{Book, held_out_book, training_books};
use crate::{ranks, runs};
use anyhow::{Context, ensure};
use bam_attention::Skipping;
use bam_data::atomic_file::write_atomically;
use bam_data::{TokenStore, Tokenizer, TokenizerConfig};
use bam_eval::evaluation::Subject;
use bam_eval::passkey::{Depths, LengthPlan, PasskeyEvaluation, PasskeyPlan};
use bam_eval::perplexity::{PerplexityEvaluation, PerplexityPlan};
use bam_lm::model::Transformer;
use bam_lm::model::checkpoint::{WEIGHTS_FILE, place};
use bam_lm::model::encoding::Encoding;
use bam_lm::train::{Outcome, Recipe, RunFolder, Trainer, Workers};
use bam_record::RunRecords;
use bam_report::page::{PageNotes, page};
use burn::tensor::Device;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// The recipe of every model; only the encoding, the steps and the seed are set.
const RECIPE: &str = include_str!("../../../../recipes/quickstart.toml");
const TOKENS: usize = 1024;
/// Copies of the task's sentences that the tokenizer reads, so that a prompt fits a context of 128.
const TASK_COPIES: usize = 1000;
/// Multiples of the training length, and samples at each: fewer where a sample takes longer.
const GRID: [(u64, usize); 10] = [
    (1, 100),
    (2, 50),
    (4, 50),
    (8, 50),
    (16, 30),
    (32, 20),
    (64, 20),
    (128, 15),
    (256, 10),
    (500, 6),
];
/// A model that finds no key at this many lengths in a row is not asked at longer ones.
const PATIENCE: usize = 3;
/// Tokens of the held-out book that are read in one go.
const BOOK_TOKENS: usize = 32_768;
const BOOK_WINDOW: usize = 128;

struct Materials {
    tokenizer: Arc<Tokenizer>,
    text: Arc<TokenStore>,
    validation: Arc<TokenStore>,
    held_out: Book,
}

pub fn run(args: &QuickstartArgs) -> anyhow::Result<ExitCode> {
    let encodings: Vec<Encoding> = match args.all {
        true => Encoding::all_twelve(),
        false => args
            .encodings
            .iter()
            .flat_map(|list| list.0.clone())
            .collect(),
    };
    let recipes: Vec<Recipe> = encodings
        .iter()
        .map(|encoding| recipe(args, encoding))
        .collect::<anyhow::Result<_>>()?;
    ranks::agree(open_folder(args), |()| {
        Ok(vec![
            ("version", runs::version()),
            ("command line", command_line(args)),
        ])
    })?;
    console::catch_interrupts();
    let start = console::seconds();
    let device = args.device.open()?;
    let materials = materials(&args.out)?;
    let mut all = Vec::new();
    for recipe in recipes {
        let name = recipe.model.encoding.to_string();
        let dir = args.out.join(recipe.model.encoding.file_name());
        let Some(model) = trained(&dir, recipe, &materials, &device)? else {
            return Ok(stopped(args));
        };
        let Some(records) = evaluated(&dir, &name, &model, &materials, args)? else {
            return Ok(stopped(args));
        };
        all.push((name, records));
    }
    let minutes = (console::seconds() - start) / 60.0;
    if !ranks::leads() {
        return Ok(ExitCode::SUCCESS);
    }
    let html = page(
        "Train short, read long",
        &all,
        &notes(args, &materials, minutes),
    );
    let path = args.out.join("report.html");
    write_atomically(&path, html.as_bytes())?;
    write_atomically(
        &args.out.join("summary.md"),
        bam_report::table::markdown(&all).as_bytes(),
    )?;
    console::answer(args.json, &all, || bam_report::table::summary(&all))?;
    console::note(&format!(
        "\n{minutes:.1} minutes. The page: {}",
        path.display()
    ));
    Ok(ExitCode::SUCCESS)
}

fn open_folder(args: &QuickstartArgs) -> anyhow::Result<()> {
    let occupied = std::fs::read_dir(&args.out).is_ok_and(|mut files| files.next().is_some());
    ensure!(
        !occupied || args.resume,
        "{}: expected a new folder, or --resume to go on in this one",
        args.out.display()
    );
    Ok(())
}

fn recipe(args: &QuickstartArgs, encoding: &Encoding) -> anyhow::Result<Recipe> {
    let overrides = [
        format!("model.encoding=\"{encoding}\""),
        format!("train.steps={}", args.steps),
        format!("train.seed={}", args.seed),
        format!("train.device={}", args.device.device.unwrap_or_default()),
    ];
    let recipe = Recipe::from_toml(RECIPE, &overrides, Path::new("recipes/quickstart.toml"))?;
    // An encoding that the model can't have is said before anything is trained.
    recipe.model_config(TOKENS)?;
    Ok(recipe)
}

fn stopped(args: &QuickstartArgs) -> ExitCode {
    console::note(&format!(
        "stopped; go on with: {} --out {} --resume",
        command_line(args),
        args.out.display()
    ));
    ExitCode::from(console::INTERRUPTED)
}

/// The command line for the same models and measurements.
fn command_line(args: &QuickstartArgs) -> String {
    let encodings = match args.all {
        true => "--all".to_owned(),
        false => {
            let all = args.encodings.iter().flat_map(|list| list.0.clone());
            format!("--encodings '{}'", EncodingList(all.collect()))
        }
    };
    let device = args.device.device;
    let device = device.map_or_else(String::new, |name| format!(" --device {name}"));
    format!(
        "bam quickstart {encodings} --steps {} --longest {} --seed {}{device}",
        args.steps, args.longest, args.seed
    )
}

/// The tokenizer, the training books and the held-out book as tokens.
fn materials(out: &Path) -> anyhow::Result<Materials> {
    let books = training_books()?;
    let held_out = held_out_book()?;
    std::fs::create_dir_all(out)
        .with_context(|| format!("{}: could not create it", out.display()))?;
    let path = out.join("tokenizer.json");
    if !ranks::leads() {
        // The first rank makes it.
        ranks::all().wait();
    }
    let tokenizer = match path.exists() {
        true => Tokenizer::from_file(&path)?,
        false => {
            let progress = Progress::new((books.len() + TASK_COPIES) as u64, "tokenizer");
            let tokenizer = train_tokenizer(&books, |documents| progress.at(documents, ""))?;
            progress.finish();
            tokenizer.save(&path)?;
            tokenizer
        }
    };
    if ranks::leads() {
        ranks::all().wait();
    }
    let store = |books: &[&Book]| -> anyhow::Result<Arc<TokenStore>> {
        let documents: Vec<Vec<u32>> = books
            .iter()
            .map(|book| tokenizer.encode(&book.text))
            .collect::<Result<_, _>>()?;
        let bytes = books.iter().map(|book| book.text.len() as u64).sum();
        Ok(Arc::new(TokenStore::in_memory(
            tokenizer.identity(),
            &documents,
            bytes,
        )?))
    };
    let text = store(&books.iter().collect::<Vec<_>>())?;
    let validation = store(&[&held_out])?;
    Ok(Materials {
        text,
        validation,
        held_out,
        tokenizer: Arc::new(tokenizer),
    })
}

fn train_tokenizer(
    books: &[Book],
    mut progress: impl FnMut(u64) + Send,
) -> anyhow::Result<Tokenizer> {
    let task = bam_data::passkey::sample_text("0123456789");
    let sentences = std::iter::repeat_n(task, TASK_COPIES).map(|text| bam_data::Document {
        text,
        origin: "the passkey task".into(),
    });
    let documents = books.iter().map(Book::document).chain(sentences).map(Ok);
    let config = TokenizerConfig {
        vocabulary: TOKENS,
        ..TokenizerConfig::default()
    };
    Ok(Tokenizer::train(documents, &config, |at| {
        progress(at.documents)
    })?)
}

/// Trains a model, or goes on, or loads it where it is finished; `None` where it was interrupted.
fn trained(
    dir: &Path,
    recipe: Recipe,
    materials: &Materials,
    device: &Device,
) -> anyhow::Result<Option<Transformer>> {
    let name = recipe.model.encoding.to_string();
    let begun = dir.join("recipe.toml").exists();
    ranks::all().same("a run begun", &begun.to_string())?;
    let folder = match begun {
        true => {
            let (folder, begun, _) = RunFolder::open(dir)?;
            ensure!(
                begun.is_same_run(&recipe),
                "{}: expected the steps and the seed that this run was begun with ({} and {}), \
                 got {} and {}",
                dir.display(),
                begun.train.steps,
                begun.train.seed,
                recipe.train.steps,
                recipe.train.seed
            );
            folder
        }
        false => begin(dir, &recipe, &materials.tokenizer, false)?,
    };
    let trained = place(dir, WEIGHTS_FILE).exists();
    ranks::all().same("a model trained", &trained.to_string())?;
    if !trained {
        let workers = Workers {
            ranks: ranks::all(),
            ..Workers::alone(device, available_threads())
        };
        let mut trainer = Trainer::new(
            recipe,
            Arc::clone(&materials.tokenizer),
            Arc::clone(&materials.text),
            Some(Arc::clone(&materials.validation)),
            &workers,
        )?;
        folder.restore(&mut trainer)?;
        if train(&folder, &mut trainer, &format!("train {name}"))? == Outcome::Stopped {
            return Ok(None);
        }
    }
    Ok(Some(runs::load_model(dir, device)?))
}

/// Evaluates what has no record yet; `None` where it was interrupted.
fn evaluated(
    dir: &Path,
    name: &str,
    model: &Transformer,
    materials: &Materials,
    args: &QuickstartArgs,
) -> anyhow::Result<Option<RunRecords>> {
    let longest = args.longest as usize * model.config().train_length;
    let missing =
        |file: &str| -> Option<PathBuf> { Some(dir.join(file)).filter(|path| !path.exists()) };
    let there = [runs::HEADS, runs::PERPLEXITY, runs::PASSKEY].map(|file| missing(file).is_none());
    ranks::all().same("records that are there", &format!("{there:?}"))?;
    if let Some(path) = missing(runs::HEADS).filter(|_| ranks::leads()) {
        let start = console::seconds();
        let heads = bam_lm::analysis::heads(model, longest)?;
        runs::write_record(&path, model, args.seed, console::seconds() - start, heads)?;
    }
    let tokenizer = &materials.tokenizer;
    let subject = Subject { model, tokenizer };
    let mut session = Session::open(&[])?;
    if let Some(path) = missing(runs::PERPLEXITY) {
        let book = &materials.held_out;
        let plan = PerplexityPlan {
            title: &format!("{} ({})", book.title, book.author),
            text: &book.text,
            length: Some(BOOK_TOKENS.min(longest.max(2))),
            window: BOOK_WINDOW,
            certified_cache: None,
        };
        let title = format!("read {name}");
        let (of, evaluation) = (
            (dir, subject, &*path),
            PerplexityEvaluation::new(subject, plan)?,
        );
        if session
            .measure(&title, of, &evaluation, args.seed)?
            .is_none()
        {
            return Ok(None);
        }
    }
    if let Some(path) = missing(runs::PASSKEY) {
        let plan = plan(args, model.config().train_length);
        let title = format!("passkey {name}");
        let (of, evaluation) = (
            (dir, subject, &*path),
            PasskeyEvaluation::new(subject, &plan)?,
        );
        if session
            .measure(&title, of, &evaluation, args.seed)?
            .is_none()
        {
            return Ok(None);
        }
    }
    session.finish()?;
    // The records are there for all.
    if ranks::all().any(console::interrupted()) {
        return Ok(None);
    }
    Ok(Some(runs::read_records(dir)?))
}

fn plan(args: &QuickstartArgs, train_length: usize) -> PasskeyPlan {
    let grid = GRID.iter().filter(|(times, _)| *times <= args.longest);
    PasskeyPlan {
        lengths: grid
            .map(|&(times, samples)| LengthPlan {
                length: times as usize * train_length,
                samples,
                depths: Depths::Equidistant(samples.min(10)),
            })
            .collect(),
        given_digits: 1,
        greedy: false,
        patience: Some(PATIENCE),
        seed: args.seed,
        skipping: Skipping::Exact,
        certified_cache: None,
    }
}

fn notes(args: &QuickstartArgs, materials: &Materials, minutes: f64) -> PageNotes {
    PageNotes {
        training_data: format!(
            "Every model was trained from random weights for {} steps of 16 × 128 tokens on the same \
             rows: 30 % real text ({:.2} million tokens of twelve whole books in the public domain), 50 % made-up \
             passkey documents and 20 % random copies. The passkey documents use the task's own \
             sentences, with keys of 4 to 12 digits hidden in fillers or in book text; the tokenizer \
             has read those sentences too. So the models have practised this task at a context of 128 \
             tokens. What is measured is how far the skill carries beyond that.\n\nScalable softmax, \
             where an encoding has it, starts at the second layer: with it in the first layer too, \
             results at length depended on the seed.",
            args.steps,
            materials.text.tokens() as f64 / 1e6
        ),
        commands: vec![command_line(args)],
        machine: format!(
            "{} threads, {minutes:.1} minutes in all, {} {}",
            available_threads(),
            std::env::consts::ARCH,
            std::env::consts::OS
        ),
    }
}
