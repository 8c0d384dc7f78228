//! The reach of each encoding: one bar an encoding.

use super::axis::Frame;
use super::ruler::{Ruler, ratio};
use super::series::{self, Series};
use super::svg::{Canvas, drawing, line, px, text, text_width};
use crate::findings::{Outcome, Reach, outcomes, reach as reach_of};
use crate::runs::Runs;
use crate::text::{multiple, thousands};
use bam_record::Passkey;
use maud::{Markup, html};

struct Bar<'a> {
    passkey: &'a Passkey,
    longest: Outcome,
    reach: Option<Reach>,
}

/// The longest length at which each encoding finds the key more often than not; empty without samples.
pub fn reach(runs: &Runs) -> Markup {
    let mut bars: Vec<(Series, Bar)> = series::with(runs, |run| {
        let passkey = &run.passkey.as_ref()?.metrics;
        Some(Bar {
            passkey,
            longest: *outcomes(passkey).last()?,
            reach: reach_of(passkey),
        })
    });
    bars.sort_by_key(|(_, bar)| std::cmp::Reverse(bar.reach.map_or(0, |reach| reach.last.length)));
    let ruler = Ruler::new(bars.iter().map(|(_, bar)| bar.passkey));
    drawing(
        (
            "reach",
            "Longest context length at which each encoding finds the key more often than not",
        ),
        &bars,
        |(series, bar)| format!("{}: {}.", series.name, bar.words()),
        |canvas, bars| draw(canvas, bars, &ruler),
    )
}

impl Bar<'_> {
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
}

fn draw(canvas: Canvas, bars: &[(Series, Bar)], ruler: &Ruler) -> (f64, Markup) {
    let pitch = canvas.either(30.0, 44.0);
    let names = bars
        .iter()
        .map(|(series, _)| text_width(&series.name))
        .fold(40.0, f64::max)
        .min(240.0);
    let results = bars
        .iter()
        .map(|(_, bar)| text_width(&bar.words()))
        .fold(40.0, f64::max);
    let frame = Frame {
        left: canvas.either(names + 34.0, 8.0),
        right: canvas.width() - canvas.either(results + 18.0, 8.0),
        top: 26.0,
        bottom: 30.0 + pitch * bars.len() as f64,
    };
    let x = ruler.axis(frame.horizontal(), 16.0);
    let drawn = |series: &Series, bar: &Bar, y: f64| {
        let origin = (frame.left, y);
        let tip = |outcome: Outcome| x.at(ratio(outcome.length, bar.passkey));
        let longest = tip(bar.longest);
        html! {
            (line("track", origin, (longest, y)))
            path class="track" d=(format!("M{} {}v8", px(longest), px(y - 4.0))) {}
            @if let Some(reach) = &bar.reach {
                (line("bar likely", origin, (tip(reach.last), y)))
                @if let Some(certain) = reach.certain {
                    (line("bar", origin, (tip(certain), y)))
                }
                g.halo { (series.marker(tip(reach.last), y, 5.5)) }
            }
        }
    };
    let content = html! {
        (frame.mark(x.at(1.0), "training length"))
        @for (index, (series, bar)) in bars.iter().enumerate() {
            @let y = frame.top + 4.0 + pitch * (index as f64 + 0.5);
            g class=(series.class()) data-run=(series.index) {
                @if canvas.is_wide() {
                    (series.marker(8.0, y, 3.8))
                    (text("name", 20.0, y + 4.0, &series.name))
                    (drawn(series, bar, y))
                    (text("name", frame.right + 18.0, y + 4.0, &bar.words()))
                } @else {
                    (text("name strong", frame.left, y - 3.0, &series.name))
                    (text("name end", frame.right, y - 3.0, &bar.words()))
                    (drawn(series, bar, y + 11.0))
                }
            }
        }
        (frame.base())
        (ruler.ticks(&frame, &x))
    };
    (frame.bottom + 42.0, content)
}
