//! Page and tables, from the records that are there.

use super::agreement::of_another_plan;
use super::definition::{Group, Study};
use super::jobs::{Job, Run};
use crate::console;
use crate::error_text::text_of;
use crate::runs;
use anyhow::ensure;
use bam_data::Tokenizer;
use bam_data::atomic_file::write_atomically;
use bam_lm::device::cpu;
use bam_lm::train::Recipe;
use bam_record::RunRecords;
use bam_report::study::{StudyGroup, StudyModel, StudyRun};
use std::path::Path;

/// The records of a group.
#[derive(Default)]
pub struct Found<'a> {
    /// Of each run that was begun and whose records can be read.
    records: Vec<(&'a Run, RunRecords)>,
    /// Those of another plan than the study's file has now.
    others: Vec<Job<'a>>,
    /// Runs with what can't be read of them.
    unread: Vec<(&'a Run, String)>,
}

/// Reads the records of a group's runs.
pub fn found<'a>(group: &Group, runs: &'a [Run]) -> Found<'a> {
    let mut found = Found::default();
    for run in runs.iter().filter(|run| run.dir.is_dir()) {
        let read = runs::read_records(&run.dir).and_then(|records| {
            let others = of_another_plan(group, run, &records, &found.others)?;
            Ok((others, records))
        });
        match read {
            Ok((others, mut records)) => {
                let others = others.into_iter().map(|stage| Job { run, stage });
                found.others.extend(others);
                if !run.was_made() {
                    // Half a training says nothing yet.
                    records.training.clear();
                }
                found.records.push((run, records));
            }
            Err(error) => found.unread.push((run, text_of(&error))),
        }
    }
    found
}

impl Found<'_> {
    /// A sentence on records of another plan, where there are any.
    fn of_another_plan(&self) -> Option<String> {
        let titles: Vec<String> = self.others.iter().map(Job::title).collect();
        let said = "Of another plan than the study's file has now";
        (!titles.is_empty()).then(|| format!("{said}: {}.", titles.join("; ")))
    }

    /// For the terminal: which records are of another plan, and what can be done.
    pub fn note(&self, group: &Group) -> Option<String> {
        let others = self.of_another_plan()?;
        let name = &group.name;
        Some(format!(
            "{name}: {others} Without its file a record is made anew, without its folder a model."
        ))
    }
}

/// Writes page and tables.
///
/// # Errors
/// If they can't be written; after they are, if there is a record that can't be read.
pub fn write(study: &Study, runs: &[Run], out: &Path) -> anyhow::Result<()> {
    let mut groups = Vec::new();
    let mut unread = Vec::new();
    let vocabulary = Tokenizer::from_file(&out.join("tokenizer.json"))?.vocabulary_size();
    for of_group in runs.chunk_by(|a, b| a.group == b.group) {
        let group = &study.groups[of_group[0].group];
        let found = found(group, of_group);
        if found.records.is_empty() && found.unread.is_empty() {
            continue;
        }
        if let Some(note) = found.note(group) {
            console::note(&note);
        }
        let mut about = vec![group.about.trim().to_owned()];
        about.extend(found.of_another_plan());
        let broken = found.unread.iter().map(|(run, _)| run);
        let broken: Vec<_> = broken
            .map(|run| format!("{}, seed {}", run.name, run.seed))
            .collect();
        if !broken.is_empty() {
            let broken = broken.join("; ");
            about.push(format!("Left out, for want of readable records: {broken}."));
        }
        unread.extend(found.unread.into_iter().map(|(_, error)| error));
        let mut models: Vec<StudyModel> = Vec::new();
        for run in of_group.iter().filter(|run| run.dir.is_dir()) {
            if !models.iter().any(|model| model.name == run.name) {
                models.push(StudyModel {
                    name: run.name.clone(),
                    added: parameters_added(&run.recipe, vocabulary)?,
                    runs: Vec::new(),
                });
            }
        }
        for (run, records) in found.records {
            let mut models = models.iter_mut();
            if let Some(model) = models.find(|model| model.name == run.name) {
                let seed = run.seed;
                model.runs.push(StudyRun { seed, records });
            }
        }
        groups.push(StudyGroup {
            name: group.name.clone(),
            about: about.join("\n\n"),
            models,
        });
    }
    let title = &study.title;
    let markdown = bam_report::study::markdown(title, &groups);
    write_atomically(&out.join("study.md"), markdown.as_bytes())?;
    let html = bam_report::page::study_page(title, &groups);
    write_atomically(&out.join("study.html"), html.as_bytes())?;
    ensure!(
        unread.is_empty(),
        "the page was made without what could not be read; a record is made anew where its file is removed, training and \
         recipe where the folder is:\n{}",
        unread.join("\n")
    );
    Ok(())
}

/// Parameters that can learn in a model beyond those of one without any position.
fn parameters_added(recipe: &Recipe, vocabulary: usize) -> anyhow::Result<usize> {
    let of = |recipe: &Recipe| {
        let parameters = recipe.model_config(vocabulary)?.init(&cpu()).parameters();
        let learned = parameters.iter().filter(|of| of.trainable);
        let counts = learned.map(|of| of.stored_shape.iter().product::<usize>());
        anyhow::Ok(counts.sum::<usize>())
    };
    let mut without = recipe.clone();
    without.model.encoding = "nope".parse()?;
    Ok(of(recipe)?.saturating_sub(of(&without)?))
}
