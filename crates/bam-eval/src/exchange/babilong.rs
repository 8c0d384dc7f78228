//! BABILong's tables of answers, which its `collect_results.py` reads.

use super::export::{Export, Exports, Format, Written};
use super::lm_eval;
use super::run::folder_name;
use crate::babilong::{BabilongEvaluation, PromptSet};
use bam_record::{Babilong, BabilongCell, Record};

/// lm-eval takes one length at a time, so each has a folder.
impl Export for BabilongEvaluation<'_> {
    fn export_cell(&self, set: &PromptSet, cell: &BabilongCell, exports: &mut Exports) -> Written {
        if cell.answers.is_empty() {
            return Ok(());
        }
        for dir in exports.of_model(Format::Babilong, "") {
            exports
                .files
                .add(dir.join(table_name(cell)), [table(cell)])?;
        }
        let task = format!("babilong_{}", cell.task);
        exports.lm_eval_samples(&folder_name(&cell.label), &task, |lines| {
            lines.babilong(&cell.answers, &set.prompts)
        })
    }

    fn export_record(&self, record: &Record<Babilong>, exports: &mut Exports) -> Written {
        for (label, _) in &self.lengths {
            exports.lm_eval_results(&folder_name(label), |run, hashes| {
                lm_eval::babilong(record, label, run, hashes)
            })?;
        }
        Ok(())
    }
}

/// The table's name: what was in the prompt is part of it.
pub fn table_name(cell: &BabilongCell) -> String {
    format!(
        "{}_{}_instruction_yes_examples_yes_post_prompt_yes_chat_template_no_system_prompt_no.csv",
        cell.task, cell.label
    )
}

/// Target, answer and question of every row, after its number.
pub fn table(cell: &BabilongCell) -> String {
    let mut text = String::from(",target,output,question\n");
    for (index, row) in cell.answers.iter().enumerate() {
        let [target, answer, question] =
            [&row.target, &row.answer, &row.question].map(|text| field(text));
        text += &format!("{index},{target},{answer},{question}\n");
    }
    text
}

/// A field, in quotes where it has to be.
fn field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}
