//! `bam eval babilong`.

use super::outbox::Outbox;
use super::unfinished::{GOES_ON, Unfinished};
use super::{Tally, check_exports, check_models, check_out, folders, moment, show};
use crate::args::{BabilongArgs, Format};
use crate::console;
use crate::{corpus, runs};
use bam_data::Tokenizer;
use bam_eval::babilong::{
    BabiTask, Background, PromptSet, Story, answer_prompts, make_prompts, read_stories,
};
use bam_eval::continuation::{Answer, Answerer};
use bam_eval::exchange::lm_eval::{self, SampleLines, TaskHashes};
use bam_eval::exchange::{self, Moment, Run};
use bam_lm::model::Transformer;
use bam_record::{Babilong, BabilongCell, Record};
use bam_report::scores;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub fn run(args: &BabilongArgs) -> anyhow::Result<ExitCode> {
    check_out(args.out.as_deref(), &args.models, runs::BABILONG)?;
    check_exports(&args.export, &args.models)?;
    let read = |task: BabiTask| Ok((task, read_stories(&args.facts, task)?));
    let asked: BTreeSet<BabiTask> = args.tasks.iter().copied().collect();
    let tasks: Vec<(BabiTask, Vec<Story>)> =
        asked.into_iter().map(read).collect::<anyhow::Result<_>>()?;
    let background = background(args.haystack.as_deref())?;
    check_models(&args.models)?;
    console::catch_interrupts();
    let folders = args.export.iter().map(|export| export.dir.as_path());
    let mut outbox = Outbox::open(folders)?;
    let each = Unfinished::each(&args.models, GOES_ON, |dir, unfinished| {
        let model = runs::load_model(dir)?;
        let tokenizer = runs::load_tokenizer(dir, &model)?;
        let of = (dir, &model, &tokenizer);
        evaluate(args, &tasks, &background, of, &mut outbox, unfinished)
    })?;
    let Some((unfinished, records)) = each else {
        return Ok(ExitCode::from(console::INTERRUPTED));
    };
    outbox.deliver()?;
    unfinished.finished()?;
    show(&args.models, &records, args.json, scores::babilong)
}

fn background(path: Option<&Path>) -> anyhow::Result<Background> {
    match path {
        Some(path) => {
            let text = runs::read_text(path)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Ok(Background::new(&name, std::iter::once(text.as_str()))?)
        }
        None => {
            let books = corpus::training_books()?;
            Ok(Background::new(
                corpus::NAME,
                books.iter().map(|book| book.text.as_str()),
            )?)
        }
    }
}

/// One model on all tasks and lengths. `None` after Ctrl-C.
fn evaluate(
    args: &BabilongArgs,
    tasks: &[(BabiTask, Vec<Story>)],
    background: &Background,
    (dir, model, tokenizer): (&Path, &Transformer, &Tokenizer),
    outbox: &mut Outbox,
    unfinished: &mut Unfinished,
) -> anyhow::Result<Option<Record<Babilong>>> {
    let folder = dir.to_string_lossy();
    let (began, start) = (moment(), console::seconds());
    let out = args.out.clone().unwrap_or_else(|| dir.join(runs::BABILONG));
    let settings = json!({
        "evaluation": "babilong",
        "begin": args.begin,
        "skip": args.skip.to_string(),
    });
    let findings = unfinished.of((dir, model, tokenizer), &out, settings)?;
    let mut before = 0.0;
    let total = (tasks.len() * args.distinct_lengths().len()) as u64 * u64::from(args.samples);
    let mut tally = Tally::new(total, "babilong");
    let answerer = Answerer {
        model,
        tokenizer,
        begin: args.begin,
        budget: 0,
        skipping: args.skip,
    };
    let mut exports = Exports {
        args,
        folder: exchange::folder_name(&folder),
        began: &began,
        lines: BTreeMap::new(),
    };
    let mut cells = Vec::new();
    for length in args.distinct_lengths() {
        let tokens = length
            .length
            .map(|of| of.tokens(model.config().train_length));
        for (task, stories) in tasks {
            let count = args.samples as usize;
            let at = (length.label.as_str(), tokens);
            let (of, stop) = ((*task, &stories[..]), &console::interrupted);
            let made = make_prompts(of, at, count, args.seed, tokenizer, background, stop)?;
            let Some(set) = made else {
                return Ok(None);
            };
            let message = format!("{task} at {}", length.label);
            let tick = |_: &Answer| tally.answered(&message);
            let cell = findings.watched(&tick, |watch| {
                answer_prompts(answerer, &set, console::seconds, watch)
            })?;
            let Some(mut cell) = cell else {
                return Ok(None);
            };
            let earlier = findings.seconds_before();
            cell.seconds += earlier;
            before += earlier;
            exports.answers(&cell, &set, outbox)?;
            tally.over(u64::from(args.samples), &message);
            cells.push(cell);
        }
    }
    tally.progress.finish();
    let metrics = Babilong {
        train_length: model.config().train_length,
        haystack: background.name().to_owned(),
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
    args: &'a BabilongArgs,
    folder: String,
    began: &'a Moment,
    /// By length and task.
    lines: BTreeMap<(String, String), SampleLines>,
}

impl Exports<'_> {
    /// lm-eval takes one length at a time, so each has a folder.
    fn dirs(&self, format: Format, label: &str) -> Vec<PathBuf> {
        let dir = |dir: &Path| match format {
            Format::LmEval => dir.join(exchange::folder_name(label)).join(&self.folder),
            _ => dir.join(&self.folder),
        };
        folders(&self.args.export, format).map(dir).collect()
    }

    fn answers(
        &mut self,
        cell: &BabilongCell,
        set: &PromptSet,
        outbox: &mut Outbox,
    ) -> anyhow::Result<()> {
        if cell.answers.is_empty() {
            return Ok(());
        }
        for dir in self.dirs(Format::Babilong, &cell.label) {
            let path = dir.join(exchange::babilong::table_name(cell));
            outbox.add(path, &[exchange::babilong::table(cell)])?;
        }
        let dirs = self.dirs(Format::LmEval, &cell.label);
        if !dirs.is_empty() {
            let name = format!("babilong_{}", cell.task);
            let lines = self
                .lines
                .entry((cell.label.clone(), name.clone()))
                .or_default();
            let lines = lines.babilong(&cell.answers, &set.prompts);
            for dir in dirs {
                let path = dir.join(self.began.samples_file(&name));
                outbox.add(path, &lines)?;
            }
        }
        Ok(())
    }

    fn results(
        &self,
        record: &Record<Babilong>,
        run: &Run,
        outbox: &mut Outbox,
    ) -> anyhow::Result<()> {
        for length in self.args.distinct_lengths() {
            let of_length = self
                .lines
                .iter()
                .filter(|((label, _), _)| *label == length.label);
            let hashes = of_length.map(|((_, name), lines)| (name.clone(), lines.digest()));
            let hashes: TaskHashes = hashes.collect();
            for dir in self.dirs(Format::LmEval, &length.label) {
                let results = lm_eval::babilong(record, &length.label, run, &hashes);
                let path = dir.join(self.began.results_file());
                outbox.add(path, &[serde_json::to_string_pretty(&results)?])?;
            }
        }
        Ok(())
    }
}
