//! A study before it is done: its jobs, and the time that they will take by those that are done.

use super::definition::Study;
use super::jobs::{Job, Stage};
use bam_record::Record;
use bam_report::text::{duration, thousands};
use serde_json::Value;
use std::io::Write;
use std::process::ExitCode;

/// Jobs of one stage in one group.
struct Line<'a> {
    group: &'a str,
    stage: Stage,
    jobs: usize,
    done: usize,
    /// Of each that is done and says it.
    seconds: Vec<f64>,
}

impl Line<'_> {
    fn mean(&self) -> Option<f64> {
        let sum: f64 = self.seconds.iter().sum();
        (!self.seconds.is_empty()).then(|| sum / self.seconds.len() as f64)
    }

    fn left(&self) -> Option<f64> {
        match self.jobs - self.done {
            0 => Some(0.0),
            left => Some(left as f64 * self.mean()?),
        }
    }
}

pub fn show(study: &Study, jobs: &[Job]) -> anyhow::Result<ExitCode> {
    let mut lines: Vec<Line> = Vec::new();
    // An edit of a trained model takes no time.
    let is_edit = |job: &&Job| job.stage == Stage::Train && job.run.edit.is_some();
    for job in jobs.iter().filter(|job| !is_edit(job)) {
        let group = study.groups[job.run.group].name.as_str();
        let known = lines
            .iter()
            .position(|line| line.group == group && line.stage == job.stage);
        let place = known.unwrap_or(lines.len());
        if known.is_none() {
            lines.push(Line {
                group,
                stage: job.stage,
                jobs: 0,
                done: 0,
                seconds: Vec::new(),
            });
        }
        lines[place].jobs += 1;
        if job.is_done() {
            lines[place].done += 1;
            lines[place].seconds.extend(seconds(job)?);
        }
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n", study.title)?;
    let models: std::collections::BTreeSet<_> = jobs.iter().map(|job| &job.run.dir).collect();
    let mut tokens = 0;
    let trained = |job: &&Job| job.stage == Stage::Train && job.run.edit.is_none();
    for job in jobs.iter().filter(trained) {
        let train = &job.run.recipe.train;
        tokens += train.steps as usize * train.rows * train.length;
    }
    writeln!(
        out,
        "{} models, {} tokens of training, {} jobs\n",
        models.len(),
        thousands(tokens),
        jobs.len()
    )?;
    let width = lines
        .iter()
        .map(|line| line.group.chars().count())
        .max()
        .unwrap_or(0);
    for line in &lines {
        let left = match (line.mean(), line.left()) {
            (_, Some(0.0)) => "nothing left".to_owned(),
            (Some(mean), Some(left)) => format!("{} each, {} left", duration(mean), duration(left)),
            _ => "none done yet, so no time is known".to_owned(),
        };
        let group = format!("{:width$}", line.group);
        writeln!(
            out,
            "{group}  {:10} {:>3} of {:>3} done; {left}",
            line.stage.name(),
            line.done,
            line.jobs
        )?;
    }
    let known: f64 = lines.iter().filter_map(Line::left).sum();
    let unknown = lines.iter().filter(|line| line.left().is_none()).count();
    let more = format!("{unknown} kinds of jobs of which none is done yet");
    let left = match (known, unknown) {
        (_, 0) => format!("{} of one process", duration(known)),
        (0.0, _) => more,
        _ => format!("{} of one process, and {more}", duration(known)),
    };
    writeln!(out, "\nleft: {left}")?;
    Ok(ExitCode::SUCCESS)
}

/// The time that a job took, by its records; training that left none, as where a study goes on from records alone, does
/// not say.
fn seconds(job: &Job) -> anyhow::Result<Option<f64>> {
    let Some(name) = job.stage.record() else {
        let training = bam_lm::train::read_metrics(&job.run.dir.join("metrics.jsonl"))?;
        let train = &job.run.recipe.train;
        let tokens = (train.rows * train.length) as f64;
        let of = |rate: f64| if rate > 0.0 { tokens / rate } else { 0.0 };
        let seconds = training.iter().map(|step| of(step.tokens_per_second)).sum();
        return Ok(Some(seconds).filter(|_| !training.is_empty()));
    };
    let path = job.run.dir.join(name);
    let record: Record<Value> = bam_lm::model::checkpoint::read_json(&path, "a record")?;
    Ok(Some(record.seconds))
}
