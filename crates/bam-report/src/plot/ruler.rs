//! The lengths that were asked for, as an axis in multiples of the training length.

use super::axis::{Axis, Frame, thin};
use super::svg::text;
use crate::findings::outcomes;
use crate::text::{multiple, thousands};
use bam_record::Passkey;
use maud::{Markup, html};

/// A length as a multiple of the training length, for drawing.
pub fn ratio(length: usize, passkey: &Passkey) -> f64 {
    length.max(1) as f64 / passkey.train_length.max(1) as f64
}

/// The marks of the axis.
pub struct Ruler {
    /// (multiple, its text, tokens where all encodings share a training length)
    marks: Vec<(f64, String, Option<String>)>,
    /// Multiples at which nothing was run by anyone.
    pub empty: Vec<f64>,
}

impl Ruler {
    pub fn new<'a>(passkeys: impl Iterator<Item = &'a Passkey> + Clone) -> Self {
        let first = passkeys.clone().next().map(|passkey| passkey.train_length);
        let shared = passkeys
            .clone()
            .all(|passkey| Some(passkey.train_length) == first);
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
