//! Accuracy over context length, one line an encoding.

use super::axis::{Axis, Frame, thin};
use super::series::{self, Series, end_labels};
use super::{Canvas, Label, drawing, line, path, px, text, text_width};
use crate::Runs;
use crate::findings::{Outcome, outcomes};
use crate::text::{multiple, percent, thousands};
use bam_record::Passkey;
use maud::{Markup, html};

/// Up to this many encodings the intervals are bands; beyond, bands would hide each other and whiskers stand in.
pub const BANDS: usize = 4;

/// Passkey accuracy over context length with 95 % Wilson intervals; empty without samples.
pub fn passkey(runs: &Runs) -> Markup {
    let all = series::all(runs);
    let lines: Vec<Line> = all
        .iter()
        .zip(runs)
        .filter_map(|(series, (_, run))| {
            let passkey = &run.passkey.as_ref()?.metrics;
            let outcomes = outcomes(passkey);
            (!outcomes.is_empty()).then_some(Line {
                series,
                passkey,
                outcomes,
            })
        })
        .collect();
    if lines.is_empty() {
        return html! {};
    }
    let description: Vec<String> = lines.iter().map(Line::spoken).collect();
    let label = Label {
        id: "passkey",
        title: "Passkey accuracy over context length",
        description: &description.join(" "),
    };
    let ruler = Ruler::new(lines.iter().map(|line| line.passkey));
    drawing(&label, |canvas| draw(canvas, &lines, &ruler))
}

struct Line<'a> {
    series: &'a Series,
    passkey: &'a Passkey,
    outcomes: Vec<Outcome>,
}

impl Line<'_> {
    fn spoken(&self) -> String {
        let points: Vec<String> = self
            .outcomes
            .iter()
            .map(|outcome| {
                format!(
                    "{} % at {}",
                    percent(outcome.accuracy().unwrap_or(f64::NAN)),
                    thousands(outcome.length)
                )
            })
            .collect();
        format!("{}: {}.", self.series.name, points.join(", "))
    }

    fn ratio(&self, length: usize) -> f64 {
        ratio(length, self.passkey)
    }
}

fn ratio(length: usize, passkey: &Passkey) -> f64 {
    length.max(1) as f64 / passkey.train_length.max(1) as f64
}

/// The lengths on the x-axis, in multiples of the training length.
pub struct Ruler {
    /// (multiple, its text, tokens where all encodings share a training length)
    marks: Vec<(f64, String, Option<String>)>,
    /// Multiples at which nothing was run by anyone.
    empty: Vec<f64>,
}

impl Ruler {
    pub fn new<'a>(passkeys: impl Iterator<Item = &'a Passkey> + Clone) -> Self {
        let shared = {
            let mut lengths = passkeys.clone().map(|passkey| passkey.train_length);
            let first = lengths.next();
            lengths.all(|length| Some(length) == first)
        };
        let mut marks: Vec<(f64, String, Option<String>, bool)> = passkeys
            .flat_map(|passkey| {
                let run = outcomes(passkey).into_iter().map(|o| (o.length, true));
                let skipped = passkey.not_run.iter().map(|n| (n.length, false));
                run.chain(skipped)
                    .map(|(length, has_samples)| {
                        (
                            ratio(length, passkey),
                            multiple(length, passkey.train_length),
                            shared.then(|| thousands(length)),
                            has_samples,
                        )
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        marks.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.3.cmp(&a.3)));
        marks.dedup_by(|later, earlier| later.0 == earlier.0);
        let empty = marks.iter().filter(|mark| !mark.3).map(|mark| mark.0);
        Self {
            empty: empty.collect(),
            marks: marks.into_iter().map(|(r, m, t, _)| (r, m, t)).collect(),
        }
    }

    pub fn axis(&self, (from, to): (f64, f64), inset: f64) -> Axis {
        let low = self.marks.first().map_or(1.0, |mark| mark.0).min(1.0);
        let high = self.marks.last().map_or(1.0, |mark| mark.0);
        Axis::logarithmic((low, high), (from + inset, to - inset))
    }

    /// Multiples, and tokens below them.
    pub fn ticks(&self, frame: &Frame, x: &Axis) -> Markup {
        let labels: Vec<(f64, f64)> = self
            .marks
            .iter()
            .map(|(ratio, multiple, tokens)| {
                let longest = tokens
                    .as_ref()
                    .map_or(0, String::len)
                    .max(multiple.len() + 2);
                (x.at(*ratio), longest as f64 * 6.7)
            })
            .collect();
        html! {
            @for index in thin(&labels, 7.0) {
                @let (ratio, multiple, tokens) = &self.marks[index];
                (frame.column(x.at(*ratio), &format!("{multiple} ×")))
                @if let Some(tokens) = tokens {
                    (text("tick middle faint", x.at(*ratio), frame.bottom + 33.0, tokens))
                }
            }
        }
    }

    pub fn shares_tokens(&self) -> bool {
        self.marks.iter().all(|mark| mark.2.is_some())
    }
}

fn draw(canvas: Canvas, lines: &[Line], ruler: &Ruler) -> (f64, Markup) {
    let height = if canvas.is_wide() { 430.0 } else { 330.0 };
    let labelled = lines
        .iter()
        .map(|line| text_width(&line.series.name) + 52.0);
    let frame = Frame {
        left: 46.0,
        right: canvas.width()
            - if canvas.is_wide() {
                labelled.fold(60.0, f64::max).min(300.0)
            } else {
                10.0
            },
        top: 36.0,
        bottom: height - 60.0,
    };
    let x = ruler.axis(
        frame.horizontal(),
        if canvas.is_wide() { 16.0 } else { 12.0 },
    );
    let y = Axis::linear((0.0, 1.0), frame.vertical());
    let dodge = |line: usize| {
        let step = if lines.len() > BANDS { 2.4 } else { 0.0 };
        (line as f64 - (lines.len() - 1) as f64 / 2.0)
            * if canvas.is_wide() { step } else { step / 2.0 }
    };
    let places = |index: usize, line: &Line| -> Vec<(f64, f64)> {
        line.outcomes
            .iter()
            .map(|o| {
                (
                    x.at(line.ratio(o.length)) + dodge(index),
                    y.at(o.accuracy().unwrap_or(0.0)),
                )
            })
            .collect()
    };
    let ends: Vec<(&Series, (f64, f64), String)> = lines
        .iter()
        .enumerate()
        .filter_map(|(index, line)| {
            Some((
                line.series,
                *places(index, line).last()?,
                line.series.name.clone(),
            ))
        })
        .collect();
    let caption = match (ruler.shares_tokens(), canvas.is_wide()) {
        (true, true) => "context length: multiples of the training length, and tokens",
        (true, false) => "context: × training length, and tokens",
        (false, _) => "context length in multiples of each training length",
    };
    let content = html! {
        @for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
            (frame.row(y.at(share), &format!("{} %", percent(share))))
        }
        (line("half", (frame.left, y.at(0.5)), (frame.right, y.at(0.5))))
        (ruler.ticks(&frame, &x))
        (text("tick middle", (frame.left + frame.right) / 2.0, height - 6.0, caption))
        (frame.base())
        (frame.mark(x.at(1.0), "training length"))
        @for multiple in &ruler.empty {
            (line("unrun", (x.at(*multiple), frame.top), (x.at(*multiple), frame.bottom)))
            (text("note end", x.at(*multiple) - 5.0, y.at(0.5) - 6.0, "not run"))
        }
        @for (index, line) in lines.iter().enumerate() {
            g class=(line.series.class()) data-run=(line.series.index) {
                (intervals(line, &places(index, line), &y, lines.len() <= BANDS))
                path class="curve" stroke-dasharray=(line.series.dash()) d=(path(&places(index, line))) {}
                @for (outcome, (at, height)) in line.outcomes.iter().zip(places(index, line)) {
                    g {
                        title { (spoken(line, outcome)) }
                        (line.series.marker(at, height, 4.0))
                    }
                }
            }
        }
        (end_labels(canvas, &frame, &ends))
    };
    (height, content)
}

fn spoken(line: &Line, outcome: &Outcome) -> String {
    format!(
        "{}, {} tokens ({} ×): {} of {} right, 95 % interval {} %",
        line.series.name,
        thousands(outcome.length),
        multiple(outcome.length, line.passkey.train_length),
        thousands(outcome.correct),
        thousands(outcome.samples),
        outcome.interval_text()
    )
}

fn intervals(line: &Line, places: &[(f64, f64)], y: &Axis, band: bool) -> Markup {
    let bounds: Vec<(f64, f64, f64)> = line
        .outcomes
        .iter()
        .zip(places)
        .map(|(outcome, (at, _))| {
            let (low, high) = outcome.interval();
            (*at, y.at(low), y.at(high))
        })
        .collect();
    if band && bounds.len() > 1 {
        let upper = bounds.iter().map(|(at, _, high)| (*at, *high));
        let lower = bounds.iter().rev().map(|(at, low, _)| (*at, *low));
        let outline: Vec<(f64, f64)> = upper.chain(lower).collect();
        return html! { path class="band" d=(format!("{}Z", path(&outline))) {} };
    }
    html! {
        @for (at, low, high) in bounds {
            path class="whisker" d=(format!("M{} {}V{}", px(at), px(low), px(high))) {}
        }
    }
}
