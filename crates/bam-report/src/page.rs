//! One self-contained HTML page: no request leaves it, and it reads without scripts.

mod document;
mod head_table;
mod heads;
mod reading;
mod study;
mod tables;

pub use heads::heads_page;
pub use reading::reading_page;
pub use study::study_page;

use crate::findings::{headline, outcomes};
use crate::plot;
use crate::runs::{self, Runs, passkeys};
use crate::text::{join, plain, thousands};
use bam_record::Heads;
use document::document;
use maud::{Markup, html};
use std::collections::BTreeSet;

/// Notes beside the records, of what they do not say. Empty fields leave their place out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PageNotes {
    /// The training data in words; paragraphs are separated by an empty line.
    pub training_data: String,
    /// Commands that make these records again, in order.
    pub commands: Vec<String>,
    /// Machine, threads and time, in words.
    pub machine: String,
}

/// The whole page, from `<!DOCTYPE html>` to `</html>`.
pub fn page(title: &str, runs: &Runs, notes: &PageNotes) -> String {
    let headline = headline(runs);
    let body = html! {
        header {
            p.kicker { (plain(title)) }
            h1 {
                (unbroken(&headline.sentence))
                @if let Some(comparison) = &headline.comparison { " " span.then { (unbroken(comparison)) } }
            }
            @for detail in &headline.details { p.lead { (unbroken(detail)) } }
        }
        main {
            (reach(runs))
            (task(runs, notes))
            (idea())
            (retrieval(runs))
            (depth(runs))
            (perplexity(runs))
            (training(runs))
            (heads(runs))
            (measured(runs, notes))
        }
    };
    document(title, &headline.sentence, &body)
}

fn reach(runs: &Runs) -> Markup {
    let plot = plot::reach(runs);
    html! {
        @if !is_empty(&plot) {
            section {
                h2 { "How far each encoding reaches" }
                figure {
                    (plot)
                    figcaption {
                        "The marker stands at the longest context at which an encoding finds the key in more than half "
                        "of its samples. The bar is strong up to the longest context at which even the lower end of the "
                        "95\u{a0}% interval is above one half; the thin line ends at the longest context tested."
                    }
                }
            }
        }
    }
}

fn task(runs: &Runs, notes: &PageNotes) -> Markup {
    let trained: BTreeSet<usize> = passkeys(runs).map(|(_, of)| of.train_length).collect();
    let trained: Vec<String> = trained.into_iter().map(thousands).collect();
    html! {
        section {
            h2 { "What the models are asked" }
            p {
                "A number is hidden in a long, monotonous text; after the text comes the question for it. A model that "
                "finds it has looked back over the whole context. The models compared here differ in how attention "
                "is told where a word stands. They were trained on short contexts, and are asked about longer ones."
            }
            blockquote {
                p {
                    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. … "
                    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. … "
                    mark { "The pass key is 71432. Remember it. 71432 is the pass key." }
                    " … The grass is green. The sky is blue. … What is the pass key? The pass key is"
                }
            }
            @if let Some((_, passkey)) = passkeys(runs).next() {
                p {
                    "A sample counts only if all " (passkey.scored_digits) " scored digits are the model’s first choice. "
                    @match passkey.given_digits {
                        0 => {}
                        1 => { "One leading digit is given in the prompt and not scored. " }
                        given => { (given) " leading digits are given in the prompt and not scored. " }
                    }
                    "Guessing is right once in " (thousands(10usize.saturating_pow(passkey.scored_digits.min(19) as u32)))
                    ". The training length is " (join(&trained)) " tokens."
                }
            }
            @if !notes.training_data.trim().is_empty() {
                h3 { "What they were trained on" }
                @for paragraph in paragraphs(&notes.training_data) { p { (paragraph) } }
            }
        }
    }
}

fn idea() -> Markup {
    html! {
        section {
            h2 { "The idea in one picture" }
            p {
                "Attention is a weighted mean, and its weights are a probability over the words before. Adding a "
                "positional score to a content score multiplies two probabilities: a " strong { "prior" }
                " over where to look, and a " strong { "likelihood" } " of what is there. Their product, normalised, is "
                "the attention itself, the " strong { "posterior" } "."
            }
            figure {
                (plot::bayes())
                figcaption {
                    "An illustration, computed and not measured: 32 words, the query at the right, one far word that "
                    "matches. Under a prior that falls exponentially with distance the match is all but lost; under one "
                    "that falls slowly the same match keeps much of the attention. BAM learns the prior’s scale, shape "
                    "and location for every head; ALiBi is the case of shape 1 with nothing learned."
                }
            }
        }
    }
}

fn retrieval(runs: &Runs) -> Markup {
    let plot = plot::passkey(runs);
    html! {
        section {
            h2 { "Retrieval over context length" }
            @if is_empty(&plot) {
                p.missing { "No passkey samples are in these records." }
            } @else {
                figure {
                    div.for-narrow { (plot::key(runs)) }
                    (plot)
                    figcaption {
                        "Share of samples in which the whole key is right, all depths together, with 95\u{a0}% Wilson "
                        "intervals. "
                        @if runs.len() > plot::BANDS { "Points of different encodings are set a little side by side." }
                    }
                }
            }
            @if passkeys(runs).next().is_some() { (tables::accuracy(runs)) }
        }
    }
}

fn depth(runs: &Runs) -> Markup {
    let maps = plot::depth(runs);
    html! {
        @if !is_empty(&maps) {
            section {
                h2 { "Where the key stands" }
                p {
                    "Each row is a depth, from the start of the text to just before the question; each column a context "
                    "length in multiples of the training length. Numbers are percent right; a stroke marks what was not run."
                }
                (maps)
            }
        }
    }
}

fn perplexity(runs: &Runs) -> Markup {
    let plot = plot::perplexity(runs);
    let documents = runs::documents(runs).into_iter();
    let documents: Vec<String> = documents.map(|title| format!("“{title}”")).collect();
    html! {
        section {
            h2 { "Language over long documents" }
            @if is_empty(&plot) {
                p.missing { "No perplexity with a finite value is in these records." }
            } @else {
                figure {
                    div.for-narrow { (plot::key(runs)) }
                    (plot)
                    figcaption {
                        "Perplexity of the next token by its position in " (join(&documents))
                        @if documents.len() > 1 { ", which are not to be compared with each other" }
                        "; lower is better. Neighbouring windows are merged to about four an octave."
                    }
                }
            }
            (tables::perplexity(runs))
        }
    }
}

fn training(runs: &Runs) -> Markup {
    let plot = plot::training(runs);
    html! {
        @if !is_empty(&plot) {
            section {
                h2 { "Training" }
                figure {
                    div.for-narrow { (plot::key(runs)) }
                    (plot)
                    figcaption {
                        "Nats per token. Faint: loss on training batches, averaged over neighbouring steps. Strong, with "
                        "markers: loss on validation rows. The number is the last value; the first steps leave the frame at the top."
                    }
                }
            }
        }
    }
}

fn heads(runs: &Runs) -> Markup {
    // The model whose heads differ most in class is the one with something to see.
    let variety = |heads: &Heads| {
        heads
            .heads
            .iter()
            .map(|head| &head.class)
            .collect::<BTreeSet<_>>()
            .len()
    };
    let open = runs::heads(runs)
        .max_by_key(|(index, _, heads)| (variety(heads), std::cmp::Reverse(*index)))
        .map(|(index, ..)| index);
    html! {
        section {
            h2 { "Each head's prior over distance" }
            @if open.is_none() {
                p.missing { "No heads were inspected." }
            } @else {
                (heads::introduction())
            }
            @for (index, name, heads) in runs::heads(runs) {
                details open[open == Some(index)] {
                    summary { (plain(name)) " " span.faint { (tables::classes(heads)) } }
                    (heads::priors(&format!("prior-{index}"), name, heads))
                }
            }
        }
    }
}

fn measured(runs: &Runs, notes: &PageNotes) -> Markup {
    let samples = passkeys(runs)
        .flat_map(|(_, passkey)| outcomes(passkey))
        .map(|outcome| outcome.samples)
        .fold(0, usize::saturating_add);
    html! {
        section {
            h2 { "How this was measured" }
            dl {
                @if samples > 0 {
                    dt { "Passkey" }
                    dd {
                        "The prompt is the longest of its form that fits the length. The information stands at the depth "
                        "named, 0 at the start and 1 just before the question. " (thousands(samples))
                        " samples were scored in all. Accuracy at a length counts the samples of all its depths as draws "
                        "of one proportion."
                    }
                    dt { "Interval" }
                    dd {
                        "Wilson’s score interval at 95\u{a0}%. It says what sampling alone can do; it does not cover another "
                        "training run or another seed: each line here is one trained model."
                    }
                }
                dt { "Perplexity" }
                dd {
                    "The exponential of the mean cross-entropy per token. “Near the training length” is the mean over "
                    "the windows that end in the octave of positions up to there, weighted by tokens, and “at the longest” "
                    "over the last octave measured. Bits per byte divide by the document’s bytes per token."
                }
                dt { "Head classes" }
                dd { "Taken from the records as " code { "bam inspect heads" } " wrote them: local, flat or anti-local." }
                @if !notes.machine.trim().is_empty() {
                    dt { "Machine and time" }
                    dd { (plain(&notes.machine)) }
                }
            }
            @if !notes.commands.is_empty() {
                h3 { "To make it again" }
                (tables::scrolled("scroll", "Commands", &html! { pre { code { (notes.commands.join("\n")) } } }))
            }
            (tables::records(runs))
        }
    }
}

fn paragraphs(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split("\n\n")
        .map(plain)
        .filter(|paragraph| !paragraph.trim().is_empty())
}

/// With a sign kept on the line of its number.
fn unbroken(sentence: &str) -> String {
    sentence.replace(" %", "\u{a0}%").replace(" ×", "\u{a0}×")
}

fn is_empty(markup: &Markup) -> bool {
    markup.0.is_empty()
}
