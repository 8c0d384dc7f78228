//! RULER's predictions, and the `summary.csv` that its `evaluate.py` makes of them.

use super::export::{Export, Exports, Format, Written};
use super::lm_eval;
use crate::ruler::{RulerEvaluation, SampleSet};
use bam_record::{Record, Ruler, RulerCell};
use serde_json::json;
use std::borrow::Cow;
use std::path::PathBuf;

impl Export for RulerEvaluation<'_> {
    fn export_cell(
        &self,
        set: &Cow<SampleSet>,
        cell: &RulerCell,
        exports: &mut Exports,
    ) -> Written {
        if cell.answers.is_empty() {
            return Ok(());
        }
        let place = format!("{}/{}/validation.jsonl", set.length, set.task);
        for path in exports
            .dirs(Format::RulerSamples)
            .map(|dir| dir.join(&place))
        {
            // Another model's with the same tokenizer are the same.
            if !exports.files.has(&path) {
                let samples = set.samples.iter();
                let lines = samples.map(|sample| sample.to_json(set.length).to_string());
                exports.files.add(path, lines)?;
            }
        }
        for dir in pred_folders(exports, set.length) {
            let path = dir.join(format!("{}.jsonl", set.task));
            exports.files.add(path, predictions(cell, set))?;
        }
        exports.lm_eval_samples("", set.task.lm_eval_name(), |lines| lines.ruler(cell, set))
    }

    fn export_record(&self, record: &Record<Ruler>, exports: &mut Exports) -> Written {
        exports.lm_eval_results("", |run, hashes| lm_eval::ruler(record, run, hashes))?;
        for mut cells in record.metrics.by_length() {
            cells.retain(|cell| cell.score.is_some());
            let Some(first) = cells.first() else {
                continue;
            };
            for dir in pred_folders(exports, first.length) {
                let path = dir.join(summary_name(&cells));
                exports.files.add(path, [summary(&cells)])?;
            }
        }
        Ok(())
    }
}

/// The folder that RULER's own runner has for a length.
fn pred_folders(exports: &Exports, length: usize) -> Vec<PathBuf> {
    let dirs = exports.of_model(Format::Ruler, "").into_iter();
    dirs.map(|dir| dir.join(format!("synthetic/{length}/pred")))
        .collect()
}

/// The lines of `pred/<task>.jsonl`.
pub fn predictions(cell: &RulerCell, set: &SampleSet) -> Vec<String> {
    let answered = cell.answers.iter().zip(&set.samples);
    let lines = answered.map(|(answer, sample)| {
        let line = json!({
            "index": sample.index,
            "pred": answer.answer,
            "input": sample.prompt(),
            "outputs": sample.outputs,
            "others": {},
            "truncation": -1,
            "length": sample.length,
        });
        line.to_string()
    });
    lines.collect()
}

/// The name of the table of some tasks: one alone has its own.
pub fn summary_name(cells: &[&RulerCell]) -> String {
    match cells {
        [only] => format!("summary-{}.csv", only.task),
        _ => "summary.csv".into(),
    }
}

/// The table of one length: a column a task, scores in percent to two decimals, answers that say nothing
/// of all answers. The first line numbers the columns, as pandas does.
pub fn summary(cells: &[&RulerCell]) -> String {
    let line = |name: &str, of: &dyn Fn(&RulerCell) -> String| {
        let values = cells.iter().map(|cell| of(cell));
        let values: Vec<String> = std::iter::once(name.to_owned()).chain(values).collect();
        values.join(",") + "\n"
    };
    let columns: Vec<String> = (0..=cells.len()).map(|column| column.to_string()).collect();
    let mut text = columns.join(",") + "\n";
    text += &line("Tasks", &|cell| cell.task.clone());
    text += &line("Score", &|cell| {
        percent(cell.score.map_or(0.0, |(mean, _)| mean))
    });
    text += &line("Nulls", &|cell| {
        format!("{}/{}", cell.nulls, cell.answers.len())
    });
    text
}

/// As Python prints `round(100 * share, 2)`.
fn percent(share: f64) -> String {
    let rounded: f64 = format!("{:.2}", 100.0 * share).parse().unwrap_or(f64::NAN);
    format!("{rounded:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_pythons() {
        let written = [0.0, 1.0, 0.5, 1.0 / 3.0, 0.856, 0.07, 0.00001].map(percent);
        assert_eq!(
            written,
            ["0.0", "100.0", "50.0", "33.33", "85.6", "7.0", "0.0"]
        );
    }
}
