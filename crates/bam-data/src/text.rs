//! Text and JSON as other programs save them: with byte order marks, and with the `NaN` that JSON does not have.

use std::{fs, io, path::Path};

use serde::de::DeserializeOwned;
use serde_json::error::Category;

/// The reason why bytes are no text, or a text no JSON of the kind that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotText {
    #[error("{0} (save it as UTF-8)")]
    OtherEncoding(&'static str),
    #[error("{0} (decompress it, or name it as such files are named)")]
    Compressed(&'static str),
    #[error("an invalid UTF-8 sequence in line {line}, at byte {byte} of the file")]
    InvalidUtf8 { line: usize, byte: usize },
    #[error("no JSON: {reason} at line {line}, column {column}")]
    NotJson {
        reason: String,
        line: usize,
        column: usize,
    },
    #[error("{reason} at line {line}, column {column}")]
    OtherJson {
        reason: String,
        line: usize,
        column: usize,
    },
}

/// UTF-8 text, without byte order marks at its beginning: they say how it is encoded and are no part of it.
///
/// # Errors
/// For other encodings, by their names where they can be told.
pub fn text_of(bytes: &[u8]) -> Result<&str, NotText> {
    if let Some(other) = other_encoding(bytes) {
        return Err(other);
    }
    let text = std::str::from_utf8(bytes);
    let text = text.map_err(|error| {
        let byte = error.valid_up_to();
        let ends = bytes[..byte].iter().filter(|&&byte| byte == b'\n');
        let line = ends.count() + 1;
        NotText::InvalidUtf8 { line, byte }
    })?;
    Ok(text.trim_start_matches('\u{feff}'))
}

/// The wide encoding or the compression that these bytes begin in. Without a mark, a wide encoding's first
/// character has a zero beside it.
pub(super) fn other_encoding(bytes: &[u8]) -> Option<NotText> {
    let wide = |name| Some(NotText::OtherEncoding(name));
    let compressed = |name| Some(NotText::Compressed(name));
    match *bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => wide("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => wide("UTF-16"),
        [0x1f, 0x8b, ..] => compressed("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => compressed("zstd"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => compressed("xz"),
        [0, second, ..] if second != 0 => wide("UTF-16"),
        [first, 0, third, 0, ..] if first != 0 && third != 0 => wide("UTF-16"),
        _ => None,
    }
}

/// A text file's text, as [`text_of`] gives it.
///
/// # Errors
/// If it cannot be read, or its bytes are no text.
pub fn read_text(path: &Path) -> io::Result<String> {
    into_text(fs::read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// [`text_of`] without a copy.
pub(super) fn into_text(bytes: Vec<u8>) -> Result<String, NotText> {
    let marks = bytes.len() - text_of(&bytes)?.len();
    let mut text = String::from_utf8(bytes).unwrap_or_default();
    text.drain(..marks);
    Ok(text)
}

/// JSON, with byte order marks before it or without. `NaN`, `Infinity` and `-Infinity`, which Python
/// writes, are null.
///
/// # Errors
/// If the bytes are no text, or the text no JSON of a `T`.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, NotText> {
    let text = text_of(bytes)?;
    tolerant(text, |text| serde_json::from_str(text)).map_err(|error| NotText::json(&error))
}

/// Parses, and where that fails, parses with null in the place of Python's numbers that are none.
pub(super) fn tolerant<T>(
    text: &str,
    parse: impl Fn(&str) -> serde_json::Result<T>,
) -> serde_json::Result<T> {
    parse(text).or_else(|error| match with_null(text) {
        Some(other) => parse(&other),
        None => Err(error),
    })
}

impl NotText {
    fn json(error: &serde_json::Error) -> Self {
        let (line, column, reason) = (error.line(), error.column(), json_reason(error));
        match error.classify() {
            Category::Data | Category::Io => Self::OtherJson {
                reason,
                line,
                column,
            },
            Category::Syntax | Category::Eof => Self::NotJson {
                reason,
                line,
                column,
            },
        }
    }
}

/// An error's words without its place.
pub(super) fn json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    match text {
        // Of two halves, the parser names what comes instead of the second one.
        "unexpected end of hex escape" | "lone leading surrogate in hex escape" => {
            "half of a surrogate pair stands alone".to_owned()
        }
        text => text.to_owned(),
    }
}

/// `text` with null for each of Python's numbers that are none; `None` where there are none of them.
fn with_null(text: &str) -> Option<String> {
    let (mut out, mut copied) = (String::new(), 0);
    let (mut at, mut quoted) = (0, false);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        let name = ["NaN", "Infinity", "-Infinity"]
            .into_iter()
            .find(|name| !quoted && bytes[at..].starts_with(name.as_bytes()));
        match (bytes[at], name) {
            (_, Some(name)) => {
                out.push_str(&text[copied..at]);
                out.push_str("null");
                at += name.len();
                copied = at;
                continue;
            }
            (b'"', None) => quoted = !quoted,
            (b'\\', None) => at += 1,
            _ => {}
        }
        at += 1;
    }
    (copied > 0).then(|| out + &text[copied..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn marks_are_no_part_of_a_text() {
        assert_eq!(text_of(b"\xef\xbb\xbfa"), Ok("a"));
        assert_eq!(text_of(b"\xef\xbb\xbf\xef\xbb\xbf"), Ok(""));
        assert_eq!(into_text(b"\xef\xbb\xbfa".to_vec()), Ok("a".to_owned()));
        assert_eq!(text_of(b"a\xef\xbb\xbf"), Ok("a\u{feff}"));
        assert_eq!(
            text_of(b"ab\xff"),
            Err(NotText::InvalidUtf8 { line: 1, byte: 2 })
        );
        assert_eq!(
            text_of(b"a\n\nb\xff"),
            Err(NotText::InvalidUtf8 { line: 3, byte: 4 })
        );
        for (bytes, name) in [
            (&b"\x1f\x8b\x08"[..], "gzip"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"\xfd7zXZ\0", "xz"),
        ] {
            assert_eq!(text_of(bytes), Err(NotText::Compressed(name)));
        }
        let wide =
            |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        let swapped =
            |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_be_bytes).collect() };
        for bytes in [
            wide("\u{feff}{}"),
            swapped("\u{feff}{}"),
            wide("{}"),
            swapped("{}"),
        ] {
            assert_eq!(
                text_of(&bytes),
                Err(NotText::OtherEncoding("UTF-16")),
                "{bytes:?}"
            );
        }
        assert_eq!(
            text_of(b"\xff\xfe\0\0a\0\0\0"),
            Err(NotText::OtherEncoding("UTF-32"))
        );
        // Null control: a zero alone is a character.
        assert_eq!(text_of(b"\0"), Ok("\0"));
    }

    #[test]
    fn pythons_numbers_that_are_none_are_null() {
        let read: Value = parse_json(
            br#"{"a": NaN, "b": [-Infinity, Infinity, 1], "NaN": "NaN \" -Infinity \\", "c":NaN}"#,
        )
        .unwrap();
        let right =
            json!({"a": null, "b": [null, null, 1], "NaN": "NaN \" -Infinity \\", "c": null});
        assert_eq!(read, right);
        for broken in [
            r#"{"a": Nan}"#,
            r#"{"a": NaNs}"#,
            r#"{"a": inf}"#,
            "",
            "{\"a\"\\",
        ] {
            assert!(parse_json::<Value>(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn an_error_has_its_place_once() {
        let syntax = parse_json::<Value>(b"{\n  x").unwrap_err().to_string();
        assert_eq!(syntax, "no JSON: key must be a string at line 2, column 3");
        let kind = parse_json::<u8>(b"\"a\"").unwrap_err().to_string();
        assert_eq!(
            kind,
            "invalid type: string \"a\", expected u8 at line 1, column 3"
        );
    }
}
