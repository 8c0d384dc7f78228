//! The page's tables of numbers.

use crate::findings::{bits_per_byte, longest, mean_up_to, outcomes};
use crate::runs::{self, Runs, passkeys};
use crate::text::{
    class, counted, duration, multiple, percent, perplexity as perplexity_text, plain, thousands,
};
use bam_record::{Heads, Passkey, Record};
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};

/// A table or a listing that scrolls by itself where it is wider or taller than the page; the label is for those who
/// hear it.
pub fn scrolled(class: &str, label: &str, content: &Markup) -> Markup {
    html! { div class=(class) tabindex="0" role="region" aria-label=(label) { (content) } }
}

/// Headers of columns of numbers.
pub fn columns(names: &[&str]) -> Markup {
    html! { @for name in names { th.number scope="col" { (name) } } }
}

/// Encoding × length: accuracy, interval and samples.
pub fn accuracy(runs: &Runs) -> Markup {
    let of_record = |passkey: &Passkey| {
        let run = passkey.cells.iter().map(|cell| cell.length);
        run.chain(passkey.not_run.iter().map(|skipped| skipped.length))
            .collect::<Vec<_>>()
    };
    let lengths: BTreeSet<usize> = passkeys(runs)
        .flat_map(|(_, passkey)| of_record(passkey))
        .collect();
    let trained: BTreeSet<usize> = passkeys(runs)
        .map(|(_, passkey)| passkey.train_length)
        .collect();
    html! {
        p.small { "Percent right, the 95 % interval, and samples right of samples run, by context length in tokens:" }
        (scrolled("scroll", "Accuracy by encoding and length", &html! {
            table.pinned.dense {
                thead {
                    tr {
                        th scope="col" { "encoding" }
                        @for length in &lengths {
                            th.number scope="col" {
                                (thousands(*length))
                                @if let [train_length] = trained.iter().copied().collect::<Vec<_>>().as_slice() {
                                    span.under { (multiple(*length, *train_length)) " ×" }
                                }
                            }
                        }
                    }
                }
                tbody {
                    @for (name, run) in runs {
                        tr {
                            th scope="row" { (plain(name)) }
                            @if let Some(record) = &run.passkey {
                                @let outcomes: BTreeMap<usize, _> =
                                    outcomes(&record.metrics).into_iter().map(|o| (o.length, o)).collect();
                                @for length in &lengths {
                                    @if let Some(outcome) = outcomes.get(length) {
                                        td.number {
                                            (percent(outcome.accuracy().unwrap_or(f64::NAN)))
                                            span.under { (outcome.interval_text()) }
                                            span.under { (thousands(outcome.correct)) "/" (thousands(outcome.samples)) }
                                        }
                                    } @else {
                                        @let reason = record.metrics.not_run.iter().find(|skipped| skipped.length == *length)
                                            .map_or("no samples at this length".to_string(), |skipped| plain(&skipped.reason));
                                        td.number.unrun title=(reason) { "–" span.under { "not run" } }
                                    }
                                }
                            } @else {
                                td.unrun colspan=(lengths.len().max(1)) { "– not run: no passkey record" }
                            }
                        }
                    }
                }
            }
        }))
    }
}

/// Perplexity near the training length and at the longest positions.
pub fn perplexity(runs: &Runs) -> Markup {
    let rows = runs::perplexities(runs);
    let rows: Vec<_> = rows
        .filter_map(|(name, of)| Some((name, of, longest(of)?)))
        .collect();
    let several = runs::documents(runs).len() > 1;
    html! {
        @if !rows.is_empty() {
            p.small { "Perplexity, and bits per byte below it:" }
            (scrolled("scroll", "Perplexity by encoding", &html! {
                table.pinned.wrapped {
                    thead {
                        tr {
                            th scope="col" { "encoding" }
                            (columns(&["near the training length", "at the longest", "up to position"]))
                        }
                    }
                    tbody {
                        @for (name, metrics, end) in rows {
                            tr {
                                th scope="row" {
                                    (plain(name))
                                    @if several { span.under { (runs::document(runs, metrics)) } }
                                }
                                @for limit in [metrics.train_length, end] {
                                    @let mean = mean_up_to(metrics, limit);
                                    td.number {
                                        (mean.map_or("–".to_string(), perplexity_text))
                                        @if let Some(bits) = mean.and_then(|mean| bits_per_byte(mean, metrics.bytes_per_token)) {
                                            span.under { (format!("{bits:.3}")) }
                                        }
                                    }
                                }
                                td.number { (thousands(end)) }
                            }
                        }
                    }
                }
            }))
        }
    }
}

/// Counts of heads by class.
pub fn classes(heads: &Heads) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    for head in &heads.heads {
        *counts.entry(&head.class).or_default() += 1;
    }
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(name, count)| format!("{count} {}", class(name)))
        .collect();
    let all = counted(heads.heads.len(), "head");
    format!("{all}: {}", counts.join(" · "))
}

/// The origin of each number: one row a record.
pub fn records(runs: &Runs) -> Markup {
    let rows = runs.iter().flat_map(|(name, run)| {
        let records = run.evaluations().into_iter();
        records.map(move |(kind, from)| (name, kind, from))
    });
    let rows: Vec<(&String, &str, Record<()>)> = rows.collect();
    html! {
        @if rows.is_empty() {
            p.missing { "There are no evaluation records." }
        } @else {
            h3 { "The records" }
            (scrolled("scroll", "Records", &html! {
                table.pinned {
                    thead {
                        tr {
                            @for column in ["encoding", "record", "made", "software", "seed", "threads", "time"] {
                                th scope="col" { (column) }
                            }
                        }
                    }
                    tbody {
                        @for (name, kind, from) in &rows {
                            tr {
                                th scope="row" { (plain(name)) }
                                td { (kind) }
                                td { (plain(&from.created)) }
                                td { (plain(&from.commit)) }
                                td.number { (from.seed) }
                                td.number { (from.threads) }
                                td.number { (duration(from.seconds)) }
                            }
                        }
                    }
                }
            }))
            (models(runs))
        }
    }
}

/// Each model's configuration, folded away.
fn models(runs: &Runs) -> Markup {
    html! {
        @for (name, run) in runs {
            @if let Some((_, from)) = run.evaluations().first().filter(|(_, from)| !from.model.is_null()) {
                details.config {
                    summary { "Configuration of " (plain(name)) }
                    (scrolled("scroll", &format!("Configuration of {name}"), &html! { pre { code { (serde_json::to_string_pretty(&from.model).unwrap_or_default()) } } }))
                }
            }
        }
    }
}
