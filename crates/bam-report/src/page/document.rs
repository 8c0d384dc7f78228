//! A page's frame.

use crate::text::plain;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// A page around a body: styles and scripts are in it.
pub fn document(title: &str, description: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="description" content=(description);
                title { (plain(title)) }
                style { (PreEscaped(include_str!("../style.css"))) }
            }
            body {
                (body)
                script { (PreEscaped(include_str!("../script.js"))) }
            }
        }
    }
    .into_string()
}
