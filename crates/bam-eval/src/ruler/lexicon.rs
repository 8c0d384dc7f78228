//! English words to draw from.

use rand::Rng;
use rand::seq::{IndexedRandom, index};
use std::collections::HashSet;
use std::sync::OnceLock;

const LISTS: &[u8] = include_bytes!("../../assets/wonderwords.txt.zst");

/// Nouns and adjectives, and all words once, verbs too.
pub(super) struct Lexicon {
    nouns: Vec<&'static str>,
    adjectives: Vec<&'static str>,
    words: Vec<&'static str>,
}

impl Lexicon {
    /// The lists that this crate carries.
    pub fn get() -> &'static Self {
        static LEXICON: OnceLock<Lexicon> = OnceLock::new();
        LEXICON.get_or_init(|| {
            let bytes = zstd::decode_all(LISTS).expect("the lists were written by zstd");
            let text = String::from_utf8(bytes).expect("the lists are UTF-8");
            // They live as long as the program, once.
            Self::of(Box::leak(text.into_boxed_str()))
        })
    }

    fn of(text: &'static str) -> Self {
        let mut lists = text.split("\n\n").map(|list| {
            let mut words: Vec<&str> = list.lines().collect();
            words.sort_unstable();
            words.dedup();
            words
        });
        let mut next = || lists.next().unwrap_or_default();
        let (nouns, adjectives, verbs) = (next(), next(), next());
        let mut words: Vec<&str> = [&nouns[..], &adjectives, &verbs].concat();
        words.sort_unstable();
        words.dedup();
        Self {
            nouns,
            adjectives,
            words,
        }
    }

    /// An adjective and a noun, `capable-radiosonde`.
    pub fn pair(&self, random: &mut impl Rng) -> String {
        let mut pick = |words: &[&'static str]| *words.choose(random).unwrap_or(&"word");
        format!("{}-{}", pick(&self.adjectives), pick(&self.nouns))
    }

    /// Some different words; pairs where there are not so many.
    pub fn different(&self, count: usize, random: &mut impl Rng) -> Vec<String> {
        let single = count.min(self.words.len());
        let drawn = index::sample(random, self.words.len(), single).into_iter();
        let mut words: Vec<String> = drawn.map(|at| self.words[at].to_owned()).collect();
        let mut pairs = HashSet::new();
        while words.len() < count {
            let pair = self.pair(random);
            if pairs.insert(pair.clone()) {
                words.push(pair);
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn lists_are_whole() {
        let lexicon = Lexicon::get();
        let sizes = [&lexicon.nouns, &lexicon.adjectives, &lexicon.words].map(Vec::len);
        // wonderwords 3.0.1 without what it lists twice.
        assert_eq!(sizes, [6782, 910, 8166]);
        assert!(lexicon.words.iter().all(|word| !word.trim().is_empty()));
    }

    #[test]
    fn words_are_different_however_many() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let words = Lexicon::get().different(20_000, &mut random);
        assert_eq!(words.iter().collect::<HashSet<_>>().len(), 20_000);
    }
}
