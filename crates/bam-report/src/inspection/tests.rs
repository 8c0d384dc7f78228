use super::*;
use crate::page::{heads_page, reading_page};
use bam_record::ContextHead;

fn glance(ln_evidence: f64) -> Glance {
    Glance {
        ln_evidence,
        mean_distance: 2.5,
        near_mass: 0.75,
    }
}

/// A text that tries to be markup, to steer a terminal and to break a script.
fn hostile(texts: &[&str]) -> Reading {
    Reading {
        text: "</title><script>alert(1)</script>\u{1b}[2J".into(),
        near: 16,
        heads: vec![(0, 0), (0, 1)],
        tokens: texts
            .iter()
            .enumerate()
            .map(|(index, text)| ReadToken {
                token: index as i32,
                text: (*text).to_owned(),
                mean: glance(f64::NAN),
                heads: vec![glance(index as f64), glance(f64::INFINITY)],
            })
            .collect(),
    }
}

const TEXTS: [&str; 6] = [
    "<s>",
    "</script><b>",
    "\u{1b}[2J\u{7}",
    "\n\n",
    "\"--v:9\" onclick=\"",
    "",
];

#[test]
fn a_hostile_text_is_text() {
    for texts in [&TEXTS[..], &TEXTS[..1], &[]] {
        let reading = hostile(texts);
        let page = reading_page("bam<i>", &reading);
        assert!(!page.contains("<b>") && !page.contains("<i>") && !page.contains('\u{1b}'));
        assert!(!page.contains("alert(1)</script>"));
        assert!(!page.contains("\" onclick"));
        let numbers = page.split("id=\"glances\">").nth(1).unwrap();
        let numbers = numbers.split("</script>").next().unwrap();
        let numbers: Vec<Vec<Vec<f64>>> = serde_json::from_str(numbers).unwrap();
        assert_eq!(numbers.len(), 3, "the mean and two heads");
        for measures in &numbers {
            assert_eq!(measures.len(), 3);
            assert!(measures.iter().all(|tokens| tokens.len() == texts.len()));
        }
    }
}

/// The rest of a coloured text without its own colours has no escapes.
#[test]
fn a_hostile_text_does_not_steer_a_terminal() {
    let reading = hostile(&TEXTS);
    let coloured = coloured("bam", &reading);
    let mut parts = coloured.split('\u{1b}');
    let mut rest = parts.next().unwrap().to_owned();
    for part in parts {
        let (sequence, after) = part.split_once('m').unwrap();
        let own = |c: char| c.is_ascii_digit() || c == ';' || c == '[';
        assert!(sequence.chars().all(own), "{sequence:?}");
        rest += after;
    }
    assert_eq!(
        rest.matches("</script><b>").count(),
        2,
        "once by each measure"
    );
    assert!(!listed("bam", &reading).contains('\u{1b}'));
}

#[test]
fn colours_go_from_end_to_end() {
    let mut reading = hostile(&["a"; 100]);
    for (index, token) in reading.tokens.iter_mut().enumerate() {
        token.mean.ln_evidence = index as f64;
        token.mean.mean_distance = index as f64;
    }
    let scale = Scale::of(&reading);
    assert_eq!((scale.evidence, scale.longest), ((5.0, 94.0), 99.0));
    let first = &reading.tokens[0].mean;
    let last = &reading.tokens[99].mean;
    assert_eq!((scale.evidence(first), scale.distance(first)), (0.0, 0.0));
    assert_eq!((scale.evidence(last), scale.distance(last)), (1.0, 1.0));
    assert!(scale.distance(&reading.tokens[9].mean) > 0.4, "logarithmic");
    // Null control: tokens that are all alike have no ends.
    let alike = hostile(&["a"; 3]);
    let scale = Scale {
        evidence: (1.0, 1.0),
        ..Scale::of(&alike)
    };
    assert_eq!(scale.evidence(&glance(1.0)), 0.0);
}

fn context_of(horizons: &[Option<usize>]) -> Context {
    let heads: Vec<ContextHead> = horizons
        .iter()
        .enumerate()
        .map(|(head, horizon)| ContextHead {
            layer: 0,
            head,
            class: "anti_local".into(),
            content_bound: 9.5,
            prior_horizon: *horizon,
            horizon: *horizon,
            keys: horizon.map_or(4096, |horizon| horizon + 1),
        })
        .collect();
    Context {
        length: 4096,
        train_length: 128,
        epsilon: 1e-6,
        beyond: vec![(1, heads.len()), (2048, 0)],
        reach: heads.iter().map(|head| head.keys - 1).max().unwrap_or(0),
        heads,
        cache_bytes: 1_000_000,
        certified_cache_bytes: 250_000,
    }
}

#[test]
fn contexts_say_what_is_predicted() {
    let text = context("alibi", &context_of(&[Some(30), Some(1999)]), None);
    for part in [
        "rows of up to 4,096 keys",
        "at most 1e-6 of",
        "no head can look beyond 1,999 tokens",
        "no passkey record",
        "1.0 MB in full, 250 kB within the horizons (25 %)",
        "anti-local",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = context("bam", &context_of(&[Some(30), None]), None);
    assert!(text.contains("1 of 2 heads can look over the whole row of 4,096 keys"));
    assert!(text.contains("none"));
}

/// Numbers that are none reach neither the axis nor the table.
#[test]
fn pages_of_heads_survive_anything() {
    let head = MeasuredHead {
        layer: 0,
        head: 0,
        prior_mass_lags: [f64::NAN, -1.0, f64::INFINITY],
        posterior_mass_lags: [0.0, 1.0, 1e300],
        mean_distance: f64::NAN,
        entropy: 0.0,
        divergence: 0.0,
        ln_evidence: f64::NEG_INFINITY,
        masses: vec![(0.0, 0.5, f64::NAN), (f64::NAN, 1.0, 1.0), (9.0, 1.0, 1.0)],
    };
    let prior = Head {
        layer: 0,
        head: 0,
        family: "<u>".into(),
        parameters: Vec::new(),
        ssmax_scale: None,
        class: "<q>".into(),
        mass_lags: [f64::NAN; 3],
        entropy: f64::NAN,
        curve: Vec::new(),
    };
    let of = |length| Heads {
        row_keys: length,
        heads: vec![prior.clone()],
        measured: Some(Measured {
            text: "<v>".into(),
            length,
            rows: 1,
            heads: vec![head.clone()],
        }),
    };
    for length in [0, 1, 100] {
        let page = heads_page("bam", &of(length));
        for drawn in page.split(" d=\"").skip(1) {
            let path = drawn.split('"').next().unwrap();
            assert!(!path.contains("NaN") && !path.contains("inf"), "{path}");
        }
        for markup in ["<u>", "<q>", "<v>"] {
            assert!(!page.contains(markup), "{markup}");
        }
        heads("bam", &of(length), true);
    }
}
