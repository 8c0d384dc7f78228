//! Whether an answer is right: RULER's `string_match_all` and `string_match_part`.

/// The way that references are looked for in an answer. Letters' case does not count, and a reference may
/// stand anywhere, inside a longer word too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matching {
    /// The share of the references that are there.
    All,
    /// 1 where one of them is there.
    Part,
}

impl Matching {
    /// The score of an answer, from 0 to 1.
    #[must_use]
    pub fn score(self, answer: &str, references: &[String]) -> f64 {
        let answer = cleaned(answer).to_lowercase();
        let found = references
            .iter()
            .filter(|reference| answer.contains(&reference.to_lowercase()))
            .count();
        match self {
            Self::All => found as f64 / references.len().max(1) as f64,
            Self::Part => f64::from(u8::from(found > 0)),
        }
    }
}

/// An answer as it is looked at: control characters become line breaks, space around it goes.
#[must_use]
pub fn cleaned(answer: &str) -> String {
    let printable = answer.trim().replace(|c| c < ' ', "\n");
    printable.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
        texts.map(String::from).into()
    }

    #[test]
    fn worked_examples() {
        use Matching::{All, Part};
        let keys = texts(["4812905", "1170332", "9000001", "5551234"]);
        for (matching, answer, references, score) in [
            (All, " 4812905.", texts(["4812905"]), 1.0),
            // A digit short, or another one in between.
            (All, "481290", texts(["4812905"]), 0.0),
            (All, "48 12905", texts(["4812905"]), 0.0),
            (All, "5551234, 4812905, and 9000001", keys.clone(), 0.75),
            (All, "", keys, 0.0),
            (
                All,
                "they are: ABCDE FGHIJ",
                texts(["abcde", "fghij", "KLMNO"]),
                2.0 / 3.0,
            ),
            // Inside a longer word counts, as in RULER.
            (All, "1. elephant", texts(["ant"]), 1.0),
            (
                Part,
                "In FRANCE, I think",
                texts(["Normandy", "France"]),
                1.0,
            ),
            (Part, "In Norway", texts(["Normandy", "France"]), 0.0),
            (
                All,
                "In FRANCE, I think",
                texts(["Normandy", "France"]),
                0.5,
            ),
            (All, "no references", Vec::new(), 0.0),
        ] {
            assert_eq!(matching.score(answer, &references), score, "{answer:?}");
        }
    }

    /// Wrong answers that must not pass: parts of it, and the question said again.
    #[test]
    fn impostors_score_nothing() {
        let references = texts(["7c2b9f5e-8d1a-4b6e-9f3a-1d2e3f4a5b6c"]);
        for answer in [
            "7c2b9f5e",
            "7c2b9f5e 8d1a 4b6e 9f3a 1d2e3f4a5b6c",
            "the special magic uuid",
        ] {
            assert_eq!(Matching::All.score(answer, &references), 0.0, "{answer}");
        }
    }

    #[test]
    fn control_characters_are_line_breaks() {
        assert_eq!(cleaned("\u{0} a\u{1}b\t\n"), "a\nb");
        assert_eq!(cleaned("\u{1f}\u{0}"), "");
        // So what they separate does not match.
        assert_eq!(Matching::All.score("12\u{0}34", &texts(["1234"])), 0.0);
    }
}
