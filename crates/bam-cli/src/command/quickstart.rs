//! `bam quickstart`: the main job, from text to report, with nothing but the program.
//!
//! A quickstart that was interrupted goes on with `--resume`.

use crate::args::{EncodingList, QuickstartArgs};
use crate::command::eval::models::Session;
use crate::console::{self, UsageError};
use crate::experiment::{Materials, Measured, TOKENS, trained};
use crate::{ranks, runs};
use anyhow::ensure;
use bam_attention::Skipping;
use bam_data::atomic_file::write_atomically;
use bam_eval::evaluation::Subject;
use bam_eval::passkey::{Depths, LengthPlan, PasskeyEvaluation, PasskeyPlan};
use bam_eval::perplexity::{PerplexityEvaluation, PerplexityPlan};
use bam_lm::model::Transformer;
use bam_lm::model::encoding::Encoding;
use bam_lm::train::Recipe;
use bam_record::RunRecords;
use bam_report::page::{PageNotes, page};
use std::path::Path;
use std::process::ExitCode;

/// The recipe of every model; only the encoding, the steps and the seed are set.
const RECIPE: &str = include_str!("../../../../recipes/quickstart.toml");
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

pub fn run(args: &QuickstartArgs) -> anyhow::Result<ExitCode> {
    let encodings: Vec<Encoding> = match args.all {
        true => Encoding::all_twelve(),
        false => args
            .encodings
            .iter()
            .flat_map(|list| list.0.clone())
            .collect(),
    };
    for (place, encoding) in encodings.iter().enumerate() {
        if encodings[..place].contains(encoding) {
            let message = format!("--encodings: expected each once, got {encoding} twice");
            return Err(UsageError(message).into());
        }
    }
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
    let materials = Materials::open(&args.out)?;
    let mut all = Vec::new();
    for recipe in recipes {
        let name = recipe.model.encoding.to_string();
        let dir = args.out.join(recipe.model.encoding.file_name());
        let Some(model) = trained(&dir, &name, recipe, &materials, &device)? else {
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

/// Evaluates what has no record yet; `None` where it was interrupted.
fn evaluated(
    dir: &Path,
    name: &str,
    model: &Transformer,
    materials: &Materials,
    args: &QuickstartArgs,
) -> anyhow::Result<Option<RunRecords>> {
    let longest = args.longest as usize * model.config().train_length;
    let tokenizer = &materials.tokenizer;
    let measured = Measured {
        dir,
        name,
        subject: Subject { model, tokenizer },
        seed: args.seed,
    };
    let there = [runs::HEADS, runs::PERPLEXITY, runs::PASSKEY];
    let there = there.map(|file| measured.missing(file).is_none());
    ranks::all().same("records that are there", &format!("{there:?}"))?;
    measured.heads(longest)?;
    let mut session = Session::open(&[])?;
    let book = &materials.held_out;
    let title = book.name();
    let reading = PerplexityPlan {
        title: &title,
        text: &book.text,
        length: Some(BOOK_TOKENS.min(longest.max(2))),
        window: BOOK_WINDOW,
        certified_cache: None,
    };
    let plan = plan(args, model.config().train_length);
    let done = measured.record(&mut session, (runs::PERPLEXITY, "read"), |subject| {
        PerplexityEvaluation::new(subject, reading)
    })? && measured.record(&mut session, (runs::PASSKEY, "passkey"), |subject| {
        PasskeyEvaluation::new(subject, &plan)
    })?;
    if !done {
        return Ok(None);
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
                after: None,
            })
            .collect(),
        given_digits: 1,
        greedy: false,
        patience: Some(PATIENCE),
        stopping: None,
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
            rayon::current_num_threads(),
            std::env::consts::ARCH,
            std::env::consts::OS
        ),
    }
}
