//! The heads of one model as tables, which sort on a click where scripts run.

use super::tables::{columns, scrolled};
use crate::plot::{class, mass_ruler};
use crate::text::{number, plain, thousands};
use bam_record::{Head, Heads, Measured};
use maud::{Markup, html};

/// A row a head: parameters, class, and the distances that hold half, nine tenths and 99 % of the prior's mass.
pub fn head_table(name: &str, heads: &Heads) -> Markup {
    let mut parameters: Vec<&str> = Vec::new();
    for (name, _) in heads.heads.iter().flat_map(|head| &head.parameters) {
        if !parameters.contains(&name.as_str()) {
            parameters.push(name);
        }
    }
    let scaled = heads.heads.iter().any(|head| head.ssmax_scale.is_some());
    let families = heads
        .heads
        .windows(2)
        .any(|pair| pair[0].family != pair[1].family);
    let value = |head: &Head, wanted: &str| {
        let mut parameters = head.parameters.iter();
        parameters.find(|(name, _)| name == wanted).map(|p| p.1)
    };
    let table = html! {
        table.sortable.dense {
            thead {
                tr {
                    (head_columns())
                    @if families { th scope="col" { "family" } }
                    @for parameter in &parameters { th.number scope="col" { (plain(parameter)) } }
                    @if scaled { (columns(&["SSMax s"])) }
                    (columns(&["50 %", "90 %", "99 %"]))
                    th scope="col" data-fixed { "mass" }
                    (columns(&["entropy"]))
                }
            }
            tbody {
                @for head in &heads.heads {
                    tr {
                        (head_cells(head))
                        @if families { td { (plain(&head.family)) } }
                        @for parameter in &parameters { (number_cell(value(head, parameter))) }
                        @if scaled { (number_cell(head.ssmax_scale)) }
                        @for lag in head.mass_lags { (lag_cell(lag)) }
                        td { (mass_ruler(head, heads.row_keys)) }
                        (number_cell(Some(head.entropy)))
                    }
                }
            }
        }
    };
    html! {
        @if !heads.heads.is_empty() { (scrolled("scroll tall", &format!("Heads of {name}"), &table)) }
    }
}

/// A row a head on a text: the distances that hold its prior's and its posterior's mass, and the posterior in numbers.
pub fn text_table(heads: &Heads, measured: &Measured) -> Markup {
    let table = html! {
        table.sortable.dense {
            thead {
                tr {
                    (head_columns())
                    @for of in ["prior", "posterior"] {
                        @for mass in ["50 %", "90 %", "99 %"] {
                            th.number scope="col" { span.under { (of) } (mass) }
                        }
                    }
                    th.number scope="col" { span.under { "mean" } "distance" }
                    (columns(&["KL", "entropy"]))
                    th.number scope="col" { span.under { "ln" } "evidence" }
                }
            }
            tbody {
                @for (head, of_text) in heads.heads.iter().zip(&measured.heads) {
                    tr {
                        (head_cells(head))
                        @for lag in of_text.prior_mass_lags { (lag_cell(lag)) }
                        @for lag in of_text.posterior_mass_lags { (lag_cell(lag)) }
                        @for number in [of_text.mean_distance, of_text.divergence, of_text.entropy, of_text.ln_evidence] {
                            (number_cell(Some(number)))
                        }
                    }
                }
            }
        }
    };
    scrolled("scroll tall", "Heads on the text", &table)
}

fn head_columns() -> Markup {
    html! { (columns(&["layer", "head"])) th scope="col" { "class" } }
}

fn head_cells(head: &Head) -> Markup {
    let (css, words) = class(head);
    html! {
        td.number { (head.layer) }
        td.number { (head.head) }
        td { span class=(format!("tag {css}")) { (words) } }
    }
}

/// A number, or a stroke where there is none.
fn number_cell(value: Option<f64>) -> Markup {
    match value {
        Some(value) => html! { td.number data-value=(value) { (number(value)) } },
        None => html! { td.number { "–" } },
    }
}

/// A distance in whole tokens.
fn lag_cell(lag: f64) -> Markup {
    let words = if lag.is_finite() && (0.0..1e15).contains(&lag) {
        thousands(lag.round() as usize)
    } else {
        number(lag)
    };
    html! { td.number data-value=(lag) { (words) } }
}
