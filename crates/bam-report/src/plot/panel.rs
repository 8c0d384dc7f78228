//! Small panels with curves over distance, and the key to their lines.

use super::axis::{Axis, Frame};
use super::svg::{Label, line, svg, text};
use crate::text::short;
use maud::{Markup, html};

const WIDTH: f64 = 205.0;

/// A panel's frame, with distances along it.
pub struct Panel {
    pub frame: Frame,
    height: f64,
    x: Axis,
    ticks: Vec<f64>,
}

impl Panel {
    /// Distances from 0 to the longest, logarithmic.
    pub fn new(height: f64, longest: f64) -> Self {
        let frame = Frame {
            left: 31.0,
            right: WIDTH - 6.0,
            top: 6.0,
            bottom: height - 22.0,
        };
        Self {
            // One more than the distance, so that a token's distance to itself has a place.
            x: Axis::logarithmic((1.0, longest + 1.0), frame.horizontal()),
            ticks: Axis::logarithmic((1.0, longest), (0.0, 1.0)).ticks(4),
            frame,
            height,
        }
    }

    pub fn at(&self, distance: f64) -> f64 {
        self.x.at(distance.max(0.0) + 1.0)
    }

    /// The panel's drawing under its caption; rows of the grid go before the axis, curves after it.
    pub fn figure(
        &self,
        label: &Label,
        caption: &Markup,
        grid: &Markup,
        curves: &Markup,
    ) -> Markup {
        let frame = &self.frame;
        let content = html! {
            (grid)
            (frame.base())
            @for tick in &self.ticks {
                (line("axis", (self.at(*tick), frame.bottom), (self.at(*tick), frame.bottom + 4.0)))
                (text("tick middle", self.at(*tick), frame.bottom + 16.0, &short(*tick)))
            }
            (frame.clip(curves))
        };
        html! {
            figure.panel {
                figcaption { (caption) }
                (svg(label, "layer", WIDTH, self.height, &content))
            }
        }
    }
}

/// A list of a kind's lines, each with its class and words for it.
pub fn key(kind: &str, lines: &[(&str, &str)]) -> Markup {
    html! {
        ul.key {
            @for (class, words) in lines {
                li {
                    svg class="swatch" viewBox="0 0 26 12" aria-hidden="true" {
                        path class=(format!("{kind} {class}")) d="M1 6H25" {}
                    }
                    " " (words)
                }
            }
        }
    }
}
