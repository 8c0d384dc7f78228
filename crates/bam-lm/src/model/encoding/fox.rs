//! Forget gates in an encoding's text: `fox` alone, `fox+bam` and the like beside another encoding.

/// The name in encodings.
const NAME: &str = "fox";

/// Whether an encoding's text has forget gates, and the text without them: `fox` alone is `nope` beside the gates.
pub(super) fn taken_off(text: &str) -> (bool, String) {
    let ends = ["*", "+ssmax", "+adaptive"];
    let alone = |rest: &str| rest.is_empty() || ends.iter().any(|end| rest.starts_with(end));
    match text.strip_prefix(NAME) {
        Some(rest) if alone(rest) => (true, format!("nope{rest}")),
        Some(rest) if rest.starts_with('+') => (true, rest[1..].to_owned()),
        _ => (false, text.to_owned()),
    }
}

/// The text of an encoding with forget gates beside that position.
pub(super) fn put_on(position: &str) -> String {
    match position {
        "nope" => NAME.into(),
        beside => format!("{NAME}+{beside}"),
    }
}
