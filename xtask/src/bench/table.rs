//! Tables of measurements, as Markdown: pure functions of the rows.

use serde_json::{Map, Value};
use std::fmt::Write;

/// A measurement: a flat JSON object.
pub type Row = Map<String, Value>;

pub fn text<'a>(row: &'a Row, name: &str) -> &'a str {
    row.get(name).and_then(Value::as_str).unwrap_or("")
}

pub fn number(row: &Row, name: &str) -> f64 {
    row.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

/// One measurement in short, for progress.
pub fn line(row: &Row) -> String {
    if row.contains_key("corpus") {
        return corpus_line(row);
    }
    if is_of_grid(row) {
        let (name, pass) = (text(row, "implementation"), text(row, "pass"));
        return format!(
            "{} {pass} {name} {:.2} ms",
            shape(row),
            number(row, "milliseconds")
        );
    }
    format!(
        "{} {} {} {} N={} {:.1} ms",
        text(row, "implementation"),
        text(row, "prior"),
        text(row, "pass"),
        text(row, "dtype"),
        number(row, "length"),
        number(row, "milliseconds").min(number(row, "milliseconds_per_step")),
    )
}

fn corpus_line(row: &Row) -> String {
    let (bytes, milliseconds) = (number(row, "bytes"), number(row, "milliseconds"));
    format!(
        "| {} | {} | {} | {} | {:.2} | {:.1} |",
        text(row, "corpus"),
        text(row, "tokenizer"),
        text(row, "implementation"),
        text(row, "pass"),
        milliseconds / 1e3,
        bytes / milliseconds / 1e3
    )
}

/// Corpora to ids.
pub fn prepare(rows: &[Row]) -> String {
    let mut out =
        "| corpus | tokenizer | by | | seconds | MB/s |\n|---|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let _ = writeln!(out, "{}", corpus_line(row));
    }
    out
}

/// All of the operation's tables.
pub fn attention(rows: &[Row]) -> String {
    let mut out = String::new();
    let ceiling = rows
        .iter()
        .filter(|row| {
            text(row, "implementation").ends_with("-matmul") && text(row, "dtype") == "f32"
        })
        .map(|row| number(row, "gflops"))
        .fold(f64::NAN, f64::max);
    let _ = writeln!(
        out,
        "\nCeiling, the fastest f32 matrix product: {ceiling:.1} GFLOP/s\n"
    );
    let (of_grid, rows): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| is_of_grid(row));
    if !of_grid.is_empty() {
        out += &grid(&of_grid);
    }
    let (growing, others): (Vec<&Row>, Vec<&Row>) =
        rows.into_iter().partition(|row| is_growth(row));
    for pass in ["forward", "forward+backward", "decode"] {
        let of_pass: Vec<&Row> = others
            .iter()
            .copied()
            .filter(|row| text(row, "pass") == pass)
            .collect();
        if !of_pass.is_empty() {
            let _ = writeln!(out, "### {pass}\n\n{}", passes(&of_pass, ceiling));
        }
    }
    if !growing.is_empty() {
        let _ = writeln!(
            out,
            "### growth, one head of each class\n\n{}",
            growth(&growing)
        );
    }
    out
}

/// The grid says its shapes in words of its own.
fn is_of_grid(row: &Row) -> bool {
    row.contains_key("tokens")
}

/// Of a row of the grid.
fn shape(row: &Row) -> String {
    let of = |name| number(row, name);
    let mut shape = format!(
        "{}×{}×{}×{}",
        of("batch"),
        of("heads"),
        of("tokens"),
        of("width")
    );
    if of("key_heads") < of("heads") {
        let _ = write!(shape, ", {} key heads", of("key_heads"));
    }
    if row.get("causal") == Some(&Value::Bool(false)) {
        shape += ", both ways";
    }
    shape
}

/// Ours beside PyTorch's, shape by shape, and the worst of them.
fn grid(rows: &[&Row]) -> String {
    const THEIRS: [&str; 3] = ["sdpa", "sdpa bias", "sdpa learned"];
    let mut out = String::from(
        "### shapes, ms; in brackets how many times as long as ours\n\n| batch × heads × tokens × width | pass | ours \
         | SDPA, no bias | SDPA, bias | SDPA, learned bias |\n|---|---|---|---|---|---|\n",
    );
    let mut worst: Option<(f64, String)> = None;
    for ours in rows
        .iter()
        .filter(|row| text(row, "implementation") == "ours" && row.contains_key("batch"))
    {
        let (shape_of_ours, pass) = (shape(ours), text(ours, "pass"));
        let own = number(ours, "milliseconds");
        let _ = write!(out, "| {shape_of_ours} | {pass} | {own:.1} |");
        for name in THEIRS {
            let same = |row: &&&Row| {
                text(row, "implementation") == name
                    && text(row, "pass") == pass
                    && shape(row) == shape_of_ours
            };
            let Some(theirs) = rows
                .iter()
                .find(same)
                .map(|row| number(row, "milliseconds"))
            else {
                out += " – |";
                continue;
            };
            let ratio = theirs / own;
            let _ = write!(out, " {theirs:.1} ({ratio:.2}) |");
            if name == THEIRS[0] && worst.as_ref().is_none_or(|(worst, _)| ratio < *worst) {
                worst = Some((ratio, format!("{shape_of_ours}, {pass}")));
            }
        }
        out.push('\n');
    }
    if let Some((ratio, row)) = worst {
        let _ = writeln!(
            out,
            "\nThe worst row: {ratio:.2} of SDPA without a bias, {row}.\n"
        );
    }
    out
}

/// The growth section measures one head, all others eight.
fn is_growth(row: &Row) -> bool {
    number(row, "heads") == 1.0 && !text(row, "implementation").ends_with("-matmul")
}

fn passes(rows: &[&Row], ceiling: f64) -> String {
    let mut out = String::from(
        "| N | dtype | prior | heads | implementation | ms | GFLOP/s | of ceiling | × SDPA without bias \
         | peak MB | error | skipped |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut sorted = rows.to_vec();
    sorted.sort_by(|a, b| {
        let key = |row: &Row| {
            (
                number(row, "length") as u64,
                text(row, "dtype").to_owned(),
                text(row, "prior").to_owned(),
            )
        };
        key(a).cmp(&key(b))
    });
    for row in sorted {
        let same = |other: &&&Row| {
            text(other, "implementation") == "pytorch-sdpa"
                && ["pass", "dtype", "length"]
                    .iter()
                    .all(|name| other.get(*name) == row.get(*name))
        };
        let sdpa = rows.iter().find(same).map(|row| number(row, "gflops"));
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {:.1} | {:.1} | {} | {} | {} | {:.0e} | {} |",
            number(row, "length"),
            text(row, "dtype"),
            text(row, "prior"),
            text(row, "head_class"),
            text(row, "implementation"),
            number(row, "milliseconds"),
            number(row, "gflops"),
            or_dash(100.0 * number(row, "gflops") / ceiling, "%"),
            or_dash(
                sdpa.map_or(f64::NAN, |sdpa| number(row, "gflops") / sdpa),
                ""
            ),
            or_dash(number(row, "peak_bytes") / 1e6, ""),
            number(row, "answer_error"),
            or_dash(100.0 * number(row, "skipped_share"), "%"),
        );
    }
    out
}

fn or_dash(value: f64, unit: &str) -> String {
    match value.is_finite() {
        true if unit.is_empty() => format!("{value:.2}"),
        true => format!("{value:.0} {unit}"),
        false => "–".into(),
    }
}

/// Time and memory over length, with the exponents that fit them.
fn growth(rows: &[&Row]) -> String {
    let mut lengths: Vec<u64> = rows
        .iter()
        .map(|row| number(row, "length") as u64)
        .collect();
    lengths.sort_unstable();
    lengths.dedup();
    let mut out = String::from("| class | prior | pass | implementation |");
    for length in &lengths {
        let _ = write!(out, " {length} |");
    }
    out.push_str(" time ~ N^ | peak ~ N^ |\n|---|---|---|---|");
    out.push_str(&"---|".repeat(lengths.len() + 2));
    out.push('\n');
    let mut series: Vec<(&str, &str, &str, &str)> = Vec::new();
    for row in rows {
        let of = (
            text(row, "head_class"),
            text(row, "prior"),
            text(row, "pass"),
            text(row, "implementation"),
        );
        if !series.contains(&of) {
            series.push(of);
        }
    }
    for of in series {
        let (class, prior, pass, implementation) = of;
        let _ = write!(out, "| {class} | {prior} | {pass} | {implementation} |");
        let points: Vec<&&Row> = rows
            .iter()
            .filter(|row| {
                (
                    text(row, "head_class"),
                    text(row, "prior"),
                    text(row, "pass"),
                    text(row, "implementation"),
                ) == of
            })
            .collect();
        for length in &lengths {
            let at = points
                .iter()
                .find(|row| number(row, "length") as u64 == *length);
            let _ = match at {
                Some(row) => write!(
                    out,
                    " {:.1} ms, {:.1} MB, {:.0} % skipped |",
                    number(row, "milliseconds"),
                    number(row, "peak_bytes") / 1e6,
                    100.0 * number(row, "skipped_share"),
                ),
                None => write!(out, " – |"),
            };
        }
        let exponent = |name: &str| {
            // From 4,096 on: below, what does not grow counts.
            let long = points.iter().filter(|row| number(row, "length") >= 4096.0);
            slope(
                &long
                    .map(|row| (number(row, "length").ln(), number(row, name).ln()))
                    .collect::<Vec<_>>(),
            )
        };
        let _ = writeln!(
            out,
            " {} | {} |",
            or_dash(exponent("milliseconds"), ""),
            or_dash(exponent("peak_bytes"), "")
        );
    }
    out
}

/// The slope of the line that fits the points best; NaN for fewer than two.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let products: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    products / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
}

/// Tokens a second of a training step.
pub fn training(rows: &[Row]) -> String {
    let mut out = String::from(
        "\n| model | implementation | dtype | parameters | tokens/s | ms a step | × PyTorch f32 |\n|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let base = rows.iter().find(|other| {
            text(other, "implementation") == "pytorch-reference"
                && text(other, "dtype") == "f32"
                && text(other, "model") == text(row, "model")
        });
        let speed = number(row, "tokens_per_second");
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {speed:.0} | {:.0} | {} |",
            text(row, "model"),
            text(row, "implementation"),
            text(row, "dtype"),
            number(row, "parameters"),
            number(row, "milliseconds_per_step"),
            or_dash(
                base.map_or(f64::NAN, |base| speed / number(base, "tokens_per_second")),
                ""
            ),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(value: Value) -> Row {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn the_worst_row_of_the_grid_is_named() {
        let of = |implementation: &str, tokens: u64, causal: bool, milliseconds: f64| {
            row(json!({
                "implementation": implementation, "pass": "forward", "batch": 1, "heads": 8, "tokens": tokens, "width": 64,
                "key_heads": 2, "causal": causal, "milliseconds": milliseconds,
            }))
        };
        let rows = [
            of("ours", 128, true, 2.0),
            of("sdpa", 128, true, 3.0),
            of("ours", 128, false, 2.0),
            of("sdpa", 128, false, 1.0),
        ];
        let table = attention(&rows);
        assert!(
            table.contains("| 1×8×128×64, 2 key heads | forward | 2.0 | 3.0 (1.50) | – | – |"),
            "{table}"
        );
        let worst = "The worst row: 0.50 of SDPA without a bias, 1×8×128×64, 2 key heads, both ways, forward.";
        assert!(table.contains(worst), "{table}");
    }

    #[test]
    fn ratios_are_of_the_same_pass_and_length() {
        let of = |implementation: &str, pass: &str, gflops: f64| {
            row(json!({
                "implementation": implementation, "pass": pass, "dtype": "f32", "heads": 8,
                "length": 1024, "gflops": gflops, "milliseconds": 1.0, "answer_error": 1e-7,
            }))
        };
        let rows = [
            of("flex-matmul", "forward", 40.0),
            of("pytorch-sdpa", "forward", 10.0),
            of("pytorch-sdpa", "forward+backward", 5.0),
            of("bam-fused", "forward", 30.0),
        ];
        let table = attention(&rows);
        assert!(
            table.contains("| bam-fused | 1.0 | 30.0 | 75 % | 3.00 |"),
            "{table}"
        );
    }

    #[test]
    fn exponents_fit() {
        let points: Vec<(f64, f64)> = (1..5).map(|i| (i as f64, 2.0 * i as f64 + 1.0)).collect();
        assert!((slope(&points) - 2.0).abs() < 1e-12);
        assert!(slope(&points[..1]).is_nan());
    }
}
