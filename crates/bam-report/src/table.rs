//! Records as tables of text: aligned for a terminal, or Markdown.

use crate::findings::{bits_per_byte, headline, longest, mean_up_to, outcomes};
use crate::runs::{Runs, document, perplexities as perplexity_records};
use crate::text::{class, decided, duration, multiple, percent, perplexity, plain, thousands};
use bam_record::{Passkey, SkippedHead};
use std::collections::BTreeMap;

/// Plain text for the terminal: the finding, retrieval by encoding and length, perplexity by encoding.
pub fn summary(runs: &Runs) -> String {
    let headline = headline(runs);
    let mut text = format!("{}\n", headline.sentence);
    for detail in headline.comparison.iter().chain(&headline.details) {
        text += &format!("{detail}\n");
    }
    for (title, table) in tables(runs) {
        text += &format!("\n{title}\n\n{}", table.text());
    }
    text
}

/// Keys that an evaluation left unread, head by head; nothing for records that don't say.
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
        header: "layer.head · unread · mass at most · class".into(),
        rows: passkey.heads.iter().map(head).collect(),
    };
    let how = &passkey.skipping;
    format!("\nKeys left unread (skipping: {how})\n\n{}", table.text())
}

/// The same as Markdown.
pub fn markdown(runs: &Runs) -> String {
    let headline = headline(runs);
    let mut text = format!("**{}**\n", escape(&headline.sentence));
    for detail in headline.comparison.iter().chain(&headline.details) {
        text += &format!("\n{}\n", escape(detail));
    }
    for (title, table) in tables(runs) {
        text += &format!("\n### {title}\n\n{}", table.markdown());
    }
    text
}

fn tables(runs: &Runs) -> impl Iterator<Item = (&'static str, Table)> {
    let perplexity =
        "Perplexity: the octave of positions up to the training length, and up to the longest";
    [
        ("Passkey retrieval", retrieval(runs)),
        (perplexity, perplexities(runs)),
    ]
    .into_iter()
    .filter(|(_, table)| !table.rows.is_empty())
}

/// A line per encoding and length, the lengths that were not run included.
fn retrieval(runs: &Runs) -> Table {
    let mut rows = Vec::new();
    for (name, run) in runs {
        let Some(record) = &run.passkey else {
            rows.push(row(name, ["–"; 6], "not run: no passkey record"));
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
            let note = match (reason, outcome.planned) {
                (Some(n), _) => format!("in part only: {}", n.reason),
                (None, Some(planned)) => decided(planned),
                (None, None) => String::new(),
            };
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
            let [right, accuracy, interval, time] = match outcome {
                None => ["–"; 4].map(String::from),
                Some(outcome) => [
                    format!(
                        "{}/{}",
                        thousands(outcome.correct),
                        thousands(outcome.samples)
                    ),
                    format!("{} %", percent(outcome.accuracy().unwrap_or(f64::NAN))),
                    format!("{} %", outcome.interval_text()),
                    duration(seconds),
                ],
            };
            rows.push(row(
                name,
                [&at.0, &at.1, &right, &accuracy, &interval, &time],
                &note,
            ));
        }
    }
    if runs.iter().all(|(_, run)| run.passkey.is_none()) {
        rows.clear();
    }
    Table {
        header: "encoding · tokens · × training · right · accuracy · 95 % · time · note".into(),
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
    let rows = perplexity_records(runs).filter_map(|(name, metrics)| {
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
        cells.push(document(runs, metrics));
        Some(cells)
    });
    Table {
        header: "encoding · training · perplexity · bits/byte · longest · perplexity · bits/byte · document".into(),
        rows: rows.collect(),
    }
}

/// Rows below a header. The first and the last column are words, the others numbers.
pub(crate) struct Table {
    /// Names of the columns, ` · ` between them.
    pub header: String,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    pub fn columns(&self) -> Vec<String> {
        self.header.split(" · ").map(String::from).collect()
    }

    pub fn text(&self) -> String {
        let header = self.columns();
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

    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let header = self.columns();
        let mut rule = vec!["--:".to_string(); header.len()];
        for words in [0, header.len() - 1] {
            rule[words] = ":--".into();
        }
        let mut text = line(header) + &line(rule);
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
