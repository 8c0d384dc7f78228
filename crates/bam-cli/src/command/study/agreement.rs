//! Records that another plan left: of another recipe, other lengths or other numbers of samples than the study's file has now.

use super::definition::Group;
use super::jobs::{Run, Stage};
use bam_lm::train::Recipe;
use bam_record::RunRecords;
use std::collections::BTreeMap;

/// The stages of a run whose files are not those of the plan.
///
/// # Errors
/// If the plan or the run's recipe can't be read.
pub fn of_another_plan(
    group: &Group,
    run: &Run,
    records: &RunRecords,
) -> anyhow::Result<Vec<Stage>> {
    let trained = run.recipe.train.length;
    let mut other = Vec::new();
    let recipe = run.dir.join("recipe.toml");
    if recipe.exists() {
        let text = crate::runs::read_text(&recipe)?;
        let begun = Recipe::from_toml(&text, &[], &recipe)?;
        if begun.unlike(&run.recipe).is_some() {
            other.push(Stage::Train);
        }
    }
    if let Some(record) = &records.perplexity {
        let window = group.perplexity.as_ref().map(|of| of.window);
        let first = record.metrics.windows.first();
        if first.map(|of| of.end - of.start) != window {
            other.push(Stage::Perplexity);
        }
    }
    if let Some(record) = &records.passkey {
        let plan = group.passkey_lengths(trained)?;
        let plan = plan.iter().map(|at| (at.length, at.samples));
        let of = &record.metrics;
        let asked = of.cells.iter().map(|cell| (cell.length, cell.samples));
        let decided = of.decided.iter().map(|of| (of.length, of.planned));
        let not_run = of.not_run.iter().map(|of| of.length);
        if !agree(plan, asked, decided, not_run) {
            other.push(Stage::Passkey);
        }
    }
    if let Some(record) = &records.synthetic {
        let (tasks, lengths, samples) = group.synthetic_tasks(trained)?.unwrap_or_default();
        let places = |task: String| lengths.iter().map(move |length| (task.clone(), *length));
        let plan = tasks.iter().flat_map(|task| places(task.to_string()));
        let of = &record.metrics;
        let asked = of.cells.iter().map(|cell| {
            let samples = cell.planned.unwrap_or(cell.samples);
            ((cell.task.clone(), cell.length), samples)
        });
        let not_run = of.not_run.iter().map(|of| (of.task.clone(), of.length));
        if !agree(plan.map(|at| (at, samples)), asked, [], not_run) {
            other.push(Stage::Synthetic);
        }
    }
    if let Some(record) = &records.ruler {
        let plan = group.ruler_grid(trained)?;
        let cells = record.metrics.cells.iter();
        let place = |task: &str, length| (task.to_owned(), length);
        let run = cells.clone().filter(|cell| cell.not_run.is_none());
        let asked = run.map(|cell| (place(&cell.task, cell.length), cell.answers.len()));
        let not_run = cells.filter(|cell| cell.not_run.is_some());
        let not_run = not_run.map(|cell| place(&cell.task, cell.length));
        let plan = plan.into_iter();
        let plan = plan.map(|(task, length, samples)| (place(task.name(), length), samples));
        if !agree(plan, asked, [], not_run) {
            other.push(Stage::Ruler);
        }
    }
    Ok(other)
}

/// Whether what was asked, or would have been had samples not ended early, is what is planned, but for places not run.
fn agree<P: Ord + Clone>(
    plan: impl IntoIterator<Item = (P, usize)>,
    asked: impl IntoIterator<Item = (P, usize)>,
    decided: impl IntoIterator<Item = (P, usize)>,
    not_run: impl IntoIterator<Item = P>,
) -> bool {
    let plan: BTreeMap<P, usize> = plan.into_iter().collect();
    let mut known = BTreeMap::<P, usize>::new();
    for (place, samples) in asked {
        *known.entry(place).or_default() += samples;
    }
    known.extend(decided);
    for place in not_run {
        let planned = plan.get(&place).copied().unwrap_or(0);
        known.insert(place, planned);
    }
    known == plan
}
