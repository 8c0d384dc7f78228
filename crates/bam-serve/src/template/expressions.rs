//! Expressions that the engine reads in another way than Python, such as `a % b` and `(a, b)`, become calls.

/// The functions and the filter that are called instead. No template has such names.
pub const MODULO: &str = "__modulo";
pub const FLOOR: &str = "__floor";
pub const TUPLE: &str = "__tuple";
pub const EACH: &str = "__each";
pub const TEXT: &str = "__text";
pub const ATTRIBUTE: &str = "__attribute";
/// Mappings have methods of these names, which come before values: `schema.items` is not `schema['items']`.
const METHODS: [&str; 8] = [
    "items", "keys", "values", "get", "copy", "pop", "update", "clear",
];

/// A tag, from `{{` or `{%` to its end, with calls. As it was where its brackets do not fit together.
pub fn with_calls(tag: &str) -> String {
    let rewritten = || {
        let (open, rest) = tag.split_at_checked(2)?;
        let close = if open == "{%" { "%}" } else { "}}" };
        let inside = rest.strip_suffix(close)?;
        let trims = |c: char| c == '-' || c == '+';
        let first = inside.len() - inside.strip_prefix(trims).unwrap_or(inside).len();
        let (before, inside) = inside.split_at(first);
        let last = inside.strip_suffix(trims).unwrap_or(inside).len();
        let (inside, after) = inside.split_at(last);
        let mut reader = Reader {
            rest: inside,
            depth: 0,
        };
        let written = match open {
            "{%" => reader.statement()?,
            _ => reader.perhaps_tuple(&[])?,
        };
        let written = format!("{open}{before}{written}{}{after}{close}", reader.rest);
        reader.rest.trim().is_empty().then_some(written)
    };
    rewritten().unwrap_or_else(|| tag.to_owned())
}

/// The rest of a tag's inside. What a method writes has the white space before it.
struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

/// Brackets in brackets; the engine refuses deeper ones.
const DEEPEST: usize = 100;

/// Words that are operators.
const WORDS: [&str; 7] = ["and", "or", "not", "in", "if", "else", "is"];

impl<'a> Reader<'a> {
    /// The next piece, without reading it: a text, a number, a name, an operator; empty at the end.
    fn peek(&self) -> &'a str {
        let rest = self.rest.trim_start();
        let Some(first) = rest.chars().next() else {
            return "";
        };
        let bytes = rest.as_bytes();
        let end = match first {
            '"' | '\'' => {
                let mut at = 1;
                while at < bytes.len() && bytes[at] != bytes[0] {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
                (at + 1).min(bytes.len())
            }
            c if c.is_alphanumeric() || c == '_' => {
                // The point of a number stands before a digit, the sign after its exponent.
                let part = |at: usize, c: char| match c {
                    '.' => bytes.get(at + 1).is_some_and(u8::is_ascii_digit),
                    '+' | '-' => bytes[at - 1].eq_ignore_ascii_case(&b'e'),
                    _ => false,
                } && first.is_ascii_digit();
                let other =
                    |&(at, c): &(usize, char)| !(c.is_alphanumeric() || c == '_' || part(at, c));
                rest.char_indices()
                    .find(other)
                    .map_or(rest.len(), |(at, _)| at)
            }
            _ => match ["**", "//", "==", "!=", "<=", ">="]
                .iter()
                .any(|two| rest.starts_with(two))
            {
                true => 2,
                false => first.len_utf8(),
            },
        };
        rest.get(..end).unwrap_or(rest)
    }

    fn take(&mut self, out: &mut String) {
        let space = self.rest.len() - self.rest.trim_start().len();
        let (taken, rest) = self.rest.split_at(space + self.peek().len());
        // The engine knows no `\U`, which a character's eight digits follow.
        for (at, part) in taken.split("\\U").enumerate() {
            let code = part.get(..8).filter(|_| at > 0);
            let code = code.and_then(|code| u32::from_str_radix(code, 16).ok());
            match code.filter(|code| *code > 0x7f).and_then(char::from_u32) {
                Some(c) if !out.ends_with('\\') => {
                    out.push(c);
                    *out += &part[8..];
                }
                _ => {
                    *out += if at > 0 { "\\U" } else { "" };
                    *out += part;
                }
            }
        }
        self.rest = rest;
    }

    fn statement(&mut self) -> Option<String> {
        let mut out = String::new();
        let word = self.peek();
        self.take(&mut out);
        // What stands before an expression is no value: the names that are given one.
        let end = match word {
            "for" => "in",
            "set" => "=",
            "call" if self.peek() == "(" => ")",
            _ => return Some(out + &self.several(&[])?.0),
        };
        while !["", end].contains(&self.peek()) {
            self.take(&mut out);
        }
        self.take(&mut out);
        match word {
            "for" => {
                let items = self.perhaps_tuple(&["if", "recursive"])?;
                out += &format!(" {EACH}({items})");
            }
            _ => out += &self.perhaps_tuple(&[])?,
        }
        Some(out + &self.several(&[])?.0)
    }

    /// Values between commas are a tuple, also without brackets.
    fn perhaps_tuple(&mut self, stop: &[&str]) -> Option<String> {
        let (inside, commas) = self.several(stop)?;
        Some(match commas {
            0 => inside,
            _ => format!(" {TUPLE}({inside})"),
        })
    }

    /// Up to a bracket that closes, a word or the end; and the number of commas.
    fn several(&mut self, stop: &[&str]) -> Option<(String, usize)> {
        let (mut out, mut commas, mut value) = (String::new(), 0, true);
        let mut joined = false;
        loop {
            let piece = self.peek();
            match piece {
                "" | ")" | "]" | "}" => return Some((out, commas)),
                _ if stop.contains(&piece) => return Some((out, commas)),
                "+" | "-" if value => {}
                "+" | "-" | "*" | "**" | "," | ":" | "=" | "~" | "==" | "!=" | "<" | ">" | "<="
                | ">=" => {
                    commas += usize::from(piece == ",");
                    joined = piece == "~";
                    self.take(&mut out);
                    value = true;
                    continue;
                }
                _ if WORDS.contains(&piece) => {
                    self.take(&mut out);
                    value = true;
                    continue;
                }
                _ => {}
            }
            let factors = self.factors()?;
            // The engine writes lists in its own way, and what is not there as nothing.
            out += &match joined || self.peek() == "~" {
                true => format!(" {TEXT}({factors})"),
                false => factors,
            };
            (value, joined) = (false, false);
        }
    }

    fn factors(&mut self) -> Option<String> {
        let mut left = self.value()?;
        loop {
            let call = match self.peek() {
                "%" => MODULO,
                "//" => FLOOR,
                "*" | "/" => {
                    self.take(&mut left);
                    left += &self.value()?;
                    continue;
                }
                _ => return Some(left),
            };
            self.take(&mut String::new());
            left = format!(" {call}({left},{})", self.value()?);
        }
    }

    /// A value with its signs, powers, filters and tests: all of them bind tighter than a product.
    fn value(&mut self) -> Option<String> {
        let mut out = String::new();
        loop {
            let start = out.len();
            match self.peek() {
                // The engine has no sign that does nothing.
                "+" => {
                    self.take(&mut String::new());
                    continue;
                }
                "-" => {
                    self.take(&mut out);
                    continue;
                }
                "(" | "[" | "{" => out += &self.bracket(true)?,
                piece if is_value(piece) => self.take(&mut out),
                _ => return None,
            }
            loop {
                match self.peek() {
                    "(" | "[" => out += &self.bracket(false)?,
                    "." => {
                        let end = out.len();
                        self.take(&mut out);
                        let name = self.peek();
                        self.take(&mut out);
                        if METHODS.contains(&name) && self.peek() != "(" {
                            out.truncate(end);
                            out.insert(start, '(');
                            out += &format!("|{ATTRIBUTE}('{name}'))");
                        }
                    }
                    "|" => {
                        self.take(&mut out);
                        self.take(&mut out);
                    }
                    "is" => {
                        self.take(&mut out);
                        if self.peek() == "not" {
                            self.take(&mut out);
                        }
                        self.take(&mut out);
                        match self.peek() {
                            "{" => out += &self.bracket(false)?,
                            piece if is_value(piece) => self.take(&mut out),
                            _ => {}
                        }
                    }
                    "**" => break self.take(&mut out),
                    piece if piece.starts_with(['"', '\'']) => self.take(&mut out),
                    _ => return Some(out),
                }
            }
        }
    }

    /// A bracket and its inside: a tuple where it stands for a value, is round and has a comma, or nothing in it.
    fn bracket(&mut self, value: bool) -> Option<String> {
        let open = self.peek();
        let close = match open {
            "(" => ")",
            "[" => "]",
            _ => "}",
        };
        let mut out = String::new();
        self.take(&mut out);
        self.depth += 1;
        let (inside, commas) = self.several(&[]).filter(|_| self.depth <= DEEPEST)?;
        self.depth -= 1;
        if value && open == "(" && (commas > 0 || inside.trim().is_empty()) {
            out = out.replace('(', &format!(" {TUPLE}("));
        }
        out += &inside;
        (self.peek() == close).then(|| self.take(&mut out))?;
        Some(out)
    }
}

/// A text, a number or a name.
fn is_value(piece: &str) -> bool {
    let begins = |c: char| c.is_alphanumeric() || ['_', '"', '\''].contains(&c);
    piece.starts_with(begins) && !WORDS.contains(&piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_python_reads_in_another_way_becomes_a_call() {
        for (tag, expected) in [
            ("{{ a * b % -c }}", "{{ __modulo( a * b, -c) }}"),
            (
                "{{ x + a|f(1) // 2 - 3 }}",
                "{{ x + __floor( a|f(1), 2) - 3 }}",
            ),
            (
                "{%- if a is odd % 2 -%}",
                "{%- if __modulo( a is odd, 2) -%}",
            ),
            ("{{ f((a, b)) }}", "{{ f( __tuple(a, b)) }}"),
            (
                "{% for a, b in c, d if e %}",
                "{% for a, b in __each( __tuple( c, d)) if e %}",
            ),
            ("{{ a.items.b }}", "{{( a|__attribute('items')).b }}"),
        ] {
            assert_eq!(with_calls(tag), expected);
        }
        let deep = format!("{{{{ {}1 % 2{} }}}}", "(".repeat(1000), ")".repeat(1000));
        for same in [
            "{{ a.items() + (b) * -1e-3 ** 2 }}",
            "{%- set a = [b, {'c': '%s'}] -%}",
            "{% set (a, b) = c | d(e, f) %}",
            "{{ (a, b }}",
            "{{ a ! b % }}",
            deep.as_str(),
        ] {
            assert_eq!(with_calls(same), same);
        }
    }
}
