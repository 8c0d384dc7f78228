//! Prior and posterior of every head on a text: the mass within each distance, a panel a head.

use super::axis::Axis;
use super::panel::{Panel, key};
use super::prior::class;
use super::svg::{Label, line, path, px, text};
use crate::text::thousands;
use bam_record::{Head, Heads, Measured, MeasuredHead};
use maud::{Markup, html};

/// A panel a head, in the order of the heads.
pub fn masses(heads: &Heads, measured: &Measured) -> Markup {
    html! {
        (key("mass", &[
            ("before", "prior: where the head looks before it has read"),
            ("after", "posterior: where it looked"),
        ]))
        div.panels.layers {
            @for (head, of_text) in heads.heads.iter().zip(&measured.heads) {
                (panel(head, of_text, measured.length))
            }
        }
    }
}

fn panel(head: &Head, of_text: &MeasuredHead, length: usize) -> Markup {
    let half = |lags: [f64; 3]| thousands(lags[0].max(0.0) as usize);
    let label = Label {
        id: &format!("masses-{}-{}", head.layer, head.head),
        title: &format!("Layer {}, head {}", head.layer, head.head),
        description: &format!(
            "Mass within each distance. Half of the prior lies within {} tokens, half of the \
             posterior within {}.",
            half(of_text.prior_mass_lags),
            half(of_text.posterior_mass_lags)
        ),
    };
    let panel = Panel::new(120.0, (length.max(2) - 1) as f64);
    let frame = &panel.frame;
    let y = Axis::linear((0.0, 1.0), frame.vertical());
    let curve = |mass: fn(&(f64, f64, f64)) -> f64| {
        let points = of_text.masses.iter();
        let points = points.filter(|point| point.0.is_finite() && mass(point).is_finite());
        let points = points.map(|point| (panel.at(point.0), y.at(mass(point))));
        path(&points.collect::<Vec<_>>())
    };
    let grid = html! {
        @for (share, words) in [(0.0, "0"), (0.5, "½"), (1.0, "1")] {
            (line("grid", (frame.left, y.at(share)), (frame.right, y.at(share))))
            (text("tick end", frame.left - 5.0, y.at(share) + 4.0, words))
        }
    };
    let curves = html! {
        path class="mass before" d=(curve(|point| point.1)) {}
        path class="mass after" d=(curve(|point| point.2)) {}
    };
    let caption = html! {
        "Layer " (head.layer) ", head " (head.head) " " span.under { (class(head).1) }
    };
    panel.figure(&label, &caption, &grid, &curves)
}

/// A prior's mass on a logarithmic ruler over the row: thick to 50 %, thin to 90 %, a tick at 99 %.
pub fn mass_ruler(head: &Head, row_keys: usize) -> Markup {
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
