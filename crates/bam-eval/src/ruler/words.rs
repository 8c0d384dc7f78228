//! Aggregation: the most common words of a list (`cwe`), the most frequent made-up words (`fwe`).

use super::fit::{Draft, Frame, Made};
use super::lexicon::Lexicon;
use bam_lm::Error;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;
use std::f64::consts::PI;

/// Words that are asked for.
const COMMON: usize = 10;

/// Repeats of common and other words in the list, and the words of the worked example with theirs.
#[derive(Clone, Copy)]
struct Repeats {
    common: usize,
    other: usize,
    example: usize,
    example_common: usize,
    example_other: usize,
}

impl Repeats {
    /// RULER's below 4096 tokens.
    const FEW: Self = Self {
        common: 6,
        other: 1,
        example: 20,
        example_common: 3,
        example_other: 1,
    };
    /// From there on.
    const MANY: Self = Self {
        common: 30,
        other: 3,
        example: 40,
        example_common: 10,
        example_other: 3,
    };
}

/// Samples of `cwe`, each after a worked example.
///
/// With a tokenizer that spells words in many tokens, RULER's repeats do not fit into a few thousand; then
/// those of shorter lengths are taken.
pub(super) fn common(frame: &Frame, count: usize) -> Result<Made, Error> {
    // As many others as common ones at least, or there is nothing to tell apart.
    let filled = |repeats: Repeats| {
        frame.filled(count, 2 * COMMON, |words, random| {
            common_draft(repeats, words, random)
        })
    };
    match frame.length < 4096 {
        true => filled(Repeats::FEW),
        false => match filled(Repeats::MANY)? {
            Ok(samples) if samples.len() == count => Ok(Ok(samples)),
            _ => filled(Repeats::FEW),
        },
    }
}

fn common_draft(repeats: Repeats, words: usize, random: &mut ChaCha8Rng) -> Draft {
    const PREFIX: &str = " Answer: The top 10 words that appear most often in the list are:";
    let question = |list: &str| {
        format!(
            "Below is a numbered list of words. In these words, some appear more often than others. Memorize \
             the ones that appear most often.\n{list}\nQuestion: What are the 10 most common words in the \
             above list?"
        )
    };
    let (example, answer) = list(
        repeats.example,
        repeats.example_common,
        repeats.example_other,
        random,
    );
    let (asked, outputs) = list(words, repeats.common, repeats.other, random);
    let (example, answer) = (question(&example), numbered(&answer));
    Draft {
        input: format!("{example}{PREFIX} {answer}\n{}", question(&asked)),
        answer_prefix: PREFIX.into(),
        outputs,
    }
}

/// A numbered list in which the first ten of some words are more common, and those ten.
fn list(
    words: usize,
    common: usize,
    other: usize,
    random: &mut ChaCha8Rng,
) -> (String, Vec<String>) {
    let mut words = Lexicon::get().different(words, random);
    let others = words.split_off(COMMON);
    let mut all: Vec<&String> = Vec::new();
    for (words, repeats) in [(&words, common), (&others, other)] {
        all.extend((0..repeats).flat_map(|_| words));
    }
    all.shuffle(random);
    (numbered(&all), words)
}

/// `1. a 2. b`.
fn numbered(words: &[impl AsRef<str>]) -> String {
    let words = words.iter().enumerate();
    let words = words.map(|(index, word)| format!("{}. {}", index + 1, word.as_ref()));
    words.collect::<Vec<_>>().join(" ")
}

/// Fewest words of a coded text: from here on each of the three is there more often than the next one.
const FEWEST: usize = 60;

/// Samples of `fwe`.
pub(super) fn frequent(frame: &Frame, count: usize) -> Result<Made, Error> {
    let vocabulary = (frame.length / 50).max(10);
    frame.filled(count, FEWEST, |words, random| {
        frequent_draft(vocabulary, words, random)
    })
}

/// Words by Zipf's law with exponent 2: the word of rank `k` is there `⌊words·k⁻²/ζ(2)⌋` times. The first
/// is `...`, which the question leaves out.
fn frequent_draft(vocabulary: usize, words: usize, random: &mut ChaCha8Rng) -> Draft {
    const LETTERS: usize = 6;
    const ZETA: f64 = PI * PI / 6.0;
    let mut known = HashSet::new();
    let mut ranked = vec!["...".to_owned()];
    while ranked.len() < vocabulary {
        let letter = |_| char::from(random.random_range(b'a'..=b'z'));
        let word: String = (0..LETTERS).map(letter).collect();
        if known.insert(word.clone()) {
            ranked.push(word);
        }
    }
    let mut text: Vec<&str> = Vec::new();
    for (index, word) in ranked.iter().enumerate() {
        let rank = (index + 1) as f64;
        let times = (words as f64 / (rank * rank) / ZETA) as usize;
        text.extend(std::iter::repeat_n(word.as_str(), times));
    }
    text.shuffle(random);
    Draft {
        input: format!(
            "Read the following coded text and track the frequency of each coded word. Find the three most \
             frequently appeared coded words. {}\nQuestion: Do not provide any explanation. Please ignore the \
             dots '....'. What are the three most frequently appeared words in the above coded text?",
            text.join(" ")
        ),
        answer_prefix:
            " Answer: According to the coded text above, the three most frequently appeared words \
                        are:"
                .into(),
        outputs: ranked[1..4].to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::HashMap;

    fn counted<'a>(words: impl Iterator<Item = &'a str>) -> HashMap<&'a str, usize> {
        let mut counts = HashMap::new();
        words.for_each(|word| *counts.entry(word).or_default() += 1);
        counts
    }

    /// Each of the outputs is there more often than whatever is none.
    fn stand_out(counts: &HashMap<&str, usize>, outputs: &[String]) {
        let least = outputs
            .iter()
            .map(|output| counts[output.as_str()])
            .min()
            .unwrap();
        for (word, count) in counts {
            assert_eq!(
                outputs.iter().any(|output| output == word),
                *count >= least,
                "{word} is there {count} times"
            );
        }
    }

    #[test]
    fn common_words_are_more_common() {
        let cases = [
            (Repeats::FEW, 20, 1),
            (Repeats::FEW, 77, 2),
            (Repeats::MANY, 101, 3),
        ];
        for (repeats, words, seed) in cases {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let draft = common_draft(repeats, words, &mut random);
            assert_eq!(draft.outputs.len(), COMMON);
            let lists: Vec<&str> = draft
                .input
                .lines()
                .filter(|line| line.starts_with("1. "))
                .collect();
            assert_eq!(lists.len(), 2);
            // The list's numbers are in order, and words are words.
            let entries: Vec<&str> = lists[1].split(". ").skip(1).collect();
            let cut = |(index, entry): (usize, &&'static str)| -> &'static str {
                entry
                    .strip_suffix(&format!(" {}", index + 2))
                    .unwrap_or(entry)
            };
            let entries: Vec<&'static str> = entries
                .iter()
                .map(|entry| &*entry.to_string().leak())
                .collect();
            let counts = counted(entries.iter().enumerate().map(cut));
            stand_out(&counts, &draft.outputs);
            assert_eq!(counts.len(), words);
            // The example is answered by its own words.
            let answer = draft.input.split(" are: 1. ").nth(1).unwrap();
            assert!(lists[0].contains(answer.split(" 2. ").next().unwrap()));
        }
    }

    #[test]
    fn frequent_words_are_more_frequent() {
        for (vocabulary, words, seed) in [(10, FEWEST, 1), (40, 500, 2), (81, 2111, 3)] {
            let draft = frequent_draft(vocabulary, words, &mut ChaCha8Rng::seed_from_u64(seed));
            let text = draft.input.split("coded words. ").nth(1).unwrap();
            let text = text.split("\nQuestion").next().unwrap();
            let mut counts = counted(text.split(' '));
            let noise = counts.remove("...").unwrap();
            assert!(noise > *counts.values().max().unwrap());
            stand_out(&counts, &draft.outputs);
            assert_eq!(draft.outputs.len(), 3);
        }
    }
}
