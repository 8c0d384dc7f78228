//! A tokenizer and texts for tests.

use super::lexicon::Lexicon;
use super::needle::NOISE;
use super::sources::{Essays, ParagraphQuestion, Paragraphs, Sources};
use bam_data::{Document, Tokenizer, TokenizerConfig};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::sync::OnceLock;

/// A tokenizer with a few merges, made once.
pub(crate) fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let words = Lexicon::get().different(2000, &mut ChaCha8Rng::seed_from_u64(1));
        let essays = sources().essays.sentences(400).join(" ");
        let text = format!("{essays} {NOISE} {}", words.join(" "));
        let document = Document {
            text,
            origin: "a test".into(),
        };
        let config = TokenizerConfig {
            vocabulary: 800,
            ..TokenizerConfig::default()
        };
        Tokenizer::train(std::iter::once(Ok(document)), &config, |_| ()).unwrap()
    })
}

pub(crate) fn sources() -> &'static Sources {
    static SOURCES: OnceLock<Sources> = OnceLock::new();
    SOURCES.get_or_init(|| {
        let sentence = |n: usize| {
            let words = [
                "rain",
                "a river",
                "the old mill",
                "bread and salt",
                "some wind",
            ];
            format!(
                "Then came {} over {} on day {n}. ",
                words[n % 5],
                words[n / 5 % 5]
            )
        };
        let essays: String = (0..300).map(sentence).collect();
        let paragraphs = |near: bool| {
            let texts =
                (0..40).map(|n| format!("Town {n:02} lies beyond {}", sentence(n).repeat(2)));
            let question = |n: usize| ParagraphQuestion {
                text: format!("Which town lies first, {n}?"),
                answers: vec![format!("Town {n:02}"), "another answer".into()],
                own: vec![n],
                near: if near { vec![n + 1, n + 2] } else { Vec::new() },
            };
            Paragraphs {
                texts: texts.collect(),
                questions: (0..30).map(question).collect(),
            }
        };
        Sources {
            essays: Essays::new("days", &essays).unwrap(),
            squad: Some(paragraphs(true)),
            hotpotqa: Some(paragraphs(false)),
        }
    })
}
