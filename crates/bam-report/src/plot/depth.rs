//! Accuracy by depth and length: one small heat map an encoding.

use super::series;
use super::svg::{Label, line, px, svg, text};
use crate::runs::Runs;
use crate::text::{interval, multiple, percent, thousands};
use bam_record::{Passkey, wilson_interval};
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};

const WIDTH: f64 = 300.0;
const LEFT: f64 = 36.0;
const RIGHT: f64 = 288.0;
const ROW: f64 = 19.0;
/// More different depths than this, as with random depths, are gathered in tenths.
const DEPTHS: usize = 11;

/// Depth × length, one map an encoding; empty without samples.
pub fn depth(runs: &Runs) -> Markup {
    let maps = series::with(runs, |run| Grid::new(&run.passkey.as_ref()?.metrics));
    html! {
        @if !maps.is_empty() {
            div.panels.maps.few[maps.len() <= 4] {
                @for (series, grid) in &maps {
                    figure.panel {
                        figcaption { (series.swatch()) " " (series.name) }
                        (grid.draw(&series.name, series.index))
                    }
                }
            }
        }
    }
}

struct Grid {
    train_length: usize,
    lengths: Vec<usize>,
    /// Depth of each row in thousandths.
    depths: Vec<u32>,
    gathered: bool,
    /// (length, depth) → (correct, samples)
    cells: BTreeMap<(usize, u32), (usize, usize)>,
}

impl Grid {
    fn new(passkey: &Passkey) -> Option<Self> {
        let thousandths = |depth: f64| (depth.clamp(0.0, 1.0) * 1000.0).round() as u32;
        let sampled = || {
            passkey
                .cells
                .iter()
                .filter(|cell| cell.samples > 0 && cell.depth.is_finite())
        };
        let exact: BTreeSet<u32> = sampled().map(|cell| thousandths(cell.depth)).collect();
        let gathered = exact.len() > DEPTHS;
        let row = |depth: f64| {
            let exact = thousandths(depth);
            if gathered {
                (exact / 100).min(9) * 100
            } else {
                exact
            }
        };
        let mut cells = BTreeMap::<(usize, u32), (usize, usize)>::new();
        for cell in sampled() {
            let (correct, samples) = cells.entry((cell.length, row(cell.depth))).or_default();
            *correct = correct.saturating_add(cell.correct.min(cell.samples));
            *samples = samples.saturating_add(cell.samples);
        }
        let lengths: BTreeSet<usize> = cells
            .keys()
            .map(|(length, _)| *length)
            .chain(passkey.not_run.iter().map(|skipped| skipped.length))
            .collect();
        let depths: BTreeSet<u32> = cells.keys().map(|(_, depth)| *depth).collect();
        (!cells.is_empty()).then(|| Self {
            train_length: passkey.train_length,
            lengths: lengths.into_iter().collect(),
            depths: depths.into_iter().collect(),
            gathered,
            cells,
        })
    }

    fn draw(&self, name: &str, index: usize) -> Markup {
        let column = (RIGHT - LEFT) / self.lengths.len() as f64;
        let bottom = ROW * self.depths.len() as f64;
        let description: Vec<String> = self
            .depths
            .iter()
            .map(|depth| {
                let cells: Vec<String> = self
                    .lengths
                    .iter()
                    .map(|length| match self.cells.get(&(*length, *depth)) {
                        Some((correct, samples)) => {
                            format!("{correct} of {samples} at {}", thousands(*length))
                        }
                        None => format!("none at {}", thousands(*length)),
                    })
                    .collect();
                format!("{}: {}.", self.row_words(*depth), cells.join(", "))
            })
            .collect();
        let label = Label {
            id: &format!("depth-{index}"),
            title: &format!("{name}: accuracy by depth of the key and context length"),
            description: &description.join(" "),
        };
        let stride = (32.0 / column).ceil().max(1.0) as usize;
        let content = html! {
            @for (row, depth) in self.depths.iter().enumerate() {
                @let y = ROW * row as f64;
                (text("tick end", LEFT - 6.0, y + ROW / 2.0 + 4.0, &self.row_label(*depth)))
                @for (place, length) in self.lengths.iter().enumerate() {
                    @let x = LEFT + column * place as f64;
                    (self.cell(*length, *depth, x, y, column))
                }
            }
            @for (place, length) in self.lengths.iter().enumerate() {
                @if (self.lengths.len() - 1 - place).is_multiple_of(stride) {
                    (text(
                        "tick middle",
                        LEFT + column * (place as f64 + 0.5),
                        bottom + 15.0,
                        &format!("{}×", multiple(*length, self.train_length)),
                    ))
                }
            }
        };
        svg(&label, "map", WIDTH, bottom + 20.0, &content)
    }

    fn cell(&self, length: usize, depth: u32, x: f64, y: f64, width: f64) -> Markup {
        let Some((correct, samples)) = self.cells.get(&(length, depth)) else {
            let (near, far) = ((x + 4.0, y + ROW - 4.0), (x + width - 4.0, y + 4.0));
            return html! { (line("absent", near, far)) };
        };
        let accuracy = *correct as f64 / *samples as f64;
        html! {
            g {
                title {
                    (thousands(length)) " tokens, " (self.row_words(depth)) ": " (correct) " of " (samples)
                    " right, 95 % interval " (interval(wilson_interval(*correct, *samples))) " %"
                }
                rect class="cell" x=(px(x + 0.7)) y=(px(y + 0.7)) width=(px(width - 1.4)) height=(px(ROW - 1.4))
                    rx="2" fill-opacity=(format!("{:.2}", 0.05 + 0.95 * accuracy)) {}
                @if width >= 19.0 {
                    (text(
                        match accuracy {
                            full if full > 0.78 => "count inside",
                            half if half > 0.6 => "count between",
                            _ => "count",
                        },
                        x + width / 2.0,
                        y + ROW / 2.0 + 3.5,
                        &percent((accuracy * 100.0).round() / 100.0),
                    ))
                }
            }
        }
    }

    fn row_label(&self, depth: u32) -> String {
        match depth {
            0 if !self.gathered => "start".to_string(),
            1000 => "end".to_string(),
            _ => format!("{} %", percent(f64::from(depth) / 1000.0)),
        }
    }

    fn row_words(&self, depth: u32) -> String {
        let share = percent(f64::from(depth) / 1000.0);
        if self.gathered {
            format!("depth {share} % and the tenth after it")
        } else {
            format!("depth {share} %")
        }
    }
}
