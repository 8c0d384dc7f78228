//! `bam eval babilong`.

use super::models::Models;
use crate::args::BabilongArgs;
use crate::{corpus, runs};
use bam_eval::babilong::{BabiTask, BabilongEvaluation, Background, Story, read_stories};
use bam_eval::greedy::GreedyGenerator;
use bam_report::scores;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

pub fn run(args: &BabilongArgs) -> anyhow::Result<ExitCode> {
    let models = Models::new(&args.models, &args.output, &args.export, runs::BABILONG)?;
    let read = |task: BabiTask| Ok((task, read_stories(&args.facts, task)?));
    let asked: BTreeSet<BabiTask> = args.tasks.iter().copied().collect();
    let tasks: Vec<(BabiTask, Vec<Story>)> =
        asked.into_iter().map(read).collect::<anyhow::Result<_>>()?;
    let background = background(args.haystack.as_deref())?;
    models.run(
        |loaded, session| {
            let train_length = loaded.model.config().train_length;
            let lengths = args.distinct_lengths().into_iter().map(|of| {
                let tokens = of.length.map(|length| length.tokens(train_length));
                (of.label.clone(), tokens)
            });
            let evaluation = BabilongEvaluation {
                generator: GreedyGenerator {
                    subject: loaded.subject(),
                    begin: args.begin,
                    skipping: args.skip,
                },
                tasks: &tasks,
                lengths: lengths.collect(),
                count: args.samples as usize,
                seed: args.seed,
                background: &background,
            };
            loaded.measure(&evaluation, args.seed, session)
        },
        scores::babilong,
    )
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
