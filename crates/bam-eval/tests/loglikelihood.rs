//! Log-likelihood of continuations: reading requests, cutting tokens, counting what is right.

use bam_data::{Document, Tokenizer, TokenizerConfig};
use bam_eval::evaluation::{Context, Subject, evaluate};
use bam_eval::journal::Journal;
use bam_eval::loglikelihood::{
    LoglikelihoodEvaluation, Question, Questions, likelihoods, token_pair,
};
use bam_lm::model::{Design, ModelConfig, PriorScope, PriorStart, Transformer};
use burn::tensor::Device;
use std::path::Path;

fn tokenizer() -> Tokenizer {
    let text = "the cat sat on the mat, the dog sat on the cat ".repeat(20);
    let document = Document {
        text,
        origin: "here".into(),
    };
    let config = TokenizerConfig {
        vocabulary: 264,
        ..TokenizerConfig::default()
    };
    Tokenizer::train([Ok(document)].into_iter(), &config, |_| {}).unwrap()
}

fn model(vocabulary: usize) -> Transformer {
    let device = Device::flex();
    device.seed(5);
    let config = ModelConfig {
        encoding: "bam+ssmax".parse().unwrap(),
        dim: 16,
        layers: 2,
        heads: 2,
        key_heads: 2,
        hidden: 32,
        vocabulary,
        train_length: 16,
        norm_epsilon: 1e-5,
        rotary_theta: 1e4,
        prior_scope: PriorScope::Layer,
        prior_start: PriorStart::default(),
        ssmax_from: 0,
        design: Design::default(),
    };
    config.checked().unwrap().init(&device)
}

fn question(context: &str, continuations: &[&str], right: usize) -> Question {
    Question {
        context: context.into(),
        continuations: continuations.iter().map(|text| (*text).into()).collect(),
        right,
        ..Question::default()
    }
}

#[test]
fn a_likelihood_is_the_sum_over_its_tokens() {
    let tokenizer = tokenizer();
    let model = model(tokenizer.vocabulary_size());
    let question = question("the cat sat", &[" on the mat", " on", " zzz"], 0);
    let got = likelihoods(&model, &tokenizer, &question, true).unwrap();
    for (got, continuation) in got.iter().zip(&question.continuations) {
        let (context, rest) = token_pair(&tokenizer, &question.context, continuation).unwrap();
        let bos = tokenizer.bos().map(|id| id as i32);
        let row: Vec<i32> = bos.into_iter().chain(context).chain(rest.clone()).collect();
        let from = row.len() - rest.len();
        let mut cache = model.cache(1, row.len()).unwrap();
        let (scores, _) = model.score(&row, &mut cache, from, 1).unwrap();
        assert_eq!(scores.len(), rest.len());
        let expected: f64 = scores.iter().map(|score| score.ln_probability).sum();
        assert!(
            (got.ln_probability - expected).abs() < 1e-4,
            "{continuation}"
        );
        // Null control: another continuation is not as probable.
        assert!((got.ln_probability + 1.0 - expected).abs() > 0.5);
        let greedy = scores
            .iter()
            .zip(&rest)
            .all(|(score, token)| score.is_greedy(*token));
        assert_eq!(got.greedy, greedy);
    }
}

#[test]
fn tokens_are_cut_where_lm_eval_cuts_them() {
    let tokenizer = tokenizer();
    let (context, rest) = token_pair(&tokenizer, "the cat ", "sat").unwrap();
    let ids = |text: &str| -> Vec<i32> {
        tokenizer
            .encode(text)
            .unwrap()
            .into_iter()
            .map(|id| id as i32)
            .collect()
    };
    // The space goes to the continuation.
    assert_eq!(context, ids("the cat"));
    assert_eq!([context, rest].concat(), ids("the cat sat"));
    assert!(token_pair(&tokenizer, "the cat", "").is_err());
}

/// A greedy continuation counts, and the greedy choice is the right one.
#[test]
fn what_the_model_would_say_is_right() {
    let tokenizer = tokenizer();
    let model = model(tokenizer.vocabulary_size());
    let context = "the dog sat";
    let bos = tokenizer.bos().map(|id| id as i32);
    let row: Vec<i32> = bos
        .into_iter()
        .chain(
            tokenizer
                .encode(context)
                .unwrap()
                .into_iter()
                .map(|id| id as i32),
        )
        .collect();
    let mut cache = model.cache(1, row.len()).unwrap();
    let logits = model.prefill_to_logits(&row, &mut cache).unwrap();
    let texts: Vec<(String, f32)> = (0..tokenizer.vocabulary_size() as u32)
        .filter_map(|id| {
            let text = tokenizer.decode(&[id]).ok()?;
            let (_, rest) = token_pair(&tokenizer, context, &text).ok()?;
            (rest == [id as i32]).then_some((text, logits[id as usize]))
        })
        .collect();
    let best = texts.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let worst = texts.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let questions = vec![
        question(context, &[&worst.0, &best.0], 1),
        question(context, &[&worst.0, &best.0], 0),
    ];
    let questions = Questions {
        tasks: [("choice".to_owned(), questions)].into(),
        unconditional: 0,
    };
    let evaluation = LoglikelihoodEvaluation {
        subject: Subject {
            model: &model,
            tokenizer: &tokenizer,
        },
        questions: &questions,
        begin: true,
    };
    let dir = tempfile::tempdir().unwrap();
    let journal = |name: &str| Journal::open(dir.path().join(name), "run".into(), 0.0).unwrap();
    let answer = |stop: &(dyn Fn() -> bool + Sync), journal: Journal| {
        let context = Context {
            stop,
            ..Context::default()
        };
        let found = evaluate(&evaluation, &context, Some(&journal), |_, _| Ok(())).unwrap();
        found.map(|(metrics, _)| metrics)
    };
    let answered = answer(&|| false, journal("all")).unwrap();
    let score = &answered.tasks[0];
    assert_eq!(score.accuracy.0, 0.5);
    assert!((score.accuracy.1 - 0.5).abs() < 1e-12, "√(0.5 / 1 / 2)");
    assert_eq!(score.perplexity, None);
    assert_eq!(answer(&|| true, journal("none")), None);
    // What is known is not asked of the model again.
    assert_eq!(answer(&|| true, journal("all")), Some(answered));
}

fn read(lines: &str) -> Result<Questions, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("requests.jsonl");
    std::fs::write(&path, lines).unwrap();
    Questions::read(&path).map_err(|error| error.to_string())
}

#[test]
fn requests_are_read_by_document() {
    let questions = read(concat!(
        r#"{"task_name": "arc", "doc_id": 0, "idx": 1, "request": {"context": "Q", "continuation": " b"}, "label": 1}"#,
        "\n",
        r#"{"task_name": "arc", "doc_id": 0, "idx": 0, "request": {"context": "Q", "continuation": " a"}, "label": 1}"#,
        "\n",
        r#"{"task_name": "arc", "doc_id": 0, "idx": 0, "request": {"context": "Answer:", "continuation": " a"}, "label": 1}"#,
        "\n\n",
        r#"{"task_name": "lambada", "doc_id": 0, "doc": {"id": 7}, "idx": 0, "request": {"context": "x", "continuation": " y"}, "label": ["y"]}"#,
        "\n",
        r#"{"context": "z", "continuations": ["1", "2", "3"], "label": 2, "task": "own"}"#,
        "\n",
    ))
    .unwrap();
    assert_eq!(questions.unconditional, 1);
    assert_eq!(questions.count(), 3);
    let of_document = |question: Question, contents| Question {
        document: Some(0),
        contents,
        ..question
    };
    let arc = of_document(question("Q", &[" a", " b"], 1), None);
    assert_eq!(questions.tasks["arc"], [arc]);
    let contents = serde_json::json!({"id": 7});
    let lambada = of_document(question("x", &[" y"], 0), Some(contents));
    assert_eq!(questions.tasks["lambada"], [lambada]);
    assert_eq!(questions.tasks["own"], [question("z", &["1", "2", "3"], 2)]);
}

/// Two files of one task, joined: their documents have the same numbers, and neither overwrites the other.
#[test]
fn a_number_of_a_document_may_come_again() {
    let line = |document: u8, index: Option<u8>, context: &str, continuation: &str| {
        let request = serde_json::json!({"context": context, "continuation": continuation});
        let line = serde_json::json!({
            "task_name": "t", "doc_id": document, "idx": index, "request": request, "label": 1,
        });
        format!("{line}\n")
    };
    let file = |context: &str, choices: u8| -> String {
        let document = |d: u8| (0..choices).map(move |i| (d, i));
        let all = [0, 1].into_iter().flat_map(document);
        all.map(|(d, i)| line(d, Some(i), context, &format!(" {i}")))
            .collect()
    };
    let questions = read(&(file("first", 2) + &file("second", 3) + &file("first", 2))).unwrap();
    let got = &questions.tasks["t"];
    let shape = |of: &Question| (of.context.clone(), of.continuations.len(), of.document);
    let two = |context: &str, n| [0, 1].map(|d| (context.to_owned(), n, Some(d)));
    let expected = [two("first", 2), two("second", 3), two("first", 2)].concat();
    assert_eq!(got.iter().map(shape).collect::<Vec<_>>(), expected);
    // Without numbers of continuations, as LAMBADA has them.
    let lines = [("a", " x"), ("b", " x"), ("b", " x")].map(|(a, b)| line(0, None, a, b));
    let got = &read(&lines.concat()).unwrap().tasks["t"];
    assert_eq!(
        got.iter().map(|of| &*of.context).collect::<Vec<_>>(),
        ["a", "b", "b"]
    );
}

#[test]
fn broken_requests_are_named() {
    for (lines, expected) in [
        (r#"{"context": "a"}"#, "line 1"),
        ("{", "line 1"),
        (
            r#"{"context": "a", "continuations": ["b", "c"], "label": 2}"#,
            "label below the 2",
        ),
        (
            r#"{"context": "a", "continuations": ["b", "c"]}"#,
            "label below the 2",
        ),
        (
            "{\"doc_id\": 1, \"idx\": 0, \"context\": \"a\", \"continuation\": \"b\", \"label\": 0}\n\
             {\"doc_id\": 1, \"idx\": 1, \"context\": \"x\", \"continuation\": \"c\", \"label\": 0}",
            "one context",
        ),
        (
            "{\"doc_id\": 1, \"context\": \"a\", \"continuation\": \"b\", \"label\": 0}\n\
             {\"doc_id\": 1, \"context\": \"a\", \"continuation\": \"c\", \"label\": 1}",
            "one label",
        ),
    ] {
        let error = read(lines).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let error = Questions::read(Path::new("requests.csv"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("requests.csv"), "{error}");
}
