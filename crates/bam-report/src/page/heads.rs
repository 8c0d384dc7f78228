//! The page of `bam inspect heads`: every head's prior, and its posterior where a text was read.

use super::document::document;
use super::head_table::{head_table, text_table};
use super::tables::classes;
use crate::plot;
use crate::text::{counted, plain};
use bam_record::{Heads, Measured};
use maud::{Markup, html};

/// The whole page.
pub fn heads_page(encoding: &str, heads: &Heads) -> String {
    let encoding = plain(encoding);
    let title = format!("The heads of {encoding}");
    let body = html! {
        header {
            p.kicker { "bam inspect heads" }
            h1 { (title) }
            p.lead { (classes(heads)) }
        }
        main {
            section {
                h2 { "Each head's prior over distance" }
                (introduction())
                (priors("prior", &encoding, heads))
            }
            @if let Some(measured) = &heads.measured { (on_text(heads, measured)) }
        }
    };
    document(&title, &classes(heads), &body)
}

/// A paragraph before all priors.
pub fn introduction() -> Markup {
    html! {
        p {
            "A head’s prior, before it has seen any content: how much a key counts at each distance, relative to "
            "the distance that counts most. Both axes are logarithmic."
        }
    }
}

/// One model's priors, as curves and as a table; `id` must be unique in the page.
pub fn priors(id: &str, name: &str, heads: &Heads) -> Markup {
    html! {
        (plot::prior(id, heads))
        p.small {
            "The distances within which 50, 90 and 99\u{a0}% of a head’s prior lie, over a row of "
            (counted(heads.row_keys, "key")) "; entropy in nats. The ruler is logarithmic, one end to the other "
            "of that row."
        }
        (head_table(name, heads))
    }
}

fn on_text(heads: &Heads, measured: &Measured) -> Markup {
    html! {
        section {
            h2 { "What it makes of “" (plain(&measured.text)) "”" }
            p {
                "Content turns the prior into the posterior, which is the attention itself. Shown is the mass "
                "within each distance, before and after reading: a mean over " (counted(measured.rows, "row"))
                " in the second half of " (counted(measured.length, "token")) ". Where scalable softmax is on "
                "the prior, so it is here."
            }
            (plot::masses(heads, measured))
            p.small {
                "Distances within which 50, 90 and 99\u{a0}% lie. The divergence KL(posterior\u{a0}‖\u{a0}prior) says how "
                "much the content added to the position, the entropy how spread out the posterior is, both in nats. "
                "The evidence is the prior’s mean of the likelihood: how well the keys fit the query before it has "
                "chosen among them."
            }
            (text_table(heads, measured))
        }
    }
}
