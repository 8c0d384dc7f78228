//! What the heads of one model believe about distance: log-weight over lag, a panel a layer.

use super::axis::{Axis, Frame};
use super::{Label, line, path, svg, text};
use crate::text::{counted, short};
use bam_record::{Head, Heads};
use maud::{Markup, html};
use std::collections::BTreeMap;

const WIDTH: f64 = 205.0;
const HEIGHT: f64 = 150.0;
/// Decades of weight shown; less than a millionth of the largest is out of the frame.
const DECADES: f64 = 6.0;

/// Prior curves of one model; `id` must be unique in the page. Empty without curves.
pub fn prior(id: &str, heads: &Heads) -> Markup {
    let mut layers = BTreeMap::<usize, Vec<&Head>>::new();
    for head in heads.heads.iter().filter(|head| !head.curve.is_empty()) {
        layers.entry(head.layer).or_default().push(head);
    }
    let longest = heads
        .heads
        .iter()
        .flat_map(|head| &head.curve)
        .map(|(distance, _)| *distance)
        .filter(|distance| distance.is_finite())
        .fold(heads.row_keys as f64, f64::max)
        .max(1.0);
    html! {
        @if !layers.is_empty() {
            (classes())
            div.panels.layers {
                @for (layer, heads) in layers {
                    (panel(&format!("{id}-{layer}"), layer, &heads, longest))
                }
            }
        }
    }
}

/// The class as CSS and as words; unknown classes are shown as they are, in grey.
pub fn class(head: &Head) -> (&'static str, String) {
    match head.class.as_str() {
        "local" => ("local", "local".to_string()),
        "flat" => ("flat", "flat".to_string()),
        "anti_local" => ("anti-local", "anti-local".to_string()),
        other => ("other", crate::text::plain(other)),
    }
}

fn classes() -> Markup {
    html! {
        ul.key {
            @for (class, words) in [
                ("local", "local: near keys count more"),
                ("flat", "flat: distance hardly matters"),
                ("anti-local", "anti-local: near keys are held down"),
            ] {
                li {
                    svg class="swatch" viewBox="0 0 26 12" aria-hidden="true" {
                        path class=(format!("prior {class}")) d="M1 6H25" {}
                    }
                    " " (words)
                }
            }
        }
    }
}

fn panel(id: &str, layer: usize, heads: &[&Head], longest: f64) -> Markup {
    let mut counts = BTreeMap::<String, usize>::new();
    for head in heads {
        *counts.entry(class(head).1).or_default() += 1;
    }
    let counts: Vec<String> = ["local", "flat", "anti-local"]
        .iter()
        .filter_map(|name| counts.remove_entry(*name))
        .collect::<Vec<_>>()
        .into_iter()
        .chain(counts.clone())
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    let label = Label {
        id,
        title: &format!("Priors of layer {layer}"),
        description: &format!(
            "Log-weight over distance for {}: {}.",
            counted(heads.len(), "head"),
            counts.join(", ")
        ),
    };
    let frame = Frame {
        left: 31.0,
        right: WIDTH - 6.0,
        top: 6.0,
        bottom: HEIGHT - 22.0,
    };
    // One more than the distance, so that a token's distance to itself has a place.
    let x = Axis::logarithmic((1.0, longest + 1.0), frame.horizontal());
    let y = Axis::linear((-DECADES, 0.25), frame.vertical());
    let place = |(distance, weight): &(f64, f64)| {
        (
            x.at(distance.max(0.0) + 1.0),
            y.at(weight / std::f64::consts::LN_10),
        )
    };
    let ticks: Vec<f64> = Axis::logarithmic((1.0, longest), (0.0, 1.0)).ticks(4);
    let content = html! {
        @for decade in [0, -2, -4, -6] {
            (line("grid", (frame.left, y.at(f64::from(decade))), (frame.right, y.at(f64::from(decade)))))
            text class="tick end" x=(super::px(frame.left - 5.0)) y=(super::px(y.at(f64::from(decade)) + 4.0)) {
                @if decade == 0 { "1" } @else { "10" tspan class="power" dy="-4" { (decade.to_string().replace('-', "−")) } }
            }
        }
        (frame.base())
        @for tick in &ticks {
            (line("axis", (x.at(tick + 1.0), frame.bottom), (x.at(tick + 1.0), frame.bottom + 4.0)))
            (text("tick middle", x.at(tick + 1.0), frame.bottom + 16.0, &short(*tick)))
        }
        (frame.clip(&html! {
            @for head in heads {
                @let points: Vec<(f64, f64)> = head.curve.iter()
                    .filter(|(distance, weight)| distance.is_finite() && weight.is_finite())
                    .map(place)
                    .collect();
                @let (class, words) = class(head);
                g.head {
                    title { "layer " (layer) ", head " (head.head) ": " (words) }
                    path class=(format!("prior {class}")) d=(path(&points)) {}
                }
            }
        }))
    };
    html! {
        figure.panel {
            figcaption { "Layer " (layer) span.under { (counts.join(" · ")) } }
            (svg(&label, "layer", WIDTH, HEIGHT, &content))
        }
    }
}
