//! Laws of the samples of every task.

use super::testing::{sources, tokenizer};
use super::*;
use crate::evaluation::{Context, Subject, evaluate};
use bam_attention::Skipping;
use bam_lm::engine::generate::{Generator, Sampling};
use bam_lm::model::ModelConfig;
use bam_lm::testing::{lively, small};
use burn::tensor::Device;
use proptest::prelude::*;
use std::collections::HashSet;

fn made(task: Task, length: usize, count: usize, seed: u64) -> SampleSet {
    make_samples(task, length, count, seed, tokenizer(), sources(), &|| false)
        .unwrap()
        .unwrap()
}

/// The same seed gives the same samples, byte for byte; fewer are the first of more; another seed gives
/// others. Null control: the comparison tells samples of two lengths apart.
#[test]
fn a_seed_decides_the_samples() {
    for task in Task::ALL {
        let samples = made(task, 2400, 3, 7).samples;
        assert_eq!(samples.len(), 3, "{task}");
        assert_eq!(samples, made(task, 2400, 3, 7).samples, "{task}");
        assert_eq!(samples[..2], made(task, 2400, 2, 7).samples, "{task}");
        assert_ne!(samples, made(task, 2400, 3, 8).samples, "{task}");
        assert_ne!(samples, made(task, 2600, 3, 7).samples, "{task}");
        let prompts: HashSet<String> = samples.iter().map(Sample::prompt).collect();
        assert_eq!(prompts.len(), 3, "{task}");
    }
}

/// Tokens of a unit of haystack, at most: what may be left of the length.
fn unit(task: Task) -> usize {
    let tokens = |text: &str| tokenizer().encode(text).unwrap().len();
    match task {
        Task::Qa1 | Task::Qa2 => sources()
            .squad
            .as_ref()
            .unwrap()
            .texts
            .iter()
            .map(|text| tokens(text) + 12)
            .max()
            .unwrap(),
        Task::NiahMultikey2 => 120,
        Task::NiahMultikey3 => 160,
        // Forty words of a list.
        Task::CommonWords => 300,
        // The three words get more at once.
        Task::FrequentWords => 120,
        _ => tokens(needle::NOISE) + 60,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 10, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn samples_fill_their_length(
        task in prop::sample::select(Task::ALL.to_vec()),
        length in 2200_usize..5200,
        seed in any::<u64>(),
    ) {
        let set = made(task, length, 2, seed);
        prop_assert_eq!(set.samples.len(), 2);
        for sample in &set.samples {
            let tokens = tokenizer().encode(&sample.prompt()).unwrap().len() + task.budget();
            prop_assert_eq!(sample.length, tokens);
            prop_assert!(tokens <= length);
            prop_assert!(tokens + 2 * unit(task) > length, "{}: {tokens} of {length}", task);
            // What is looked for is there; of alternatives the first one.
            let outputs = match task.matching() {
                Matching::All => &sample.outputs[..],
                Matching::Part => &sample.outputs[..1],
            };
            for output in outputs {
                prop_assert!(sample.input.contains(output), "{}: {output}", task);
                // And the answer is not given away, unless by chance: "most" may be one of the common words.
                let told = sample.answer_prefix.contains(output);
                prop_assert!(!told || task == Task::CommonWords, "{}: {output}", task);
            }
            let needle = task.needles().is_some();
            prop_assert_eq!(sample.answer_position.is_some(), needle);
            if let Some(position) = sample.answer_position {
                prop_assert!(position < tokens - task.budget());
            }
        }
    }
}

#[test]
fn lengths_too_short_have_a_reason() {
    for task in Task::ALL {
        let set = made(task, 40, 2, 1);
        assert!(set.samples.is_empty(), "{task}");
        let reason = set.not_made.unwrap();
        assert!(
            reason.contains(task.name()) && reason.contains("tokens"),
            "{reason}"
        );
        // What it says is enough, is: but for what other names and numbers need.
        let needed = reason
            .split(' ')
            .find_map(|word| word.parse::<usize>().ok())
            .unwrap();
        assert!(
            !made(task, needed + 40, 2, 1).samples.is_empty(),
            "{task}: {needed}"
        );
        assert!(
            made(task, needed * 4 / 5, 2, 1).samples.is_empty(),
            "{task}: {needed}"
        );
    }
    let endless = bam_lm::model::LONGEST_SEQUENCE + 1;
    assert!(make_samples(Task::Qa1, endless, 1, 1, tokenizer(), sources(), &|| false).is_err());
    let stopped = make_samples(Task::Qa1, 900, 1, 1, tokenizer(), sources(), &|| true);
    assert_eq!(stopped.unwrap(), None);
}

#[test]
fn tasks_want_their_files() {
    let without = Sources {
        squad: None,
        hotpotqa: None,
        ..sources().clone()
    };
    for task in Task::ALL {
        let made = make_samples(task, 2400, 1, 1, tokenizer(), &without, &|| false);
        assert_eq!(made.is_err(), task.wants_file(), "{task}");
    }
}

/// A model answers, greedily and the same way every time, and stops when told.
#[test]
fn samples_are_answered() {
    let device = Device::flex();
    let config = ModelConfig {
        vocabulary: tokenizer().vocabulary_size(),
        ..small("bam+ssmax")
    };
    let model = lively(config, 1, &device);
    let subject = Subject {
        model: &model,
        tokenizer: tokenizer(),
    };
    let set = made(Task::VariableTracking, 1800, 3, 1);
    let samples = RulerSamples::Read(vec![set.clone()]);
    let evaluation = RulerEvaluation {
        generator: GreedyGenerator {
            subject,
            begin: false,
            skipping: Skipping::Exact,
        },
        samples: &samples,
        grid: samples.grid(&[], &[]),
        samples_from: Vec::new(),
    };
    let answered = |context: &Context| evaluate(&evaluation, context, None, |_, _| Ok(())).unwrap();
    let (metrics, _) = answered(&Context::default()).unwrap();
    let cell = &metrics.cells[0];
    assert_eq!(
        (cell.task.as_str(), cell.length, cell.answers.len()),
        ("vt", 1800, 3)
    );
    assert!(
        cell.answers
            .iter()
            .all(|of| of.tokens + 30 <= 1800 && of.tokens > 1500)
    );
    let (again, _) = answered(&Context::default()).unwrap();
    assert_eq!(metrics, again);
    // Token by token, as the generator has it.
    let prompt = tokenizer().encode(&set.samples[1].prompt()).unwrap();
    let prompt: Vec<i32> = prompt.into_iter().map(|id| id as i32).collect();
    let greedy = Sampling {
        temperature: 0.0,
        ..Default::default()
    };
    let said = Generator::new(&model, &prompt, 30, greedy, Skipping::Exact);
    let said: Vec<u32> = said.unwrap().map(|token| token.unwrap() as u32).collect();
    let end = said
        .iter()
        .position(|token| Some(*token) == tokenizer().eos());
    let said = &said[..end.unwrap_or(said.len())];
    assert_eq!(cell.answers[1].answer, tokenizer().decode(said).unwrap());
    let stop = Context {
        stop: &|| true,
        ..Context::default()
    };
    assert!(answered(&stop).is_none());
}
