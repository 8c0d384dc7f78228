//! Synthetic tasks: answers follow from what stands before them, by rules written here once more; rows for training.

use bam_data::synthetic_task::{ALPHABET, SyntheticTask};
use bam_data::{
    Document, RowSource, SyntheticRows, SyntheticRowsConfig, Tokenizer, TokenizerConfig,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;

/// The answer in the place of `tokens.len()`, by the rule of the task.
fn solved(task: SyntheticTask, tokens: &[i32]) -> i32 {
    let last = tokens[tokens.len() - 1];
    let before = &tokens[..tokens.len() - 1];
    match task {
        SyntheticTask::Copy => {
            let mark = tokens.iter().position(|t| *t == 2).unwrap();
            let written = tokens.len() - mark - 1;
            let start = usize::from(tokens[0] < 138);
            tokens[start + written]
        }
        // The last that followed it: of keys that are there once, the only one.
        SyntheticTask::Recall(_) | SyntheticTask::Latest | SyntheticTask::Induction => {
            let at = before.iter().rposition(|t| *t == last).unwrap();
            tokens[at + 1]
        }
        SyntheticTask::FlipFlop { .. } => {
            let at = before.iter().rposition(|t| *t == 3).unwrap();
            tokens[at + 1]
        }
    }
}

#[test]
fn answers_follow_from_what_is_before_them() {
    for task in SyntheticTask::ALL {
        let shortest = task.shortest();
        let mut places = HashSet::new();
        for seed in 0..40 {
            for length in [shortest, shortest + 1, shortest + 7, 300, 301, 5000] {
                let random = &mut ChaCha8Rng::seed_from_u64(seed);
                let document = task.document(length, random).unwrap();
                let (tokens, answers) = (&document.tokens, &document.answers);
                assert_eq!(tokens.len(), length, "{task}");
                assert!(tokens.iter().all(|t| (2..ALPHABET as i32).contains(t)));
                assert!(answers.is_sorted() && !answers.is_empty());
                assert_eq!(
                    answers.last(),
                    Some(&(length - 1)),
                    "{task} ends with an answer"
                );
                for answer in answers {
                    assert_eq!(
                        tokens[*answer],
                        solved(task, &tokens[..*answer]),
                        "{task} {length}"
                    );
                }
                if length == 300 {
                    let last = tokens[length - 2];
                    places.insert(tokens[..length - 2].iter().rposition(|t| *t == last));
                }
            }
        }
        // Answers are not always told in the same place; of flip-flops, the last instruction is near.
        assert!(places.len() > 3, "{task}: {places:?}");
    }
}

#[test]
fn difficulty_is_as_told() {
    let document = |task: SyntheticTask, length| {
        task.document(length, &mut ChaCha8Rng::seed_from_u64(3))
            .unwrap()
    };
    let count = |tokens: &[i32], of: i32| tokens.iter().filter(|t| **t == of).count();
    for pairs in [8, 32] {
        let of = document(SyntheticTask::Recall(pairs), 1000);
        assert_eq!(of.answers.len(), 8);
        let keys = of.tokens[..983]
            .iter()
            .filter(|t| (10..74).contains(*t))
            .count();
        assert_eq!(keys, pairs);
    }
    let of = document(SyntheticTask::Induction, 1000);
    assert_eq!(count(&of.tokens, of.tokens[998]), 2);
    let of = document(SyntheticTask::Latest, 1000);
    assert_eq!(of.answers.len(), 4);
    assert_eq!(
        of.tokens[..991]
            .iter()
            .filter(|t| (10..74).contains(*t))
            .count(),
        16
    );
    for (sparse, share) in [(false, 0.8), (true, 0.98)] {
        let of = document(SyntheticTask::FlipFlop { sparse }, 100_000);
        let ignored = count(&of.tokens, 4) as f64 / 50_000.0;
        assert!((ignored - share).abs() < 0.01, "{ignored}");
    }
}

#[test]
fn names_are_read_as_they_are_written() {
    for task in SyntheticTask::ALL {
        assert_eq!(task.to_string().parse::<SyntheticTask>().unwrap(), task);
    }
    let error = "recall-9".parse::<SyntheticTask>().unwrap_err().to_string();
    assert!(
        error.contains("copy, recall-8, recall-32") && error.contains("recall-9"),
        "{error}"
    );
    let error = SyntheticTask::Copy
        .document(3, &mut ChaCha8Rng::seed_from_u64(0))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("at least 9 tokens for copy") && error.contains('3'),
        "{error}"
    );
}

fn tokenizer() -> Tokenizer {
    let config = TokenizerConfig {
        vocabulary: 262,
        ..TokenizerConfig::default()
    };
    let text = (0..300)
        .map(|i| format!("the word{i} of many{} words, ", i * 37))
        .collect();
    let origin = "a test".to_owned();
    Tokenizer::train([Ok(Document { text, origin })].into_iter(), &config, |_| {}).unwrap()
}

#[test]
fn rows_count_answers_only_and_do_not_depend_on_the_order_in_which_they_are_asked_for() {
    let tokenizer = tokenizer();
    let config = SyntheticRowsConfig::default();
    let rows = SyntheticRows::new(&tokenizer, config.clone(), 128, 5).unwrap();
    let again = SyntheticRows::new(&tokenizer, config, 128, 5).unwrap();
    let mut answers = 0.0;
    for index in (0..50).rev() {
        let row = rows.row(index).unwrap();
        assert_eq!(
            (row.tokens.len(), row.targets.len(), row.weights.len()),
            (128, 128, 128)
        );
        assert!(row.weights.iter().all(|w| [0.0, 1.0].contains(w)));
        answers += row.weights.iter().sum::<f32>();
        assert_eq!(row, again.row(index).unwrap());
        assert_ne!(row, rows.row(index + 1).unwrap());
    }
    assert!(answers > 50.0, "{answers}");
}

#[test]
fn rows_that_can_not_be_are_refused() {
    let tokenizer = tokenizer();
    let refused = |config: SyntheticRowsConfig, length| {
        SyntheticRows::new(&tokenizer, config, length, 0)
            .err()
            .unwrap()
            .to_string()
    };
    let of = |tasks: &[SyntheticTask]| SyntheticRowsConfig {
        tasks: tasks.into(),
        ..SyntheticRowsConfig::default()
    };
    let error = refused(of(&[SyntheticTask::Copy, SyntheticTask::Recall(32)]), 64);
    assert!(
        error.contains("recall-32") && error.contains("64"),
        "{error}"
    );
    assert!(refused(of(&[]), 64).contains("data.synthetic.tasks: expected at least one"));
}
