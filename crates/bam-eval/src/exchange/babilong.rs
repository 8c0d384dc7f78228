//! BABILong's tables of answers, which its `collect_results.py` reads.

use bam_record::BabilongCell;

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
