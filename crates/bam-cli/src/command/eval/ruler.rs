//! `bam eval ruler`.

use super::outbox::Outbox;
use super::unfinished::{GOES_ON, Unfinished};
use super::{Tally, check_exports, check_models, check_out, folders, moment, show, tokens_of};
use crate::args::{Format, RulerArgs, TaskChoice};
use crate::console::{self, Misuse};
use crate::{corpus, runs};
use bam_data::Tokenizer;
use bam_eval::continuation::{Answer, Answerer};
use bam_eval::exchange::lm_eval::{self, SampleLines};
use bam_eval::exchange::{self, Moment, Run};
use bam_eval::ruler::{
    Essays, Paragraphs, SampleSet, Sources, Task, answer_samples, make_samples, read_samples,
};
use bam_lm::model::Transformer;
use bam_record::{Record, Ruler, RulerCell};
use bam_report::scores;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Samples of each task and length, where nothing is said.
const USUAL_SAMPLES: u32 = 100;

pub fn run(args: &RulerArgs) -> anyhow::Result<ExitCode> {
    check_out(args.out.as_deref(), &args.models, runs::RULER)?;
    check_exports(&args.export, &args.models)?;
    let tasks = tasks(args)?;
    let material = Material::read(args, &tasks)?;
    check_models(&args.models)?;
    console::catch_interrupts();
    let folders = args.export.iter().map(|export| &export.dir);
    let folders = folders.chain(&args.save_samples).map(PathBuf::as_path);
    let mut outbox = Outbox::open(folders)?;
    let mut first: Option<String> = None;
    let each = Unfinished::each(&args.models, GOES_ON, |dir, unfinished| {
        let model = runs::load_model(dir)?;
        let tokenizer = runs::load_tokenizer(dir, &model)?;
        let first = first.get_or_insert_with(|| tokenizer.sha256().to_owned());
        anyhow::ensure!(
            args.save_samples.is_none() || *first == tokenizer.sha256(),
            "--save-samples: expected models of one tokenizer, for which samples are made; {} has another",
            dir.display()
        );
        let of = (dir, &model, &tokenizer);
        evaluate(args, &tasks, &material, of, &mut outbox, unfinished)
    })?;
    let Some((unfinished, records)) = each else {
        return Ok(ExitCode::from(console::INTERRUPTED));
    };
    outbox.deliver()?;
    unfinished.finished()?;
    show(&args.models, &records, args.json, scores::ruler)
}

/// What was asked for, in RULER's order.
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
        return Err(Misuse(format!(
            "{task}: expected {option} with {file}, which is at {address}, got none"
        ))
        .into());
    }
    Ok(tasks)
}

/// Samples that were read, or what some are made of.
enum Material {
    Read(Vec<SampleSet>),
    Sources(Box<Sources>),
}

impl Material {
    fn read(args: &RulerArgs, tasks: &[Task]) -> anyhow::Result<Self> {
        if !args.samples_from.is_empty() {
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
                    let known =
                        |other: &&SampleSet| (other.task, other.length) == (set.task, set.length);
                    anyhow::ensure!(
                        sets.iter().find(known).is_none(),
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
            return Ok(Self::Read(sets));
        }
        let essays = match &args.essays {
            Some(path) => Essays::read(path)?,
            None => {
                let books = corpus::training_books()?;
                let texts: Vec<&str> = books.iter().map(|book| book.text.as_str()).collect();
                Essays::new(corpus::NAME, &texts.join("\n\n"))?
            }
        };
        let squad = args.squad.as_deref().map(Paragraphs::read_squad);
        let hotpotqa = args.hotpotqa.as_deref().map(Paragraphs::read_hotpotqa);
        Ok(Self::Sources(Box::new(Sources {
            essays,
            squad: squad.transpose()?,
            hotpotqa: hotpotqa.transpose()?,
        })))
    }

    /// The tasks and lengths to run, shortest lengths first.
    fn grid(&self, tasks: &[Task], lengths: &[usize]) -> Vec<(Task, usize)> {
        match self {
            Self::Read(sets) => sets.iter().map(|set| (set.task, set.length)).collect(),
            Self::Sources(_) => {
                let of = |length: &usize| {
                    tasks
                        .iter()
                        .map(|task| (*task, *length))
                        .collect::<Vec<_>>()
                };
                lengths.iter().flat_map(of).collect()
            }
        }
    }

    fn set(
        &self,
        args: &RulerArgs,
        (task, length): (Task, usize),
        tokenizer: &Tokenizer,
    ) -> anyhow::Result<Option<SampleSet>> {
        match self {
            Self::Read(sets) => {
                let of = sets
                    .iter()
                    .find(|set| (set.task, set.length) == (task, length));
                Ok(of.cloned())
            }
            Self::Sources(sources) => {
                let count = args.samples.unwrap_or(USUAL_SAMPLES) as usize;
                let stop = &console::interrupted;
                Ok(make_samples(
                    task, length, count, args.seed, tokenizer, sources, stop,
                )?)
            }
        }
    }

    fn count(&self, args: &RulerArgs, grid: &[(Task, usize)]) -> u64 {
        match self {
            Self::Read(sets) => sets.iter().map(|set| set.samples.len() as u64).sum(),
            Self::Sources(_) => {
                grid.len() as u64 * u64::from(args.samples.unwrap_or(USUAL_SAMPLES))
            }
        }
    }
}

/// One model on all tasks and lengths. `None` after Ctrl-C.
fn evaluate(
    args: &RulerArgs,
    tasks: &[Task],
    material: &Material,
    (dir, model, tokenizer): (&Path, &Transformer, &Tokenizer),
    outbox: &mut Outbox,
    unfinished: &mut Unfinished,
) -> anyhow::Result<Option<Record<Ruler>>> {
    let folder = dir.to_string_lossy();
    let (began, start) = (moment(), console::seconds());
    let out = args.out.clone().unwrap_or_else(|| dir.join(runs::RULER));
    let settings = json!({
        "evaluation": "ruler",
        "begin": args.begin,
        "skip": args.skip.to_string(),
    });
    let findings = unfinished.of((dir, model, tokenizer), &out, settings)?;
    let mut before = 0.0;
    let grid = material.grid(tasks, &tokens_of(&args.lengths, model));
    let mut tally = Tally::new(material.count(args, &grid), "ruler");
    let answerer = Answerer {
        model,
        tokenizer,
        begin: args.begin,
        budget: 0,
        skipping: args.skip,
    };
    let mut exports = Exports::new(args, &folder, &began);
    let mut cells = Vec::new();
    for at in grid {
        let Some(set) = material.set(args, at, tokenizer)? else {
            return Ok(None);
        };
        exports.samples(&set, outbox)?;
        let message = format!("{} at {}", set.task, set.length);
        let tick = |_: &Answer| tally.answered(&message);
        let cell = findings.watched(&tick, |watch| {
            answer_samples(answerer, &set, console::seconds, watch)
        })?;
        let Some(mut cell) = cell else {
            return Ok(None);
        };
        let earlier = findings.seconds_before();
        cell.seconds += earlier;
        before += earlier;
        exports.answers(&cell, &set, outbox)?;
        let cell_size = match (args.samples, material) {
            (_, Material::Read(_)) => set.samples.len() as u64,
            (samples, Material::Sources(_)) => u64::from(samples.unwrap_or(USUAL_SAMPLES)),
        };
        tally.over(cell_size, &message);
        cells.push(cell);
    }
    tally.progress.finish();
    let name = |path: &PathBuf| path.display().to_string();
    let metrics = Ruler {
        train_length: model.config().train_length,
        essays: match material {
            Material::Read(_) => String::new(),
            Material::Sources(sources) => sources.essays.name().to_owned(),
        },
        samples_from: args.samples_from.iter().map(name).collect(),
        begin: args.begin,
        skipping: args.skip.to_string(),
        cells,
    };
    let seconds = console::seconds() - start + before;
    let record = runs::write_record(&out, model, args.seed, seconds, metrics)?;
    let run = Run {
        folder: &folder,
        began: &began,
    };
    exports.results(&record, &run, outbox)?;
    Ok(Some(record))
}

/// Where the files of other programs go.
struct Exports<'a> {
    args: &'a RulerArgs,
    folder: String,
    began: &'a Moment,
    lines: BTreeMap<&'static str, SampleLines>,
}

impl<'a> Exports<'a> {
    fn new(args: &'a RulerArgs, folder: &str, began: &'a Moment) -> Self {
        Self {
            args,
            folder: exchange::folder_name(folder),
            began,
            lines: BTreeMap::new(),
        }
    }

    fn dirs(&self, format: Format) -> Vec<PathBuf> {
        folders(&self.args.export, format)
            .map(|dir| dir.join(&self.folder))
            .collect()
    }

    /// The folder that RULER's own runner has for a length.
    fn predictions(&self, length: usize) -> Vec<PathBuf> {
        let dirs = self.dirs(Format::Ruler).into_iter();
        dirs.map(|dir| dir.join("synthetic").join(length.to_string()).join("pred"))
            .collect()
    }

    fn samples(&self, set: &SampleSet, outbox: &mut Outbox) -> anyhow::Result<()> {
        let Some(dir) = &self.args.save_samples else {
            return Ok(());
        };
        let path = dir.join(set.length.to_string()).join(set.task.name());
        let path = path.join("validation.jsonl");
        // Of another model's with the same tokenizer the same.
        if outbox.has(&path) || set.samples.is_empty() {
            return Ok(());
        }
        let lines = set
            .samples
            .iter()
            .map(|sample| sample.to_json(set.length).to_string());
        outbox.add(path, &lines.collect::<Vec<_>>())
    }

    fn answers(
        &mut self,
        cell: &RulerCell,
        set: &SampleSet,
        outbox: &mut Outbox,
    ) -> anyhow::Result<()> {
        if cell.answers.is_empty() {
            return Ok(());
        }
        for dir in self.predictions(set.length) {
            let path = dir.join(format!("{}.jsonl", set.task));
            outbox.add(path, &exchange::ruler::predictions(cell, set))?;
        }
        let dirs = self.dirs(Format::LmEval);
        if !dirs.is_empty() {
            let name = set.task.lm_eval_name();
            let lines = self.lines.entry(name).or_default().ruler(cell, set);
            for dir in dirs {
                let path = dir.join(self.began.samples_file(name));
                outbox.add(path, &lines)?;
            }
        }
        Ok(())
    }

    fn results(
        &self,
        record: &Record<Ruler>,
        run: &Run,
        outbox: &mut Outbox,
    ) -> anyhow::Result<()> {
        let hashes = self.lines.iter();
        let hashes = hashes.map(|(name, lines)| ((*name).to_owned(), lines.digest()));
        let hashes = hashes.collect();
        for dir in self.dirs(Format::LmEval) {
            let results = lm_eval::ruler(record, run, &hashes);
            let path = dir.join(self.began.results_file());
            outbox.add(path, &[serde_json::to_string_pretty(&results)?])?;
        }
        for cells in record.metrics.by_length() {
            let run: Vec<&RulerCell> = cells
                .into_iter()
                .filter(|cell| cell.score.is_some())
                .collect();
            let Some(length) = run.first().map(|cell| cell.length) else {
                continue;
            };
            for dir in self.predictions(length) {
                let path = dir.join(exchange::ruler::summary_name(&run));
                outbox.add(path, &[exchange::ruler::summary(&run)])?;
            }
        }
        Ok(())
    }
}
