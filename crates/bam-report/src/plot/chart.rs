//! Charts of lines, one an encoding: the frame, and what stands around it.

use super::axis::{Axis, Frame, spread, thin};
use super::series::Series;
use super::svg::{Canvas, line, text, text_width};
use maud::{Markup, html};

/// A frame with room for names at its right on a wide canvas.
pub struct Chart {
    canvas: Canvas,
    height: f64,
    pub frame: Frame,
}

/// Sizes of a chart. Pairs are for a wide canvas and for a narrow one.
pub struct Size {
    pub height: (f64, f64),
    pub left: f64,
    pub top: f64,
    pub bottom: f64,
    /// The most that names take, and the margin where there are none.
    pub right: (f64, f64),
}

/// Between two names.
const GAP: f64 = 15.5;

impl Chart {
    /// A chart as high as its size says, or as its names need beside it.
    pub fn new<'a>(canvas: Canvas, size: &Size, names: impl Iterator<Item = &'a str>) -> Self {
        let widths: Vec<f64> = names.map(|name| text_width(name) + 52.0).collect();
        let widest = widths.iter().copied().fold(60.0, f64::max);
        let beside = size.top + widths.len() as f64 * GAP + size.bottom;
        let height = canvas.either(size.height.0.max(beside), size.height.1);
        let frame = Frame {
            left: size.left,
            right: canvas.width() - canvas.either(widest.min(size.right.0), size.right.1),
            top: size.top,
            bottom: height - size.bottom,
        };
        Self {
            canvas,
            height,
            frame,
        }
    }

    /// About so many ticks, as far as their words fit side by side.
    pub fn ticks(&self, x: &Axis, count: (usize, usize), words: impl Fn(f64) -> String) -> Markup {
        let ticks = x.ticks(self.canvas.either(count.0, count.1));
        let labels: Vec<(f64, String)> = ticks.iter().map(|t| (x.at(*t), words(*t))).collect();
        let widths: Vec<(f64, f64)> = labels.iter().map(|(at, l)| (*at, text_width(l))).collect();
        html! {
            @for (at, label) in thin(&widths, 6.0).into_iter().map(|index| &labels[index]) {
                (self.frame.column(*at, label))
            }
        }
    }

    /// The axis, and words below its ticks.
    pub fn foot(&self, words: &str) -> Markup {
        let middle = (self.frame.left + self.frame.right) / 2.0;
        html! {
            (text("tick middle", middle, self.height - 6.0, words))
            (self.frame.base())
        }
    }

    /// The height and the chart, with names at the ends of lines, moved apart, each with a thin leader. No names on a
    /// narrow canvas, where the key speaks.
    pub fn finish(&self, content: &Markup, ends: &[(&Series, (f64, f64), &str)]) -> (f64, Markup) {
        let frame = &self.frame;
        let shown = self.canvas.is_wide();
        let wishes: Vec<f64> = ends.iter().map(|(_, (_, y), _)| *y).collect();
        let places = spread(&wishes, GAP, (frame.top, frame.bottom));
        let start = frame.right + 26.0;
        let content = html! {
            (content)
            @for ((series, (x, y), words), place) in ends.iter().zip(places).filter(|_| shown) {
                g class=(series.class()) data-run=(series.index) {
                    (line("leader", (x + 6.0, *y), (frame.right + 8.0, *y)))
                    (line("leader", (frame.right + 8.0, *y), (start - 4.0, place)))
                    (series.marker(start + 3.0, place, 3.4))
                    (text("name", start + 12.0, place + 4.0, words))
                }
            }
        };
        (self.height, content)
    }
}
