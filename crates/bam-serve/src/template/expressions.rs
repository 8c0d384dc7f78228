//! Expressions that the engine reads in another way than Python, such as `a % b` and `(a, b)`, become calls.

use super::methods::{OF_DICTIONARIES, OF_TEXTS};

/// The functions and the filter that are called instead. No template has such names.
pub const MODULO: &str = "__modulo";
pub const FLOOR: &str = "__floor";
pub const TUPLE: &str = "__tuple";
pub const EACH: &str = "__each";
pub const TEXT: &str = "__text";
pub const ATTRIBUTE: &str = "__attribute";
pub const TIMES: &str = "__times";
pub const ADD: &str = "__add";
pub const COMPARED: &str = "__compared";
pub const DIVIDE: &str = "__divide";
pub const POWER: &str = "__power";
pub const SLICE: &str = "__slice";
/// Stands between the sides of `and`, of which the engine would make one value if it knew both.
pub const THEN: &str = "__then";

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
        match self.peek().starts_with(['"', '\'']) {
            true => {
                *out += &self.rest[..space];
                *out += &literal(&taken[space..]).unwrap_or_else(|| UNREAD.to_owned());
            }
            false => *out += taken,
        }
        self.rest = rest;
    }

    fn statement(&mut self) -> Option<String> {
        let mut out = String::new();
        let word = self.peek();
        self.take(&mut out);
        if word == "macro" {
            return self.signature(out);
        }
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

    /// The arguments of a macro, and tags that give those that are missing their defaults, which may name others.
    fn signature(&mut self, mut out: String) -> Option<String> {
        self.take(&mut out);
        self.take(&mut out);
        // Further arguments are refused, so there are none.
        let mut defaults = vec![("varargs", format!("{TUPLE}()")), ("kwargs", "{}".into())];
        while !["", ")"].contains(&self.peek()) {
            let name = self.peek();
            self.take(&mut out);
            defaults.retain(|(other, _)| *other != name);
            if self.peek() == "=" {
                self.take(&mut String::new());
                let (value, _) = self.several(&[","])?;
                defaults.push((name, format!("{name} if {name} is defined else ({value})")));
            }
            if self.peek() == "," {
                self.take(&mut out);
            }
        }
        self.take(&mut out);
        for (name, value) in defaults {
            out += &format!(" %}}{{% set {name} = {value}");
        }
        Some(out)
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
        let (mut out, mut commas) = (String::new(), 0);
        loop {
            let piece = self.peek();
            match piece {
                "" | ")" | "]" | "}" => return Some((out, commas)),
                _ if stop.contains(&piece) => return Some((out, commas)),
                "*" | "**" | "," | ":" | "=" => {
                    commas += usize::from(piece == ",");
                    self.take(&mut out);
                }
                _ if WORDS.contains(&piece) => {
                    self.take(&mut out);
                    if piece == "and" {
                        out += &format!(" {THEN} and");
                    }
                }
                _ => out += &self.comparison()?,
            }
        }
    }

    /// Sums with an order between two of them, or one in the other; more than two are left to the engine.
    fn comparison(&mut self) -> Option<String> {
        let left = self.sum()?;
        let (mut all, mut count, mut call) = (left.clone(), 0, String::new());
        loop {
            let operator = match self.peek() {
                "not" if self.rest.trim_start()[3..].trim_start().starts_with("in") => "not in",
                "==" => "==",
                "!=" => "!=",
                "<" => "<",
                "<=" => "<=",
                ">" => ">",
                ">=" => ">=",
                "in" => "in",
                _ => break,
            };
            self.take(&mut all);
            if operator == "not in" {
                self.take(&mut all);
            }
            let right = self.sum()?;
            all += &right;
            count += 1;
            call = match operator {
                "==" | "!=" => all.clone(),
                _ => format!(" {COMPARED}('{operator}',{left},{right})"),
            };
        }
        Some(if count == 1 { call } else { all })
    }

    fn sum(&mut self) -> Option<String> {
        let mut left = self.joined()?;
        loop {
            match self.peek() {
                "+" => {
                    self.take(&mut String::new());
                    left = format!(" {ADD}({left},{})", self.joined()?);
                }
                "-" => {
                    self.take(&mut left);
                    left += &self.joined()?;
                }
                _ => return Some(left),
            }
        }
    }

    /// Values joined by `~`: the engine writes lists in its own way, and what is not there as nothing.
    fn joined(&mut self) -> Option<String> {
        let mut out = self.factors()?;
        if self.peek() != "~" {
            return Some(out);
        }
        while self.peek() == "~" {
            self.take(&mut String::new());
            out += &format!(",{}", self.factors()?);
        }
        Some(format!(" {TEXT}({out})"))
    }

    fn factors(&mut self) -> Option<String> {
        let mut left = self.value()?;
        loop {
            let call = match self.peek() {
                "%" => MODULO,
                "//" => FLOOR,
                "/" => DIVIDE,
                "*" => TIMES,
                _ => return Some(left),
            };
            self.take(&mut String::new());
            left = format!(" {call}({left},{})", self.value()?);
        }
    }

    /// Powers, which bind tighter than a product, from left to right.
    fn value(&mut self) -> Option<String> {
        let mut left = self.signed()?;
        while self.peek() == "**" {
            self.take(&mut String::new());
            left = format!(" {POWER}({left},{})", self.signed()?);
        }
        Some(left)
    }

    /// A value with its signs, filters and tests.
    fn signed(&mut self) -> Option<String> {
        let mut out = String::new();
        while ["+", "-"].contains(&self.peek()) {
            // The engine has no sign that does nothing.
            match self.peek() {
                "+" => self.take(&mut String::new()),
                _ => self.take(&mut out),
            }
        }
        out += &self.plain()?;
        loop {
            match self.peek() {
                "(" => out += &self.bracket(false)?,
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
                        "{" | "[" => out += &self.plain()?,
                        piece if is_value(piece) => out += &self.plain()?,
                        _ => {}
                    }
                }
                _ => return Some(out),
            }
        }
    }

    /// A value with its attributes, places, slices and calls.
    fn plain(&mut self) -> Option<String> {
        let mut out = String::new();
        match self.peek() {
            "(" | "[" | "{" => out += &self.bracket(true)?,
            piece if is_value(piece) => self.take(&mut out),
            _ => return None,
        }
        loop {
            match self.peek() {
                "(" => out += &self.bracket(false)?,
                "[" => out = self.place(out)?,
                "." => {
                    let end = out.len();
                    self.take(&mut out);
                    let name = self.peek();
                    self.take(&mut out);
                    // Methods come before values: `schema.items` is not `schema['items']`.
                    let method = [OF_TEXTS, OF_DICTIONARIES]
                        .iter()
                        .any(|of| of.split(' ').any(|method| method == name));
                    if method && self.peek() != "(" {
                        out.truncate(end);
                        out = format!("({out}|{ATTRIBUTE}('{name}'))");
                    }
                }
                piece if piece.starts_with(['"', '\'']) => self.take(&mut out),
                _ => return Some(out),
            }
        }
    }

    /// A value at a place, or from one place up to another.
    fn place(&mut self, of: String) -> Option<String> {
        let mut open = String::new();
        self.take(&mut open);
        self.deeper()?;
        let mut parts = vec![self.several(&[":"])?.0];
        while self.peek() == ":" {
            self.take(&mut String::new());
            parts.push(self.several(&[":"])?.0);
        }
        self.depth -= 1;
        let mut close = String::new();
        (self.peek() == "]").then(|| self.take(&mut close))?;
        Some(match parts.as_slice() {
            [place] => of + &open + place + &close,
            _ if parts.len() > 3 => return None,
            _ => {
                parts.resize(3, String::new());
                let parts = parts.iter().map(|part| match part.trim() {
                    "" => " none",
                    _ => part,
                });
                format!(" {SLICE}({of},{})", parts.collect::<Vec<_>>().join(","))
            }
        })
    }

    fn deeper(&mut self) -> Option<()> {
        self.depth += 1;
        (self.depth <= DEEPEST).then_some(())
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
        self.deeper()?;
        let (inside, commas) = self.several(&[])?;
        self.depth -= 1;
        if value && open == "(" && (commas > 0 || inside.trim().is_empty()) {
            out = out.replace('(', &format!(" {TUPLE}("));
        }
        out += &inside;
        (self.peek() == close).then(|| self.take(&mut out))?;
        Some(out)
    }
}

/// Stands for a text that cannot be read.
const UNREAD: &str =
    "raise_exception('expected a text whose escapes are characters, none by its name')";

/// A text in quotes with no other escapes than the engine's; `None` if it has one that is no character.
fn literal(quoted: &str) -> Option<String> {
    let quote = quoted.chars().next()?;
    let inside = quoted.get(1..).and_then(|of| of.strip_suffix(quote));
    let Some(inside) = inside.filter(|of| of.contains('\\')) else {
        return Some(quoted.to_owned());
    };
    let mut out = String::from(quote);
    let mut rest = inside;
    while let Some((before, after)) = rest.split_once('\\') {
        out += before;
        let kind = after.chars().next()?;
        let code = |start: usize, digits: usize, base: u32| {
            let code = u32::from_str_radix(after.get(start..start + digits)?, base).ok()?;
            Some((start + digits, Some(char::from_u32(code)?)))
        };
        let (length, c) = match kind {
            '\n' => (1, None),
            'a' => (1, Some('\x07')),
            'b' => (1, Some('\x08')),
            'f' => (1, Some('\x0c')),
            'n' => (1, Some('\n')),
            'r' => (1, Some('\r')),
            't' => (1, Some('\t')),
            'v' => (1, Some('\x0b')),
            'x' => code(1, 2, 16)?,
            'u' => code(1, 4, 16)?,
            'U' => code(1, 8, 16)?,
            '0'..='7' => {
                let digits = after.chars().take(3).take_while(|c| c.is_digit(8)).count();
                code(0, digits, 8)?
            }
            '\\' | '\'' | '"' => (1, Some(kind)),
            'N' => return None,
            c if c.is_ascii() => (0, Some('\\')),
            _ => return None,
        };
        let escape = |c: &char| *c == '\\' || *c == quote;
        out.extend(c.filter(escape).map(|_| '\\'));
        out.extend(c);
        rest = &after[length..];
    }
    out += rest;
    out.push(quote);
    Some(out)
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
            ("{{ a * b % -c }}", "{{ __modulo( __times( a, b), -c) }}"),
            (
                "{{ x + a|f(1) // 2 - 3 }}",
                "{{ __add( x, __floor( a|f(1), 2)) - 3 }}",
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
            ("{{ a[1:].b[c] }}", "{{ __slice( a,1, none, none).b[c] }}"),
            ("{{ a ** -b ** 2 }}", "{{ __power( __power( a, -b), 2) }}"),
            ("{{ a and b }}", "{{ a and __then and b }}"),
            (
                "{{ a not in b ~ c }}",
                "{{ __compared('not in', a, __text( b, c)) }}",
            ),
            (
                "{%- macro f(a, b=a) -%}",
                "{%- macro f(a, b) %}{% set varargs = __tuple() %}{% set kwargs = {} \
                %}{% set b = b if b is defined else (a) -%}",
            ),
            (r"{{ '\v\/\'' }}", "{{ '\u{b}\\\\/\\'' }}"),
        ] {
            assert_eq!(with_calls(tag), expected);
        }
        let deep = format!("{{{{ {}1 % 2{} }}}}", "(".repeat(1000), ")".repeat(1000));
        for same in [
            "{{ a.items() - (b)[-1e-3] == c < d }}",
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
