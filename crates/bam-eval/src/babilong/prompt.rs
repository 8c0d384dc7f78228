//! Facts scattered in a text, with a question behind it, in BABILong's form.

use super::background::Background;
use super::facts::{BabiTask, Story};
use crate::evaluation::{Found, Stop};
use bam_data::Tokenizer;
use bam_lm::Error;
use bam_lm::model::check_length;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Tokens of an answer, at most.
pub const BUDGET: usize = 20;

const FORMS: &str = include_str!("../../assets/babilong-prompts.json");

/// A prompt and what is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub text: String,
    pub question: String,
    pub target: String,
    /// Tokens of the text and of the longest answer.
    pub length: usize,
}

/// The prompts of one task and length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptSet {
    pub task: BabiTask,
    /// The length as it was asked for.
    pub label: String,
    /// Tokens of a prompt and its answer, at most; `None` for nothing but facts.
    pub length: Option<usize>,
    /// None where the length is too short.
    pub prompts: Vec<Prompt>,
    /// Why there are none.
    pub not_made: Option<String>,
}

/// The words of a prompt besides facts and question.
#[derive(Deserialize)]
struct Form {
    instruction: String,
    examples: String,
    post_prompt: String,
}

impl Form {
    fn of(task: BabiTask) -> &'static Self {
        static ALL: OnceLock<BTreeMap<String, Form>> = OnceLock::new();
        let all = ALL.get_or_init(|| serde_json::from_str(FORMS).expect("the prompts are JSON"));
        &all[&task.to_string()]
    }

    fn fill(&self, context: &str, question: &str) -> String {
        let (instruction, examples, post) = (&self.instruction, &self.examples, &self.post_prompt);
        let context = context.trim();
        let text = format!(
            "{instruction}\n\n{examples}\n\n{post}\n\n<context>\n{context}\n</context>\n\nQuestion: {question}"
        );
        text.trim().to_owned()
    }
}

/// The first `count` questions whose facts fit, each in its own text. The same seed gives the same
/// prompts.
///
/// # Errors
/// If the length is no row's, or the tokenizer can't spell a prompt.
pub fn make_prompts(
    (task, stories): (BabiTask, &[Story]),
    (label, length): (&str, Option<usize>),
    count: usize,
    seed: u64,
    tokenizer: &Tokenizer,
    background: &Background,
    stop: Stop,
) -> Found<PromptSet> {
    if let Some(length) = length {
        check_length(length)?;
    }
    let form = Form::of(task);
    let tokens =
        |text: &str| -> Result<usize, Error> { Ok(tokenizer.encode(text)?.len() + BUDGET) };
    // Facts alone first: which questions fit.
    let mut fitting = Vec::new();
    let mut needed = usize::MAX;
    for story in stories {
        if fitting.len() == count || stop() {
            break;
        }
        let text = form.fill(&story.facts.join(" "), &story.question);
        let least = tokens(&text)?;
        match length.is_none_or(|length| least <= length) {
            true => fitting.push((story, text, least)),
            false => needed = needed.min(least),
        }
    }
    let fitting = fitting.into_par_iter().enumerate();
    let prompts = fitting.map(|(index, (story, text, least))| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let number = task.number() as u64;
        random.set_stream((number << 58) ^ ((length.unwrap_or(0) as u64) << 24) ^ index as u64);
        let (text, length) = match length {
            None => (text, least),
            Some(_) if stop() => (text, least),
            Some(length) => {
                let mut around = background.draw(length - least, tokenizer, &mut random)?;
                let places = places(story.facts.len(), around.len(), &mut random);
                loop {
                    let context = scattered(&story.facts, &places, &around);
                    let text = form.fill(&context, &story.question);
                    let tokens = tokens(&text)?;
                    if tokens <= length || around.is_empty() {
                        break (text, tokens);
                    }
                    // Words may have more tokens side by side than alone.
                    shorten(&mut around);
                }
            }
        };
        Ok(Prompt {
            text,
            question: story.question.clone(),
            target: story.answer.clone(),
            length,
        })
    });
    let prompts: Vec<Prompt> = prompts.collect::<Result<_, Error>>()?;
    if stop() {
        return Ok(None);
    }
    let reason =
        || format!("{task} needs at least {needed} tokens, {BUDGET} of them for the answer");
    Ok(Some(PromptSet {
        task,
        label: label.to_owned(),
        length,
        not_made: prompts.is_empty().then(reason),
        prompts,
    }))
}

/// Before which sentence each fact stands, in the facts' order.
fn places(facts: usize, sentences: usize, random: &mut impl Rng) -> Vec<usize> {
    let drawn = (0..facts).map(|_| random.random_range(0..=sentences));
    let mut places: Vec<usize> = drawn.collect();
    places.sort_unstable();
    places
}

fn scattered(facts: &[String], places: &[usize], sentences: &[String]) -> String {
    let mut parts: Vec<&str> = Vec::with_capacity(facts.len() + sentences.len());
    let mut ahead = facts.iter().zip(places).peekable();
    for (index, sentence) in sentences.iter().enumerate() {
        while let Some((fact, _)) = ahead.next_if(|(_, place)| **place <= index) {
            parts.push(fact);
        }
        parts.push(sentence);
    }
    parts.extend(ahead.map(|(fact, _)| fact.as_str()));
    parts.join(" ")
}

/// A word less.
fn shorten(sentences: &mut Vec<String>) {
    if let Some(mut last) = sentences.pop()
        && let Some((rest, _)) = last.rsplit_once(' ')
    {
        last.truncate(rest.len());
        sentences.push(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruler::testing::tokenizer;
    use proptest::prelude::*;

    fn stories() -> Vec<Story> {
        let fact = |n: usize| format!("Mary went to the room {n}.");
        let story = |n: usize| Story {
            facts: (0..n + 2).map(fact).collect(),
            question: "Where is Mary?".into(),
            answer: format!("room {}", n + 1),
        };
        (0..6).map(story).collect()
    }

    fn background() -> Background {
        let sentence =
            |n: usize| format!("On day {n} it rained on the hills and in the valleys. Short. ");
        let text: String = (0..90).map(sentence).collect();
        Background::new(
            "rain",
            [
                text.as_str(),
                "And then the sun came out again, and stayed.",
            ]
            .into_iter(),
        )
        .unwrap()
    }

    fn made(length: Option<usize>, seed: u64) -> PromptSet {
        let task = "qa1".parse().unwrap();
        let (stories, at) = (stories(), ("x", length));
        let of = (task, &stories[..]);
        make_prompts(of, at, 6, seed, tokenizer(), &background(), &|| false)
            .unwrap()
            .unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 16, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn prompts_fill_their_length(length in 900_usize..2600, seed in any::<u64>()) {
            let set = made(Some(length), seed);
            prop_assert_eq!(set.prompts.len(), 6);
            for (prompt, story) in set.prompts.iter().zip(stories()) {
                let tokens = tokenizer().encode(&prompt.text).unwrap().len() + BUDGET;
                prop_assert_eq!(prompt.length, tokens);
                prop_assert!(tokens <= length && tokens + 30 > length, "{} of {}", tokens, length);
                // All facts are there, in their order, in the context.
                let context = prompt.text.split("<context>\n").last().unwrap();
                let mut rest = context.split("\n</context>").next().unwrap();
                for fact in &story.facts {
                    let (_, after) = rest.split_once(fact.as_str()).unwrap();
                    rest = after;
                }
                prop_assert!(!context.contains("Short."));
                prop_assert!(prompt.text.ends_with("</context>\n\nQuestion: Where is Mary?"));
            }
        }
    }

    #[test]
    fn a_seed_decides_the_prompts() {
        assert_eq!(made(Some(1200), 3), made(Some(1200), 3));
        assert_ne!(made(Some(1200), 3), made(Some(1200), 4));
        let prompts = made(Some(1200), 3).prompts;
        assert_ne!(prompts[0].text, prompts[1].text);
    }

    #[test]
    fn without_a_length_there_are_facts_only() {
        let set = made(None, 1);
        for (prompt, story) in set.prompts.iter().zip(stories()) {
            let facts = story.facts.join(" ");
            assert!(
                prompt
                    .text
                    .contains(&format!("<context>\n{facts}\n</context>"))
            );
        }
        // What does not fit is left out, and none has a reason.
        let longest = set
            .prompts
            .iter()
            .map(|prompt| prompt.length)
            .max()
            .unwrap();
        assert_eq!(made(Some(longest - 1), 1).prompts.len(), 5);
        let none = made(Some(100), 1);
        assert!(none.prompts.is_empty());
        assert!(none.not_made.unwrap().starts_with("qa1 needs at least"));
    }

    #[test]
    fn every_task_has_its_form() {
        for task in BabiTask::all() {
            let form = Form::of(task);
            assert!(form.examples.matches("<example>\n").count() >= 2, "{task}");
            assert!(form.post_prompt.contains("nswer"), "{task}");
        }
        let text = Form::of("qa4".parse().unwrap()).fill(" The facts. ", "What?");
        assert!(text.starts_with("I will give you context with the facts about different people"));
        assert!(
            text.contains("Answer: garden\n</example>\n\nYour answer should contain only one word")
        );
        assert!(text.ends_with("\n\n<context>\nThe facts.\n</context>\n\nQuestion: What?"));
    }
}
