//! Accuracy over context length, one line an encoding.

use super::axis::Axis;
use super::chart::{Chart, Size};
use super::ruler::{Ruler, ratio};
use super::series::{self, Series};
use super::svg::{Canvas, drawing, line, path, px, text};
use crate::findings::{Outcome, outcomes};
use crate::runs::Runs;
use crate::text::{multiple, percent, thousands};
use bam_record::Passkey;
use maud::{Markup, html};

/// Up to this many encodings the intervals are bands; beyond, bands would hide each other and whiskers stand in.
pub const BANDS: usize = 4;

type Retrieval<'a> = (Series, (&'a Passkey, Vec<Outcome>));

/// Passkey accuracy over context length with 95 % Wilson intervals; empty without samples.
pub fn passkey(runs: &Runs) -> Markup {
    let lines: Vec<Retrieval> = series::with(runs, |run| {
        let passkey = &run.passkey.as_ref()?.metrics;
        Some((passkey, outcomes(passkey))).filter(|(_, outcomes)| !outcomes.is_empty())
    });
    let ruler = Ruler::new(lines.iter().map(|(_, (passkey, _))| *passkey));
    let label = ("passkey", "Passkey accuracy over context length");
    drawing(label, &lines, spoken, |canvas, lines| {
        draw(canvas, lines, &ruler)
    })
}

fn spoken((series, (_, outcomes)): &Retrieval) -> String {
    let point = |outcome: &Outcome| {
        let accuracy = percent(outcome.accuracy().unwrap_or(f64::NAN));
        format!("{accuracy} % at {}", thousands(outcome.length))
    };
    let points: Vec<String> = outcomes.iter().map(point).collect();
    format!("{}: {}.", series.name, points.join(", "))
}

fn draw(canvas: Canvas, lines: &[Retrieval], ruler: &Ruler) -> (f64, Markup) {
    let size = Size {
        height: (430.0, 330.0),
        left: 46.0,
        top: 36.0,
        bottom: 60.0,
        right: (300.0, 10.0),
    };
    let names = lines.iter().map(|(series, _)| series.name.as_str());
    let chart = Chart::new(canvas, &size, names);
    let frame = &chart.frame;
    let x = ruler.axis(frame.horizontal(), canvas.either(16.0, 12.0));
    let y = Axis::linear((0.0, 1.0), frame.vertical());
    // Many lines are set side by side.
    let step = if lines.len() > BANDS { 2.4 } else { 0.0 };
    let dodge = |line: usize| {
        (line as f64 - (lines.len() - 1) as f64 / 2.0) * canvas.either(step, step / 2.0)
    };
    let places = lines
        .iter()
        .enumerate()
        .map(|(index, (_, (passkey, outcomes)))| {
            let place = |o: &Outcome| {
                (
                    x.at(ratio(o.length, passkey)) + dodge(index),
                    y.at(o.accuracy().unwrap_or(0.0)),
                )
            };
            outcomes.iter().map(place).collect()
        });
    let places: Vec<Vec<(f64, f64)>> = places.collect();
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
        (ruler.ticks(frame, &x))
        (chart.foot(caption))
        (frame.mark(x.at(1.0), "training length"))
        @for multiple in &ruler.empty {
            (line("unrun", (x.at(*multiple), frame.top), (x.at(*multiple), frame.bottom)))
            (text("note end", x.at(*multiple) - 5.0, y.at(0.5) - 6.0, "not run"))
        }
        @for ((series, (passkey, outcomes)), places) in lines.iter().zip(&places) {
            g class=(series.class()) data-run=(series.index) {
                (intervals(outcomes, places, &y, lines.len() <= BANDS))
                path class="curve" stroke-dasharray=(series.dash()) d=(path(places)) {}
                @for (outcome, (at, height)) in outcomes.iter().zip(places) {
                    g {
                        title {
                            (series.name) ", " (thousands(outcome.length)) " tokens ("
                            (multiple(outcome.length, passkey.train_length)) " ×): " (thousands(outcome.correct))
                            " of " (thousands(outcome.samples)) " right, 95 % interval " (outcome.interval_text()) " %"
                        }
                        (series.marker(*at, *height, 4.0))
                    }
                }
            }
        }
    };
    let ends = lines
        .iter()
        .zip(places.iter().filter_map(|places| places.last()));
    let ends: Vec<_> = ends
        .map(|((series, _), at)| (series, *at, series.name.as_str()))
        .collect();
    chart.finish(&content, &ends)
}

fn intervals(outcomes: &[Outcome], places: &[(f64, f64)], y: &Axis, band: bool) -> Markup {
    let bounds = outcomes.iter().zip(places).map(|(outcome, (at, _))| {
        let (low, high) = outcome.interval();
        (*at, y.at(low), y.at(high))
    });
    let bounds: Vec<(f64, f64, f64)> = bounds.collect();
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
