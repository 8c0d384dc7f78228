//! How far each encoding retrieves the key: one bar an encoding.

use super::axis::Frame;
use super::passkey::Ruler;
use super::series::{self, Series};
use super::{Canvas, Label, drawing, line, px, text, text_width};
use crate::Runs;
use crate::findings::{Outcome, Reach, outcomes, reach as reach_of};
use crate::text::{multiple, thousands};
use bam_record::Passkey;
use maud::{Markup, html};

/// The longest length at which each encoding finds the key more often than not; empty without samples.
pub fn reach(runs: &Runs) -> Markup {
    let all = series::all(runs);
    let mut rows: Vec<Row> = all
        .iter()
        .zip(runs)
        .filter_map(|(series, (_, run))| {
            let passkey = &run.passkey.as_ref()?.metrics;
            Some(Row {
                series,
                passkey,
                longest: *outcomes(passkey).last()?,
                reach: reach_of(passkey),
            })
        })
        .collect();
    if rows.is_empty() {
        return html! {};
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.reach.map_or(0, |reach| reach.last.length)));
    let description: Vec<String> = rows
        .iter()
        .map(|row| format!("{}: {}.", row.series.name, row.words()))
        .collect();
    let label = Label {
        id: "reach",
        title: "Longest context length at which each encoding finds the key more often than not",
        description: &description.join(" "),
    };
    let ruler = Ruler::new(rows.iter().map(|row| row.passkey));
    drawing(&label, |canvas| draw(canvas, &rows, &ruler))
}

struct Row<'a> {
    series: &'a Series,
    passkey: &'a Passkey,
    longest: Outcome,
    reach: Option<Reach>,
}

impl Row<'_> {
    fn words(&self) -> String {
        match &self.reach {
            Some(Reach { last, .. }) => format!(
                "{} tokens · {} × · {}/{}",
                thousands(last.length),
                multiple(last.length, self.passkey.train_length),
                thousands(last.correct),
                thousands(last.samples)
            ),
            None => "at no length tested".to_string(),
        }
    }

    fn ratio(&self, length: usize) -> f64 {
        length.max(1) as f64 / self.passkey.train_length.max(1) as f64
    }
}

fn draw(canvas: Canvas, rows: &[Row], ruler: &Ruler) -> (f64, Markup) {
    let pitch = if canvas.is_wide() { 30.0 } else { 44.0 };
    let widest = |words: &dyn Fn(&Row) -> String| {
        rows.iter()
            .map(|row| text_width(&words(row)))
            .fold(40.0, f64::max)
    };
    let names = widest(&|row| row.series.name.clone()).min(240.0);
    let results = widest(&|row| row.words());
    let frame = Frame {
        left: if canvas.is_wide() { names + 34.0 } else { 8.0 },
        right: canvas.width()
            - if canvas.is_wide() {
                results + 18.0
            } else {
                8.0
            },
        top: 26.0,
        bottom: 30.0 + pitch * rows.len() as f64,
    };
    let height = frame.bottom + 42.0;
    let x = ruler.axis(frame.horizontal(), 16.0);
    let bar = |row: &Row, y: f64| {
        let origin = frame.left;
        let tip = |outcome: Option<Outcome>| outcome.map(|o| x.at(row.ratio(o.length)));
        let certain = tip(row.reach.and_then(|reach| reach.certain));
        html! {
            (line("track", (origin, y), (x.at(row.ratio(row.longest.length)), y)))
            path class="track" d=(format!("M{} {}v8", px(x.at(row.ratio(row.longest.length))), px(y - 4.0))) {}
            @if let Some(last) = tip(row.reach.map(|reach| reach.last)) {
                (line("bar likely", (origin, y), (last, y)))
                @if let Some(certain) = certain {
                    (line("bar", (origin, y), (certain, y)))
                }
                g.halo { (row.series.marker(last, y, 5.5)) }
            }
        }
    };
    let content = html! {
        (frame.mark(x.at(1.0), "training length"))
        @for (index, row) in rows.iter().enumerate() {
            @let y = frame.top + 4.0 + pitch * (index as f64 + 0.5);
            g class=(row.series.class()) data-run=(row.series.index) {
                @if canvas.is_wide() {
                    (row.series.marker(8.0, y, 3.8))
                    (text("name", 20.0, y + 4.0, &row.series.name))
                    (bar(row, y))
                    (text("name", frame.right + 18.0, y + 4.0, &row.words()))
                } @else {
                    (text("name strong", frame.left, y - 3.0, &row.series.name))
                    (text("name end", frame.right, y - 3.0, &row.words()))
                    (bar(row, y + 11.0))
                }
            }
        }
        (frame.base())
        (ruler.ticks(&frame, &x))
    };
    (height, content)
}
