//! Needles in a haystack: the eight `niah_*` tasks.

use super::fit::Draft;
use super::lexicon::Lexicon;
use super::sources::Essays;
use super::task::{Haystack, Kind, Needles};
use rand::Rng;
use rand::seq::{SliceRandom, index};
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;

/// One line of noise.
pub(super) const NOISE: &str =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

/// Depths in percent at which needles may stand in essays: 40 from 0 to 100, rounded.
const DEPTHS: usize = 40;

impl Needles {
    /// The smallest haystack: some lines, or some words of essays. RULER starts at 5 lines and 500 words;
    /// fewer words let short lengths have essays too.
    pub fn smallest(&self) -> usize {
        match self.haystack {
            Haystack::Essay => 50,
            Haystack::Noise | Haystack::Needle => 5.max(self.keys * self.values),
        }
    }

    /// A prompt with `size` lines, or words of essays.
    pub fn draft(&self, essays: &Essays, size: usize, random: &mut ChaCha8Rng) -> Draft {
        // No key and no value is there twice, so that only one answer is right.
        let mut said = HashSet::new();
        let mut new = |kind: Kind, random: &mut ChaCha8Rng| loop {
            let drawn = kind.draw(random);
            if said.insert(drawn.clone()) {
                break drawn;
            }
        };
        let needle = |key: &str, value: &str| {
            let kind = self.value.plural();
            format!("One of the special magic {kind} for {key} is: {value}.")
        };
        let mut keys = Vec::new();
        let mut needles = Vec::new();
        for _ in 0..self.keys {
            let key = new(self.key, random);
            let values: Vec<String> = (0..self.values).map(|_| new(self.value, random)).collect();
            needles.extend(values.iter().map(|value| needle(&key, value)));
            keys.push((key, values));
        }
        needles.shuffle(random);
        let context = match self.haystack {
            Haystack::Essay => among_sentences(&essays.sentences(size), &needles, random),
            Haystack::Noise => among_lines(vec![NOISE.to_owned(); size], &needles, random),
            Haystack::Needle => {
                let mut line = || {
                    let (key, value) = (new(self.key, random), new(self.value, random));
                    needle(&key, &value)
                };
                let lines = (0..size).map(|_| line()).collect();
                among_lines(lines, &needles, random)
            }
        };
        let asked = index::sample(random, keys.len(), self.queries);
        let asked: Vec<&(String, Vec<String>)> = asked.into_iter().map(|at| &keys[at]).collect();
        let names: Vec<&str> = asked.iter().map(|(key, _)| key.as_str()).collect();
        let outputs = asked.iter().flat_map(|(_, values)| values.iter().cloned());
        let outputs = outputs.collect();
        self.question(&context, &listed(&names), outputs)
    }

    fn question(&self, context: &str, query: &str, outputs: Vec<String>) -> Draft {
        let one = self.queries * self.values == 1;
        let kind = match one {
            true => self.value.singular(),
            false => self.value.plural(),
        };
        let [some, are, what] = match one {
            true => ["A", "is", "What is the"],
            false => ["Some", "are", "What are all the"],
        };
        Draft {
            input: format!(
                "{some} special magic {kind} {are} hidden within the following text. Make sure to memorize \
                 it. I will quiz you about the {kind} afterwards.\n{context}\n{what} special magic {kind} for \
                 {query} mentioned in the provided text?"
            ),
            answer_prefix: format!(
                " The special magic {kind} for {query} mentioned in the provided text {are}"
            ),
            outputs,
        }
    }
}

impl Kind {
    fn draw(self, random: &mut ChaCha8Rng) -> String {
        match self {
            Self::Words => Lexicon::get().pair(random),
            Self::Numbers => random.random_range(1_000_000..=9_999_999_u32).to_string(),
            Self::Uuids => uuid(random.random()),
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::Numbers => "numbers",
            Self::Uuids => "uuids",
        }
    }

    fn singular(self) -> &'static str {
        self.plural().strip_suffix('s').unwrap_or_default()
    }
}

/// 128 random bits as a UUID of version 4.
fn uuid(bits: u128) -> String {
    let bits = bits & !(0xF << 76) | (4 << 76);
    let bits = bits & !(0x3 << 62) | (2 << 62);
    let hex = format!("{bits:032x}");
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

/// `a`, `a, and b`, `a, b, and c`.
fn listed(names: &[&str]) -> String {
    match names {
        [most @ .., last] if !most.is_empty() => format!("{}, and {last}", most.join(", ")),
        names => names.concat(),
    }
}

/// Needles as lines of their own, before different lines of the haystack.
fn among_lines(lines: Vec<String>, needles: &[String], random: &mut ChaCha8Rng) -> String {
    let mut places = index::sample(random, lines.len(), needles.len()).into_vec();
    places.sort_unstable();
    let mut found = Vec::with_capacity(lines.len() + needles.len());
    // RULER inserts from the last place to the first, so the first needle stands last.
    let mut ahead = places.iter().zip(needles.iter().rev()).peekable();
    for (place, line) in lines.into_iter().enumerate() {
        while let Some((_, needle)) = ahead.next_if(|(at, _)| **at == place) {
            found.push(needle.clone());
        }
        found.push(line);
    }
    found.join("\n")
}

/// Needles between sentences, each at another depth.
fn among_sentences(sentences: &[String], needles: &[String], random: &mut ChaCha8Rng) -> String {
    let depths = index::sample(random, DEPTHS, needles.len()).into_iter();
    let percent = depths.map(|depth| (100.0 * depth as f64 / (DEPTHS - 1) as f64).round());
    let place = percent.map(|percent| (sentences.len() as f64 * (percent / 100.0)) as usize);
    let mut places: Vec<usize> = place.collect();
    places.sort_unstable();
    let mut parts = Vec::with_capacity(2 * needles.len() + 1);
    let mut last = 0;
    for (place, needle) in places.into_iter().zip(needles) {
        parts.push(sentences[last..place].join(" "));
        parts.push(needle.clone());
        last = place;
    }
    parts.push(sentences[last..].join(" "));
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::Task;
    use super::*;
    use rand::SeedableRng;

    fn draft(task: Task, size: usize, seed: u64) -> Draft {
        let text = "It rained. Nobody minded the rain. So they went out again! ".repeat(9);
        let essays = Essays::new("rain", &text).unwrap();
        let needles = task.needles().unwrap();
        needles.draft(&essays, size, &mut ChaCha8Rng::seed_from_u64(seed))
    }

    #[test]
    fn one_needle_is_asked_for_in_the_singular() {
        let draft = draft(Task::NiahSingle1, 5, 1);
        let (start, rest) = draft.input.split_once('\n').unwrap();
        assert_eq!(
            start,
            "A special magic number is hidden within the following text. Make sure to memorize it. I will \
             quiz you about the number afterwards."
        );
        let lines: Vec<&str> = rest.lines().collect();
        assert_eq!(lines.iter().filter(|line| **line == NOISE).count(), 5);
        let needle = lines
            .iter()
            .find(|line| line.starts_with("One of"))
            .unwrap();
        let key = needle
            .strip_prefix("One of the special magic numbers for ")
            .unwrap();
        let (key, value) = key.split_once(" is: ").unwrap();
        assert_eq!(value, format!("{}.", draft.outputs[0]));
        assert_eq!(
            lines[6],
            format!("What is the special magic number for {key} mentioned in the provided text?")
        );
        assert_eq!(
            draft.answer_prefix,
            format!(" The special magic number for {key} mentioned in the provided text is")
        );
    }

    #[test]
    fn several_are_asked_for_in_the_plural() {
        let of_values = draft(Task::NiahMultivalue, 60, 1);
        assert!(
            of_values
                .input
                .starts_with("Some special magic numbers are hidden within")
        );
        assert!(
            of_values
                .input
                .contains("\nWhat are all the special magic numbers for ")
        );
        assert!(
            of_values
                .answer_prefix
                .ends_with("mentioned in the provided text are")
        );
        assert_eq!(of_values.outputs.len(), 4);
        let of_keys = draft(Task::NiahMultiquery, 60, 1);
        assert_eq!(of_keys.outputs.len(), 4);
        assert_eq!(of_keys.answer_prefix.matches(", ").count(), 3);
        assert!(of_keys.answer_prefix.contains(", and "));
        // One of four keys is asked for, and the others are there too.
        let one = draft(Task::NiahMultikey1, 60, 1);
        assert_eq!(one.outputs.len(), 1);
        assert_eq!(
            one.input
                .matches("One of the special magic numbers for ")
                .count(),
            4
        );
    }

    #[test]
    fn no_key_or_value_is_there_twice() {
        for task in [Task::NiahMultikey2, Task::NiahMultikey3] {
            let draft = draft(task, 300, 3);
            let lines = draft
                .input
                .lines()
                .filter(|line| line.starts_with("One of"));
            let said = lines.flat_map(|line| line.split(" for ").nth(1).unwrap().split(" is: "));
            let said: Vec<&str> = said.collect();
            assert_eq!(said.len(), 602, "{task}");
            assert_eq!(said.iter().collect::<HashSet<_>>().len(), 602, "{task}");
            let right = format!("{}.", draft.outputs[0]);
            assert_eq!(said.iter().filter(|value| **value == right).count(), 1);
        }
    }

    #[test]
    fn needles_stand_everywhere() {
        let place = |task: Task, seed: u64| {
            let draft = draft(task, 90, seed);
            let context = draft.input.split_once('\n').unwrap().1;
            context.find("One of").unwrap() as f64 / context.len() as f64
        };
        for task in [Task::NiahSingle1, Task::NiahSingle2] {
            let places: Vec<f64> = (0..60).map(|seed| place(task, seed)).collect();
            assert!(places.iter().any(|place| *place < 0.15), "{task}");
            assert!(places.iter().any(|place| *place > 0.7), "{task}");
        }
    }

    #[test]
    fn uuids_say_their_version() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn lists_are_spoken() {
        assert_eq!(listed(&["a"]), "a");
        assert_eq!(listed(&["a", "b"]), "a, and b");
        assert_eq!(listed(&["a", "b", "c"]), "a, b, and c");
    }
}
