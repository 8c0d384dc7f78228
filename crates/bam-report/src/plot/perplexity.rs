//! Perplexity over position in long documents.

use super::axis::{Axis, Frame, thin};
use super::series::{self, Series, end_labels};
use super::{Canvas, Label, drawing, path, text, text_width};
use crate::Runs;
use crate::text::{number, perplexity as perplexity_text, short, thousands};
use bam_record::Perplexity;
use maud::{Markup, html};

/// Windows per octave of position after merging; fewer are drawn as they are.
const PER_OCTAVE: f64 = 4.0;

/// Perplexity over position, both axes logarithmic; empty without finite windows.
pub fn perplexity(runs: &Runs) -> Markup {
    let all = series::all(runs);
    let lines: Vec<Line> = all
        .iter()
        .zip(runs)
        .filter_map(|(series, (_, run))| {
            let metrics = &run.perplexity.as_ref()?.metrics;
            let points = merged(metrics);
            (!points.is_empty()).then_some(Line {
                series,
                train_length: metrics.train_length,
                points,
            })
        })
        .collect();
    if lines.is_empty() {
        return html! {};
    }
    let description: Vec<String> = lines.iter().map(Line::spoken).collect();
    let label = Label {
        id: "perplexity",
        title: "Perplexity over position",
        description: &description.join(" "),
    };
    drawing(&label, |canvas| draw(canvas, &lines))
}

struct Line<'a> {
    series: &'a Series,
    train_length: usize,
    /// (position, nats per token)
    points: Vec<(f64, f64)>,
}

impl Line<'_> {
    fn spoken(&self) -> String {
        let [first, last] =
            [self.points.first(), self.points.last()].map(|point| *point.unwrap_or(&(0.0, 0.0)));
        format!(
            "{}: {} near position {}, {} near position {}.",
            self.series.name,
            perplexity_text(first.1),
            thousands(first.0 as usize),
            perplexity_text(last.1),
            thousands(last.0 as usize)
        )
    }
}

/// Middles of windows, merged to a few per octave by token-weighted means. Windows that are not finite leave a gap.
fn merged(perplexity: &Perplexity) -> Vec<(f64, f64)> {
    let mut bins: Vec<(i64, f64, f64, f64)> = Vec::new();
    for window in &perplexity.windows {
        if window.end <= window.start || !window.cross_entropy.is_finite() {
            continue;
        }
        let tokens = (window.end - window.start) as f64;
        let middle = ((window.start as f64 + window.end as f64) / 2.0).max(1.0);
        let bin = (middle.log2() * PER_OCTAVE).floor() as i64;
        match bins.last_mut() {
            Some((last, positions, total, count)) if *last == bin => {
                *positions += middle * tokens;
                *total += window.cross_entropy * tokens;
                *count += tokens;
            }
            _ => bins.push((bin, middle * tokens, window.cross_entropy * tokens, tokens)),
        }
    }
    bins.into_iter()
        .map(|(_, positions, total, count)| (positions / count, total / count))
        .collect()
}

fn draw(canvas: Canvas, lines: &[Line]) -> (f64, Markup) {
    let height = if canvas.is_wide() { 400.0 } else { 310.0 };
    let labelled = lines
        .iter()
        .map(|line| text_width(&line.series.name) + 52.0);
    let right = if canvas.is_wide() {
        labelled.fold(60.0, f64::max).min(300.0)
    } else {
        12.0
    };
    let frame = Frame {
        left: 52.0,
        right: canvas.width() - right,
        top: 36.0,
        bottom: height - 46.0,
    };
    let range = |of: &dyn Fn(&(f64, f64)) -> f64| {
        lines
            .iter()
            .flat_map(|line| &line.points)
            .map(of)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            })
    };
    let x = Axis::logarithmic(range(&|point| point.0), frame.horizontal());
    let (low, high) = range(&|point| point.1);
    // Perplexities beyond e^15 say nothing more than that the model is lost.
    let (low, high) = (low.max(-1.0), high.min(15.0).max(low + 0.2));
    let pad = (high - low) * 0.05;
    let y = Axis::logarithmic(((low - pad).exp(), (high + pad).exp()), frame.vertical());
    let place = |(position, nats): &(f64, f64)| (x.at(*position), y.at(nats.min(20.0).exp()));
    let ticks = x.ticks(if canvas.is_wide() { 8 } else { 5 });
    let labels: Vec<(f64, f64)> = ticks
        .iter()
        .map(|tick| (x.at(*tick), text_width(&thousands(*tick as usize))))
        .collect();
    let mut trained: Vec<usize> = lines
        .iter()
        .map(|line| line.train_length)
        .filter(|n| *n > 0)
        .collect();
    trained.sort_unstable();
    trained.dedup();
    let ends: Vec<(&Series, (f64, f64), String)> = lines
        .iter()
        .filter_map(|line| {
            let (at, height) = place(line.points.last()?);
            Some((
                line.series,
                (at, height.max(frame.top)),
                line.series.name.clone(),
            ))
        })
        .collect();
    let content = html! {
        @for tick in y.ticks(6) {
            (frame.row(y.at(tick), &tick_text(tick)))
        }
        @for index in thin(&labels, 6.0) {
            (frame.column(labels[index].0, &thousands(ticks[index] as usize)))
        }
        (text("tick middle", (frame.left + frame.right) / 2.0, height - 6.0, "position in the document, tokens"))
        (frame.base())
        @for train_length in &trained {
            @let at = x.at(*train_length as f64);
            @if at >= frame.left && at <= frame.right {
                (frame.mark(at, &format!("training length {}", thousands(*train_length))))
            }
        }
        (frame.clip(&html! {
            @for line in lines {
                @let points: Vec<(f64, f64)> = line.points.iter().map(place).collect();
                g class=(line.series.class()) data-run=(line.series.index) {
                    title { (line.spoken()) }
                    path class="curve" stroke-dasharray=(line.series.dash()) d=(path(&points)) {}
                    @if let [(at, height)] = points.as_slice() {
                        (line.series.marker(*at, *height, 4.0))
                    }
                }
            }
        }))
        (end_labels(canvas, &frame, &ends))
    };
    (height, content)
}

fn tick_text(tick: f64) -> String {
    match tick {
        small if small < 999.5 => number(small),
        large if large < 99_999.5 => thousands(large.round() as usize),
        huge => short(huge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bam_record::PerplexityWindow;

    #[test]
    fn windows_merge_by_tokens_and_skip_what_is_not_finite() {
        let window = |start, end, cross_entropy| PerplexityWindow {
            start,
            end,
            cross_entropy,
        };
        let perplexity = Perplexity {
            certified_cache: None,
            train_length: 64,
            document: String::new(),
            bytes_per_token: 4.0,
            windows: vec![
                window(1100, 1110, 2.0),
                window(1110, 1140, 4.0),
                window(1140, 1140, 9.0),
                window(1140, 1150, f64::NAN),
                window(4000, 4100, 1.0),
            ],
        };
        let points = merged(&perplexity);
        assert_eq!(points.len(), 2);
        assert_eq!(points[0].1, 3.5);
    }
}
