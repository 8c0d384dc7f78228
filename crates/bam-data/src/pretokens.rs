//! Words: the pieces of a text inside which alone tokens are merged.
//!
//! The two families of expressions that most byte-level tokenizers have are followed here without an
//! engine; the classes of characters are asked of the library's, so that both know one Unicode.

use std::sync::OnceLock;

use onig::Regex;

pub(super) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's, and Qwen's, whose digits stand alone.
pub(super) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The way that a text falls into words.
pub(super) enum Words {
    Gpt2,
    /// At most so many digits are a word.
    Llama3 {
        digits: usize,
    },
    /// Matches, and what lies between them.
    Expression(Box<Regex>),
    /// Between two characters that no token has side by side.
    Strangers(Neighbours),
}

impl Words {
    /// The words of an expression; `None` where the library does not know it.
    pub(super) fn of(expression: &str) -> Option<Self> {
        Some(match expression {
            GPT2 => Self::Gpt2,
            LLAMA3 => Self::Llama3 { digits: 3 },
            QWEN => Self::Llama3 { digits: 1 },
            other => Self::Expression(Box::new(Regex::new(other).ok()?)),
        })
    }

    pub(super) fn each<'t>(&self, text: &'t str, word: impl FnMut(&'t str)) {
        match self {
            Self::Gpt2 => walk(text, word, gpt2),
            Self::Llama3 { digits } => walk(text, word, |of, from| llama3(of, from, *digits)),
            Self::Expression(expression) => matches(expression, text, word),
            Self::Strangers(neighbours) => neighbours.each(text, word),
        }
    }

    /// A place at `from` or after it where a text can be cut: its words are those of the two parts.
    ///
    /// The two expressions have a space as the first character of a word only, and whether one ends before
    /// it does not depend on what follows. Of other expressions nothing is known.
    pub(super) fn cut(&self, text: &str, from: usize) -> Option<usize> {
        let from = text.ceil_char_boundary(from);
        let rest = &text[from..];
        let mut pairs = rest.char_indices().zip(rest.chars().skip(1));
        let found = match self {
            Self::Gpt2 | Self::Llama3 { .. } => {
                let classes = classes();
                pairs.find(|((_, left), right)| *right == ' ' && classes.of(*left) & SPACE == 0)
            }
            Self::Expression(_) => None,
            Self::Strangers(neighbours) => {
                pairs.find(|((_, left), right)| !neighbours.may_be(*left, *right))
            }
        };
        found.map(|((at, left), _)| from + at + left.len_utf8())
    }
}

fn matches<'t>(expression: &Regex, text: &'t str, mut word: impl FnMut(&'t str)) {
    let mut ended = 0;
    for (start, end) in expression.find_iter(text) {
        for piece in [&text[ended..start], &text[start..end]] {
            if !piece.is_empty() {
                word(piece);
            }
        }
        ended = end;
    }
    if ended < text.len() {
        word(&text[ended..]);
    }
}

/// Pairs of characters that tokens have side by side, and by chance some others.
pub(super) struct Neighbours {
    marks: Vec<u64>,
}

impl Neighbours {
    const BITS: u32 = 21;

    pub(super) fn of<'a>(tokens: impl Iterator<Item = &'a str>) -> Self {
        let mut marks = vec![0; 1 << (Self::BITS - 6)];
        for token in tokens {
            for (left, right) in token.chars().zip(token.chars().skip(1)) {
                let place = Self::place(left, right);
                marks[place / 64] |= 1 << (place % 64);
            }
        }
        Self { marks }
    }

    fn place(left: char, right: char) -> usize {
        let pair = u64::from(left) << 21 | u64::from(right);
        (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - Self::BITS)) as usize
    }

    fn may_be(&self, left: char, right: char) -> bool {
        let place = Self::place(left, right);
        self.marks[place / 64] >> (place % 64) & 1 == 1
    }

    fn each<'t>(&self, text: &'t str, mut word: impl FnMut(&'t str)) {
        let (mut start, mut before) = (0, None);
        for (at, c) in text.char_indices() {
            if before.is_some_and(|before| !self.may_be(before, c)) {
                word(&text[start..at]);
                start = at;
            }
            before = Some(c);
        }
        if start < text.len() {
            word(&text[start..]);
        }
    }
}

const LETTER: u8 = 1;
const NUMBER: u8 = 2;
const SPACE: u8 = 4;

/// The classes of every character, as the library's engine has them: asked for where a text has such.
struct Classes {
    expressions: [(u8, Regex); 3],
    /// Of 256 characters each.
    blocks: Vec<OnceLock<[u8; 256]>>,
}

impl Classes {
    fn of(&self, c: char) -> u8 {
        let (block, place) = (c as usize / 256, c as usize % 256);
        self.blocks[block].get_or_init(|| self.block(block))[place]
    }

    fn block(&self, block: usize) -> [u8; 256] {
        let first = block as u32 * 256;
        let all: String = (first..first + 256).filter_map(char::from_u32).collect();
        let mut of = [0; 256];
        for (class, expression) in &self.expressions {
            for (start, end) in expression.find_iter(&all) {
                let chars = all[start..end].chars();
                chars.for_each(|c| of[c as usize % 256] |= class);
            }
        }
        of
    }
}

fn classes() -> &'static Classes {
    static CLASSES: OnceLock<Classes> = OnceLock::new();
    CLASSES.get_or_init(|| {
        let class = |class, expression| (class, Regex::new(expression).expect("a class"));
        Classes {
            expressions: [
                class(LETTER, r"\p{L}+"),
                class(NUMBER, r"\p{N}+"),
                class(SPACE, r"\s+"),
            ],
            blocks: vec![OnceLock::new(); char::MAX as usize / 256 + 1],
        }
    })
}

/// A text, and the class of each of its characters.
struct Text<'t> {
    text: &'t str,
    classes: &'static Classes,
}

impl Text<'_> {
    fn at(&self, at: usize) -> Option<char> {
        match self.text.as_bytes().get(at) {
            Some(&byte) if byte < 128 => Some(byte.into()),
            Some(_) => self.text[at..].chars().next(),
            None => None,
        }
    }

    /// The end of the characters from `at` on whose class, among the three, is `class`.
    fn run(&self, mut at: usize, class: u8) -> usize {
        while let Some(c) = self.at(at)
            && self.classes.of(c) == class
        {
            at += c.len_utf8();
        }
        at
    }

    fn class(&self, at: usize) -> Option<u8> {
        self.at(at).map(|c| self.classes.of(c))
    }

    /// The end of white space from `from` on: all of it at the text's end, all but its last character
    /// before other text, and that one where it is the only one.
    fn space(&self, from: usize) -> usize {
        let end = self.run(from, SPACE);
        let last = self.text[from..end]
            .chars()
            .next_back()
            .map_or(0, char::len_utf8);
        match end < self.text.len() && end - last > from {
            true => end - last,
            false => end,
        }
    }
}

fn walk<'t>(text: &'t str, mut word: impl FnMut(&'t str), end: impl Fn(&Text, usize) -> usize) {
    let of = Text {
        text,
        classes: classes(),
    };
    let mut from = 0;
    while from < text.len() {
        let to = end(&of, from);
        word(&text[from..to]);
        from = to;
    }
}

/// The end of the word that begins at `from`, as [`GPT2`] says.
fn gpt2(of: &Text, from: usize) -> usize {
    let bytes = of.text.as_bytes();
    if bytes[from] == b'\'' {
        match &bytes[from + 1..] {
            [b's' | b't' | b'm' | b'd', ..] => return from + 2,
            [b'r' | b'v', b'e', ..] | [b'l', b'l', ..] => return from + 3,
            _ => {}
        }
    }
    let after = from + usize::from(bytes[from] == b' ');
    match of.class(after) {
        None | Some(SPACE) => of.space(from),
        Some(class) => of.run(after, class),
    }
}

/// The end of the word that begins at `from`, as [`LLAMA3`] and [`QWEN`] say.
fn llama3(of: &Text, from: usize, digits: usize) -> usize {
    let bytes = of.text.as_bytes();
    if bytes[from] == b'\'' {
        match &bytes[from + 1..] {
            [b's' | b't' | b'm' | b'd' | b'S' | b'T' | b'M' | b'D', ..] => return from + 2,
            [b'r' | b'v' | b'R' | b'V', b'e' | b'E', ..] | [b'l' | b'L', b'l' | b'L', ..] => {
                return from + 3;
            }
            // The long s, which is an s whatever its case.
            [0xc5, 0xbf, ..] => return from + 3,
            _ => {}
        }
    }
    let first = of.at(from).expect("within the text");
    let class = of.classes.of(first);
    let second = from + first.len_utf8();
    if class == LETTER {
        return of.run(second, LETTER);
    }
    if class == NUMBER {
        let more = of.text[second..].chars().take(digits - 1);
        let more = more.take_while(|c| of.classes.of(*c) == NUMBER);
        return second + more.map(char::len_utf8).sum::<usize>();
    }
    if !matches!(first, '\r' | '\n') && of.class(second) == Some(LETTER) {
        return of.run(second, LETTER);
    }
    let after = from + usize::from(first == ' ');
    if of.class(after) == Some(0) {
        let end = of.run(after, 0);
        let lines = bytes[end..]
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'));
        return end + lines.count();
    }
    let white = &of.text[from..of.run(from, SPACE)];
    match white.rfind(['\r', '\n']) {
        Some(line) => from + line + 1,
        None => of.space(from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split<'t>(words: &Words, text: &'t str) -> Vec<&'t str> {
        let mut all = Vec::new();
        words.each(text, |word| all.push(word));
        all
    }

    fn expression(pattern: &str) -> Words {
        Words::Expression(Box::new(Regex::new(pattern).unwrap()))
    }

    const ALL: [&str; 3] = [GPT2, LLAMA3, QWEN];

    /// Text of characters that the expressions tell apart, and of a few that they don't.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            6 => "['stmdrevlSTMDREVL \n\r\t]{1,4}",
            2 => "[a-z0-9 .,!]{1,5}",
            2 => "[ſK\u{a0}\u{2028}\u{85}\u{3000}éß中ー٣½Ⅷ\u{301}\u{200d}🦀\u{0}\u{1f}\u{180e}\u{feff}ﬆ]{1,3}",
            1 => any::<char>().prop_map(String::from),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn words_are_the_expressions(text in text()) {
            for pattern in ALL {
                let right = split(&expression(pattern), &text);
                prop_assert_eq!(split(&Words::of(pattern).unwrap(), &text), right, "{}", pattern);
            }
        }

        #[test]
        fn cuts_change_no_word(text in text(), from in 0usize..40) {
            for pattern in ALL {
                let words = Words::of(pattern).unwrap();
                if let Some(at) = words.cut(&text, from.min(text.len())) {
                    let (left, right) = text.split_at(at);
                    let parts = [split(&words, left), split(&words, right)].concat();
                    prop_assert_eq!(split(&words, &text), parts, "{} at {}", pattern, at);
                }
            }
        }
    }

    #[test]
    fn every_character_is_in_the_classes_of_the_expressions() {
        // Each beside a letter, a digit, a mark and a space.
        let planes = [
            0..0x1_0000,
            0x1_0000..0x2_0000,
            0x3_1000..0x3_3000,
            0xe_0000..0xe_1000,
        ];
        for first in planes.into_iter().flat_map(|plane| plane.step_by(1 << 12)) {
            let chars = (first..first + (1 << 12)).filter_map(char::from_u32);
            let text: String = chars
                .flat_map(|c| [c, 'a', c, '1', c, '.', c, ' ', c, c, '\n', '\''])
                .collect();
            for pattern in ALL {
                let right = split(&expression(pattern), &text);
                assert!(
                    split(&Words::of(pattern).unwrap(), &text) == right,
                    "{pattern} {first:x}"
                );
            }
        }
    }

    #[test]
    fn strangers_are_never_side_by_side_in_a_token() {
        let tokens = ["▁the", "▁▁", "é"];
        let words = Words::Strangers(Neighbours::of(tokens.into_iter()));
        assert_eq!(split(&words, "▁the▁▁the"), ["▁the", "▁▁the"]);
        assert_eq!(split(&words, "éx"), ["é", "x"]);
        assert_eq!(words.cut("▁the▁the", 0), Some("▁the".len()));
        assert_eq!(words.cut("▁the", 0), None);
        assert_eq!(expression("a").cut("a a a", 0), None);
    }
}
