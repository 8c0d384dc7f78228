//! The cost of a tokenizer from somewhere: regular expressions that can take forever, and
//! replacements that let a text grow without end, are refused when the file is read.
//!
//! The library backtracks. A repeated group that can match the same text in several ways takes time
//! exponential in the text (`(a+)+`, `(a|ab)*`), and so do many choices in a row (`a?a?a?…`). What can fail
//! after some repeats is tried with every way to share the text out among them: at each place a power of
//! the text's length. Published tokenizers have one such repeat (`\s*[\r\n]+`). Expressions are parsed
//! just far enough to tell these apart; what is not understood, or looks as if it took too long, is [tried out](trial).

mod trial;

use serde_json::Value;
use std::iter::Peekable;
use std::str::Chars;

/// Longer expressions are refused. Published ones have some hundred characters.
const LONGEST: usize = 8192;
/// Deeper groups are refused.
const DEEPEST: usize = 32;
/// A repeat of more than this counts as one of any number.
const FEW: u32 = 16;
/// Repeats of any number before something that can fail.
const MOST_REPEATS: u32 = 1;
/// Choices one after the other, in powers of two.
const MOST_CHOICES: f64 = 16.0;
/// The factor by which replacements may lengthen a text, all together.
const MOST_GROWTH: f64 = 4096.0;

/// The reason to refuse the contents of a `tokenizer.json`; `None` where nothing is wrong.
pub(super) fn hazard(contents: &Value) -> Option<String> {
    let mut found = Found {
        growth: 1.0,
        hazard: None,
    };
    found.look(contents);
    if found.hazard.is_none() && found.growth > MOST_GROWTH {
        let growth = found.growth;
        found.hazard = Some(format!(
            "expected replacements that make a text at most {MOST_GROWTH} times as long, got {growth:.0}"
        ));
    }
    found.hazard
}

struct Found {
    growth: f64,
    hazard: Option<String>,
}

impl Found {
    fn look(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.look(item)),
            Value::Object(fields) => {
                if let Some(Value::String(pattern)) = fields.get("Regex")
                    && let Err(reason) = check(pattern)
                {
                    let shown: String = pattern.chars().take(80).collect();
                    let got = format!(
                        "expected a regular expression that ends in time, got {reason}: {shown:?}"
                    );
                    self.hazard.get_or_insert(got);
                }
                if fields.get("type") == Some(&Value::from("Replace"))
                    && let Some(Value::String(content)) = fields.get("content")
                {
                    let replaced = fields.get("pattern").and_then(|of| of.get("String"));
                    let replaced = replaced.and_then(Value::as_str).map_or(0, str::len);
                    // Nothing at all can be found between any two bytes, and it leaves them there.
                    let growth = match replaced {
                        0 => 1.0 + content.len() as f64,
                        bytes => content.len() as f64 / bytes as f64,
                    };
                    self.growth *= growth.max(1.0);
                }
                // A vocabulary is large, and there are no expressions in it.
                let others = fields
                    .iter()
                    .filter(|(key, _)| *key != "vocab" && *key != "merges");
                others.for_each(|(_, value)| self.look(value));
            }
            _ => {}
        }
    }
}

/// Whether an expression ends in time; if not, why.
fn check(pattern: &str) -> Result<(), String> {
    if pattern.len() > LONGEST {
        return Err(format!("one of {} bytes", pattern.len()));
    }
    match analysed(pattern) {
        Form::Fast => Ok(()),
        Form::Unsure { countable } => trial::ends_in_time(&countable, pattern),
    }
}

enum Form {
    Fast,
    /// The same expression without the engine's shortcuts, as far as it is understood: its steps can be
    /// counted then.
    Unsure {
        countable: String,
    },
}

fn analysed(pattern: &str) -> Form {
    let mut parser = Parser {
        source: pattern,
        rest: pattern.chars().peekable(),
        depth: 0,
        slow: false,
        edits: Vec::new(),
    };
    let understood = parser.alternatives().is_some() && parser.rest.next().is_none();
    if understood && !parser.slow {
        return Form::Fast;
    }
    let mut countable = pattern.to_owned();
    for (at, bytes, instead) in parser.edits.into_iter().rev().filter(|_| understood) {
        countable.replace_range(at..at + bytes, instead);
    }
    Form::Unsure { countable }
}

/// The cost of trying to match.
#[derive(Clone, Copy, Default)]
struct Ways {
    /// Repeats of any number, one after the other, that can give back some of what they took.
    repeats: u32,
    /// The most of them before something that can fail.
    tried: u32,
    /// Choices, as a power of two.
    choices: f64,
    /// Whether there may be no match.
    fails: bool,
}

impl Ways {
    /// A character, a class, or what is settled once it has matched.
    const ONE: Self = Self {
        repeats: 0,
        tried: 0,
        choices: 0.0,
        fails: true,
    };

    fn several(self) -> bool {
        self.repeats > 0 || self.choices > 0.0
    }

    fn then(self, next: Self) -> Self {
        // Whatever fails, the repeats before it give back and all that follows them is tried again.
        let again = match next.fails || next.tried > 0 {
            true => self.repeats + next.tried,
            false => 0,
        };
        Self {
            repeats: self.repeats + next.repeats,
            tried: self.tried.max(next.tried).max(again),
            choices: self.choices + next.choices,
            fails: self.fails || next.fails,
        }
    }
}

/// Its methods give nothing where an expression is not understood.
struct Parser<'a> {
    source: &'a str,
    rest: Peekable<Chars<'a>>,
    depth: usize,
    /// Whether the form allows for a match that takes too long.
    slow: bool,
    /// Changes that keep the engine from its shortcuts: places, bytes to remove, and what to put there.
    edits: Vec<(usize, usize, &'static str)>,
}

impl Parser<'_> {
    fn place(&self) -> usize {
        self.source.len() - self.rest.clone().map(char::len_utf8).sum::<usize>()
    }

    /// `a|b|c`, up to the end or a closing bracket.
    fn alternatives(&mut self) -> Option<Ways> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let (mut ways, mut count) = (self.sequence()?, 1_u32);
        while self.rest.next_if_eq(&'|').is_some() {
            let next = self.sequence()?;
            ways = Ways {
                repeats: ways.repeats.max(next.repeats),
                tried: ways.tried.max(next.tried),
                choices: ways.choices.max(next.choices),
                fails: ways.fails && next.fails,
            };
            count += 1;
        }
        ways.choices += f64::from(count).log2();
        self.depth -= 1;
        Some(ways)
    }

    fn sequence(&mut self) -> Option<Ways> {
        let mut ways = Ways::default();
        while let Some(&next) = self.rest.peek() {
            if next == '|' || next == ')' {
                break;
            }
            let start = self.place();
            let item = self.item()?;
            let end = self.place();
            let repeated = self.repeated(item)?;
            if next != '(' && self.place() > end {
                // In a group with a choice, each repeat is a step. No text has that character.
                let possessive = self.edits.pop_if(|(at, ..)| *at >= end);
                self.edits
                    .extend([(start, 0, "(?:"), (end, 0, "|\u{10fffe})")]);
                self.edits.extend(possessive);
            }
            ways = ways.then(repeated);
            self.slow |= ways.tried > MOST_REPEATS || ways.choices > MOST_CHOICES;
        }
        Some(ways)
    }

    /// One character, class or group.
    fn item(&mut self) -> Option<Ways> {
        match self.rest.next() {
            Some('(') => self.group(),
            Some('[') => self.class(1),
            Some('\\') => self.escaped(),
            Some('*' | '+' | '?') => None,
            _ => Some(Ways::ONE),
        }
    }

    fn group(&mut self) -> Option<Ways> {
        let mut outside = true;
        if self.rest.next_if_eq(&'?').is_some() {
            match self.rest.next() {
                // What they match is settled when they end.
                Some('=' | '!' | '>') => outside = false,
                Some('<') => match self.rest.peek() {
                    Some('=' | '!') => {
                        self.rest.next();
                        outside = false;
                    }
                    _ => while self.rest.next()? != '>' {},
                },
                Some(':') => {}
                Some('i' | 'm' | 's' | 'x' | '-') => loop {
                    match self.rest.next() {
                        Some('i' | 'm' | 's' | 'x' | '-') => {}
                        Some(':') => break,
                        // For the rest of the group that it stands in.
                        Some(')') => return Some(Ways::default()),
                        _ => return None,
                    }
                },
                _ => return None,
            }
        }
        let inside = self.alternatives()?;
        match self.rest.next() {
            Some(')') if outside => Some(inside),
            Some(')') => Some(Ways {
                tried: inside.tried,
                ..Ways::ONE
            }),
            _ => None,
        }
    }

    /// A class, after its bracket; classes can stand in classes.
    fn class(&mut self, depth: usize) -> Option<Ways> {
        if depth > DEEPEST {
            return None;
        }
        self.rest.next_if_eq(&'^');
        // Here it is no end.
        self.rest.next_if_eq(&']');
        loop {
            match self.rest.next()? {
                ']' => return Some(Ways::ONE),
                '[' => drop(self.class(depth + 1)?),
                '\\' => drop(self.rest.next()?),
                _ => {}
            }
        }
    }

    fn escaped(&mut self) -> Option<Ways> {
        match self.rest.next()? {
            '1'..='9' | 'k' | 'g' => None,
            'p' | 'P' | 'x' if self.rest.next_if_eq(&'{').is_some() => {
                while self.rest.next()? != '}' {}
                Some(Ways::ONE)
            }
            _ => Some(Ways::ONE),
        }
    }

    /// An item with the repeat that follows it, if one does.
    fn repeated(&mut self, item: Ways) -> Option<Ways> {
        let Some((least, most, interval)) = self.repeat()? else {
            return Some(item);
        };
        let possessive = !interval && self.rest.next_if_eq(&'+').is_some();
        if possessive {
            self.edits.push((self.place() - 1, 1, ""));
        }
        if !possessive {
            self.rest.next_if_eq(&'?');
        }
        if matches!(self.rest.peek(), Some('*' | '+' | '?')) {
            return None;
        }
        let fails = item.fails && least > 0;
        if possessive {
            // Settled, but all of it is read again wherever what stands before gives back.
            let tried = item.tried.max(u32::from(most.is_none()));
            return Some(Ways {
                tried,
                fails,
                ..Ways::ONE
            });
        }
        if item.several() && most.is_none_or(|most| most > 1) {
            self.slow = true;
        }
        let repeats = match most {
            Some(most) if most <= FEW => 0,
            Some(most) if most == least => 0,
            _ => 1,
        };
        let choices = match most {
            Some(most) if repeats == 0 => f64::from(most.saturating_sub(least) + 1).log2(),
            _ => 0.0,
        };
        Some(Ways {
            repeats: item.repeats + repeats,
            tried: item.tried,
            choices: item.choices + choices,
            fails,
        })
    }

    /// `*`, `+`, `?` or an interval: the least and the most, and whether it was an interval.
    fn repeat(&mut self) -> Option<Option<(u32, Option<u32>, bool)>> {
        let simple = match self.rest.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => return self.interval(),
            _ => return Some(None),
        };
        self.rest.next();
        Some(Some((simple.0, simple.1, false)))
    }

    /// `{n}`, `{n,}`, `{,m}` or `{n,m}`; a bracket that begins none of them stands for itself.
    fn interval(&mut self) -> Option<Option<(u32, Option<u32>, bool)>> {
        let mut ahead = self.rest.clone();
        ahead.next();
        let mut text = String::new();
        for next in ahead.by_ref() {
            match next {
                '}' => break,
                '0'..='9' | ',' if text.len() < 24 => text.push(next),
                _ => return Some(None),
            }
        }
        let number = |text: &str| text.parse::<u32>().ok();
        let (least, most) = match text.split_once(',') {
            None if text.is_empty() => return Some(None),
            None => (number(&text)?, Some(number(&text)?)),
            Some(("", "")) => return Some(None),
            Some((least, "")) => (number(least)?, None),
            Some(("", most)) => (0, Some(number(most)?)),
            Some((least, most)) => (number(least)?, Some(number(most)?)),
        };
        self.rest = ahead;
        Some(Some((least, most, true)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The expressions of published tokenizers.
    #[test]
    fn what_is_in_use_is_used() {
        for pattern in [
            // GPT-2, GPT-NeoX, Phi, StarCoder, CodeGen, Granite, OLMo, MPT; Falcon and Cohere beside others.
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            // Llama 3, ChatGLM 4, Qwen, and GPT-4 as tiktoken has it.
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
            // GPT-4o and Llama 4, then Mistral's Tekken.
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            // Bloom.
            " ?[^(\\s|[.,!?…。，、।۔،])]+",
            // DeepSeek V2 and V3, then its coder.
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",
            r#"[!"\#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#,
            "[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            "[一-龥ࠀ-一가-퟿]+",
            // Falcon's digits, Kimi's words, CLIP.
            r"[0-9][0-9][0-9]",
            r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        ] {
            assert_eq!(check(pattern), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn the_form_tells_what_is_fast() {
        for pattern in [
            r"(?<=\d)(?=(?:\d{3})+(?!\d))",
            r"(ab)+c{2,5}?",
            r"(?<word>a+)b*",
            r"a{,3}|{|x{y}",
            r"(a*)(b*)(c*)",
            r"[ab]*c",
            r"(?>a*b*)c",
            "",
        ] {
            assert!(matches!(analysed(pattern), Form::Fast), "{pattern}");
        }
    }

    /// Repeats of what others can't match, and groups that never have to try again.
    #[test]
    fn a_trial_tells_what_is_fast_all_the_same() {
        for pattern in [
            r"\p{L}+\p{M}*\s*\p{N}+",
            r"([a-z]+|\d)*",
            r"(b+)+",
            r"a*b*(cd*)?e*+",
            r"(a*)(b*)c",
            r"a*b*(?!c)",
            r"a*(?:b*c)",
            r"(?:[a-z]+[0-9]*)+",
            &"a?".repeat(30),
            r"(a)\1",
            r"(?<n>a)\k<n>",
        ] {
            assert!(
                matches!(analysed(pattern), Form::Unsure { .. }),
                "{pattern}"
            );
            assert_eq!(check(pattern), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn what_takes_forever_is_refused() {
        for pattern in [
            r"(a+)+$",
            r"(a|a)*$",
            r"(a|ab|b)*c",
            r"(?:\w+\s*)+:",
            r"(\w+\s?)*;",
            r"((a{1,9}){1,9}){1,9}b",
            r"(?=(a+)+b)",
            r"http(a+)+$",
            r".*.*.*x",
            r"\s*\w*\s*;",
            r"\s*\s*+;",
            r"[ab]*[ab]*c",
            &("a?".repeat(30) + &"a".repeat(30)),
        ] {
            let reason = check(pattern).expect_err(pattern);
            assert!(reason.contains("steps on"), "{pattern}: {reason}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_by_the_engines_reason() {
        for (pattern, reason) in [
            (r"(?(1)a|b)", "backref"),
            (r"(a", "unmatched parenthesis"),
            (r"a)", "unmatched close"),
            (r"[a", "char-class"),
            (r"\", "escape"),
            (&"(".repeat(1000), "unmatched"),
            (&"[".repeat(1000), "char-class"),
            (&"x".repeat(LONGEST + 1), "8193 bytes"),
            (r"a{99999999999}", "too big number"),
        ] {
            let got = check(pattern).expect_err(pattern);
            assert!(got.contains(reason), "{pattern}: {got}");
        }
    }

    #[test]
    fn they_are_found_wherever_they_stand() {
        let split = |pattern: &str| json!({ "type": "Split", "pattern": { "Regex": pattern } });
        let file = |pattern: &str| json!({ "pre_tokenizer": { "pretokenizers": [split("a"), split(pattern)] } });
        assert_eq!(hazard(&file("b+")), None);
        assert!(
            hazard(&file("(b+)+c"))
                .unwrap()
                .contains("steps on 40 characters")
        );
        let double = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" });
        let grow =
            |times: usize| json!({ "normalizer": { "normalizers": vec![double.clone(); times] } });
        assert_eq!(hazard(&grow(10)), None);
        assert!(hazard(&grow(40)).unwrap().contains("times as long"));
    }
}
