//! `cargo xtask bench scale`: the same training steps on one and two ranks, and what an exchange between two costs.

use super::table::{Row, number, text};
use std::fmt::Write;

/// Ranks, threads of each, and where the optimizer's state is.
pub const RUNS: [(usize, usize, &str); 4] = [
    (1, 1, "replicated"),
    (2, 1, "replicated"),
    (2, 1, "sharded"),
    (1, 2, "replicated"),
];

/// Times that all runs are gone through, so that a machine that slows down slows all of them.
pub const ROUNDS: usize = 3;

/// Equal losses of a model on any number of ranks.
pub fn same_losses(rows: &[Row]) -> Result<(), String> {
    for row in rows.iter().filter(|row| row.contains_key("model")) {
        let model = |other: &&Row| other.get("model") == row.get("model");
        let first = rows.iter().find(model).expect("it is one itself");
        for loss in ["first_loss", "last_loss"] {
            let (expected, got) = (first.get(loss), row.get(loss));
            if expected != got {
                return Err(format!(
                    "{}: expected {loss} {expected:?} on any number of ranks, got {got:?}; no time is reported",
                    text(row, "model")
                ));
            }
        }
    }
    Ok(())
}

/// One measurement in short.
pub fn line(row: &Row) -> String {
    if !row.contains_key("model") {
        return format!(
            "exchange of {} bytes: {:.1} µs",
            number(row, "bytes"),
            number(row, "microseconds")
        );
    }
    format!(
        "{} on {} ranks of {} threads, {}: {:.1} ms a step",
        text(row, "model"),
        number(row, "ranks"),
        number(row, "threads_per_rank"),
        text(row, "optimizer_state"),
        number(row, "milliseconds_per_step"),
    )
}

/// Steps by model and run, the fastest round of each; then exchanges.
pub fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "| model | ranks × threads | state | ms a step | tokens/s | times as fast as one thread | in exchanges, ms | of the step \
         | exchanges | MiB sent |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let (of_training, exchanges): (Vec<&Row>, Vec<&Row>) =
        rows.iter().partition(|row| row.contains_key("model"));
    let step = |row: &Row| number(row, "milliseconds_per_step");
    // Whatever else the machine does can only slow a run down.
    let fastest = |row: &Row, same: &[&str]| {
        let of_run = of_training.iter();
        let of_run = of_run.filter(|other| same.iter().all(|of| row.get(*of) == other.get(*of)));
        of_run.min_by(|a, b| step(a).total_cmp(&step(b))).copied()
    };
    let alone = |row: &Row| {
        let mut alone = row.clone();
        alone.extend(["ranks", "threads_per_rank"].map(|name| (name.into(), 1.into())));
        let fastest = fastest(&alone, &["model", "ranks", "threads_per_rank"]);
        fastest.map_or(f64::NAN, step)
    };
    const RUN: [&str; 4] = ["model", "ranks", "threads_per_rank", "optimizer_state"];
    let firsts = of_training.iter().filter(|row| number(row, "round") == 0.0);
    for row in firsts.filter_map(|row| fastest(row, &RUN)) {
        let of = |name| number(row, name);
        let _ = writeln!(
            out,
            "| {} | {} × {} | {} | {:.1} | {:.0} | {:.2} | {:.2} | {:.1} % | {} | {:.2} |",
            text(row, "model"),
            of("ranks"),
            of("threads_per_rank"),
            text(row, "optimizer_state"),
            step(row),
            of("tokens_per_second"),
            alone(row) / step(row),
            of("milliseconds_in_exchanges"),
            100.0 * of("milliseconds_in_exchanges") / step(row),
            of("exchanges"),
            of("bytes_sent") / f64::from(1 << 20),
        );
    }
    out += "\n| bytes to the other rank | µs | GB/s each way |\n|---|---|---|\n";
    for row in exchanges {
        let of = |name| number(row, name);
        let _ = writeln!(
            out,
            "| {} | {:.1} | {:.3} |",
            of("bytes"),
            of("microseconds"),
            of("gigabytes_per_second")
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(ranks: usize, step: f64, loss: f64) -> Row {
        let row = json!({
            "implementation": "bam-train", "model": "l6", "round": 0, "ranks": ranks, "threads_per_rank": 1,
            "optimizer_state": "replicated", "milliseconds_per_step": step, "tokens_per_second": 1e6 / step,
            "milliseconds_in_exchanges": 5.0, "exchanges": 4, "bytes_sent": 1 << 21, "first_loss": 2.0, "last_loss": loss,
        });
        row.as_object().expect("an object").clone()
    }

    #[test]
    fn losses_must_be_the_same_on_any_number_of_ranks() {
        assert_eq!(
            same_losses(&[row(1, 100.0, 1.5), row(2, 60.0, 1.5)]),
            Ok(())
        );
        let next = 1.5 + f64::EPSILON;
        let refusal = same_losses(&[row(1, 100.0, 1.5), row(2, 60.0, next)]).unwrap_err();
        assert!(refusal.contains("l6: expected last_loss"), "{refusal}");
    }

    #[test]
    fn steps_are_of_the_fastest_round_and_beside_one_thread() {
        let rounds = [80.0, 90.0, 50.0].map(|step| row(2, step, 1.5));
        let rows = [&[row(1, 100.0, 1.5)][..], &rounds].concat();
        let table = table(&rows);
        let expected =
            "| l6 | 2 × 1 | replicated | 50.0 | 20000 | 2.00 | 5.00 | 10.0 % | 4 | 2.00 |";
        assert!(table.contains(expected), "{table}");
    }
}
