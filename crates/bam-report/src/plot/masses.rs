//! Prior and posterior of every head on a text: the mass within each distance, a panel a head.

use super::axis::{Axis, Frame};
use super::prior::class;
use super::{Label, line, path, px, svg, text};
use crate::text::{short, thousands};
use bam_record::{Head, Heads, Measured, MeasuredHead};
use maud::{Markup, html};

const WIDTH: f64 = 205.0;
const HEIGHT: f64 = 120.0;

/// A panel a head, in the order of the heads.
pub fn masses(heads: &Heads, measured: &Measured) -> Markup {
    html! {
        ul.key {
            @for (class, words) in [
                ("before", "prior: where the head looks before it has read"),
                ("after", "posterior: where it looked"),
            ] {
                li {
                    svg class="swatch" viewBox="0 0 26 12" aria-hidden="true" {
                        path class=(format!("mass {class}")) d="M1 6H25" {}
                    }
                    " " (words)
                }
            }
        }
        div.panels.layers {
            @for (head, of_text) in heads.heads.iter().zip(&measured.heads) {
                (panel(head, of_text, measured.length))
            }
        }
    }
}

fn panel(head: &Head, of_text: &MeasuredHead, length: usize) -> Markup {
    let (_, class) = class(head);
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
    let frame = Frame {
        left: 31.0,
        right: WIDTH - 6.0,
        top: 6.0,
        bottom: HEIGHT - 22.0,
    };
    let longest = (length.max(2) - 1) as f64;
    // One more than the distance, so that a token's distance to itself has a place.
    let x = Axis::logarithmic((1.0, longest + 1.0), frame.horizontal());
    let y = Axis::linear((0.0, 1.0), frame.vertical());
    let curve = |mass: fn(&(f64, f64, f64)) -> f64| {
        let points = of_text.masses.iter();
        let points = points.filter(|point| point.0.is_finite() && mass(point).is_finite());
        let points: Vec<(f64, f64)> = points
            .map(|point| (x.at(point.0.max(0.0) + 1.0), y.at(mass(point))))
            .collect();
        path(&points)
    };
    let ticks: Vec<f64> = Axis::logarithmic((1.0, longest), (0.0, 1.0)).ticks(4);
    let content = html! {
        @for (share, words) in [(0.0, "0"), (0.5, "½"), (1.0, "1")] {
            (line("grid", (frame.left, y.at(share)), (frame.right, y.at(share))))
            (text("tick end", frame.left - 5.0, y.at(share) + 4.0, words))
        }
        (frame.base())
        @for tick in &ticks {
            @let at = x.at(tick + 1.0);
            (line("axis", (at, frame.bottom), (at, frame.bottom + 4.0)))
            text class="tick middle" x=(px(at)) y=(px(frame.bottom + 16.0)) { (short(*tick)) }
        }
        (frame.clip(&html! {
            path class="mass before" d=(curve(|point| point.1)) {}
            path class="mass after" d=(curve(|point| point.2)) {}
        }))
    };
    html! {
        figure.panel {
            figcaption { "Layer " (head.layer) ", head " (head.head) " " span.under { (class) } }
            (svg(&label, "layer", WIDTH, HEIGHT, &content))
        }
    }
}
