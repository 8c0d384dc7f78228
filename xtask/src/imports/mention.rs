//! The paths that a file of Rust mentions: in `use` and in its code, tests left out.

use crate::source::code_only;
use std::collections::BTreeSet;

/// A file, as far as imports go.
#[derive(Debug, Default)]
pub struct Mentions {
    pub paths: Vec<Mention>,
    /// Names that the file defines.
    pub defined: BTreeSet<String>,
    /// Modules that it declares for tests only.
    pub tests: BTreeSet<String>,
}

/// A path of at least two segments, or of `use`.
#[derive(Debug, PartialEq)]
pub struct Mention {
    pub line: usize,
    pub segments: Vec<String>,
    pub import: Option<Import>,
}

/// A `use`: the name it brings into scope, `*` for all there are.
#[derive(Debug, PartialEq)]
pub struct Import {
    pub name: String,
    pub public: bool,
}

const DEFINING: [&str; 9] = [
    "const",
    "enum",
    "fn",
    "macro_rules",
    "mod",
    "static",
    "struct",
    "trait",
    "type",
];

impl Mentions {
    pub fn of(text: &str) -> Self {
        let code = code_only(text);
        let mut reader = Reader {
            tokens: tokens(&code),
            at: 0,
            inner: Vec::new(),
            found: Self::default(),
        };
        reader.read();
        reader.found
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    /// `::`
    Step,
    Sign(char),
}

fn tokens(code: &str) -> Vec<(Token<'_>, usize)> {
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let in_name = |c: char| c.is_alphanumeric() || c == '_';
            let (token, length) = if in_name(first) {
                let length = rest.find(|c| !in_name(c)).unwrap_or(rest.len());
                (Token::Name(&rest[..length]), length)
            } else if rest.starts_with("::") {
                (Token::Step, 2)
            } else {
                (Token::Sign(first), first.len_utf8())
            };
            found.push((token, index + 1));
            rest = rest[length..].trim_start();
        }
    }
    found
}

struct Reader<'a> {
    tokens: Vec<(Token<'a>, usize)>,
    at: usize,
    /// Braces open around each module inside the file that we are in.
    inner: Vec<usize>,
    found: Mentions,
}

impl<'a> Reader<'a> {
    fn token(&self, at: usize) -> Option<Token<'a>> {
        self.tokens.get(at).map(|(token, _)| *token)
    }

    fn read(&mut self) {
        let mut open = 0usize;
        while let Some(token) = self.token(self.at) {
            match token {
                Token::Sign('#') => self.attribute(),
                Token::Sign('{') => (open, self.at) = (open + 1, self.at + 1),
                Token::Sign('}') => {
                    open = open.saturating_sub(1);
                    self.inner.pop_if(|outside| *outside == open);
                    self.at += 1;
                }
                Token::Name("use") if self.token(self.at + 1) != Some(Token::Sign('<')) => {
                    let before = self.at.checked_sub(1).and_then(|at| self.token(at));
                    let public = matches!(before, Some(Token::Name("pub") | Token::Sign(')')));
                    self.at += 1;
                    self.tree(&[], public);
                }
                Token::Name(word) if DEFINING.contains(&word) => {
                    let named = self.at + 1 + usize::from(word == "macro_rules");
                    if let Some(Token::Name(name)) = self.token(named) {
                        self.found.defined.insert(name.into());
                        if word == "mod" && self.token(named + 1) == Some(Token::Sign('{')) {
                            self.inner.push(open);
                        }
                    }
                    self.at += 1;
                }
                Token::Name(_) => self.path(),
                _ => self.at += 1,
            }
        }
    }

    /// An attribute; what it gives to tests alone is passed over with it.
    fn attribute(&mut self) {
        let end = self.closing(self.at + 1, '[', ']');
        let names: Vec<&str> = self.tokens[self.at..end.min(self.tokens.len())]
            .iter()
            .filter_map(|(token, _)| match token {
                Token::Name(name) => Some(*name),
                _ => None,
            })
            .collect();
        self.at = end + 1;
        let for_tests = names.first() == Some(&"cfg")
            && names.contains(&"test")
            && !names.contains(&"not")
            && !names.contains(&"any");
        if for_tests {
            self.skip_item();
        }
    }

    fn skip_item(&mut self) {
        while self.token(self.at) == Some(Token::Sign('#')) {
            self.at = self.closing(self.at + 1, '[', ']') + 1;
        }
        let mut is_use = false;
        while let Some(token) = self.token(self.at) {
            match token {
                Token::Name("use") => is_use = true,
                Token::Name("mod") => {
                    if let Some(Token::Name(name)) = self.token(self.at + 1) {
                        self.found.tests.insert(name.into());
                    }
                }
                Token::Sign(';') => break,
                Token::Sign('{') => {
                    self.at = self.closing(self.at, '{', '}');
                    if !is_use {
                        break;
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
        self.at += 1;
    }

    /// The sign that closes the one at or after `from`.
    fn closing(&self, from: usize, open: char, close: char) -> usize {
        let mut depth = 0;
        for at in from..self.tokens.len() {
            match self.tokens[at].0 {
                Token::Sign(sign) if sign == open => depth += 1,
                Token::Sign(sign) if sign == close => {
                    depth -= 1;
                    if depth == 0 {
                        return at;
                    }
                }
                _ => {}
            }
        }
        self.tokens.len()
    }

    /// A tree of `use`, from its first segment to the sign after it.
    fn tree(&mut self, before: &[String], public: bool) {
        let mut segments = before.to_vec();
        let mut name = None;
        let line = self.tokens.get(self.at).map_or(0, |(_, line)| *line);
        while let Some(token) = self.token(self.at) {
            self.at += 1;
            match token {
                Token::Name("as") => {
                    if let Some(Token::Name(alias)) = self.token(self.at) {
                        name = Some(alias.to_owned());
                        self.at += 1;
                    }
                }
                Token::Name(segment) => segments.push(segment.into()),
                Token::Sign('*') => name = Some("*".into()),
                Token::Sign('{') => {
                    while !matches!(self.token(self.at), None | Some(Token::Sign('}'))) {
                        self.tree(&segments, public);
                        if self.token(self.at) == Some(Token::Sign(',')) {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                Token::Step => {}
                Token::Sign(_) => {
                    self.at -= 1;
                    break;
                }
            }
        }
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        let Some(name) = name.or_else(|| segments.last().cloned()) else {
            return;
        };
        self.mention(line, segments, Some(Import { name, public }));
    }

    fn path(&mut self) {
        let (_, line) = self.tokens[self.at];
        let inside = self
            .at
            .checked_sub(1)
            .and_then(|at| self.token(at))
            .is_some_and(|token| matches!(token, Token::Step | Token::Sign('.')));
        let mut segments = Vec::new();
        while let Some(Token::Name(segment)) = self.token(self.at) {
            segments.push(segment.to_owned());
            self.at += 1;
            if self.token(self.at) != Some(Token::Step) {
                break;
            }
            self.at += 1;
        }
        if segments.len() > 1 && !inside {
            self.mention(line, segments, None);
        }
    }

    /// Keeps a path as the file would say it outside the modules inside it.
    fn mention(&mut self, line: usize, mut segments: Vec<String>, import: Option<Import>) {
        let outwards = segments.iter().take_while(|name| *name == "super").count();
        let inner = outwards.min(self.inner.len());
        if inner > 0 {
            segments.splice(..inner, ["self".to_owned()]);
        }
        self.found.paths.push(Mention {
            line,
            segments,
            import,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mentioned(text: &str) -> Vec<String> {
        let paths = Mentions::of(text).paths;
        paths
            .iter()
            .map(|mention| mention.segments.join("::"))
            .collect()
    }

    #[test]
    fn paths_are_found_where_code_says_them() {
        for (text, paths) in [
            ("use crate::a::b;", vec!["crate::a::b"]),
            (
                "use crate::{a::{self, B}, c as d};",
                vec!["crate::a", "crate::a::B", "crate::c"],
            ),
            ("pub(crate) use a::*;", vec!["a"]),
            (
                "fn f(x: &super::X) { self::g::<u8>(x); x.y::<Z>() }",
                vec!["super::X", "self::g"],
            ),
            (
                "mod inner { use super::a; use super::super::b; }",
                vec!["self::a", "self::super::b"],
            ),
        ] {
            assert_eq!(mentioned(text), paths, "{text}");
        }
    }

    #[test]
    fn comments_strings_and_tests_say_nothing() {
        for text in [
            "// crate::a::b\n/// [`super::a`]\nconst A: &str = \"crate::a\";",
            "#[cfg(test)]\nmod tests { use super::a; fn f() { crate::b::c() } }",
            "#[cfg(test)]\n#[allow(unused)]\nuse crate::{a, b};",
            "#[cfg(all(test, unix))]\nfn f() { crate::a::b() }",
        ] {
            assert!(mentioned(text).is_empty(), "{text}");
        }
        assert!(
            Mentions::of("#[cfg(test)]\nmod cases;")
                .tests
                .contains("cases")
        );
    }

    /// Null control: code after a test is code again.
    #[test]
    fn code_after_a_test_counts() {
        let text = "#[cfg(test)]\nmod tests { fn f() { crate::a::b() } }\nuse crate::c;";
        assert_eq!(mentioned(text), ["crate::c"]);
        assert_eq!(mentioned("#[cfg(not(test))]\nuse crate::c;"), ["crate::c"]);
    }
}
