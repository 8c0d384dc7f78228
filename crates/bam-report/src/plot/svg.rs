//! Drawings: canvases, labels for those who hear them, and the shapes that all plots are made of.

use maud::{Markup, html};

/// The screen a drawing is for. Both have about one CSS pixel a unit at their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canvas {
    Wide,
    Narrow,
}

impl Canvas {
    pub fn width(self) -> f64 {
        self.either(880.0, 360.0)
    }

    fn class(self) -> &'static str {
        self.either("wide", "narrow")
    }

    pub fn is_wide(self) -> bool {
        self == Canvas::Wide
    }

    /// The first on a wide screen, the second on a narrow one.
    pub fn either<T>(self, wide: T, narrow: T) -> T {
        match self {
            Canvas::Wide => wide,
            Canvas::Narrow => narrow,
        }
    }
}

/// Words for those who hear a drawing.
pub struct Label<'a> {
    /// Unique in the page.
    pub id: &'a str,
    pub title: &'a str,
    pub description: &'a str,
}

/// The drawing of some rows for both screens, with words for each row; empty without rows.
pub fn drawing<T>(
    (id, title): (&str, &str),
    rows: &[T],
    words: impl Fn(&T) -> String,
    draw: impl Fn(Canvas, &[T]) -> (f64, Markup),
) -> Markup {
    let description = rows.iter().map(words).collect::<Vec<_>>().join(" ");
    html! {
        @for canvas in [Canvas::Wide, Canvas::Narrow].into_iter().filter(|_| !rows.is_empty()) {
            @let (height, content) = draw(canvas, rows);
            @let label = Label { id: &format!("{id}-{}", canvas.class()), title, description: &description };
            (svg(&label, canvas.class(), canvas.width(), height, &content))
        }
    }
}

pub fn svg(label: &Label, class: &str, width: f64, height: f64, content: &Markup) -> Markup {
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
pub fn px(value: f64) -> String {
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
pub fn path(points: &[(f64, f64)]) -> String {
    let mut text = String::new();
    for (index, (x, y)) in points.iter().enumerate() {
        text.push(if index == 0 { 'M' } else { 'L' });
        text += &format!("{} {}", px(*x), px(*y));
    }
    text
}

pub fn line(class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> Markup {
    html! { line class=(class) x1=(px(x1)) y1=(px(y1)) x2=(px(x2)) y2=(px(y2)) {} }
}

pub fn text(class: &str, x: f64, y: f64, content: &str) -> Markup {
    html! { text class=(class) x=(px(x)) y=(px(y)) { (content) } }
}

/// Width of a text at the plots' font size, on the wide side, to keep labels apart.
pub fn text_width(content: &str) -> f64 {
    let width = |c: char| match c {
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' | '—' => 12.0,
        'f' | 'i' | 'j' | 'l' | 'r' | 't' | 'I' | '.' | ',' | ':' | '·' | ' ' | '(' | ')' => 5.0,
        _ => 7.8,
    };
    content.chars().map(width).sum()
}
