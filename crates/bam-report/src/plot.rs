//! Records as SVG: pure functions from runs to markup.
//!
//! Colours are CSS variables (`style.css`), so that one drawing serves light, dark and print. A plot with text along
//! long axes is drawn twice, wide and narrow, and CSS shows the one that fits: text keeps its size on a phone.

mod axis;
mod bayes;
mod depth;
mod heads;
mod masses;
mod passkey;
mod perplexity;
mod prior;
mod reach;
mod series;
mod training;

pub use bayes::bayes;
pub use depth::depth;
pub use heads::{heads, lag_cell, number_cell};
pub use masses::masses;
pub use passkey::{BANDS, passkey};
pub use perplexity::perplexity;
pub use prior::{class, prior};
pub use reach::reach;
pub use series::key;
pub use training::training;

use maud::{Markup, html};

/// Which screen a drawing is for. Both have about one CSS pixel a unit at their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Canvas {
    Wide,
    Narrow,
}

impl Canvas {
    fn width(self) -> f64 {
        match self {
            Canvas::Wide => 880.0,
            Canvas::Narrow => 360.0,
        }
    }

    fn class(self) -> &'static str {
        match self {
            Canvas::Wide => "wide",
            Canvas::Narrow => "narrow",
        }
    }

    fn is_wide(self) -> bool {
        self == Canvas::Wide
    }
}

/// What a drawing shows, for those who hear it instead.
struct Label<'a> {
    /// Unique in the page.
    id: &'a str,
    title: &'a str,
    description: &'a str,
}

/// The drawing for both screens.
fn drawing(label: &Label, draw: impl Fn(Canvas) -> (f64, Markup)) -> Markup {
    html! {
        @for canvas in [Canvas::Wide, Canvas::Narrow] {
            @let (height, content) = draw(canvas);
            @let id = format!("{}-{}", label.id, canvas.class());
            (svg(&Label { id: &id, ..*label }, canvas.class(), canvas.width(), height, &content))
        }
    }
}

fn svg(label: &Label, class: &str, width: f64, height: f64, content: &Markup) -> Markup {
    let title = format!("{}-title", label.id);
    let description = format!("{}-desc", label.id);
    html! {
        svg class=(class) viewBox=(format!("0 0 {} {}", px(width), px(height))) role="img"
            aria-labelledby=(format!("{title} {description}")) {
            title id=(title) { (label.title) }
            desc id=(description) { (label.description) }
            (content)
        }
    }
}

/// A coordinate with a tenth of a unit; anything that is not a number lands at the origin instead of breaking the path.
fn px(value: f64) -> String {
    let value = if value.is_finite() {
        value.clamp(-1e5, 1e5)
    } else {
        0.0
    };
    let text = format!("{value:.1}");
    match text.trim_end_matches(".0") {
        "-0" | "" => "0".to_string(),
        short => short.to_string(),
    }
}

/// `M x y L x y …`
fn path(points: &[(f64, f64)]) -> String {
    let mut text = String::new();
    for (index, (x, y)) in points.iter().enumerate() {
        text.push(if index == 0 { 'M' } else { 'L' });
        text += &format!("{} {}", px(*x), px(*y));
    }
    text
}

fn line(class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> Markup {
    html! { line class=(class) x1=(px(x1)) y1=(px(y1)) x2=(px(x2)) y2=(px(y2)) {} }
}

fn text(class: &str, x: f64, y: f64, content: &str) -> Markup {
    html! { text class=(class) x=(px(x)) y=(px(y)) { (content) } }
}

/// Width of a text at the plots' font size, on the wide side, to keep labels apart.
fn text_width(content: &str) -> f64 {
    let width = |c: char| match c {
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' | '—' => 12.0,
        'f' | 'i' | 'j' | 'l' | 'r' | 't' | 'I' | '.' | ',' | ':' | '·' | ' ' | '(' | ')' => 5.0,
        _ => 7.8,
    };
    content.chars().map(width).sum()
}
