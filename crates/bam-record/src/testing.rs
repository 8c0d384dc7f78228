//! Small fixed records for those who test what is made of them.

use crate::{
    Babilong, BabilongAnswer, BabilongCell, Loglikelihood, LoglikelihoodScore, NotRun, Passkey,
    PasskeyCell, Perplexity, PerplexityWindow, Record, Ruler, RulerAnswer, RulerCell,
};

/// A record of `bam+ssmax` on two threads.
pub fn record<M>(metrics: M) -> Record<M> {
    Record {
        name: "bam+ssmax".into(),
        created: "2026-01-02T03:04:05Z".into(),
        commit: "0.1.0 (0123abc)".into(),
        seed: 42,
        model: serde_json::json!({}),
        threads: 2,
        device: None,
        seconds: 12.5,
        metrics,
    }
}

/// Cells of (length, depth, correct, samples), and lengths that were not run with their reasons.
pub fn passkey(cells: &[(usize, f64, usize, usize)], not_run: &[(usize, &str)]) -> Passkey {
    let cells = cells
        .iter()
        .map(|&(length, depth, correct, samples)| PasskeyCell {
            length,
            depth,
            samples,
            correct,
            correct_digits: correct.saturating_mul(5),
            seconds: 1.0,
        });
    let not_run = not_run.iter().map(|&(length, reason)| NotRun {
        length,
        reason: reason.into(),
    });
    Passkey {
        train_length: 128,
        scored_digits: 5,
        given_digits: 1,
        cells: cells.collect(),
        not_run: not_run.collect(),
        decided: Vec::new(),
        skipping: "exact".into(),
        heads: Vec::new(),
        certified_cache: None,
    }
}

/// Windows of (start, end, nats per token) of a book.
pub fn perplexity(windows: &[(usize, usize, f64)]) -> Perplexity {
    let windows = windows
        .iter()
        .map(|&(start, end, cross_entropy)| PerplexityWindow {
            start,
            end,
            cross_entropy,
        });
    Perplexity {
        certified_cache: None,
        train_length: 128,
        document: "A Held-out Book".into(),
        document_sha256: None,
        bytes_per_token: 4.0,
        windows: windows.collect(),
    }
}

/// A cell of so many samples.
pub fn cell(task: &str, length: usize, scores: &[f64]) -> RulerCell {
    let answers = scores.iter().enumerate().map(|(index, score)| RulerAnswer {
        index,
        tokens: 300,
        outputs: vec!["7654321".into()],
        answer: if *score > 0.0 { " 7654321." } else { "\n" }.into(),
        score: *score,
    });
    let n = scores.len() as f64;
    RulerCell {
        task: task.into(),
        length,
        score: (!scores.is_empty()).then(|| (scores.iter().sum::<f64>() / n, 0.125)),
        nulls: scores.iter().filter(|score| **score == 0.0).count(),
        not_run: scores
            .is_empty()
            .then(|| "it needs at least 600 tokens".into()),
        seconds: 1.0,
        answers: answers.collect(),
    }
}

/// Two tasks at two lengths, one cell of them without a sample.
pub fn ruler_record() -> Record<Ruler> {
    record(Ruler {
        train_length: 128,
        essays: "books".into(),
        samples_from: Vec::new(),
        begin: false,
        skipping: "exact".into(),
        cells: vec![
            cell("niah_single_1", 512, &[1.0, 0.0, 1.0]),
            cell("vt", 512, &[]),
            cell("niah_single_1", 4096, &[1.0, 1.0]),
            cell("vt", 4096, &[0.4, 0.2]),
        ],
    })
}

/// A task of choices and one without.
pub fn loglikelihood_record() -> Record<Loglikelihood> {
    let score = |task: &str, choice: bool| LoglikelihoodScore {
        task: task.into(),
        questions: 200,
        accuracy: (0.25, 0.03),
        accuracy_per_character: choice.then_some((0.3, 0.04)),
        perplexity: (!choice).then_some(12.5),
        bits_per_byte: 1.5,
    };
    record(Loglikelihood {
        train_length: 128,
        unconditional: 0,
        tasks: vec![score("arc_easy", true), score("lambada", false)],
    })
}

/// Two tasks, the facts alone and 1,024 tokens.
pub fn babilong_record() -> Record<Babilong> {
    let answer = |answer: &str, correct: bool| BabilongAnswer {
        question: "Where is Mary?".into(),
        target: "garden".into(),
        answer: answer.into(),
        correct,
        tokens: 400,
    };
    let cell = |task: &str, label: &str, length, answers: Vec<BabilongAnswer>| BabilongCell {
        task: task.into(),
        label: label.into(),
        length,
        correct: answers.iter().filter(|answer| answer.correct).count(),
        not_run: answers.is_empty().then(|| "too short".into()),
        seconds: 1.0,
        answers,
    };
    let answers = || {
        vec![
            answer("garden", true),
            answer("the \"hall\",\nI think", false),
            answer("garden", true),
            answer("", false),
        ]
    };
    record(Babilong {
        train_length: 128,
        haystack: "books".into(),
        begin: false,
        skipping: "exact".into(),
        cells: vec![
            cell("qa1", "0k", None, answers()),
            cell("qa2", "0k", None, answers()[..1].to_vec()),
            cell("qa1", "1k", Some(1024), Vec::new()),
        ],
    })
}
