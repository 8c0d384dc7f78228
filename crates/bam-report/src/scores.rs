//! Findings of evaluations, as one table with the same columns whatever was evaluated.

use crate::findings::outcomes;
use crate::table::Table;
use crate::text::{decided, interval, multiple, number, percent, perplexity, plain, thousands};
use bam_record::{
    Babilong, BabilongCell, CertifiedCache, Loglikelihood, Passkey, Perplexity, Record, Ruler,
    RulerCell, Synthetic, confidence_sequence, wilson_interval,
};
use std::collections::BTreeMap;

/// One figure of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// The model's name.
    pub model: String,
    /// The task, or the document.
    pub task: String,
    /// The length in tokens, or the positions.
    pub tokens: String,
    /// The length in multiples of the training length.
    pub times: String,
    /// The name of the figure.
    pub metric: &'static str,
    /// The figure, with its unit.
    pub value: String,
    /// Its 95 % interval, with its unit.
    pub interval: String,
    /// Samples that it is of; of perplexity, tokens.
    pub samples: String,
    /// Anything else, for example why there is no figure.
    pub note: String,
}

/// The figures as text.
pub fn table(scores: &[Score]) -> String {
    let or_dash = |text: &str| match text {
        "" => "–".to_owned(),
        text => plain(text),
    };
    let row = |score: &Score| {
        let middle = [&score.task, &score.tokens, &score.times].map(|text| or_dash(text));
        let figures = [&score.value, &score.interval, &score.samples].map(|text| or_dash(text));
        let mut row = vec![plain(&score.model)];
        row.extend(middle);
        row.push(or_dash(score.metric));
        row.extend(figures);
        row.push(plain(&score.note));
        row
    };
    let table = Table {
        header: "model · task · tokens · × training · metric · value · 95 % · samples · note"
            .into(),
        rows: scores.iter().map(row).collect(),
    };
    table.text()
}

/// Keys found, by length.
pub fn passkey(name: &str, record: &Record<Passkey>) -> Vec<Score> {
    let passkey = &record.metrics;
    let at = |length: usize| Score {
        model: name.to_owned(),
        task: "passkey".into(),
        tokens: thousands(length),
        times: multiple(length, passkey.train_length),
        metric: "right",
        ..Score::default()
    };
    let mut lines = BTreeMap::new();
    for skipped in &passkey.not_run {
        let note = format!("not run: {}", skipped.reason);
        lines.insert(
            skipped.length,
            Score {
                note,
                ..at(skipped.length)
            },
        );
    }
    for outcome in outcomes(passkey) {
        let score = Score {
            value: outcome.accuracy().map_or(String::new(), share),
            interval: format!("{} %", outcome.interval_text()),
            samples: thousands(outcome.samples),
            note: match outcome.planned {
                Some(planned) => decided(planned),
                None => kept(passkey.certified_cache.as_ref(), outcome.length),
            },
            ..at(outcome.length)
        };
        lines.insert(outcome.length, score);
    }
    lines.into_values().collect()
}

/// The share of the keys that a cache kept that was allowed to forget.
fn kept(cache: Option<&CertifiedCache>, length: usize) -> String {
    let of_length =
        |cache: &CertifiedCache| cache.kept.iter().find(|of| of.length == length).copied();
    cache.and_then(of_length).map_or(String::new(), |of| {
        let share = percent(of.kept as f64 / of.all.max(1) as f64);
        format!("cache: {share} % of the keys")
    })
}

/// Synthetic tasks, by task and length: whole samples, and answers where a sample has several.
pub fn synthetic(name: &str, record: &Record<Synthetic>) -> Vec<Score> {
    let of = &record.metrics;
    let at = |task: &str, length: usize| Score {
        model: name.to_owned(),
        task: task.to_owned(),
        tokens: thousands(length),
        times: multiple(length, of.train_length),
        ..Score::default()
    };
    let mut scores = Vec::new();
    for cell in &of.cells {
        let counts = [
            ("right", cell.correct, cell.samples),
            ("answers", cell.correct_answers, cell.answers),
        ];
        let kinds = if cell.answers == cell.samples { 1 } else { 2 };
        for (metric, right, count) in counts.into_iter().take(kinds) {
            scores.push(Score {
                metric,
                value: share(right as f64 / count.max(1) as f64),
                // Answers of one sample hang together.
                interval: match (metric, cell.planned) {
                    ("right", None) => format!("{} %", interval(wilson_interval(right, count))),
                    ("right", Some(_)) => {
                        format!("{} %", interval(confidence_sequence(right, count)))
                    }
                    _ => String::new(),
                },
                samples: thousands(count),
                note: cell.planned.map_or_else(String::new, decided),
                ..at(&cell.task, cell.length)
            });
        }
    }
    scores.extend(of.not_run.iter().map(|of| Score {
        metric: "right",
        note: format!("not run: {}", of.reason),
        ..at(&of.task, of.length)
    }));
    scores
}

/// Perplexity, by window.
pub fn perplexities(name: &str, record: &Record<Perplexity>) -> Vec<Score> {
    let cache = record.metrics.certified_cache.as_ref();
    let windows = record.metrics.windows.iter();
    let of = windows.map(|window| Score {
        model: name.to_owned(),
        task: record.metrics.document.clone(),
        tokens: format!("{}–{}", thousands(window.start), thousands(window.end)),
        times: multiple(window.end, record.metrics.train_length),
        metric: "perplexity",
        value: perplexity(window.cross_entropy),
        samples: thousands(window.end - window.start),
        // Of the whole document, so beside its last window.
        note: kept(cache, window.end),
        ..Score::default()
    });
    of.collect()
}

/// Accuracies and probabilities of the right continuations, by task.
pub fn loglikelihood(name: &str, record: &Record<Loglikelihood>) -> Vec<Score> {
    let mut scores = Vec::new();
    for task in &record.metrics.tasks {
        let of = |metric: &'static str, value: String, interval: String| Score {
            model: name.to_owned(),
            task: task.task.clone(),
            metric,
            value,
            interval,
            samples: thousands(task.questions),
            ..Score::default()
        };
        let right = |(mean, _): (f64, f64)| {
            let correct = (mean * task.questions as f64).round() as usize;
            let within = wilson_interval(correct, task.questions);
            (share(mean), format!("{} %", interval(within)))
        };
        let (value, within) = right(task.accuracy);
        scores.push(of("acc", value, within));
        if let Some(accuracy) = task.accuracy_per_character {
            let (value, within) = right(accuracy);
            scores.push(of("acc_norm", value, within));
        }
        if let Some(perplexity) = task.perplexity {
            scores.push(of("perplexity", number(perplexity), String::new()));
        }
        let bits = format!("{:.3}", task.bits_per_byte);
        scores.push(of("bits/byte", bits, String::new()));
    }
    scores
}

/// RULER's scores by length and task, and after each length their mean.
pub fn ruler(name: &str, record: &Record<Ruler>) -> Vec<Score> {
    let ruler = &record.metrics;
    let mut scores = Vec::new();
    let at = |length: usize| Score {
        model: name.to_owned(),
        tokens: thousands(length),
        times: multiple(length, ruler.train_length),
        metric: "score",
        ..Score::default()
    };
    for cells in ruler.by_length() {
        for cell in &cells {
            scores.push(Score {
                task: cell.task.clone(),
                value: cell.score.map_or(String::new(), |(mean, _)| share(mean)),
                interval: score_interval(cell),
                samples: thousands(cell.answers.len()),
                note: not_run(&cell.not_run),
                ..at(cell.length)
            });
        }
        let means: Vec<f64> = cells
            .iter()
            .filter_map(|cell| Some(cell.score?.0))
            .collect();
        scores.extend(mean(&means, at(cells[0].length)));
    }
    scores
}

/// Wilson's where every sample is right or wrong, else 1.96 standard errors around the mean.
fn score_interval(cell: &RulerCell) -> String {
    let Some((mean, error)) = cell.score else {
        return String::new();
    };
    let scores = cell.answers.iter().map(|answer| answer.score);
    let within = match scores.clone().all(|score| score == 0.0 || score == 1.0) {
        true => {
            let right = scores.filter(|score| *score == 1.0).count();
            wilson_interval(right, cell.answers.len())
        }
        false => (
            (mean - 1.96 * error).max(0.0),
            (mean + 1.96 * error).min(1.0),
        ),
    };
    format!("{} %", interval(within))
}

/// BABILong's accuracies by length and task, and after each length their mean.
pub fn babilong(name: &str, record: &Record<Babilong>) -> Vec<Score> {
    let babilong = &record.metrics;
    let of = |cell: &BabilongCell| {
        let asked = cell.answers.len();
        let times = |length| multiple(length, babilong.train_length);
        Score {
            model: name.to_owned(),
            task: cell.task.clone(),
            tokens: cell.length.map_or_else(|| "facts only".into(), thousands),
            times: cell.length.map_or_else(String::new, times),
            metric: "right",
            samples: thousands(asked),
            note: not_run(&cell.not_run),
            ..match asked {
                0 => Score::default(),
                asked => Score {
                    value: share(cell.correct as f64 / asked as f64),
                    interval: format!("{} %", interval(wilson_interval(cell.correct, asked))),
                    ..Score::default()
                },
            }
        }
    };
    let mut scores = Vec::new();
    for cells in babilong.cells.chunk_by(|a, b| a.label == b.label) {
        let of_length: Vec<Score> = cells.iter().map(of).collect();
        let asked = cells.iter().filter(|cell| !cell.answers.is_empty());
        let means: Vec<f64> = asked
            .map(|cell| cell.correct as f64 / cell.answers.len() as f64)
            .collect();
        let of_mean = of_length.first().map(|first| Score {
            interval: String::new(),
            samples: String::new(),
            note: String::new(),
            ..first.clone()
        });
        scores.extend(of_length);
        scores.extend(of_mean.and_then(|of| mean(&means, of)));
    }
    scores
}

/// The mean of several tasks, as a score like `of`.
fn mean(of_tasks: &[f64], of: Score) -> Option<Score> {
    (of_tasks.len() > 1).then(|| Score {
        task: format!("mean of {}", of_tasks.len()),
        value: share(of_tasks.iter().sum::<f64>() / of_tasks.len() as f64),
        ..of
    })
}

fn share(proportion: f64) -> String {
    format!("{} %", percent(proportion))
}

fn not_run(reason: &Option<String>) -> String {
    reason
        .as_ref()
        .map_or(String::new(), |reason| format!("not run: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bam_record::testing::{self, babilong_record, loglikelihood_record, record, ruler_record};

    /// One table, whatever was evaluated: the same columns, and what was not run says so.
    #[test]
    fn every_evaluation_has_the_same_columns() {
        let cells = [(2048, 0.5, 9, 10)];
        let retrieval = record(testing::passkey(&cells, &[(4096, "no time")]));
        let perplexity = record(Perplexity {
            document: "book".into(),
            ..testing::perplexity(&[(0, 1024, 3.0)])
        });
        let mut all = passkey("bam", &retrieval);
        all.extend(perplexities("bam", &perplexity));
        all.extend(loglikelihood("bam", &loglikelihood_record()));
        all.extend(ruler("alibi", &ruler_record()));
        all.extend(babilong("alibi", &babilong_record()));
        let expected = "\
model           task      tokens  × training      metric   value      95 %  samples  note
─────  ─────────────  ──────────  ──────────  ──────────  ──────  ────────  ───────  ─────────────────────────────────────
bam          passkey       2,048          16       right    90 %   60–98 %       10
             passkey       4,096          32       right       –         –        –  not run: no time
                book     0–1,024           8  perplexity    20.1         –    1,024
            arc_easy           –           –         acc    25 %   20–31 %      200
            arc_easy           –           –    acc_norm    30 %   24–37 %      200
            arc_easy           –           –   bits/byte   1.500         –      200
             lambada           –           –         acc    25 %   20–31 %      200
             lambada           –           –  perplexity    12.5         –      200
             lambada           –           –   bits/byte   1.500         –      200
alibi  niah_single_1         512           4       score  66.7 %   21–94 %        3
                  vt         512           4       score       –         –        0  not run: it needs at least 600 tokens
       niah_single_1       4,096          32       score   100 %  34–100 %        2
                  vt       4,096          32       score    30 %    6–55 %        2
           mean of 2       4,096          32       score    65 %         –        –
                 qa1  facts only           –       right    50 %   15–85 %        4
                 qa2  facts only           –       right   100 %  21–100 %        1
           mean of 2  facts only           –       right    75 %         –        –
                 qa1       1,024           8       right       –         –        0  not run: too short
";
        assert_eq!(table(&all), expected, "\n{}", table(&all));
    }
}
