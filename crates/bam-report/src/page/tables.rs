//! The page's tables of numbers.

use crate::Runs;
use crate::findings::{bits_per_byte, longest, mean_up_to, outcomes};
use crate::text::{
    class, counted, duration, multiple, percent, perplexity as perplexity_text, plain, thousands,
};
use bam_record::{Heads, Record};
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};

/// Encoding × length: accuracy, interval and samples.
pub fn accuracy(runs: &Runs) -> Markup {
    let passkeys = || {
        runs.iter()
            .filter_map(|(_, run)| run.passkey.as_ref())
            .map(|record| &record.metrics)
    };
    let lengths: BTreeSet<usize> = passkeys()
        .flat_map(|passkey| {
            let run = passkey.cells.iter().map(|cell| cell.length);
            run.chain(passkey.not_run.iter().map(|skipped| skipped.length))
                .collect::<Vec<_>>()
        })
        .collect();
    let trained: BTreeSet<usize> = passkeys().map(|passkey| passkey.train_length).collect();
    html! {
        p.small { "Percent right, the 95 % interval, and samples right of samples run, by context length in tokens:" }
        div.scroll tabindex="0" role="region" aria-label="Accuracy by encoding and length" {
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
        }
    }
}

/// Perplexity near the training length and at the longest positions.
pub fn perplexity(runs: &Runs) -> Markup {
    let rows: Vec<_> = runs
        .iter()
        .filter_map(|(name, run)| {
            let metrics = &run.perplexity.as_ref()?.metrics;
            Some((name, metrics, longest(metrics)?))
        })
        .collect();
    html! {
        @if !rows.is_empty() {
            p.small { "Perplexity, and bits per byte below it:" }
            div.scroll tabindex="0" role="region" aria-label="Perplexity by encoding" {
                table.pinned.wrapped {
                    thead {
                        tr {
                            th scope="col" { "encoding" }
                            th.number scope="col" { "near the training length" }
                            th.number scope="col" { "at the longest" }
                            th.number scope="col" { "up to position" }
                        }
                    }
                    tbody {
                        @for (name, metrics, end) in rows {
                            tr {
                                th scope="row" { (plain(name)) }
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
            }
        }
    }
}

/// How many heads are of which class.
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

/// Where each number comes from: one row a record.
pub fn records(runs: &Runs) -> Markup {
    let mut rows: Vec<(&str, &str, Provenance)> = Vec::new();
    for (name, run) in runs {
        rows.extend(
            run.passkey
                .as_ref()
                .map(|r| (name.as_str(), "passkey", Provenance::of(r))),
        );
        rows.extend(
            run.perplexity
                .as_ref()
                .map(|r| (name.as_str(), "perplexity", Provenance::of(r))),
        );
        rows.extend(
            run.heads
                .as_ref()
                .map(|r| (name.as_str(), "heads", Provenance::of(r))),
        );
    }
    html! {
        @if rows.is_empty() {
            p.missing { "There are no evaluation records." }
        } @else {
            h3 { "The records" }
            div.scroll tabindex="0" role="region" aria-label="Records" {
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
                                td { (plain(from.created)) }
                                td { (plain(from.commit)) }
                                td.number { (from.seed) }
                                td.number { (from.threads) }
                                td.number { (duration(from.seconds)) }
                            }
                        }
                    }
                }
            }
            (models(runs))
        }
    }
}

struct Provenance<'a> {
    created: &'a str,
    commit: &'a str,
    seed: u64,
    threads: usize,
    seconds: f64,
    model: &'a serde_json::Value,
}

impl<'a> Provenance<'a> {
    fn of<M>(record: &'a Record<M>) -> Self {
        Self {
            created: &record.created,
            commit: &record.commit,
            seed: record.seed,
            threads: record.threads,
            seconds: record.seconds,
            model: &record.model,
        }
    }
}

/// Each model's configuration, folded away.
fn models(runs: &Runs) -> Markup {
    html! {
        @for (name, run) in runs {
            @let from = run.passkey.as_ref().map(Provenance::of)
                .or(run.perplexity.as_ref().map(Provenance::of))
                .or(run.heads.as_ref().map(Provenance::of));
            @if let Some(from) = from.filter(|from| !from.model.is_null()) {
                details.config {
                    summary { "Configuration of " (plain(name)) }
                    div.scroll tabindex="0" role="region" aria-label=(format!("Configuration of {name}")) {
                        pre { code { (serde_json::to_string_pretty(from.model).unwrap_or_default()) } }
                    }
                }
            }
        }
    }
}
