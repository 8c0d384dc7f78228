//! Promises of every page, table and plot, on small fixed records and on hostile ones.

use super::page::{PageNotes, page};
use super::{Runs, findings, plot, table};
use bam_record::testing::{self, passkey, perplexity};
use bam_record::{Head, Heads, PasskeyCell, Record, RunRecords, TrainingStep};

fn record<M>(name: &str, metrics: M) -> Record<M> {
    Record {
        name: name.to_string(),
        model: serde_json::json!({ "dim": 64 }),
        ..testing::record(metrics)
    }
}

fn head(layer: usize, class: &str, scale: f64) -> Head {
    Head {
        layer,
        head: 3,
        family: "generalized_gaussian".to_string(),
        parameters: vec![("scale".to_string(), scale), ("shape".to_string(), 0.5)],
        ssmax_scale: Some(0.43),
        class: class.to_string(),
        mass_lags: [2.0, 9.0, 1234.0],
        entropy: 1.5,
        curve: (0..40)
            .map(|lag| (f64::from(lag), -scale * f64::from(lag)))
            .collect(),
    }
}

fn step(step: u64, loss: f64, validation_loss: Option<f64>) -> TrainingStep {
    TrainingStep {
        step,
        tokens: (step + 1) * 1024,
        loss,
        learning_rate: 1e-3,
        gradient_norm: 1.0,
        tokens_per_second: 1e4,
        validation_loss,
        validation_bits_per_byte: None,
    }
}

/// Two encodings: `far` retrieves at every length, `near` only at the training length.
fn two(far: &str, near: &str) -> Vec<(String, RunRecords)> {
    let not_run: &[(usize, &str)] = &[(128_000, "longer than the time allowed")];
    let long = passkey(
        &[
            (128, 0.0, 5, 5),
            (128, 1.0, 5, 5),
            (64_000, 0.0, 3, 5),
            (64_000, 1.0, 5, 5),
        ],
        not_run,
    );
    let short = passkey(
        &[
            (128, 0.0, 4, 5),
            (128, 1.0, 5, 5),
            (64_000, 0.0, 0, 5),
            (64_000, 1.0, 1, 5),
        ],
        not_run,
    );
    let rising = perplexity(&[(0, 128, 3.0), (128, 256, 4.0), (256, 1024, 6.0)]);
    let falling = perplexity(&[(0, 128, 3.0), (128, 256, 2.5), (256, 1024, 2.0)]);
    let heads = Heads {
        row_keys: 2048,
        heads: vec![head(0, "local", 0.7), head(1, "anti_local", 0.0625)],
        measured: None,
    };
    let short = RunRecords {
        passkey: Some(record(near, short)),
        perplexity: Some(record(near, rising)),
        ..RunRecords::default()
    };
    let long = RunRecords {
        training: (0..50)
            .map(|i| step(i, 9.0 - 0.1 * i as f64, (i % 10 == 9).then_some(4.25)))
            .collect(),
        passkey: Some(record(far, long)),
        perplexity: Some(record(far, falling)),
        heads: Some(record(far, heads)),
        ..RunRecords::default()
    };
    vec![(near.to_string(), short), (far.to_string(), long)]
}

/// Every cell of every passkey record.
fn cells(runs: &mut [(String, RunRecords)]) -> impl Iterator<Item = &mut PasskeyCell> {
    let records = runs.iter_mut().filter_map(|(_, run)| run.passkey.as_mut());
    records.flat_map(|record| &mut record.metrics.cells)
}

/// The whole page, with every optional note.
fn noted(runs: &Runs) -> String {
    let notes = PageNotes {
        training_data: "Real text and passkey documents, mixed.\n\nHalf of each.".to_string(),
        commands: vec!["bam train recipes/small.toml".to_string()],
        machine: "2 cores, 3 hours".to_string(),
    };
    page("A title", runs, &notes)
}

/// Every element closed in order, every attribute quoted: what an XML reader asks, and less than HTML allows.
fn assert_well_formed(markup: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = markup;
    while let Some(start) = rest.find('<') {
        let text = &rest[..start];
        assert!(!text.contains('>'), "stray > in {text:?}");
        let end = start + rest[start..].find('>').expect("an unclosed tag");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        let name = tag.split([' ', '/']).next().unwrap_or_default();
        if let Some(closing) = tag.strip_prefix('/') {
            assert_eq!(
                open.pop(),
                Some(closing),
                "near {:?}",
                &rest[..rest.len().min(80)]
            );
        } else if !tag.starts_with('!') && name != "meta" {
            assert!(
                tag.matches('"').count().is_multiple_of(2),
                "unquoted attribute in {tag:?}"
            );
            open.push(name);
        }
        if name == "style" || name == "script" {
            // Their content is not markup.
            rest = &rest[rest.find("</").expect("an end")..];
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

#[test]
fn the_page_holds_every_encoding_and_number() {
    let html = noted(&two("bam+ssmax", "rotary")).replace('\u{a0}', " ");
    assert!(html.starts_with("<!DOCTYPE html>"));
    for content in [
        "bam+ssmax",
        "rotary",
        "bam+ssmax retrieves the key in 8 of 10 samples at 64,000 tokens, 500 × its training length.",
        "The next best, rotary, is last above one half at 128 tokens.",
        "the 95 % interval runs from 49 to 94 %, so one half is not excluded",
        "Not run: 128,000 tokens for every encoding (longer than the time allowed).",
        "9/10",
        "1/10",
        "49–94",
        "A Held-out Book",
        "0.0625",
        "1,234",
        "anti-local",
        "4.250",
        "Real text and passkey documents, mixed.",
        "bam train recipes/small.toml",
        "2 cores, 3 hours",
        "0.1.0 (0123abc)",
        "viewport",
    ] {
        assert!(html.contains(content), "{content:?} is missing");
    }
    assert_well_formed(&html);
}

#[test]
fn the_page_asks_the_network_for_nothing() {
    let html = noted(&two("bam+ssmax", "rotary"));
    for request in [
        "http", "src=", "href=", "url(", "@import", "<link", "<img", "fetch(",
    ] {
        assert!(!html.contains(request), "{request:?} is in the page");
    }
}

#[test]
fn drawings_are_named_for_those_who_hear_them() {
    let html = noted(&two("bam+ssmax", "rotary"));
    let mut drawings = 0;
    for svg in html.split("<svg ").skip(1) {
        let tag = &svg[..svg.find('>').expect("an end")];
        let clip = tag.starts_with("x=");
        assert!(
            clip || tag.contains("aria-hidden") || tag.contains("role=\"img\""),
            "{tag}"
        );
        if let Some(ids) = tag.split("aria-labelledby=\"").nth(1) {
            drawings += 1;
            for id in ids.trim_end_matches('"').split(' ') {
                assert_eq!(html.matches(&format!("id=\"{id}\"")).count(), 1, "{id}");
            }
        }
    }
    assert!(drawings >= 12, "{drawings}");
}

#[test]
fn different_records_give_different_pages() {
    let runs = two("bam+ssmax", "rotary");
    let mut other = runs.clone();
    cells(&mut other).last().expect("a cell").correct = 4;
    assert_ne!(noted(&runs), noted(&other));
    assert_ne!(table::summary(&runs), table::summary(&other));
    assert!(noted(&other).contains("7 of 10"));
    assert_ne!(
        plot::passkey(&runs).into_string(),
        plot::passkey(&other).into_string()
    );
    // The same share of ten times the samples: the line stays, its interval shrinks.
    for cell in cells(&mut other) {
        cell.samples *= 10;
        cell.correct *= 10;
    }
    assert!(noted(&other).contains("70 of 100"));
    assert!(!noted(&other).contains("one half is not excluded"));
}

#[test]
fn the_headline_follows_the_numbers_and_not_the_order() {
    let mut runs = two("bam+ssmax", "rotary");
    let before = findings::headline(&runs);
    runs.reverse();
    assert_eq!(findings::headline(&runs).sentence, before.sentence);
    let swapped = two("rotary", "bam+ssmax");
    assert!(
        findings::headline(&swapped)
            .sentence
            .starts_with("rotary retrieves")
    );
}

#[test]
fn a_headline_never_claims_what_was_not_measured() {
    let none = findings::headline(&[]);
    assert!(
        none.sentence
            .contains("neither passkey retrieval nor perplexity")
    );
    let mut runs = two("bam", "rotary");
    for cell in cells(&mut runs) {
        cell.correct = usize::from(cell.length == 128);
    }
    let nothing = findings::headline(&runs);
    assert!(
        nothing
            .sentence
            .starts_with("No encoding retrieves the key")
    );
    assert!(
        nothing.details[0].contains("2 of 10 at 128 tokens"),
        "{nothing:?}"
    );
    for run in &mut runs {
        run.1.passkey = None;
    }
    let text_only = findings::headline(&runs);
    assert!(
        text_only
            .sentence
            .starts_with("bam has the lowest perplexity"),
        "{text_only:?}"
    );
    assert_eq!(text_only.details, ["Passkey retrieval was not measured."]);
}

#[test]
fn a_dip_below_one_half_is_told() {
    let gap = passkey(
        &[
            (128, 0.5, 9, 10),
            (256, 0.5, 1, 10),
            (512, 0.5, 6, 10),
            (1024, 0.5, 0, 10),
        ],
        &[],
    );
    let runs = [(
        "bam".to_string(),
        RunRecords {
            passkey: Some(record("bam", gap)),
            ..RunRecords::default()
        },
    )];
    let details = findings::headline(&runs).details.join(" ");
    assert!(
        details.contains("bam is not above one half at every shorter length."),
        "{details}"
    );
    assert!(details.contains(
        "At the longest length it was tested at, 1,024 tokens, bam finds the key in 0 of 10."
    ));
}

#[test]
fn the_terminal_table_has_a_line_for_each_length() {
    let text = table::summary(&two("bam+ssmax", "rotary"));
    let expected = "\
encoding    tokens  × training  right  accuracy      95 %  time  note
─────────  ───────  ──────────  ─────  ────────  ────────  ────  ─────────────────────────────────────
rotary         128         1 ×   9/10      90 %   60–98 %   2 s
            64,000       500 ×   1/10      10 %    2–40 %   2 s
           128,000     1,000 ×      –         –         –     –  not run: longer than the time allowed
bam+ssmax      128         1 ×  10/10     100 %  72–100 %   2 s
            64,000       500 ×   8/10      80 %   49–94 %   2 s
           128,000     1,000 ×      –         –         –     –  not run: longer than the time allowed
";
    assert!(text.contains(expected), "{text}");
    // exp 3 up to the training length; exp 2 and exp 6 over the last octave.
    for number in ["20.1", "7.39", "403", "A Held-out Book"] {
        assert!(text.contains(number), "{number} is missing from\n{text}");
    }
}

#[test]
fn the_markdown_table_has_as_many_cells_in_every_row() {
    let runs = two("bam+ssmax", "a|b");
    let text = table::markdown(&runs);
    assert!(
        text.contains("| a\\|b | 128 | 1 × | 9/10 | 90 % | 60–98 % | 2 s |  |"),
        "{text}"
    );
    for table in text.split("###").skip(1) {
        let rows: Vec<usize> = table
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.replace("\\|", "").matches('|').count())
            .collect();
        assert!(
            rows.len() > 2 && rows.windows(2).all(|pair| pair[0] == pair[1]),
            "{table}"
        );
    }
}

#[test]
fn hostile_names_stay_text() {
    let hostile = "<script>alert(1)</script>\"'&\u{1b}[2J";
    let mut runs = two(hostile, "rotary");
    let run = &mut runs[1].1;
    let passkey = &mut run.passkey.as_mut().expect("a record").metrics;
    passkey.not_run[0].reason = format!("\"><img {hostile}");
    run.perplexity.as_mut().expect("a record").metrics.document = hostile.to_string();
    let heads = &mut run.heads.as_mut().expect("a record").metrics.heads;
    heads[0].class = hostile.to_string();
    heads[0].family = hostile.to_string();
    heads[0].parameters[0].0 = hostile.to_string();
    let notes = PageNotes {
        training_data: hostile.to_string(),
        commands: vec![hostile.to_string()],
        machine: hostile.to_string(),
    };
    let html = page(hostile, &runs, &notes);
    assert_eq!(html.matches("<script").count(), 1, "only our own");
    assert!(!html.contains("<img"));
    assert!(html.contains("&lt;script&gt;alert(1)"));
    assert_well_formed(&html);
    assert!(!table::summary(&runs).contains('\u{1b}'));
    assert!(!table::markdown(&runs).contains("<script"));
}

#[test]
fn missing_parts_are_named_and_nothing_panics() {
    let html = page("Empty", &[], &PageNotes::default());
    for words in [
        "No passkey samples are in these records.",
        "No perplexity with a finite value",
        "No heads were inspected.",
        "There are no evaluation records.",
    ] {
        assert!(html.contains(words), "{words:?}");
    }
    assert_well_formed(&html);
    let bare = [("bam".to_string(), RunRecords::default())];
    assert_well_formed(&noted(&bare));
    let mut one = two("bam", "rotary");
    one[0].1.passkey = None;
    assert!(noted(&one).contains("not run: no passkey record"));
    assert!(table::summary(&one).contains("not run: no passkey record"));
}

#[test]
fn values_that_are_not_numbers_break_nothing() {
    let odd = [0.0, -1.0, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    for value in odd {
        let mut runs = two("bam", "rotary");
        let run = &mut runs[1].1;
        run.training = vec![
            step(0, value, Some(value)),
            step(1, 2.0, None),
            step(2, value, Some(1.0)),
        ];
        let heads = run.heads.as_mut().expect("a record");
        heads.seconds = value;
        heads.metrics.row_keys = 0;
        heads.metrics.heads[0] = Head {
            parameters: vec![("scale".to_string(), value)],
            ssmax_scale: Some(value),
            mass_lags: [value; 3],
            entropy: value,
            curve: vec![(value, value), (1.0, value), (value, 0.0), (3.0, -1.0)],
            ..head(0, "flat", 1.0)
        };
        let perplexity = &mut run.perplexity.as_mut().expect("a record").metrics;
        perplexity.bytes_per_token = value;
        perplexity.windows[2].cross_entropy = value;
        let passkey = &mut run.passkey.as_mut().expect("a record").metrics;
        for cell in &mut passkey.cells {
            cell.depth = value;
            cell.seconds = value;
        }
        for bound in [0, 1, usize::MAX] {
            let mut runs = runs.clone();
            let run = &mut runs[1].1;
            let passkey = &mut run.passkey.as_mut().expect("a record").metrics;
            passkey.train_length = bound;
            passkey.scored_digits = bound;
            passkey.given_digits = bound;
            passkey.cells[0].length = bound;
            passkey.cells[0].samples = bound;
            passkey.cells[1].correct = usize::MAX;
            let perplexity = &mut run.perplexity.as_mut().expect("a record").metrics;
            perplexity.train_length = bound;
            perplexity.windows[2].end = bound;
            let html = noted(&runs);
            assert_well_formed(&html);
            let drawn = html
                .split(" d=\"")
                .skip(1)
                .map(|rest| &rest[..rest.find('"').expect("an end")]);
            for path in drawn {
                assert!(!path.contains("NaN") && !path.contains("inf"), "{path}");
            }
            table::summary(&runs);
            table::markdown(&runs);
        }
    }
}

#[test]
fn documents_of_one_title_are_two() {
    let mut runs = two("bam", "rotary");
    runs.iter_mut().for_each(|(_, run)| run.passkey = None);
    let first = runs[0].1.perplexity.as_mut().expect("a record");
    first.metrics.document_sha256 = Some("1234567890abcdef".into());
    // An older record may be of that document.
    let together = table::summary(&runs);
    assert!(together.contains("has the lowest perplexity"), "{together}");
    assert!(!together.contains("(1234567"), "{together}");
    let second = runs[1].1.perplexity.as_mut().expect("a record");
    second.metrics.document_sha256 = Some("fedcba0987654321".into());
    let apart = table::summary(&runs);
    assert!(apart.contains("Perplexity is of 2 documents"), "{apart}");
    let html = page("Two", &runs, &PageNotes::default());
    for name in ["A Held-out Book (12345678…)", "A Held-out Book (fedcba09…)"] {
        assert!(apart.contains(name) && html.contains(name), "{apart}");
    }
}

#[test]
fn a_perplexity_that_is_not_finite_is_said_to_be_so() {
    let mut runs = two("bam", "rotary");
    let windows = &mut runs[1]
        .1
        .perplexity
        .as_mut()
        .expect("a record")
        .metrics
        .windows;
    windows[2].cross_entropy = f64::INFINITY;
    assert!(table::summary(&runs).contains("not finite"));
    assert!(noted(&runs).contains("not finite"));
}

#[test]
fn twelve_encodings_look_different() {
    let families = [
        "nope",
        "sinusoidal",
        "rotary",
        "rotary_local",
        "alibi",
        "bam",
    ];
    let runs: Vec<(String, RunRecords)> = families
        .iter()
        .flat_map(|family| [family.to_string(), format!("{family}+ssmax")])
        .map(|name| (name, RunRecords::default()))
        .collect();
    let key = plot::key(&runs).into_string();
    let mut looks: Vec<&str> = key
        .split("<svg")
        .skip(1)
        .map(|swatch| swatch.split("</svg>").next().unwrap_or_default())
        .collect();
    assert_eq!(looks.len(), 12);
    looks.sort_unstable();
    looks.dedup();
    assert_eq!(looks.len(), 12);
}
