//! The heads of one model as a table.

use super::axis::Axis;
use super::prior::class;
use super::px;
use crate::text::{number, plain, thousands};
use bam_record::{Head, Heads};
use maud::{Markup, html};

/// A row a head: parameters, class, and the distances that hold half, nine tenths and 99 % of the prior's mass.
/// Columns sort on a click where scripts run; without, the table is by layer and head.
pub fn heads(name: &str, heads: &Heads) -> Markup {
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
    html! {
        @if !heads.heads.is_empty() {
            div.scroll.tall tabindex="0" role="region" aria-label=(format!("Heads of {name}")) {
                table.sortable.dense {
                    thead {
                        tr {
                            th.number scope="col" { "layer" }
                            th.number scope="col" { "head" }
                            th scope="col" { "class" }
                            @if families { th scope="col" { "family" } }
                            @for parameter in &parameters { th.number scope="col" { (plain(parameter)) } }
                            @if scaled { th.number scope="col" { "SSMax s" } }
                            th.number scope="col" { "50 %" }
                            th.number scope="col" { "90 %" }
                            th.number scope="col" { "99 %" }
                            th scope="col" data-fixed { "mass" }
                            th.number scope="col" { "entropy" }
                        }
                    }
                    tbody {
                        @for head in &heads.heads {
                            @let (css, words) = class(head);
                            tr {
                                td.number { (head.layer) }
                                td.number { (head.head) }
                                td { span class=(format!("tag {css}")) { (words) } }
                                @if families { td { (plain(&head.family)) } }
                                @for parameter in &parameters {
                                    (number_cell(head.parameters.iter().find(|(name, _)| name == parameter).map(|p| p.1)))
                                }
                                @if scaled { (number_cell(head.ssmax_scale)) }
                                @for lag in head.mass_lags {
                                    (lag_cell(lag))
                                }
                                td { (mass_ruler(head, heads.row_keys)) }
                                (number_cell(Some(head.entropy)))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A number, or a stroke where there is none.
pub fn number_cell(value: Option<f64>) -> Markup {
    match value {
        Some(value) => html! { td.number data-value=(value) { (number(value)) } },
        None => html! { td.number { "–" } },
    }
}

/// A distance in whole tokens.
pub fn lag_cell(lag: f64) -> Markup {
    let words = if lag.is_finite() && (0.0..1e15).contains(&lag) {
        thousands(lag.round() as usize)
    } else {
        number(lag)
    };
    html! { td.number data-value=(lag) { (words) } }
}

/// Where a prior's mass lies on a logarithmic ruler over the row: thick to 50 %, thin to 90 %, a tick at 99 %.
fn mass_ruler(head: &Head, row_keys: usize) -> Markup {
    let x = Axis::logarithmic((1.0, row_keys as f64 + 1.0), (1.0, 109.0));
    let [half, most, nearly_all] = head
        .mass_lags
        .map(|lag| px(x.at(lag.max(0.0) + 1.0).clamp(1.0, 109.0)));
    html! {
        svg class=(format!("ruler {}", class(head).0)) viewBox="0 0 110 14" aria-hidden="true" {
            path class="track" d="M1 7H109" {}
            path class="most" d=(format!("M1 7H{most}")) {}
            path class="half" d=(format!("M1 7H{half}")) {}
            path class="tip" d=(format!("M{nearly_all} 3V11")) {}
        }
    }
}
