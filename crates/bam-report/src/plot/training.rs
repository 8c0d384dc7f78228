//! Loss over the tokens seen in training.

use super::axis::Axis;
use super::chart::{Chart, Size};
use super::series::{self, Series};
use super::svg::{Canvas, drawing, path};
use crate::runs::Runs;
use crate::text::{number, short};
use bam_record::TrainingStep;
use maud::{Markup, html};

/// Points a training curve is averaged down to.
const POINTS: usize = 160;

/// (tokens, nats per token) in training and in validation.
struct Losses {
    training: Vec<(f64, f64)>,
    validation: Vec<(f64, f64)>,
}

impl Losses {
    fn end(&self) -> Option<(f64, f64)> {
        self.validation.last().or(self.training.last()).copied()
    }
}

/// Training loss (thin) and validation loss (thick); empty without finite losses.
pub fn training(runs: &Runs) -> Markup {
    let lines = series::with(runs, |run| {
        let losses = Losses {
            training: averaged(&run.training),
            validation: validation(&run.training),
        };
        losses.end().is_some().then_some(losses)
    });
    let label = ("training", "Training and validation loss over tokens seen");
    drawing(label, &lines, spoken, draw)
}

fn spoken((series, losses): &(Series, Losses)) -> String {
    let of = |kind: &str, points: &[(f64, f64)]| {
        let last = points.last().map(|(tokens, loss)| {
            format!(
                " {kind} loss {} after {} tokens.",
                number(*loss),
                short(*tokens)
            )
        });
        last.unwrap_or_default()
    };
    let [training, validation] = [
        ("training", &losses.training),
        ("validation", &losses.validation),
    ]
    .map(|(kind, points)| of(kind, points));
    format!("{}:{training}{validation}", series.name)
}

fn validation(steps: &[TrainingStep]) -> Vec<(f64, f64)> {
    steps
        .iter()
        .filter_map(|step| Some((step.tokens as f64, step.validation_loss?)))
        .filter(|(_, loss)| loss.is_finite())
        .collect()
}

/// Means over equal numbers of consecutive steps.
fn averaged(steps: &[TrainingStep]) -> Vec<(f64, f64)> {
    let finite: Vec<(f64, f64)> = steps
        .iter()
        .map(|step| (step.tokens as f64, step.loss))
        .filter(|(_, loss)| loss.is_finite())
        .collect();
    finite
        .chunks(finite.len().div_ceil(POINTS).max(1))
        .map(|chunk| {
            let count = chunk.len() as f64;
            let (tokens, loss) = chunk
                .iter()
                .fold((0.0, 0.0), |(a, b), (tokens, loss)| (a + tokens, b + loss));
            (tokens / count, loss / count)
        })
        .collect()
}

fn draw(canvas: Canvas, lines: &[(Series, Losses)]) -> (f64, Markup) {
    let size = Size {
        height: (360.0, 300.0),
        left: 46.0,
        top: 14.0,
        bottom: 46.0,
        right: (320.0, 14.0),
    };
    let ends = lines.iter().filter_map(|(series, losses)| {
        let end = losses.end()?;
        Some((series, end, format!("{} {:.3}", series.name, end.1)))
    });
    let ends: Vec<(&Series, (f64, f64), String)> = ends.collect();
    let chart = Chart::new(
        canvas,
        &size,
        ends.iter().map(|(_, _, label)| label.as_str()),
    );
    let frame = &chart.frame;
    let points = || {
        lines
            .iter()
            .flat_map(|(_, losses)| losses.training.iter().chain(&losses.validation))
    };
    let last = points().map(|point| point.0).fold(1.0, f64::max);
    let low = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    // The first steps fall from ln(vocabulary) and would flatten everything after them: they may leave at the top.
    let high = points()
        .filter(|point| point.0 >= last * 0.08)
        .map(|point| point.1)
        .fold(low, f64::max);
    let pad = ((high - low) * 0.06).max(0.02);
    let x = Axis::linear((0.0, last), frame.horizontal());
    let y = Axis::linear((low - pad, high + pad), frame.vertical());
    let place = |point: &(f64, f64)| (x.at(point.0), y.at(point.1));
    let content = html! {
        @for tick in y.ticks(5) {
            (frame.row(y.at(tick), &number(tick)))
        }
        (chart.ticks(&x, (8, 4), short))
        (chart.foot("tokens seen"))
        (frame.clip(&html! {
            @for line in lines {
                @let (series, losses) = line;
                @let [training, validation] = [&losses.training, &losses.validation]
                    .map(|points| points.iter().map(place).collect::<Vec<_>>());
                g class=(series.class()) data-run=(series.index) {
                    title { (spoken(line)) }
                    path class="curve raw" d=(path(&training)) {}
                    path class="curve" stroke-dasharray=(series.dash()) d=(path(&validation)) {}
                    @for (at, height) in &validation {
                        (series.marker(*at, *height, 2.4))
                    }
                }
            }
        }))
    };
    let ends = ends
        .iter()
        .map(|(series, end, label)| (*series, place(end), label.as_str()));
    chart.finish(&content, &ends.collect::<Vec<_>>())
}
