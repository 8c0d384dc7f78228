//! Perplexity over position in long documents.

use super::axis::Axis;
use super::chart::{Chart, Size};
use super::series::{self, Series};
use super::svg::{Canvas, drawing, path};
use crate::runs::Runs;
use crate::text::{number, perplexity as perplexity_text, short, thousands};
use bam_record::Perplexity;
use maud::{Markup, html};
use std::collections::BTreeSet;

/// Windows per octave of position after merging; fewer are drawn as they are.
const PER_OCTAVE: f64 = 4.0;

/// A series with its training length and (position, nats per token).
type Curve = (Series, (usize, Vec<(f64, f64)>));

/// Perplexity over position, both axes logarithmic; empty without finite windows.
pub fn perplexity(runs: &Runs) -> Markup {
    let curves = series::with(runs, |run| {
        let metrics = &run.perplexity.as_ref()?.metrics;
        Some((metrics.train_length, merged(metrics))).filter(|(_, points)| !points.is_empty())
    });
    drawing(
        ("perplexity", "Perplexity over position"),
        &curves,
        spoken,
        draw,
    )
}

fn spoken((series, (_, points)): &Curve) -> String {
    let [first, last] = [points.first(), points.last()].map(|point| {
        let (position, nats) = point.unwrap_or(&(0.0, 0.0));
        format!(
            "{} near position {}",
            perplexity_text(*nats),
            thousands(*position as usize)
        )
    });
    format!("{}: {first}, {last}.", series.name)
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

fn draw(canvas: Canvas, curves: &[Curve]) -> (f64, Markup) {
    let size = Size {
        height: (400.0, 310.0),
        left: 52.0,
        top: 36.0,
        bottom: 46.0,
        right: (300.0, 12.0),
    };
    let names = curves.iter().map(|(series, _)| series.name.as_str());
    let chart = Chart::new(canvas, &size, names);
    let frame = &chart.frame;
    let range = |of: fn(&(f64, f64)) -> f64| {
        let values = curves.iter().flat_map(|(_, (_, points))| points).map(of);
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        })
    };
    let x = Axis::logarithmic(range(|point| point.0), frame.horizontal());
    let (low, high) = range(|point| point.1);
    // Perplexities beyond e^15 say nothing more than that the model is lost.
    let (low, high) = (low.max(-1.0), high.min(15.0).max(low + 0.2));
    let pad = (high - low) * 0.05;
    let y = Axis::logarithmic(((low - pad).exp(), (high + pad).exp()), frame.vertical());
    let place = |(position, nats): &(f64, f64)| (x.at(*position), y.at(nats.min(20.0).exp()));
    let trained: BTreeSet<usize> = curves
        .iter()
        .map(|(_, (trained, _))| *trained)
        .filter(|n| *n > 0)
        .collect();
    let content = html! {
        @for tick in y.ticks(6) {
            (frame.row(y.at(tick), &tick_text(tick)))
        }
        (chart.ticks(&x, (8, 5), |tick| thousands(tick as usize)))
        (chart.foot("position in the document, tokens"))
        @for train_length in trained {
            @let at = x.at(train_length as f64);
            @if at >= frame.left && at <= frame.right {
                (frame.mark(at, &format!("training length {}", thousands(train_length))))
            }
        }
        (frame.clip(&html! {
            @for curve in curves {
                @let (series, (_, points)) = curve;
                @let points: Vec<(f64, f64)> = points.iter().map(place).collect();
                g class=(series.class()) data-run=(series.index) {
                    title { (spoken(curve)) }
                    path class="curve" stroke-dasharray=(series.dash()) d=(path(&points)) {}
                    @if let [(at, height)] = points.as_slice() {
                        (series.marker(*at, *height, 4.0))
                    }
                }
            }
        }))
    };
    let ends = curves.iter().filter_map(|(series, (_, points))| {
        let (at, height) = place(points.last()?);
        Some((series, (at, height.max(frame.top)), series.name.as_str()))
    });
    chart.finish(&content, &ends.collect::<Vec<_>>())
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
    use super::merged;
    use bam_record::testing::perplexity;

    #[test]
    fn windows_merge_by_tokens_and_skip_what_is_not_finite() {
        let perplexity = perplexity(&[
            (1100, 1110, 2.0),
            (1110, 1140, 4.0),
            (1140, 1140, 9.0),
            (1140, 1150, f64::NAN),
            (4000, 4100, 1.0),
        ]);
        let points = merged(&perplexity);
        assert_eq!(points.len(), 2);
        assert_eq!(points[0].1, 3.5);
    }
}
