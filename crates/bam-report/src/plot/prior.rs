//! Priors of the heads of one model: log-weight over lag, a panel a layer.

use super::axis::Axis;
use super::panel::{Panel, key};
use super::svg::{Label, line, path, px};
use crate::text::{self, counted};
use bam_record::{Head, Heads};
use maud::{Markup, html};
use std::collections::BTreeMap;

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
            (key("prior", &[
                ("local", "local: near keys count more"),
                ("flat", "flat: distance hardly matters"),
                ("anti-local", "anti-local: near keys are held down"),
            ]))
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
    let css = match head.class.as_str() {
        "local" => "local",
        "flat" => "flat",
        "anti_local" => "anti-local",
        _ => "other",
    };
    (css, text::class(&head.class))
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
    let panel = Panel::new(150.0, longest);
    let frame = &panel.frame;
    let y = Axis::linear((-DECADES, 0.25), frame.vertical());
    let curve = |head: &Head| {
        let points = head.curve.iter();
        let points = points.filter(|(distance, weight)| distance.is_finite() && weight.is_finite());
        let points = points.map(|(distance, weight)| {
            (panel.at(*distance), y.at(weight / std::f64::consts::LN_10))
        });
        path(&points.collect::<Vec<_>>())
    };
    let grid = html! {
        @for decade in [0, -2, -4, -6] {
            @let at = y.at(f64::from(decade));
            (line("grid", (frame.left, at), (frame.right, at)))
            text class="tick end" x=(px(frame.left - 5.0)) y=(px(at + 4.0)) {
                @if decade == 0 { "1" } @else { "10" tspan class="power" dy="-4" { (decade.to_string().replace('-', "−")) } }
            }
        }
    };
    let curves = html! {
        @for head in heads {
            @let (class, words) = class(head);
            g.head {
                title { "layer " (layer) ", head " (head.head) ": " (words) }
                path class=(format!("prior {class}")) d=(curve(head)) {}
            }
        }
    };
    let caption = html! { "Layer " (layer) span.under { (counts.join(" · ")) } };
    panel.figure(&label, &caption, &grid, &curves)
}
