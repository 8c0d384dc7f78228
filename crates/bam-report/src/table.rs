//! Records as tables of text: aligned for a terminal, or Markdown.

use super::Runs;
use super::findings::{bits_per_byte, headline, longest, mean_up_to, outcomes};
use super::text::{class, duration, multiple, percent, perplexity, plain, thousands};
use bam_record::{Passkey, SkippedHead};
use std::collections::BTreeMap;

/// Plain text for the terminal: the finding, retrieval by encoding and length, perplexity by encoding.
pub fn summary(runs: &Runs) -> String {
    let headline = headline(runs);
    let mut text = format!("{}\n", headline.sentence);
    for detail in headline.comparison.iter().chain(&headline.details) {
        text += &format!("{detail}\n");
    }
    for table in tables(runs) {
        text += &format!("\n{}\n\n{}", table.title, table.text());
    }
    text
}

/// What an evaluation left unread, head by head; nothing for records that don't say.
pub fn skipped(passkey: &Passkey) -> String {
    if passkey.heads.is_empty() {
        return String::new();
    }
    let head = |head: &SkippedHead| {
        let share = head.skipped_tiles as f64 / head.visible_tiles.max(1) as f64;
        vec![
            format!("{}.{}", head.layer, head.head),
            format!("{:.1} %", 100.0 * share),
            match head.dropped_mass {
                0.0 => "0".into(),
                mass => format!("{mass:.0e}"),
            },
            class(&head.class),
        ]
    };
    let table = Table {
        title: "Keys left unread",
        header: vec!["layer.head", "unread", "mass at most", "class"],
        rows: passkey.heads.iter().map(head).collect(),
    };
    let (title, how) = (table.title, &passkey.skipping);
    format!("\n{title} (skipping: {how})\n\n{}", table.text())
}

/// The same as Markdown.
pub fn markdown(runs: &Runs) -> String {
    let headline = headline(runs);
    let mut text = format!("**{}**\n", escape(&headline.sentence));
    for detail in headline.comparison.iter().chain(&headline.details) {
        text += &format!("\n{}\n", escape(detail));
    }
    for table in tables(runs) {
        text += &format!("\n### {}\n\n{}", table.title, table.markdown());
    }
    text
}

fn tables(runs: &Runs) -> Vec<Table> {
    [retrieval(runs), perplexities(runs)]
        .into_iter()
        .filter(|table| !table.rows.is_empty())
        .collect()
}

/// A line per encoding and length, the lengths that were not run included.
fn retrieval(runs: &Runs) -> Table {
    let mut rows = Vec::new();
    for (name, run) in runs {
        let Some(record) = &run.passkey else {
            rows.push(row(
                name,
                ["–", "–", "–", "–", "–", "–"],
                "not run: no passkey record",
            ));
            continue;
        };
        let passkey = &record.metrics;
        let mut lines = BTreeMap::new();
        for cell in &passkey.cells {
            lines.insert(cell.length, (None, String::from("not run: no samples")));
        }
        for skipped in &passkey.not_run {
            lines.insert(
                skipped.length,
                (None, format!("not run: {}", skipped.reason)),
            );
        }
        for outcome in outcomes(passkey) {
            let reason = passkey.not_run.iter().find(|n| n.length == outcome.length);
            let note = reason.map_or(String::new(), |n| format!("in part only: {}", n.reason));
            lines.insert(outcome.length, (Some(outcome), note));
        }
        for (length, (outcome, note)) in lines {
            let seconds: f64 = passkey
                .cells
                .iter()
                .filter(|cell| cell.length == length)
                .map(|cell| cell.seconds)
                .sum();
            let at = (
                thousands(length),
                format!("{} ×", multiple(length, passkey.train_length)),
            );
            rows.push(match outcome {
                Some(outcome) => row(
                    name,
                    [
                        &at.0,
                        &at.1,
                        &format!(
                            "{}/{}",
                            thousands(outcome.correct),
                            thousands(outcome.samples)
                        ),
                        &format!("{} %", percent(outcome.accuracy().unwrap_or(f64::NAN))),
                        &format!("{} %", outcome.interval_text()),
                        &duration(seconds),
                    ],
                    &note,
                ),
                None => row(name, [&at.0, &at.1, "–", "–", "–", "–"], &note),
            });
        }
    }
    if runs.iter().all(|(_, run)| run.passkey.is_none()) {
        rows.clear();
    }
    Table {
        title: "Passkey retrieval",
        header: vec![
            "encoding",
            "tokens",
            "× training",
            "right",
            "accuracy",
            "95 % Wilson",
            "time",
            "note",
        ],
        rows,
    }
}

fn row(name: &str, numbers: [&str; 6], note: &str) -> Vec<String> {
    std::iter::once(name)
        .chain(numbers)
        .chain([note])
        .map(plain)
        .collect()
}

fn perplexities(runs: &Runs) -> Table {
    let rows = runs.iter().filter_map(|(name, run)| {
        let metrics = &run.perplexity.as_ref()?.metrics;
        let end = longest(metrics)?;
        let mut cells = vec![plain(name)];
        for limit in [metrics.train_length, end] {
            let mean = mean_up_to(metrics, limit);
            cells.push(thousands(limit));
            cells.push(mean.map_or("–".to_string(), perplexity));
            cells.push(
                mean.and_then(|mean| bits_per_byte(mean, metrics.bytes_per_token))
                    .map_or("–".to_string(), |bits| format!("{bits:.3}")),
            );
        }
        cells.push(plain(&metrics.document));
        Some(cells)
    });
    Table {
        title: "Perplexity: the octave of positions up to the training length, and up to the longest",
        header: vec![
            "encoding",
            "training",
            "perplexity",
            "bits/byte",
            "longest",
            "perplexity",
            "bits/byte",
            "document",
        ],
        rows: rows.collect(),
    }
}

/// The first and the last column are words, the others numbers.
pub(super) struct Table {
    pub title: &'static str,
    pub header: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    pub fn text(&self) -> String {
        let header: Vec<String> = self.header.iter().map(ToString::to_string).collect();
        let widths: Vec<usize> = (0..header.len())
            .map(|column| {
                std::iter::once(&header)
                    .chain(&self.rows)
                    .map(|row| row[column].chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        let mut text = String::new();
        let mut previous: Option<&String> = None;
        for row in [&header, &rule].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let pad = " ".repeat(width - cell.chars().count());
                // A name is written once; the lines below it belong to it.
                let repeated = column == 0 && previous == Some(cell);
                line += &match column {
                    0 if repeated => " ".repeat(*width),
                    0 => format!("{cell}{pad}"),
                    last if last + 1 == widths.len() => format!("  {cell}"),
                    _ => format!("  {pad}{cell}"),
                };
            }
            text += line.trim_end();
            text.push('\n');
            previous = Some(&row[0]);
        }
        text
    }

    fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let last = self.header.len() - 1;
        let mut text = line(self.header.iter().map(ToString::to_string).collect());
        text += &line(
            (0..self.header.len())
                .map(|column| {
                    if column == 0 || column == last {
                        ":--"
                    } else {
                        "--:"
                    }
                })
                .map(str::to_string)
                .collect(),
        );
        for row in &self.rows {
            text += &line(row.iter().map(|cell| escape(cell)).collect());
        }
        text
    }
}

/// Characters that Markdown or the HTML inside it would take for markup.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '&' => escaped += "&amp;",
            '\\' | '|' | '*' | '_' | '`' | '[' | ']' => {
                escaped.push('\\');
                escaped.push(c);
            }
            _ => escaped.push(c),
        }
    }
    escaped
}
