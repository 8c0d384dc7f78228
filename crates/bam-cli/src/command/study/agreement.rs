//! Records that another plan left: of another recipe, other lengths or other numbers of samples than the study's file has now.

use super::definition::Group;
use super::jobs::{Job, Run, Stage};
use crate::command::prior::ends_in;
use crate::runs;
use bam_lm::model::checkpoint::{CONFIG_FILE, read_history};
use bam_lm::train::Recipe;
use bam_record::{Record, RunRecords};
use serde_json::Value;
use std::collections::BTreeMap;

/// The stages of a run whose files are not those of the plan: all of them where the model is not, which may have been made from
/// one in `others`.
///
/// # Errors
/// If the plan, the run's recipe or its history can't be read.
pub fn of_another_plan(
    group: &Group,
    run: &Run,
    records: &RunRecords,
    others: &[Job],
) -> anyhow::Result<Vec<Stage>> {
    let trained = run.recipe.train.length;
    if is_another_model(run, others)? {
        let there = |stage: &Stage| match stage.record() {
            Some(record) => run.dir.join(record).exists(),
            None => true,
        };
        return Ok(Stage::ALL.into_iter().filter(there).collect());
    }
    let mut other = of_others(run, records);
    if let Some(record) = &records.perplexity {
        let windows = &record.metrics.windows;
        let first = windows.first().map(|of| of.end - of.start);
        let length = group.reading(trained)?.flatten();
        let read = windows.last().map(|of| of.end);
        // The only one of a text that is shorter than a window is as long as the text.
        let window = group.perplexity.as_ref().map(|of| of.window);
        let window = window.min(read);
        if first != window || (length.is_some() && read != length) {
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
        let (plan, samples) = group.ruler_grid(trained)?.unwrap_or_default();
        let cells = record.metrics.cells.iter();
        let place = |task: &str, length| (task.to_owned(), length);
        let run = cells.clone().filter(|cell| cell.not_run.is_none());
        let asked = run.map(|cell| (place(&cell.task, cell.length), cell.answers.len()));
        let not_run = cells.filter(|cell| cell.not_run.is_some());
        let not_run = not_run.map(|cell| place(&cell.task, cell.length));
        let plan = plan.into_iter();
        let plan = plan.map(|(task, length)| (place(task.name(), length), samples));
        if !agree(plan, asked, [], not_run) {
            other.push(Stage::Ruler);
        }
    }
    other.sort_unstable();
    other.dedup();
    Ok(other)
}

/// Whether the model in a run's folder is not that of the plan.
fn is_another_model(run: &Run, others: &[Job]) -> anyhow::Result<bool> {
    if let Some((of, edit)) = &run.edit {
        let mut models = others.iter().filter(|job| job.stage == Stage::Train);
        let of_another = models.any(|job| job.run.dir == *of);
        let unlike = !of_another
            && run.dir.join(CONFIG_FILE).exists()
            && !ends_in(&read_history(&run.dir)?, of, edit)?;
        return Ok(of_another || unlike);
    }
    let path = run.dir.join("recipe.toml");
    if !path.exists() {
        // Of a model without its recipe nobody knows how it was trained.
        return Ok(run.was_made());
    }
    let begun = Recipe::from_toml(&runs::read_text(&path)?, &[], &path)?;
    Ok(begun.unlike(&run.recipe).is_some())
}

/// The stages whose records say another seed or encoding.
fn of_others(run: &Run, records: &RunRecords) -> Vec<Stage> {
    fn said<M>(stage: Stage, record: Option<&Record<M>>) -> Option<(Stage, u64, &Value)> {
        record.map(|of| (stage, of.seed, &of.model["position_embedding_type"]))
    }
    let all = [
        said(Stage::Heads, records.heads.as_ref()),
        said(Stage::Perplexity, records.perplexity.as_ref()),
        said(Stage::Passkey, records.passkey.as_ref()),
        said(Stage::Synthetic, records.synthetic.as_ref()),
        said(Stage::Ruler, records.ruler.as_ref()),
    ];
    let encoding = run.recipe.model.encoding.to_string();
    let other = all.into_iter().flatten().filter(|(_, seed, said)| {
        // An edit may change a model's encoding.
        *seed != run.seed || (run.edit.is_none() && **said != encoding)
    });
    other.map(|(stage, ..)| stage).collect()
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
