//! A study before it is done: its jobs, and the time that they will take by those that are done.

use super::definition::Study;
use super::jobs::{Job, Run, Stage};
use super::page::found;
use bam_record::{Record, TrainingStep};
use bam_report::text::{duration, thousands};
use serde_json::Value;
use std::io::Write;
use std::process::ExitCode;

/// Jobs of one kind in one group.
struct Line<'a> {
    group: &'a str,
    kind: &'static str,
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

pub fn show(study: &Study, runs: &[Run], jobs: &[Job]) -> anyhow::Result<ExitCode> {
    let mut lines: Vec<Line> = Vec::new();
    for job in jobs {
        let group = study.groups[job.run.group].name.as_str();
        let known = lines
            .iter()
            .position(|line| line.group == group && line.kind == job.kind());
        let place = known.unwrap_or(lines.len());
        if known.is_none() {
            lines.push(Line {
                group,
                kind: job.kind(),
                jobs: 0,
                done: 0,
                seconds: Vec::new(),
            });
        }
        lines[place].jobs += 1;
        if job.is_done() {
            lines[place].done += 1;
            lines[place].seconds.extend(seconds(job)?);
        } else if job.is_edit() {
            lines[place].seconds.push(0.0);
        }
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n", study.title)?;
    let models: std::collections::BTreeSet<_> = jobs.iter().map(|job| &job.run.dir).collect();
    let mut tokens = 0;
    let trained = |job: &&Job| job.stage == Stage::Train && !job.is_edit();
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
            _ if line.done == line.jobs => "nothing left".to_owned(),
            (Some(mean), Some(left)) => format!("{} each, {} left", duration(mean), duration(left)),
            _ => "none done yet, so no time is known".to_owned(),
        };
        let group = format!("{:width$}", line.group);
        writeln!(
            out,
            "{group}  {:10} {:>3} of {:>3} done; {left}",
            line.kind, line.done, line.jobs
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
    for of_group in runs.chunk_by(|a, b| a.group == b.group) {
        let group = &study.groups[of_group[0].group];
        if let Some(note) = found(group, of_group).note(group) {
            writeln!(out, "\n{note}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The time that a job took, by its records; training that left none, as where a study goes on from records alone, does
/// not say.
fn seconds(job: &Job) -> anyhow::Result<Option<f64>> {
    let Some(name) = job.stage.record() else {
        let steps = bam_lm::train::read_metrics(&job.run.dir.join("metrics.jsonl"))?;
        return Ok(Some(training_seconds(&steps)).filter(|_| !steps.is_empty()));
    };
    let path = job.run.dir.join(name);
    let record: Record<Value> = bam_lm::model::checkpoint::read_json(&path, "a record")?;
    Ok(Some(record.seconds))
}

/// The time that steps took. Lines may be missing, as in a record that keeps every tenth: each speaks for the tokens
/// since the one before.
fn training_seconds(steps: &[TrainingStep]) -> f64 {
    let (mut before, mut seconds) = (0, 0.0);
    for step in steps.iter().filter(|step| step.tokens_per_second > 0.0) {
        seconds += step.tokens.saturating_sub(before) as f64 / step.tokens_per_second;
        before = step.tokens;
    }
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_takes_as_long_by_every_tenth_line() {
        let line = |step| TrainingStep {
            step,
            tokens: step * 2048,
            loss: 6.0,
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            tokens_per_second: 1024.0,
            validation_loss: None,
            validation_bits_per_byte: None,
        };
        let steps: Vec<_> = (1..=30).map(line).collect();
        let tenth: Vec<_> = steps
            .iter()
            .filter(|line| line.step % 10 == 0)
            .cloned()
            .collect();
        assert_eq!(training_seconds(&steps), 60.0);
        assert_eq!(training_seconds(&tenth), 60.0);
    }
}
