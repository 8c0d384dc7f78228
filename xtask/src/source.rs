//! Rust source, told apart: what is code, and what is comment or string.

/// A file's text and the same text with comments, strings and characters blanked.
pub struct Source<'a> {
    lines: Vec<&'a str>,
    code: String,
}

impl<'a> Source<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            lines: text.lines().collect(),
            code: code_only(text),
        }
    }

    /// Places where the code says one of the words, whole: `(line, word)`.
    pub fn code_with(&self, words: &[&'static str]) -> Vec<(usize, &'static str)> {
        let mut found = Vec::new();
        for (index, line) in self.code.lines().enumerate() {
            for word in words {
                if line
                    .match_indices(word)
                    .any(|(at, _)| is_whole(line, at, word))
                {
                    found.push((index + 1, *word));
                }
            }
        }
        found
    }

    /// Lines with an unsafe block or implementation that no comment near above justifies.
    pub fn undocumented_unsafe(&self) -> Vec<usize> {
        const LINES_ABOVE: usize = 4;
        self.code_with(&["unsafe {", "unsafe impl"])
            .into_iter()
            .map(|(line, _)| line)
            .filter(|&line| {
                let above = line.saturating_sub(1 + LINES_ABOVE)..line;
                !self.lines[above]
                    .iter()
                    .any(|text| text.contains("SAFETY:"))
            })
            .collect()
    }

    /// Comments on a declaration that open with one of the words: `(line, word)`. Their first line, no other.
    pub fn openings(&self, words: &[&'static str]) -> Vec<(usize, &'static str)> {
        let documents = |line: &'a str| {
            let line = line.trim_start();
            line.strip_prefix("///").or(line.strip_prefix("//!"))
        };
        let mut found = Vec::new();
        let mut before = None;
        for (index, line) in self.lines.iter().enumerate() {
            let text = documents(line);
            if before.is_none() || before.is_some_and(|before: &str| before.trim().is_empty()) {
                let opening = text.and_then(|text| text.split_whitespace().next());
                let word = words.iter().find(|word| opening == Some(**word));
                found.extend(word.map(|word| (index + 1, *word)));
            }
            before = text;
        }
        found
    }

    /// Notes to oneself that name no issue: `(line, what)`.
    pub fn loose_ends(&self) -> Vec<(usize, &'static str)> {
        const FIX: &str = concat!("FIX", "ME");
        const TO_DO: &str = concat!("TO", "DO");
        let mut found = Vec::new();
        for (index, line) in self.lines.iter().enumerate() {
            if line.contains(FIX) {
                found.push((index + 1, "a thing to be fixed is fixed or an issue"));
            }
            let mut rest = line.match_indices(TO_DO);
            if rest.any(|(at, _)| !line[at..].starts_with(concat!("TO", "DO(#"))) {
                found.push((index + 1, "a thing to do names its issue: (#number)"));
            }
        }
        found
    }
}

/// Whether no letter, digit or `_` continues the word on either side.
fn is_whole(line: &str, at: usize, word: &str) -> bool {
    let continues = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let open_end = !word.ends_with(|c: char| c.is_alphanumeric());
    !continues(line[..at].chars().next_back())
        && (open_end || !continues(line[at + word.len()..].chars().next()))
}

/// The text with everything blanked that is not code. Line breaks stay.
pub fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = end_of_quiet(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            let blank = |c: &char| if *c == '\n' { '\n' } else { ' ' };
            code.extend(chars[at..end].iter().map(blank));
            at = end;
        }
    }
    code
}

/// The end of the comment, string or character that begins at `at`; `at` if none does.
fn end_of_quiet(chars: &[char], at: usize) -> usize {
    let next = |ahead: usize| chars.get(at + ahead).copied();
    match chars[at] {
        '/' if next(1) == Some('/') => position(chars, at, |c| c == '\n'),
        '/' if next(1) == Some('*') => end_of_block_comment(chars, at),
        '"' => end_of_string(chars, at),
        'r' if !continues_a_name(chars, at) => end_of_raw_string(chars, at),
        '\'' if next(1) == Some('\\') => position(chars, at + 3, |c| c == '\'') + 1,
        '\'' if next(2) == Some('\'') => at + 3,
        _ => at,
    }
    .min(chars.len())
}

fn position(chars: &[char], from: usize, wanted: impl Fn(char) -> bool) -> usize {
    (from..chars.len())
        .find(|&at| wanted(chars[at]))
        .unwrap_or(chars.len())
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start + 2, 1);
    while at < chars.len() && depth > 0 {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    at
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// `r"…"` with any number of `#`; `start` where it is a name such as `r#type`.
fn end_of_raw_string(chars: &[char], start: usize) -> usize {
    let quote = position(chars, start + 1, |c| c != '#');
    if chars.get(quote) != Some(&'"') {
        return start;
    }
    let hashes = quote - start - 1;
    let closes = |&at: &usize| {
        chars[at] == '"'
            && chars[at + 1..].len() >= hashes
            && chars[at + 1..][..hashes].iter().all(|c| *c == '#')
    };
    (quote + 1..chars.len())
        .find(closes)
        .map_or(chars.len(), |at| at + 1 + hashes)
}

/// Whether the `r` belongs to a name; the `b` of a raw byte string does not make it one.
fn continues_a_name(chars: &[char], at: usize) -> bool {
    let in_name = |c: &char| c.is_alphanumeric() || *c == '_';
    match &chars[..at] {
        [.., before, 'b'] => in_name(before),
        ['b'] | [] => false,
        [.., before] => in_name(before),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_stays_and_the_rest_is_blank() {
        for (text, code) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("a \" b") + c"#, "f(        ) + c"),
            (r##"f(r#"a " b"#) + c"##, "f(          ) + c"),
            ("f(br\"a\\\") + c", "f(b     ) + c"),
            (
                "x: &'a str, 'b', '\\'', '\\n'",
                "x: &'a str,    ,     ,     ",
            ),
            ("for r in rows", "for r in rows"),
            ("let r#type = 1;", "let r#type = 1;"),
        ] {
            assert_eq!(code_only(text).trim_end(), code.trim_end(), "{text}");
        }
    }

    #[test]
    fn what_never_ends_ends_with_the_file() {
        for text in [
            "\"", "\"\\", "/*", "r#\"", "'\\", "'", "r", "r#", "//", "b", "'\\'",
        ] {
            assert_eq!(
                code_only(text).chars().count(),
                text.chars().count(),
                "{text}"
            );
        }
    }

    #[test]
    fn words_are_whole() {
        let source = Source::new("unsafe_code; println!(); my_dbg!(); sprint!();");
        assert!(source.code_with(&["unsafe", "dbg!", "print!"]).is_empty());
        assert_eq!(source.code_with(&["println!"]), [(1, "println!")]);
    }
}
