//! The page of a study.

use super::document::document;
use super::is_empty;
use super::tables::scrolled;
use crate::plot;
use crate::study::{StudyGroup, StudyModel, drawn, tables};
use crate::table::Table;
use crate::text::plain;
use maud::{Markup, html};

/// All groups of a study, with a drawing of each and its tables.
pub fn study_page(title: &str, groups: &[StudyGroup]) -> String {
    let names: Vec<String> = groups.iter().map(|group| plain(&group.name)).collect();
    let body = html! {
        header {
            p.kicker { "A study" }
            h1 { (plain(title)) }
            p.lead {
                @if any(groups, |model| model.runs.len() > 1) {
                    "Models are trained with several seeds. Accuracies and losses are means over seeds; beside each stand the "
                    "lowest and the highest seed."
                } @else {
                    "Every model is trained with one seed."
                }
                @if any(groups, has_early_ends) {
                    " Where a sequential test had decided an accuracy, no more samples were asked."
                }
            }
        }
        main { @for group in groups { (section(group)) } }
    };
    document(title, &names.join(", "), &body)
}

fn any(groups: &[StudyGroup], of: impl Fn(&StudyModel) -> bool) -> bool {
    groups.iter().flat_map(|group| &group.models).any(of)
}

/// Whether samples of a model were ended early.
fn has_early_ends(model: &StudyModel) -> bool {
    model.runs.iter().any(|run| {
        let (passkey, synthetic) = (&run.records.passkey, &run.records.synthetic);
        let mut cells = synthetic.iter().flat_map(|of| &of.metrics.cells);
        passkey
            .as_ref()
            .is_some_and(|of| !of.metrics.decided.is_empty())
            || cells.any(|cell| cell.planned.is_some())
    })
}

fn section(group: &StudyGroup) -> Markup {
    let runs = drawn(group);
    let (reach, passkey, perplexity) = (
        plot::reach(&runs),
        plot::passkey(&runs),
        plot::perplexity(&runs),
    );
    html! {
        section {
            h2 { (plain(&group.name)) }
            @for text in group.about.trim().split("\n\n") { p { (plain(text)) } }
            @if !is_empty(&reach) {
                figure {
                    (reach)
                    figcaption {
                        "The longest context with more than half of the passkeys right, by the middle one of a model's seeds, of two "
                        "the lower; the bar is strong as far as the lower end of that seed's 95\u{a0}% interval is above one half."
                    }
                }
            }
            @if runs.len() <= plot::BANDS && !is_empty(&passkey) {
                figure {
                    div.for-narrow { (plot::key(&runs)) }
                    (passkey)
                    figcaption { "Passkeys right by the same seed, with 95\u{a0}% intervals." }
                }
            }
            @if !is_empty(&perplexity) {
                figure {
                    div.for-narrow { (plot::key(&runs)) }
                    (perplexity)
                    figcaption { "Perplexity of the next token by its position in the held-out book, the same seed." }
                }
            }
            @for (title, of) in tables(group) {
                h3 { (title) }
                (scrolled("scroll", &title, &table(&of)))
            }
        }
    }
}

fn table(of: &Table) -> Markup {
    let columns = of.columns();
    html! {
        table.pinned.dense {
            thead {
                tr {
                    th scope="col" { (columns[0]) }
                    @for name in &columns[1..] { th.number scope="col" { (name) } }
                }
            }
            tbody {
                @for row in &of.rows {
                    tr {
                        th scope="row" { (plain(&row[0])) }
                        @for cell in &row[1..] { td.number { (cell) } }
                    }
                }
            }
        }
    }
}
