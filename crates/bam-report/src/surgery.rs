//! Edits, differences and histories of priors, as text for a terminal.

use crate::inspection::described;
use crate::table::Table;
use crate::text::{counted, fixed, plain, thousands};
use bam_prior::PositionalPrior;
use bam_record::history::{Event, HeadChange, HeadPrior, History};
use bam_record::{Difference, Head, HeadDifference};

/// The heads that an edit changed.
pub fn edit(encoding: &str, heads: &[HeadChange]) -> String {
    if heads.is_empty() {
        return format!("{encoding} · no head changed\n");
    }
    let row = |change: &HeadChange| {
        let layer = change.layer.map_or("all".into(), |layer| layer.to_string());
        vec![
            format!("{layer}.{}", change.head),
            prior(&change.before),
            prior(&change.after),
        ]
    };
    let table = Table {
        header: "layer.head · before · after".into(),
        rows: heads.iter().map(row).collect(),
    };
    format!("{encoding} · heads that changed\n\n{}\n", table.text())
}

fn prior(of: &HeadPrior) -> String {
    let parameters = of.prior.parameters();
    let named = parameters
        .iter()
        .filter(|parameter| parameter.name != "epsilon")
        .map(|parameter| format!("{} {}", plain(&parameter.name), fixed(parameter.value, 5)));
    described_with(plain(&of.encoding), named.collect())
}

const MOST: usize = 4;

fn described_with(name: String, parameters: Vec<String>) -> String {
    let more = match parameters.len() > MOST {
        true => format!("  … {} in all", parameters.len()),
        false => String::new(),
    };
    let some: Vec<String> = parameters.into_iter().take(MOST).collect();
    format!("{name}  {}{more}", some.join("  "))
}

/// Heads and tensors that are not the same in two models.
pub fn difference(found: &Difference) -> String {
    let [before, after] = &found.encodings;
    let keys = counted(found.row_keys, "key");
    let encodings = match before == after {
        true => before.clone(),
        false => format!("{before} → {after}"),
    };
    let mut text = format!("{encodings} · prior mass over a causal row of {keys}\n");
    let rows = found
        .heads
        .iter()
        .flat_map(|HeadDifference { before, after }| {
            let name = format!("{}.{}", before.layer, before.head);
            [row(name, before), row("→".into(), after)]
        });
    let rows: Vec<Vec<String>> = rows.collect();
    text += &match rows.is_empty() {
        true => "every head is the same\n".to_owned(),
        false => {
            let header = "layer.head · 50 % · 90 % · 99 % · class and parameters";
            format!(
                "\n{}\n",
                Table {
                    header: header.into(),
                    rows
                }
                .text()
            )
        }
    };
    let (differ, all) = (found.tensors.len(), found.other_tensors);
    text += &match differ {
        0 => format!("all {all} other tensors are the same\n"),
        _ => format!("{differ} of {all} other tensors differ\n"),
    };
    for tensor in &found.tensors {
        let by = match tensor.largest {
            Some(largest) => format!("by up to {largest:.3e}"),
            None => "in shape, or only one model has it".into(),
        };
        text += &format!("  {} {by}\n", plain(&tensor.name));
    }
    text
}

fn row(name: String, head: &Head) -> Vec<String> {
    let lags = head.mass_lags.map(|lag| thousands(lag.max(0.0) as usize));
    let mut row = vec![name];
    row.extend(lags);
    row.push(described(head));
    row
}

/// A line an event.
pub fn history(history: &History) -> String {
    let line = |event: &Event| {
        let arguments = event.arguments.iter();
        let arguments = arguments.map(|(name, value)| match value.as_str() {
            "" => format!(" --{}", plain(name)),
            value => format!(" --{} {}", plain(name), plain(value)),
        });
        let from = event.from.iter().map(|sum| {
            let start: String = plain(sum).chars().take(12).collect();
            format!(" · from {start}…")
        });
        let heads = match event.heads.len() {
            0 => String::new(),
            heads => format!(" · {}", counted(heads, "head")),
        };
        format!(
            "  {} {}{}{}{heads}\n",
            plain(&event.date),
            plain(&event.what),
            arguments.collect::<String>(),
            from.collect::<String>()
        )
    };
    history.events.iter().map(line).collect()
}
