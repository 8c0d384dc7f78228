//! The page of `bam inspect heads`: every head's prior, and its posterior where a text was read.

use super::document;
use super::tables::classes;
use crate::plot::{self, class, lag_cell, number_cell};
use crate::text::{counted, plain};
use bam_record::{Head, Heads, Measured, MeasuredHead};
use maud::{Markup, html};

/// The whole page.
pub fn heads_page(encoding: &str, heads: &Heads) -> String {
    let encoding = plain(encoding);
    let title = format!("The heads of {encoding}");
    let body = html! {
        header {
            p.kicker { "bam inspect heads" }
            h1 { (title) }
            p.lead { (classes(heads)) }
        }
        main {
            section {
                h2 { "What each head believes about distance" }
                p {
                    "A head’s prior, before it has seen any content: how much a key counts at each distance, "
                    "relative to the distance that counts most. Both axes are logarithmic."
                }
                (plot::prior("prior", heads))
                p.small {
                    "The distances within which 50, 90 and 99\u{a0}% of a head’s prior lie, over a row of "
                    (counted(heads.row_keys, "key")) "; entropy in nats. The ruler is logarithmic, one end to "
                    "the other of that row."
                }
                (plot::heads(&encoding, heads))
            }
            @if let Some(measured) = &heads.measured { (on_text(heads, measured)) }
        }
    };
    document(&title, &classes(heads), &body)
}

fn on_text(heads: &Heads, measured: &Measured) -> Markup {
    html! {
        section {
            h2 { "What it makes of “" (plain(&measured.text)) "”" }
            p {
                "Content turns the prior into the posterior, which is the attention itself. Shown is the mass "
                "within each distance, before and after reading: a mean over " (counted(measured.rows, "row"))
                " in the second half of " (counted(measured.length, "token")) ". Where scalable softmax is on "
                "the prior, so it is here."
            }
            (plot::masses(heads, measured))
            p.small {
                "Distances within which 50, 90 and 99\u{a0}% lie. The divergence KL(posterior\u{a0}‖\u{a0}prior) says how "
                "much the content added to the position, the entropy how spread out the posterior is, both in nats. "
                "The evidence is the prior’s mean of the likelihood: how well the keys fit the query before it has "
                "chosen among them."
            }
            div.scroll.tall tabindex="0" role="region" aria-label="Heads on the text" {
                table.sortable.dense {
                    thead {
                        tr {
                            th.number scope="col" { "layer" }
                            th.number scope="col" { "head" }
                            th scope="col" { "class" }
                            @for of in ["prior", "posterior"] {
                                @for mass in ["50 %", "90 %", "99 %"] {
                                    th.number scope="col" { span.under { (of) } (mass) }
                                }
                            }
                            th.number scope="col" { span.under { "mean" } "distance" }
                            th.number scope="col" { "KL" }
                            th.number scope="col" { "entropy" }
                            th.number scope="col" { span.under { "ln" } "evidence" }
                        }
                    }
                    tbody {
                        @for (head, of_text) in heads.heads.iter().zip(&measured.heads) { (row(head, of_text)) }
                    }
                }
            }
        }
    }
}

fn row(head: &Head, of_text: &MeasuredHead) -> Markup {
    let (css, words) = class(head);
    html! {
        tr {
            td.number { (head.layer) }
            td.number { (head.head) }
            td { span class=(format!("tag {css}")) { (words) } }
            @for lag in of_text.prior_mass_lags { (lag_cell(lag)) }
            @for lag in of_text.posterior_mass_lags { (lag_cell(lag)) }
            (number_cell(Some(of_text.mean_distance)))
            (number_cell(Some(of_text.divergence)))
            (number_cell(Some(of_text.entropy)))
            (number_cell(Some(of_text.ln_evidence)))
        }
    }
}
