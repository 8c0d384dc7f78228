//! RULER's thirteen tasks, by the names of its `synthetic.yaml`.

use super::scoring::Matching;

/// A task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// A number among noise.
    NiahSingle1,
    /// A number in essays.
    NiahSingle2,
    /// A UUID in essays.
    NiahSingle3,
    /// One of four numbers in essays.
    NiahMultikey1,
    /// A number among nothing but such numbers.
    NiahMultikey2,
    /// A UUID among nothing but UUIDs, asked for by a UUID.
    NiahMultikey3,
    /// Four numbers of one key in essays.
    NiahMultivalue,
    /// The numbers of four keys in essays.
    NiahMultiquery,
    /// Variables that a chain of assignments gives one value.
    VariableTracking,
    /// The ten most common words of a list.
    CommonWords,
    /// The three most frequent made-up words of a text.
    FrequentWords,
    /// Questions about paragraphs (SQuAD).
    Qa1,
    /// Questions about several paragraphs (HotpotQA).
    Qa2,
}

/// The text that needles are hidden in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haystack {
    /// One line of five sentences, again and again.
    Noise,
    Essay,
    /// Lines that look like the needle.
    Needle,
}

/// The form of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Words,
    Numbers,
    Uuids,
}

/// A needle task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needles {
    pub haystack: Haystack,
    pub key: Kind,
    pub value: Kind,
    pub keys: usize,
    /// Values of each key.
    pub values: usize,
    /// Keys that are asked for.
    pub queries: usize,
}

impl Task {
    /// All of them, in RULER's order.
    pub const ALL: [Self; 13] = [
        Self::NiahSingle1,
        Self::NiahSingle2,
        Self::NiahSingle3,
        Self::NiahMultikey1,
        Self::NiahMultikey2,
        Self::NiahMultikey3,
        Self::NiahMultivalue,
        Self::NiahMultiquery,
        Self::VariableTracking,
        Self::CommonWords,
        Self::FrequentWords,
        Self::Qa1,
        Self::Qa2,
    ];

    /// RULER's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.names().0
    }

    /// lm-eval's name.
    #[must_use]
    pub fn lm_eval_name(self) -> &'static str {
        self.names().1
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::NiahSingle1 => ("niah_single_1", "niah_single_1"),
            Self::NiahSingle2 => ("niah_single_2", "niah_single_2"),
            Self::NiahSingle3 => ("niah_single_3", "niah_single_3"),
            Self::NiahMultikey1 => ("niah_multikey_1", "niah_multikey_1"),
            Self::NiahMultikey2 => ("niah_multikey_2", "niah_multikey_2"),
            Self::NiahMultikey3 => ("niah_multikey_3", "niah_multikey_3"),
            Self::NiahMultivalue => ("niah_multivalue", "niah_multivalue"),
            Self::NiahMultiquery => ("niah_multiquery", "niah_multiquery"),
            Self::VariableTracking => ("vt", "ruler_vt"),
            Self::CommonWords => ("cwe", "ruler_cwe"),
            Self::FrequentWords => ("fwe", "ruler_fwe"),
            Self::Qa1 => ("qa_1", "ruler_qa_squad"),
            Self::Qa2 => ("qa_2", "ruler_qa_hotpot"),
        }
    }

    /// Tokens that may be generated; a length of RULER's holds them beside the prompt.
    #[must_use]
    pub fn budget(self) -> usize {
        match self {
            Self::VariableTracking => 30,
            Self::CommonWords => 120,
            Self::FrequentWords => 50,
            Self::Qa1 | Self::Qa2 => 32,
            _ => 128,
        }
    }

    /// The score of its answers.
    #[must_use]
    pub fn matching(self) -> Matching {
        match self {
            Self::Qa1 | Self::Qa2 => Matching::Part,
            _ => Matching::All,
        }
    }

    /// Whether its questions come from a file that the user has to name.
    #[must_use]
    pub fn wants_file(self) -> bool {
        matches!(self, Self::Qa1 | Self::Qa2)
    }

    /// The needles that it hides; `None` for another task.
    pub(super) fn needles(self) -> Option<Needles> {
        use Haystack::{Essay, Needle, Noise};
        use Kind::{Numbers, Uuids, Words};
        let (haystack, key, value, [keys, values, queries]) = match self {
            Self::NiahSingle1 => (Noise, Words, Numbers, [1, 1, 1]),
            Self::NiahSingle2 => (Essay, Words, Numbers, [1, 1, 1]),
            Self::NiahSingle3 => (Essay, Words, Uuids, [1, 1, 1]),
            Self::NiahMultikey1 => (Essay, Words, Numbers, [4, 1, 1]),
            Self::NiahMultikey2 => (Needle, Words, Numbers, [1, 1, 1]),
            Self::NiahMultikey3 => (Needle, Uuids, Uuids, [1, 1, 1]),
            Self::NiahMultivalue => (Essay, Words, Numbers, [1, 4, 1]),
            Self::NiahMultiquery => (Essay, Words, Numbers, [4, 1, 4]),
            _ => return None,
        };
        Some(Needles {
            haystack,
            key,
            value,
            keys,
            values,
            queries,
        })
    }
}

impl std::fmt::Display for Task {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.name())
    }
}

impl std::str::FromStr for Task {
    type Err = String;

    /// RULER's name or lm-eval's.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        let named = all.find(|task| task.name() == text || task.lm_eval_name() == text);
        named.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("expected one of {names}, got {text}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        for task in Task::ALL {
            assert_eq!(task.name().parse(), Ok(task));
            assert_eq!(task.lm_eval_name().parse(), Ok(task));
        }
        let error = "niah".parse::<Task>().unwrap_err();
        assert!(error.ends_with("qa_1, qa_2, got niah"), "{error}");
    }

    #[test]
    fn budgets_are_rulers() {
        let budgets = Task::ALL.map(Task::budget);
        assert_eq!(
            budgets,
            [128, 128, 128, 128, 128, 128, 128, 128, 30, 120, 50, 32, 32]
        );
    }
}
