//! The page of `bam inspect text`: the text, each token coloured by where heads look from it.

use super::document;
use crate::inspection::Scale;
use crate::text::{counted, fixed, plain};
use bam_record::{Glance, ReadToken, Reading};
use maud::{Markup, PreEscaped, html};

/// The whole page. Without scripts it shows the mean evidence; scripts add the choice of head and
/// measure, and a line about the token under the pointer or the cursor.
pub fn reading_page(encoding: &str, reading: &Reading) -> String {
    let title = format!("{} read “{}”", plain(encoding), plain(&reading.text));
    let description = format!(
        "{}, {}: evidence, and where the posterior lies",
        counted(reading.tokens.len(), "token"),
        counted(reading.heads.len(), "head")
    );
    let scale = Scale::of(reading);
    let body = html! {
        header {
            p.kicker { "bam inspect text" }
            h1 { (title) }
            p.lead { (description) }
        }
        main {
            section.reader data-near=(reading.near) {
                (controls(reading))
                p.legend {
                    span.low { (fixed(scale.evidence.0, 2)) }
                    span.ramp aria-hidden="true" {}
                    span.high { (fixed(scale.evidence.1, 2)) }
                    " " span.measure { "ln evidence" }
                }
                div.text tabindex="0" role="group" aria-label="The text; arrow keys go from token to token" {
                    @for token in &reading.tokens { (piece(token, &scale, reading.near)) }
                }
                p.about role="status" { "" }
                script type="application/json" id="glances" { (PreEscaped(numbers(reading))) }
            }
            section {
                h2 { "What the colours say" }
                dl {
                    dt { "Evidence" }
                    dd {
                        "The logarithm of the prior’s mean of the likelihood, in nats: how well the keys before a token "
                        "fit its query before the query has chosen among them. Colours end at the twentieth of the "
                        "tokens with the least and the most."
                    }
                    dt { "Mean distance" }
                    dd { "How far back the posterior looks on average, in tokens; logarithmic, up to the whole text." }
                    dt { "Near mass" }
                    dd { "The posterior’s mass on the token itself and the " (reading.near) " before it." }
                }
            }
            script { (PreEscaped(include_str!("../reading.js"))) }
        }
    };
    document(&title, &description, &body)
}

fn controls(reading: &Reading) -> Markup {
    html! {
        form.controls hidden {
            label {
                "Head "
                select name="head" {
                    option value="-1" { "mean of " (reading.heads.len()) }
                    @for (index, (layer, head)) in reading.heads.iter().enumerate() {
                        option value=(index) { "layer " (layer) ", head " (head) }
                    }
                }
            }
            fieldset {
                legend { "Colour by" }
                @for (index, words) in ["evidence", "mean distance", "near mass"].iter().enumerate() {
                    label {
                        input type="radio" name="measure" value=(index) checked[index == 0];
                        " " (words)
                    }
                }
            }
        }
    }
}

fn piece(token: &ReadToken, scale: &Scale, near: usize) -> Markup {
    let Glance {
        ln_evidence,
        mean_distance,
        near_mass,
    } = token.mean;
    let about = format!(
        "ln evidence {}, mean distance {}, {:.0} % within {near}",
        fixed(ln_evidence, 2),
        fixed(mean_distance, 1),
        100.0 * near_mass
    );
    let value = format!("--v:{:.2}", scale.evidence(&token.mean));
    html! { span style=(value) title=(about) { (shown(&token.text)) } }
}

/// With line breaks that can be seen, and nothing that steers.
fn shown(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(plain).collect();
    lines.join("⏎\n")
}

/// `[head][measure][token]`, the mean over heads first.
fn numbers(reading: &Reading) -> String {
    let measures: [fn(&Glance) -> f64; 3] = [
        |glance| glance.ln_evidence,
        |glance| glance.mean_distance,
        |glance| glance.near_mass,
    ];
    let of = |glance: &dyn Fn(&ReadToken) -> Glance| -> String {
        let measures = measures.iter().map(|measure| {
            let tokens = reading.tokens.iter();
            let values: Vec<String> = tokens
                .map(|token| rounded(measure(&glance(token))))
                .collect();
            format!("[{}]", values.join(","))
        });
        format!("[{}]", measures.collect::<Vec<_>>().join(","))
    };
    let mean = of(&|token| token.mean);
    let heads = (0..reading.heads.len()).map(|index| of(&move |token| token.heads[index]));
    let all: Vec<String> = std::iter::once(mean).chain(heads).collect();
    format!("[{}]", all.join(","))
}

/// Three digits after the point are more than can be seen.
fn rounded(value: f64) -> String {
    match value.is_finite() {
        true => format!("{value:.3}"),
        false => "0".into(),
    }
}
