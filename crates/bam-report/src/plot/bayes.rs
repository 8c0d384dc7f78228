//! The idea in one picture: prior × likelihood → posterior, under two priors. An illustration; no records.

use super::svg::{Canvas, drawing, line, px, text};
use maud::{Markup, html};

const KEYS: usize = 32;
/// Distance of the one key that matches the query.
const MATCH: usize = 27;
const SCALE: f64 = 0.25;

/// One query looks back over 32 keys, one of which matches; once under a Laplace prior (ALiBi), once under a prior
/// with a smaller shape, as BAM can learn it.
pub fn bayes() -> Markup {
    let rows = [
        Row::new("Laplace prior, as in ALiBi: shape 1", 1.0),
        Row::new("a prior BAM can learn: shape 0.25", 0.25),
    ];
    drawing(
        ("bayes", "Prior times likelihood gives the posterior"),
        &rows,
        |row| {
            format!(
                "{}: the matching key at distance {MATCH} keeps {:.0} % of the attention.",
                row.name,
                100.0 * row.posterior[MATCH]
            )
        },
        draw,
    )
}

struct Row {
    name: &'static str,
    prior: Vec<f64>,
    likelihood: Vec<f64>,
    posterior: Vec<f64>,
}

impl Row {
    fn new(name: &'static str, shape: f64) -> Self {
        let prior = normalised((0..KEYS).map(|lag| (-SCALE * (lag as f64).powf(shape)).exp()));
        // Small differences between keys, the same at every reading, and one key that matches.
        let likelihood = normalised((0..KEYS).map(|lag| {
            if lag == MATCH {
                40.0
            } else {
                1.2 + (lag as f64 * 2.4).sin()
            }
        }));
        let posterior = normalised(prior.iter().zip(&likelihood).map(|(p, l)| p * l));
        Self {
            name,
            prior,
            likelihood,
            posterior,
        }
    }
}

fn normalised(weights: impl Iterator<Item = f64>) -> Vec<f64> {
    let weights: Vec<f64> = weights.collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

fn draw(canvas: Canvas, rows: &[Row]) -> (f64, Markup) {
    let (tall, pitch, gap, top) =
        canvas.either((84.0, 150.0, 44.0, 46.0), (62.0, 122.0, 20.0, 40.0));
    let width = (canvas.width() - 2.0 * gap) / 3.0;
    let left = |panel: usize| (width + gap) * panel as f64;
    let panels = ["prior", "likelihood", "posterior"];
    let asides = ["where", "what", "attention"];
    let content = html! {
        @for (panel, (name, aside)) in panels.iter().zip(asides).enumerate() {
            text class="name" x=(px(left(panel))) y="12" {
                tspan class="strong" { (name) }
                @if canvas.is_wide() { tspan class="faint" dx="8" { (aside) } }
            }
        }
        @for (index, row) in rows.iter().enumerate() {
            @let base = top + tall + pitch * index as f64;
            @let share = format!("{:.0} %", 100.0 * row.posterior[MATCH]);
            (text("note", 0.0, base - tall - 8.0, row.name))
            @for (panel, (class, weights)) in [
                ("prior-bar", &row.prior), ("likelihood-bar", &row.likelihood), ("posterior-bar", &row.posterior),
            ].into_iter().enumerate() {
                (bars(class, weights, left(panel), base, width, tall))
                @if panel > 0 {
                    (text("operator", left(panel) - gap / 2.0, base - tall / 2.0 + 6.0, if panel == 1 { "×" } else { "=" }))
                }
            }
            @let at = left(2) + bar_middle(MATCH, width);
            (text("name strong middle", at.min(canvas.width() - 16.0), base - tall * height_share(&row.posterior) - 6.0, &share))
            (text("tick", left(0), base + 16.0, "far"))
            (text("tick end", left(0) + width, base + 16.0, "near"))
        }
    };
    (top + tall + pitch + 24.0, content)
}

/// Height of the matching key's bar as a share of the panel.
fn height_share(weights: &[f64]) -> f64 {
    weights[MATCH] / weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max)
}

/// Middle of a key's bar: the query stands at the right, distance grows to the left.
fn bar_middle(lag: usize, width: f64) -> f64 {
    width * (1.0 - (lag as f64 + 0.5) / KEYS as f64)
}

fn bars(class: &str, weights: &[f64], left: f64, base: f64, width: f64, tall: f64) -> Markup {
    let largest = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let bar = width / KEYS as f64 * 0.72;
    html! {
        @for (lag, weight) in weights.iter().enumerate() {
            @let height = (weight / largest * tall).max(0.6);
            rect class=(if lag == MATCH && class != "prior-bar" { format!("{class} match") } else { class.to_string() })
                x=(px(left + bar_middle(lag, width) - bar / 2.0)) y=(px(base - height)) width=(px(bar)) height=(px(height)) {}
        }
        (line("axis", (left, base), (left + width, base)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_far_key_survives_only_under_the_heavy_tail() {
        let [laplace, learned] = [Row::new("", 1.0), Row::new("", 0.25)];
        for row in [&laplace, &learned] {
            assert!((row.posterior.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        assert!(laplace.posterior[MATCH] < 0.05);
        assert!(learned.posterior[MATCH] > 0.3);
    }
}
