//! Findings of `bam upcycle`, as text for a terminal.

use crate::text::counted;
use bam_record::{Record, Upcycle};

/// Perplexity by position and passkeys by length, before and after.
pub fn table(record: &Record<Upcycle>) -> String {
    let of = &record.metrics;
    let mut text = format!(
        "{} → {}: {} of {} numbers learned in {} of {} of {}\n\n",
        of.before,
        record.name,
        of.learned,
        of.parameters,
        counted(of.steps as usize, "step"),
        counted(of.rows, "row"),
        counted(of.length, "token")
    );
    let row = |positions: &str,
               [before, start, after]: [&str; 3],
               [found, found_after]: [&str; 2]| {
        format!("{positions:<16} {before:>9} {start:>9} {after:>9}   {found:>9} {found_after:>9}\n")
    };
    text += &format!("{:<16} {:>29}   passkeys found\n", "", "perplexity");
    text += &row(
        "positions",
        ["before", "start", "after"],
        ["before", "after"],
    );
    for at in &of.at {
        let found = match &at.passkey {
            Some(counts) => counts.map(|(found, asked)| format!("{found}/{asked}")),
            None => ["–".into(), "–".into()],
        };
        let perplexities = [at.before, at.start, at.after].map(|nats| format!("{:.3}", nats.exp()));
        let positions = format!("{}–{}", at.from, at.length);
        text += &row(
            &positions,
            perplexities.each_ref().map(String::as_str),
            found.each_ref().map(String::as_str),
        );
    }
    text += &format!(
        "\nperplexity on {}, mean over {}; trained at {} before\n",
        of.document,
        counted(of.pieces, "piece"),
        of.train_length
    );
    text
}
