//! Loss over the tokens seen in training.

use super::axis::{Axis, Frame, thin};
use super::series::{self, Series, end_labels};
use super::{Canvas, Label, drawing, path, text, text_width};
use crate::Runs;
use crate::text::{number, short};
use bam_record::TrainingStep;
use maud::{Markup, html};

/// Points a training curve is averaged down to.
const POINTS: usize = 160;

/// Training loss (thin) and validation loss (thick); empty without finite losses.
pub fn training(runs: &Runs) -> Markup {
    let all = series::all(runs);
    let lines: Vec<Line> = all
        .iter()
        .zip(runs)
        .map(|(series, (_, run))| Line {
            series,
            training: averaged(&run.training),
            validation: validation(&run.training),
        })
        .filter(|line| !line.training.is_empty() || !line.validation.is_empty())
        .collect();
    if lines.is_empty() {
        return html! {};
    }
    let description: Vec<String> = lines.iter().map(Line::spoken).collect();
    let label = Label {
        id: "training",
        title: "Training and validation loss over tokens seen",
        description: &description.join(" "),
    };
    drawing(&label, |canvas| draw(canvas, &lines))
}

struct Line<'a> {
    series: &'a Series,
    /// (tokens, nats per token)
    training: Vec<(f64, f64)>,
    validation: Vec<(f64, f64)>,
}

impl Line<'_> {
    fn end(&self) -> Option<(f64, f64)> {
        self.validation.last().or(self.training.last()).copied()
    }

    fn spoken(&self) -> String {
        let of = |kind: &str, points: &[(f64, f64)]| {
            points.last().map_or(String::new(), |(tokens, loss)| {
                format!(
                    " {kind} loss {} after {} tokens.",
                    number(*loss),
                    short(*tokens)
                )
            })
        };
        format!(
            "{}:{}{}",
            self.series.name,
            of("training", &self.training),
            of("validation", &self.validation)
        )
    }
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

fn draw(canvas: Canvas, lines: &[Line]) -> (f64, Markup) {
    let height = if canvas.is_wide() { 360.0 } else { 300.0 };
    let labels: Vec<String> = lines
        .iter()
        .map(|line| {
            format!(
                "{} {:.3}",
                line.series.name,
                line.end().map_or(f64::NAN, |end| end.1)
            )
        })
        .collect();
    let labelled = labels.iter().map(|label| text_width(label) + 52.0);
    let right = if canvas.is_wide() {
        labelled.fold(60.0, f64::max).min(320.0)
    } else {
        14.0
    };
    let frame = Frame {
        left: 46.0,
        right: canvas.width() - right,
        top: 14.0,
        bottom: height - 46.0,
    };
    let points = || {
        lines
            .iter()
            .flat_map(|line| line.training.iter().chain(&line.validation))
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
    let ticks = x.ticks(if canvas.is_wide() { 8 } else { 4 });
    let widths: Vec<(f64, f64)> = ticks
        .iter()
        .map(|tick| (x.at(*tick), text_width(&short(*tick))))
        .collect();
    let ends: Vec<(&Series, (f64, f64), String)> = lines
        .iter()
        .zip(labels)
        .filter_map(|(line, label)| Some((line.series, place(&line.end()?), label)))
        .collect();
    let content = html! {
        @for tick in y.ticks(5) {
            (frame.row(y.at(tick), &number(tick)))
        }
        @for index in thin(&widths, 6.0) {
            (frame.column(widths[index].0, &short(ticks[index])))
        }
        (text("tick middle", (frame.left + frame.right) / 2.0, height - 6.0, "tokens seen"))
        (frame.base())
        (frame.clip(&html! {
            @for line in lines {
                @let [training, validation] = [&line.training, &line.validation]
                    .map(|points| points.iter().map(place).collect::<Vec<_>>());
                g class=(line.series.class()) data-run=(line.series.index) {
                    title { (line.spoken()) }
                    path class="curve raw" d=(path(&training)) {}
                    path class="curve" stroke-dasharray=(line.series.dash()) d=(path(&validation)) {}
                    @for (at, height) in &validation {
                        (line.series.marker(*at, *height, 2.4))
                    }
                }
            }
        }))
        (end_labels(canvas, &frame, &ends))
    };
    (height, content)
}
