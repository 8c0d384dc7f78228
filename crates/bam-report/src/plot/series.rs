//! An encoding's looks wherever it appears: colour and marker by family, dash and filling by variant.

use super::svg::{path, px};
use crate::runs::Runs;
use crate::text::shortened;
use bam_record::RunRecords;
use maud::{Markup, html};

const COLOURS: usize = 8;
const DASHES: [&str; 4] = ["", "5 3", "1.5 3", "8 3 2 3"];

/// A plus of radius one, clockwise.
const PLUS: [(f64, f64); 12] = [
    (-0.4, -1.3),
    (0.4, -1.3),
    (0.4, -0.4),
    (1.3, -0.4),
    (1.3, 0.4),
    (0.4, 0.4),
    (0.4, 1.3),
    (-0.4, 1.3),
    (-0.4, 0.4),
    (-1.3, 0.4),
    (-1.3, -0.4),
    (-0.4, -0.4),
];

/// One encoding's looks. `bam` and `bam+ssmax` share colour and marker shape; the first variant in the records is
/// solid and filled, the next dashed and open.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub index: usize,
    pub name: String,
    family: usize,
    variant: usize,
}

fn all(runs: &Runs) -> Vec<Series> {
    // Variants are ranked so that the fuller one is solid: names with a suffix come before bare ones.
    let split = |name: &str| {
        name.split_once('+').map_or_else(
            || (name.to_string(), String::new()),
            |(family, variant)| (family.to_string(), variant.to_string()),
        )
    };
    let mut families = Vec::new();
    let mut variants = Vec::new();
    for (name, _) in runs {
        let (family, variant) = split(name);
        if !families.contains(&family) {
            families.push(family);
        }
        if !variants.contains(&variant) {
            variants.push(variant);
        }
    }
    variants.sort_by_key(String::is_empty);
    let position =
        |list: &[String], item: &String| list.iter().position(|x| x == item).unwrap_or(0);
    runs.iter()
        .enumerate()
        .map(|(index, (name, _))| {
            let (family, variant) = split(name);
            Series {
                index,
                name: shortened(name),
                family: position(&families, &family),
                variant: position(&variants, &variant),
            }
        })
        .collect()
}

impl Series {
    /// CSS classes of everything drawn for this encoding.
    pub fn class(&self) -> String {
        format!("run c{}", self.family % COLOURS + 1)
    }

    pub fn dash(&self) -> &'static str {
        DASHES[self.variant % DASHES.len()]
    }

    pub fn marker(&self, x: f64, y: f64, radius: f64) -> Markup {
        let r = radius;
        let filling = if self.variant == 0 { "dot" } else { "dot open" };
        let polygon = |points: &[(f64, f64)]| {
            let points: Vec<(f64, f64)> = points
                .iter()
                .map(|(dx, dy)| (x + dx * r, y + dy * r))
                .collect();
            html! { path class=(filling) d=(format!("{}Z", path(&points))) {} }
        };
        match self.family % 7 {
            0 => html! { circle class=(filling) cx=(px(x)) cy=(px(y)) r=(px(r)) {} },
            1 => polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
            2 => polygon(&[(0.0, -1.2), (1.15, 0.9), (-1.15, 0.9)]),
            3 => polygon(&[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]),
            4 => polygon(&[(0.0, 1.2), (1.15, -0.9), (-1.15, -0.9)]),
            5 => polygon(&PLUS),
            _ => polygon(&PLUS.map(|(dx, dy)| ((dx - dy) * 0.75, (dx + dy) * 0.75))),
        }
    }

    /// A short line with its marker, for keys and tables.
    pub fn swatch(&self) -> Markup {
        html! {
            svg class="swatch" viewBox="0 0 26 12" aria-hidden="true" {
                g class=(self.class()) {
                    line class="curve" stroke-dasharray=(self.dash()) x1="1" y1="6" x2="25" y2="6" {}
                    (self.marker(13.0, 6.0, 3.6))
                }
            }
        }
    }
}

/// Series with something of their records, for runs that have it.
pub fn with<'a, T>(runs: &'a Runs, data: impl Fn(&'a RunRecords) -> Option<T>) -> Vec<(Series, T)> {
    let of = |(series, (_, run)): (Series, &'a (String, RunRecords))| Some((series, data(run)?));
    all(runs).into_iter().zip(runs).filter_map(of).collect()
}

/// The looks of each run, as a list.
pub fn key(runs: &Runs) -> Markup {
    html! {
        ul.key {
            @for series in all(runs) {
                li data-run=(series.index) { (series.swatch()) " " (series.name) }
            }
        }
    }
}
