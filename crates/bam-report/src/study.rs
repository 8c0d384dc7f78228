//! A study: models by seeds, several groups of them, as tables.
//!
//! A seed is one trained model, so it counts as one observation: means are over seeds, and the range of seeds stands beside
//! them. A length at which a seed was not asked, because it had found nothing at shorter ones, counts as 0.

use crate::findings::{Outcome, longest, mean_up_to, outcomes, reach};
use crate::table::Table;
use crate::text::{duration, multiple, percent, perplexity, short, thousands};
use bam_record::{Passkey, Perplexity, Ruler, RunRecords, Synthetic, SyntheticCell};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// Models of one size, trained alike.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StudyGroup {
    /// Its name.
    pub name: String,
    /// Words on its models and what they read.
    pub about: String,
    /// The models.
    pub models: Vec<StudyModel>,
}

/// A model, trained with several seeds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StudyModel {
    /// Its name: its encoding, or what is special about it.
    pub name: String,
    /// Parameters beyond those of a model without position.
    pub added: usize,
    /// One for each seed.
    pub runs: Vec<StudyRun>,
}

/// A model with one seed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StudyRun {
    /// Of weights, rows and samples.
    pub seed: u64,
    /// All that was measured.
    pub records: RunRecords,
}

/// Said of tables in which it may be so.
const UNASKED: &str = "; 0 also where nothing was asked, since shorter lengths had nothing right";

/// The study as Markdown.
pub fn markdown(title: &str, groups: &[StudyGroup]) -> String {
    let mut text = format!("# {title}\n");
    for group in groups {
        text += &format!("\n## {}\n\n{}\n", group.name, group.about.trim());
        for (title, table) in tables(group) {
            text += &format!("\n### {title}\n\n{}", table.markdown());
        }
    }
    text
}

/// The tables of a group that have rows.
pub(crate) fn tables(group: &StudyGroup) -> Vec<(String, Table)> {
    let mut all = vec![
        (
            format!("Passkey: percent right, mean over seeds (lowest to highest seed){UNASKED}"),
            passkey(group),
        ),
        (
            "Passkey by seed: right of asked, and a 95 % interval in percent; † ended early, as the accuracy was decided; – not asked".into(),
            by_seed(group, passkey_of, passkey_lengths(group), |of| {
                let found = outcomes(of).into_iter();
                found.map(|of| (of.length, counted(&of))).collect()
            }),
        ),
    ];
    for task in tasks(group) {
        let title = |what| {
            format!(
                "{task}: percent of {what} right, mean over seeds (lowest to highest seed){UNASKED}"
            )
        };
        all.push((
            title("samples"),
            synthetic(group, &task, |of| (of.correct, of.samples)),
        ));
        if asks_several(group, &task) {
            let answers = |of: &SyntheticCell| (of.correct_answers, of.answers);
            all.push((title("answers"), synthetic(group, &task, answers)));
        }
        all.push((
            format!("{task} by seed: samples right of asked, and a 95 % interval in percent; † ended early, as the accuracy of samples was decided; then answers right of asked, where a sample has several; – not asked"),
            by_seed(group, synthetic_of, task_lengths(group, &task), |of| {
                let cells = of.cells.iter().filter(|cell| cell.task == task);
                cells.map(|cell| (cell.length, task_counted(cell))).collect()
            }),
        ));
    }
    all.push((
        "RULER: mean score of the tasks that a length has room for, percent, mean over seeds (lowest to highest seed)".into(),
        ruler(group),
    ));
    all.push((
        "Perplexity over the windows that end in the octave of positions up to each, geometric mean over seeds (lowest to highest seed)".into(),
        perplexities(group),
    ));
    all.push((
        "Costs; tokens/s beside whatever else the machine did".into(),
        costs(group),
    ));
    all.retain(|(_, table)| !table.rows.is_empty());
    all
}

/// One run for each model: what is drawn. Of its seeds the one in the middle by its reach in passkeys, and where that is the
/// same by the share that it found; of two the lower.
pub(crate) fn drawn(group: &StudyGroup) -> Vec<(String, RunRecords)> {
    let rank = |run: &StudyRun| {
        let passkey = passkey_of(&run.records)?;
        let reach = reach(passkey).map_or(0, |of| of.last.length);
        let found: f64 = outcomes(passkey).iter().filter_map(Outcome::accuracy).sum();
        Some((reach, found))
    };
    let of = |model: &StudyModel| {
        let mut runs: Vec<&StudyRun> = model.runs.iter().collect();
        runs.retain(|run| rank(run).is_some() || model.runs.iter().all(|run| rank(run).is_none()));
        runs.sort_by(|a, b| rank(a).partial_cmp(&rank(b)).unwrap_or(Ordering::Equal));
        let middle = runs.get(runs.len().saturating_sub(1) / 2);
        let records = middle.map(|run| run.records.clone());
        (model.name.clone(), records.unwrap_or_default())
    };
    group.models.iter().map(of).collect()
}

type Kind<M> = fn(&RunRecords) -> Option<&M>;

fn passkey_of(records: &RunRecords) -> Option<&Passkey> {
    Some(&records.passkey.as_ref()?.metrics)
}

fn synthetic_of(records: &RunRecords) -> Option<&Synthetic> {
    Some(&records.synthetic.as_ref()?.metrics)
}

fn ruler_of(records: &RunRecords) -> Option<&Ruler> {
    Some(&records.ruler.as_ref()?.metrics)
}

fn perplexity_of(records: &RunRecords) -> Option<&Perplexity> {
    Some(&records.perplexity.as_ref()?.metrics)
}

/// A model's records of one kind, with their seeds.
fn seeds<M>(model: &StudyModel, kind: Kind<M>) -> Vec<(u64, &M)> {
    let runs = model.runs.iter();
    runs.filter_map(|run| Some((run.seed, kind(&run.records)?)))
        .collect()
}

/// Records of one kind of all models.
fn all<M>(group: &StudyGroup, kind: Kind<M>) -> Vec<&M> {
    let models = group.models.iter();
    let all = models.flat_map(|model| seeds(model, kind));
    all.map(|(_, of)| of).collect()
}

/// A row for each model, a column for each place of a record: a figure of every seed there, `None` where it has none.
fn by_model<M>(
    group: &StudyGroup,
    kind: Kind<M>,
    (columns, places): (&str, &BTreeSet<usize>),
    figure: impl Fn(&M, usize) -> Option<f64>,
    cell: impl Fn(Vec<Option<f64>>) -> String,
) -> Table {
    let row = |model: &StudyModel| {
        let seeds = seeds(model, kind);
        let of = |place: &usize| cell(seeds.iter().map(|(_, of)| figure(of, *place)).collect());
        let mut row = vec![model.name.clone()];
        row.extend(places.iter().map(of));
        row.push(seeds.len().to_string());
        (!seeds.is_empty()).then_some(row)
    };
    Table {
        header: format!("model · {columns} · seeds"),
        rows: group.models.iter().filter_map(row).collect(),
    }
}

/// Shares of seeds in percent; of how many, where not all were asked.
fn right(of_seeds: Vec<Option<f64>>) -> String {
    let (seeds, asked) = (of_seeds.len(), of_seeds.iter().flatten().count());
    let text = mean_and_range(of_seeds.into_iter().flatten(), percent);
    match asked {
        0 => text,
        _ if asked == seeds => text,
        _ => format!("{text}, {asked} of {seeds}"),
    }
}

/// The share of right samples at a length, from those of the lengths that were asked, ascending: nothing beyond one where
/// nothing was right, and no figure beyond others.
fn share_at(shares: impl IntoIterator<Item = (usize, f64)>, length: usize) -> Option<f64> {
    let up_to = shares.into_iter().take_while(|(asked, _)| *asked <= length);
    let (asked, share) = up_to.last()?;
    (asked == length || share == 0.0).then_some(share)
}

/// `97 (92–100)`; the range is left out where seeds agree.
fn mean_and_range(of_seeds: impl IntoIterator<Item = f64>, text: impl Fn(f64) -> String) -> String {
    let of_seeds: Vec<f64> = of_seeds.into_iter().collect();
    let Some(lowest) = of_seeds.iter().copied().reduce(f64::min) else {
        return "–".into();
    };
    let highest = of_seeds.iter().copied().fold(lowest, f64::max);
    let mean = text(of_seeds.iter().sum::<f64>() / of_seeds.len() as f64);
    let [lowest, highest] = [lowest, highest].map(text);
    match lowest == highest {
        true => mean,
        false => format!("{mean} ({lowest}–{highest})"),
    }
}

fn times(lengths: &BTreeSet<usize>, train_length: usize) -> String {
    let of = |length: &usize| format!("{} ×", multiple(*length, train_length));
    lengths.iter().map(of).collect::<Vec<_>>().join(" · ")
}

/// Lengths of a group's passkeys, those not run included, and the columns' names.
fn passkey_lengths(group: &StudyGroup) -> (String, BTreeSet<usize>) {
    let all = all(group, passkey_of);
    let lengths = all.iter().flat_map(|of| {
        let run = of.cells.iter().map(|cell| cell.length);
        run.chain(of.not_run.iter().map(|of| of.length))
    });
    let lengths = lengths.collect();
    let train_length = all.first().map_or(1, |of| of.train_length);
    (times(&lengths, train_length), lengths)
}

fn passkey(group: &StudyGroup) -> Table {
    let (columns, lengths) = passkey_lengths(group);
    let accuracy = |of: &Passkey, length| {
        let outcomes = outcomes(of);
        let asked = outcomes
            .iter()
            .filter_map(|of| Some((of.length, of.accuracy()?)));
        share_at(asked, length)
    };
    by_model(group, passkey_of, (&columns, &lengths), accuracy, right)
}

/// A row for each model and seed, a column for each length, of the cells that a record has.
fn by_seed<M>(
    group: &StudyGroup,
    kind: Kind<M>,
    (columns, lengths): (String, BTreeSet<usize>),
    cells: impl Fn(&M) -> BTreeMap<usize, String>,
) -> Table {
    let row = |name: &str, seed: u64, of: &M| {
        let mut cells = cells(of);
        let at = |length: &usize| cells.remove(length).unwrap_or_else(|| "–".into());
        let mut row = vec![name.to_owned()];
        row.extend(lengths.iter().map(at));
        row.push(seed.to_string());
        row
    };
    let of = |model: &StudyModel| -> Vec<Vec<String>> {
        let seeds = seeds(model, kind).into_iter();
        seeds.map(|(seed, of)| row(&model.name, seed, of)).collect()
    };
    Table {
        header: format!("model · {columns} · seed"),
        rows: group.models.iter().flat_map(of).collect(),
    }
}

/// `70/70† 90–100`.
fn counted(of: &Outcome) -> String {
    let early = if of.planned.is_some() { "†" } else { "" };
    let (right, asked) = (thousands(of.correct), thousands(of.samples));
    format!("{right}/{asked}{early} {}", of.interval_text())
}

fn task_counted(of: &SyntheticCell) -> String {
    let samples = counted(&Outcome {
        length: of.length,
        samples: of.samples,
        correct: of.correct,
        planned: of.planned,
    });
    match of.answers > of.samples {
        true => {
            let (right, asked) = (thousands(of.correct_answers), thousands(of.answers));
            format!("{samples}, {right}/{asked}")
        }
        false => samples,
    }
}

/// Names of a group's synthetic tasks, in their order.
fn tasks(group: &StudyGroup) -> Vec<String> {
    let mut names = Vec::new();
    for of in all(group, synthetic_of) {
        let run = of.cells.iter().map(|cell| &cell.task);
        for task in run.chain(of.not_run.iter().map(|of| &of.task)) {
            if !names.contains(task) {
                names.push(task.clone());
            }
        }
    }
    names
}

/// Lengths of a task, those not run included, and the columns' names.
fn task_lengths(group: &StudyGroup, task: &str) -> (String, BTreeSet<usize>) {
    let all = all(group, synthetic_of);
    let lengths = all.iter().flat_map(|of| {
        let run = of.cells.iter().map(|cell| (&cell.task, cell.length));
        run.chain(of.not_run.iter().map(|of| (&of.task, of.length)))
    });
    let lengths = lengths.filter(|(of, _)| *of == task);
    let lengths = lengths.map(|(_, length)| length).collect();
    let train_length = all.first().map_or(1, |of| of.train_length);
    (times(&lengths, train_length), lengths)
}

/// Whether samples of a task have more than one answer.
fn asks_several(group: &StudyGroup, task: &str) -> bool {
    let all = all(group, synthetic_of);
    let mut cells = all.iter().flat_map(|of| &of.cells);
    cells.any(|cell| cell.task == task && cell.answers > cell.samples)
}

/// Of a task the share of what a cell counts: right ones and all.
fn synthetic(
    group: &StudyGroup,
    task: &str,
    counts: impl Fn(&SyntheticCell) -> (usize, usize),
) -> Table {
    let (columns, lengths) = task_lengths(group, task);
    let share = |of: &Synthetic, length| {
        let cells = of.cells.iter().filter(|cell| cell.task == task);
        let share = |cell: &SyntheticCell| {
            let (right, all) = counts(cell);
            right as f64 / all.max(1) as f64
        };
        share_at(cells.map(|cell| (cell.length, share(cell))), length)
    };
    by_model(group, synthetic_of, (&columns, &lengths), share, right)
}

/// Tasks that a length has no room for are left out of its mean, and counted.
fn ruler(group: &StudyGroup) -> Table {
    let all = all(group, ruler_of);
    let cells = || all.iter().flat_map(|of| &of.cells);
    let lengths: BTreeSet<usize> = cells().map(|cell| cell.length).collect();
    let train_length = all.first().map_or(1, |of| of.train_length);
    let column = |length: &usize| {
        let at = cells().filter(|cell| cell.length == *length);
        let asked: BTreeSet<&str> = at.clone().map(|cell| &*cell.task).collect();
        let had_room = at.filter(|cell| cell.score.is_some());
        let had_room: BTreeSet<&str> = had_room.map(|cell| &*cell.task).collect();
        let tasks = match had_room.len() == asked.len() {
            true => String::new(),
            false => format!(", {} of {} tasks", had_room.len(), asked.len()),
        };
        format!("{} ×{tasks}", multiple(*length, train_length))
    };
    let columns = lengths.iter().map(column).collect::<Vec<_>>().join(" · ");
    let mean = |of: &Ruler, length| {
        let cells = of.cells.iter().filter(|cell| cell.length == length);
        let scores: Vec<f64> = cells.filter_map(|cell| Some(cell.score?.0)).collect();
        (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
    };
    let cell = |seeds: Vec<Option<f64>>| mean_and_range(seeds.into_iter().flatten(), percent);
    by_model(group, ruler_of, (&columns, &lengths), mean, cell)
}

fn perplexities(group: &StudyGroup) -> Table {
    let all = all(group, perplexity_of);
    let end = all.iter().filter_map(|of| longest(of)).max().unwrap_or(0);
    let begin = all.first().map_or(1, |of| of.train_length.max(1));
    let quadrupled = std::iter::successors(Some(begin), |length| length.checked_mul(4));
    let mut positions: BTreeSet<usize> = quadrupled.take_while(|length| *length < end).collect();
    positions.insert(end);
    let columns: Vec<String> = positions.iter().map(|at| thousands(*at)).collect();
    let cell = |seeds: Vec<Option<f64>>| mean_and_range(seeds.into_iter().flatten(), perplexity);
    let columns = columns.join(" · ");
    by_model(
        group,
        perplexity_of,
        (&columns, &positions),
        mean_up_to,
        cell,
    )
}

/// Parameters, speed of training, loss, and the time of a passkey sample at the longest length that a model was asked at.
fn costs(group: &StudyGroup) -> Table {
    let row = |model: &StudyModel| {
        let trained = model
            .runs
            .iter()
            .filter(|run| !run.records.training.is_empty());
        let trained: Vec<&StudyRun> = trained.collect();
        let rates = trained.iter().map(|run| median_rate(run));
        let losses = trained.iter().filter_map(|run| last_loss(run));
        let passkeys = seeds(model, passkey_of).into_iter();
        let cells: Vec<_> = passkeys.flat_map(|(_, of)| &of.cells).collect();
        let longest = cells.iter().map(|cell| cell.length).max();
        let (mut seconds, mut samples) = (0.0, 0);
        for cell in cells.iter().filter(|cell| Some(cell.length) == longest) {
            seconds += cell.seconds;
            samples += cell.samples;
        }
        let per_sample = match longest.filter(|_| samples > 0) {
            None => "–".to_owned(),
            Some(length) => {
                let each = duration(seconds / samples as f64);
                format!("{each} at {}", thousands(length))
            }
        };
        let row = vec![
            model.name.clone(),
            thousands(model.added),
            mean_and_range(rates, short),
            mean_and_range(losses, |bits| format!("{bits:.3}")),
            per_sample,
            trained.len().to_string(),
        ];
        (!trained.is_empty()).then_some(row)
    };
    Table {
        header: "model · parameters added · tokens/s in training · validation, bits/byte · a passkey sample, tokens · seeds"
            .into(),
        rows: group.models.iter().filter_map(row).collect(),
    }
}

fn median_rate(run: &StudyRun) -> f64 {
    let steps = run.records.training.iter();
    let mut rates: Vec<f64> = steps.map(|step| step.tokens_per_second).collect();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn last_loss(run: &StudyRun) -> Option<f64> {
    let mut steps = run.records.training.iter().rev();
    steps.find_map(|step| step.validation_bits_per_byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::study_page;
    use bam_record::{Decided, testing};

    fn run(seed: u64, passkey: Passkey) -> StudyRun {
        let records = RunRecords {
            passkey: Some(testing::record(passkey)),
            perplexity: Some(testing::record(testing::perplexity(&[
                (0, 128, 3.0),
                (128, 1024, 2.0 + seed as f64),
            ]))),
            ..RunRecords::default()
        };
        StudyRun { seed, records }
    }

    fn group() -> StudyGroup {
        let mut holds = testing::passkey(&[(128, 0.5, 10, 10), (1024, 0.5, 70, 70)], &[]);
        holds.decided.push(Decided {
            length: 1024,
            samples: 70,
            planned: 100,
        });
        let fails = testing::passkey(&[(128, 0.5, 0, 10)], &[(1024, "nothing at 128")]);
        StudyGroup {
            name: "Keys".into(),
            about: "Small.".into(),
            models: vec![StudyModel {
                name: "bam".into(),
                added: 12,
                runs: vec![run(1, holds), run(2, fails)],
            }],
        }
    }

    #[test]
    fn seeds_count_as_one_each() {
        let text = markdown("A study", &[group()]);
        // 70 of 70 and nothing: a half, whatever the samples. Where a length waits for another, seeds are counted.
        let expected = [
            "| model | 1 × | 8 × | seeds |",
            "| bam | 50 (0–100) | 50 (0–100) | 2 |",
            "| bam | 10/10 72–100 | 70/70† 90–100 | 1 |",
            "| bam | 0/10 0–28 | – | 2 |",
            "| bam | 20.1 |",
        ];
        for line in expected {
            assert!(text.contains(line), "{line}:\n{text}");
        }
        let mut group = group();
        let waits = testing::passkey(&[(128, 0.5, 8, 10)], &[(1024, "8 of 10 at 128")]);
        group.models[0].runs[1].records.passkey = Some(testing::record(waits));
        let text = markdown("A study", &[group]);
        let line = "| bam | 90 (80–100) | 100, 1 of 2 | 2 |";
        assert!(text.contains(line), "{line}:\n{text}");
    }

    #[test]
    fn the_page_has_every_table_and_draws_the_middle_seed() {
        let mut group = group();
        let page = study_page("A study", std::slice::from_ref(&group));
        for (title, _) in tables(&group) {
            assert!(page.contains(&title), "{title}");
        }
        let longest = |group: &StudyGroup| {
            let passkey = drawn(group)[0].1.passkey.clone().unwrap();
            outcomes(&passkey.metrics).last().unwrap().length
        };
        // Of two the lower, of three the middle one, wherever it stands.
        assert_eq!(longest(&group), 128);
        let third = testing::passkey(&[(128, 0.5, 10, 10), (512, 0.5, 9, 10)], &[]);
        group.models[0].runs.push(run(3, third));
        assert_eq!(longest(&group), 512);
    }
}
