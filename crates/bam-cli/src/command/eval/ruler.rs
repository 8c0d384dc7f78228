//! `bam eval ruler`.

use super::models::Models;
use crate::args::{RulerArgs, TaskChoice};
use crate::console::UsageError;
use crate::{corpus, runs};
use bam_eval::exchange::export::{ExportFolder, Format};
use bam_eval::greedy::GreedyGenerator;
use bam_eval::ruler::{
    Essays, Paragraphs, RulerEvaluation, RulerSamples, SampleSet, Sources, Task, read_samples,
};
use bam_report::scores;
use std::process::ExitCode;

/// Samples of each task and length, where nothing is said.
const USUAL_SAMPLES: u32 = 100;

pub fn run(args: &RulerArgs) -> anyhow::Result<ExitCode> {
    let mut exports = args.export.clone();
    exports.extend(args.save_samples.clone().map(|dir| ExportFolder {
        format: Format::RulerSamples,
        dir,
    }));
    let models = Models::new(&args.models, &args.output, &exports, runs::RULER)?;
    let tasks = tasks(args)?;
    let samples = match args.samples_from.is_empty() {
        true => made(args)?,
        false => read(args, &tasks)?,
    };
    let name = |path: &std::path::PathBuf| path.display().to_string();
    let samples_from: Vec<String> = args.samples_from.iter().map(name).collect();
    let mut first: Option<String> = None;
    models.run(
        |loaded, session| {
            let tokenizer = loaded.tokenizer.sha256();
            let first = first.get_or_insert_with(|| tokenizer.to_owned());
            anyhow::ensure!(
                args.save_samples.is_none() || *first == tokenizer,
                "--save-samples: expected models of one tokenizer, for which samples are made; {} has another",
                loaded.dir.display()
            );
            let evaluation = RulerEvaluation {
                generator: GreedyGenerator {
                    subject: loaded.subject(),
                    begin: args.begin,
                    skipping: args.skip,
                },
                grid: samples.grid(&tasks, &loaded.tokens_of(&args.lengths)),
                samples: &samples,
                samples_from: samples_from.clone(),
            };
            loaded.measure(&evaluation, args.seed, session)
        },
        scores::ruler,
    )
}

/// The tasks that were asked for, in RULER's order.
fn tasks(args: &RulerArgs) -> anyhow::Result<Vec<Task>> {
    let given = |task: Task| match task {
        Task::Qa1 => args.squad.is_some(),
        Task::Qa2 => args.hotpotqa.is_some(),
        _ => true,
    };
    let asked = |task: Task| {
        let chosen = |choice: &TaskChoice| {
            matches!(choice, TaskChoice::All) || *choice == TaskChoice::One(task)
        };
        match args.tasks.is_empty() {
            true => given(task) || !args.samples_from.is_empty(),
            false => args.tasks.iter().any(chosen),
        }
    };
    let tasks: Vec<Task> = Task::ALL.into_iter().filter(|task| asked(*task)).collect();
    if args.samples_from.is_empty()
        && let Some(task) = tasks.iter().find(|task| !given(**task))
    {
        let (option, file, address) = match task {
            Task::Qa1 => (
                "--squad",
                "SQuAD's dev-v2.0.json",
                "https://rajpurkar.github.io/SQuAD-explorer",
            ),
            _ => (
                "--hotpotqa",
                "HotpotQA's hotpot_dev_distractor_v1.json",
                "https://hotpotqa.github.io",
            ),
        };
        return Err(UsageError(format!(
            "{task}: expected {option} with {file}, which is at {address}, got none"
        ))
        .into());
    }
    Ok(tasks)
}

/// The samples of files.
fn read(args: &RulerArgs, tasks: &[Task]) -> anyhow::Result<RulerSamples> {
    // A task that is named on its own names those of a file that does not say.
    let only = match tasks {
        [only] => Some(*only),
        _ => None,
    };
    let mut sets: Vec<SampleSet> = Vec::new();
    for path in &args.samples_from {
        for mut set in read_samples(path, only)? {
            set.samples
                .truncate(args.samples.unwrap_or(u32::MAX) as usize);
            let known = |other: &SampleSet| (other.task, other.length) == (set.task, set.length);
            anyhow::ensure!(
                !sets.iter().any(known),
                "{}: expected other samples than those of {} at {} tokens, which a file before it has",
                path.display(),
                set.task,
                set.length
            );
            sets.push(set);
        }
    }
    sets.retain(|set| tasks.contains(&set.task));
    sets.sort_by_key(|set| (set.length, set.task));
    Ok(RulerSamples::Read(sets))
}

/// Samples to be made of texts.
fn made(args: &RulerArgs) -> anyhow::Result<RulerSamples> {
    let essays = match &args.essays {
        Some(path) => Essays::read(path)?,
        None => corpus::essays()?,
    };
    let squad = args.squad.as_deref().map(Paragraphs::read_squad);
    let hotpotqa = args.hotpotqa.as_deref().map(Paragraphs::read_hotpotqa);
    let sources = Sources {
        essays,
        squad: squad.transpose()?,
        hotpotqa: hotpotqa.transpose()?,
    };
    let count = args.samples.unwrap_or(USUAL_SAMPLES) as usize;
    Ok(RulerSamples::Made(Box::new(sources), count, args.seed))
}
