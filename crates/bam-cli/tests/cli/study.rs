//! A study at toy size: the same records in one piece and in several, by one process and by two.

use crate::program::{FAILED, INTERRUPTED, MISUSED, Running, args, fail, succeed};
use crate::resume;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const STUDY: &str = r#"
title = "Two encodings"
decide = [0.5, 0.9]
patience = 1

[[group]]
name = "Keys"
about = "Toys."
recipe = "toy.toml"
set = ["train.steps=6"]
seeds = [1, 2]
models = [
    "alibi",
    { name = "flat at the start", encoding = "bam", set = ["model.prior_start.shape=0.0"] },
    { name = "one head flat", of = "alibi", prior = { heads = ["1.2"], family = "uniform" } },
]
passkey = [{ lengths = ["1x"], samples = 30 }, { lengths = ["2x", "4x"], samples = 10 }]
synthetic = { tasks = ["copy"], lengths = ["1x", "2x"], samples = 20 }
perplexity = { length = "4x", window = 600 }
ruler = { lengths = ["8x"], samples = 1 }
"#;

/// A study's file beside its recipe.
fn study(folder: &Path, text: &str) -> PathBuf {
    let recipe = include_str!("../../../../recipes/quickstart.toml");
    fs::write(folder.join("toy.toml"), recipe).unwrap();
    let path = folder.join("study.toml");
    fs::write(&path, text).unwrap();
    path
}

const RUNS: [&str; 6] = [
    "keys/alibi/seed-1",
    "keys/alibi/seed-2",
    "keys/flat-at-the-start/seed-1",
    "keys/flat-at-the-start/seed-2",
    "keys/one-head-flat/seed-1",
    "keys/one-head-flat/seed-2",
];

/// All that a study found, without times.
fn findings(out: &Path) -> Vec<Value> {
    let mut all = Vec::new();
    for run in RUNS {
        for name in ["heads", "perplexity", "passkey", "synthetic", "ruler"] {
            all.push(resume::record(
                &out.join(run).join(name).with_extension("json"),
            ));
        }
    }
    all
}

#[test]
fn pieces_and_processes_find_the_same() {
    let folder = TempDir::new().unwrap();
    let file = study(folder.path(), STUDY);
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let plan = succeed(&args!["study {} --out {} --plan", file, whole]);
    assert!(
        plan.contains("6 models") && plan.contains("36 jobs"),
        "{plan}"
    );
    assert!(plan.contains("no time is known"), "{plan}");
    assert!(!whole.exists(), "a plan leaves nothing");
    succeed(&args!["study {} --out {}", file, whole]);

    let words = args!["study {} --out {} --jobs 2", file, parts];
    let mut running = Running::start(args!["study {} --out {}", file, parts]);
    running.until_lines(&parts.join(RUNS[0]).join("metrics.jsonl"), 1);
    assert_eq!(running.interrupt(), Some(INTERRUPTED));
    assert!(parts.join("study.html").exists(), "a page of what there is");
    // Half a training is nothing to tell.
    let tables = fs::read_to_string(parts.join("study.md")).unwrap();
    let trained = parts.join(RUNS[0]).join("model.safetensors").exists();
    assert_eq!(tables.contains("### Costs"), trained, "{tables}");
    // Of several processes only the first is told to stop; with it, or without it, the others do.
    let mut running = Running::start(words.clone());
    running.until_lines(&parts.join(RUNS[2]).join("metrics.jsonl"), 1);
    assert_eq!(running.interrupt(), Some(INTERRUPTED));
    succeed(&words);
    assert_eq!(findings(&whole), findings(&parts));
    for run in RUNS {
        let weights = |out: &Path| fs::read(out.join(run).join("model.safetensors")).unwrap();
        assert_eq!(weights(&whole), weights(&parts), "{run}");
    }

    // A group may begin with a trained model.
    let trained = parts.join(RUNS[2]);
    let on = format!(
        "title = \"On\"\n[[group]]\nname = \"On\"\nabout = \"From there.\"\nrecipe = \"toy.toml\"\nseeds = [1]\nmodels = [\"bam\", {{ name = \"prior alone\", encoding = \"bam\", set = ['train.learn=[\"prior\"]'] }}]\n\
         set = [\"train.steps=2\", \"model.prior_start.shape=0.0\", 'model.start={trained:?}', 'train.learn=[\"weights\"]']\n"
    );
    let further = study(folder.path(), &on);
    succeed(&args!["study {} --out {}", further, parts]);
    let tables = fs::read_to_string(parts.join("study.md")).unwrap();
    assert!(tables.contains("| bam | 24 |"), "{tables}");
    let priors = |run: &Path| -> Vec<Value> {
        let heads = resume::record(&run.join("heads.json"))["metrics"]["heads"].clone();
        let heads = heads.as_array().unwrap().iter();
        heads.map(|head| head["parameters"].clone()).collect()
    };
    assert_eq!(priors(&parts.join("on/bam/seed-1")), priors(&trained));
    // Its page needs records alone.
    let [weights, aside] = ["model.safetensors", "aside"].map(|name| trained.join(name));
    fs::rename(&weights, &aside).unwrap();
    succeed(&args!["study {} --out {}", further, parts]);
    fs::rename(&aside, &weights).unwrap();
    study(folder.path(), STUDY);

    // Toys find nothing: a few samples decide that.
    let passkey = &findings(&whole)[2]["metrics"];
    let asked = |length: u64| -> u64 {
        let cells = passkey["cells"].as_array().unwrap().iter();
        let cells = cells.filter(|cell| cell["length"] == length);
        cells.map(|cell| cell["samples"].as_u64().unwrap()).sum()
    };
    assert_eq!((asked(128), asked(256)), (10, 0), "{passkey}");
    assert_eq!(passkey["decided"][0]["planned"], 30);
    assert_eq!(passkey["not_run"].as_array().unwrap().len(), 2);

    let tables = fs::read_to_string(whole.join("study.md")).unwrap();
    for expected in [
        "## Keys",
        "0/10†",
        "flat at the start",
        "### copy",
        "### RULER",
        "parameters added",
    ] {
        assert!(tables.contains(expected), "{expected}: {tables}");
    }
    assert!(!tables.contains("another plan"), "{tables}");
    let plan = succeed(&args!["study {} --out {} --plan", file, whole]);
    assert_eq!(plan.matches("nothing left").count(), 7, "{plan}");

    // Records alone are enough; a model that one is missing of is made again, the same.
    // So is the one that it is made from.
    let (trained, edited) = (whole.join(RUNS[1]), whole.join(RUNS[5]));
    for dir in [&trained, &edited] {
        fs::remove_file(dir.join("model.safetensors")).unwrap();
    }
    let plan = succeed(&args!["study {} --out {} --plan", file, whole]);
    assert_eq!(plan.matches("nothing left").count(), 7, "{plan}");
    fs::remove_file(edited.join("passkey.json")).unwrap();
    succeed(&args!["study {} --out {}", file, whole]);
    assert_eq!(findings(&whole), findings(&parts));
    assert!(trained.join("model.safetensors").exists());
    let history = succeed(&args!["prior diff {} {}", trained, edited]);
    assert!(history.contains("--family nope --head 1.2"), "{history}");

    // Neither is one that was edited otherwise.
    study(folder.path(), &STUDY.replace("[\"1.2\"]", "[\"1.1\"]"));
    fs::remove_file(edited.join("passkey.json")).unwrap();
    let message = fail(FAILED, &args!["study {} --out {}", file, whole]);
    assert!(
        message.contains("\"head\": \"1.1\"}, got another model"),
        "{message}"
    );
    fs::remove_dir_all(&edited).unwrap();

    // Records of another plan stay, and it is said.
    study(
        folder.path(),
        &STUDY.replace("samples = 30", "samples = 29"),
    );
    succeed(&args!["study {} --out {}", file, whole]);
    let tables = fs::read_to_string(whole.join("study.md")).unwrap();
    let said = "Of another plan than the study's file has now: passkey alibi, seed 1; passkey flat";
    assert!(tables.contains(said), "{tables}");

    // So are those of a model that was trained or edited otherwise, with all that was made from it; and those of another seed.
    for (from, to, named) in [
        (
            "length = \"4x\"",
            "length = \"2x\"",
            "perplexity alibi, seed 1; perplexity flat",
        ),
        (
            "[\"1.2\"]",
            "[\"1.1\"]",
            "now: edit one head flat, seed 1; heads one head flat, seed 1;",
        ),
        (
            "steps=6",
            "steps=7",
            "synthetic alibi, seed 1; ruler alibi, seed 1; train flat",
        ),
        ("steps=6", "steps=7", "; passkey one head flat, seed 2;"),
    ] {
        let file = study(folder.path(), &STUDY.replace(from, to));
        succeed(&args!["study {} --out {}", file, whole]);
        let tables = fs::read_to_string(whole.join("study.md")).unwrap();
        assert!(tables.contains(named), "{named}: {tables}");
        let plan = succeed(&args!["study {} --out {} --plan", file, whole]);
        assert!(plan.contains(named), "{named}: {plan}");
    }
    let [own, of_another] = [RUNS[0], RUNS[1]].map(|run| whole.join(run).join("synthetic.json"));
    let kept = fs::read(&own).unwrap();
    fs::copy(&of_another, &own).unwrap();
    let file = study(folder.path(), STUDY);
    succeed(&args!["study {} --out {}", file, whole]);
    let tables = fs::read_to_string(whole.join("study.md")).unwrap();
    // The other one is of 29 samples.
    let named = "now: synthetic alibi, seed 1; passkey one head flat, seed 2.";
    assert!(tables.contains(named), "{tables}");
    fs::write(&own, kept).unwrap();

    // One that can't be read leaves its model out of the page, all of them leave the group's name, and the command fails.
    for (broken, said) in [
        (&RUNS[2..3], "flat at the start, seed 1."),
        (
            &RUNS[..],
            "alibi, seed 1; flat at the start, seed 1; one head flat, seed 1; \
             alibi, seed 2; flat at the start, seed 2; one head flat, seed 2.",
        ),
    ] {
        let records = broken.iter().map(|run| {
            let heads = whole.join(run).join("heads.json");
            let record = fs::read(&heads).unwrap();
            fs::write(&heads, &record[..record.len() / 2]).unwrap();
            (heads, record)
        });
        let records: Vec<_> = records.collect();
        let message = fail(FAILED, &args!["study {} --out {}", file, whole]);
        let named = message.matches("heads.json: expected a record").count();
        assert_eq!(named, broken.len(), "{message}");
        let tables = fs::read_to_string(whole.join("study.md")).unwrap();
        assert!(tables.contains("## Keys\n"), "{tables}");
        let said = format!("Left out, for want of readable records: {said}\n");
        assert!(tables.contains(&said), "{tables}");
        for (heads, record) in records {
            fs::write(heads, record).unwrap();
        }
    }

    // A model that was trained otherwise is not taken for this one.
    study(folder.path(), &STUDY.replace("steps=6", "steps=7"));
    fs::remove_file(whole.join(RUNS[0]).join("passkey.json")).unwrap();
    let message = fail(FAILED, &args!["study {} --out {}", file, whole]);
    assert!(
        message.contains("begun with, train.steps = 6; got train.steps = 7"),
        "{message}"
    );
    assert!(message.contains("jobs failed, 1 are left"), "{message}");
}

/// Its plan is that of docs/results.md.
#[test]
fn the_study_is_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/study.toml");
    let out = TempDir::new().unwrap().path().join("out");
    let plan = succeed(&args!["study {} --out {} --plan", file, out]);
    assert!(plan.contains("Keys and books") && !out.exists(), "{plan}");
}

#[test]
fn what_makes_no_sense_is_named() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    for (from, to, expected) in [
        ("title", "titel", "titel"),
        ("[0.5, 0.9]", "[1.5]", "sequential test"),
        ("decide = [0.5, 0.9]", "batch = 5", "batch: expected shares"),
        (
            "patience = 1",
            "patience = 0",
            "patience: expected at least 1",
        ),
        ("toy.toml", "none.toml", "none.toml"),
        ("\"alibi\"", "\"alibaba\"", "alibaba"),
        ("\"4x\"]", "\"4y\"]", "got 4y"),
        ("\"2x\", \"4x\"", "\"1x\"", "each length once"),
        (
            "samples = 30",
            "samples = 30, after = 90.0",
            "passkey.after",
        ),
        ("samples = 1 }", "samples = 1, after = 0.9 }", "after"),
        ("\"copy\"", "\"copying\"", "copying"),
        (
            "\"copy\"",
            "\"copy\", \"copy\"",
            "each once, got [\"copy\", \"copy\"]",
        ),
        ("samples = 20", "samples = 0", "synthetic.samples: expected"),
        (
            "[\"1x\"], samples = 30",
            "[\"1x\"], samples = 30, after = 0.5",
            "none below 128 tokens",
        ),
        ("[\"1x\"], samples = 30", "[], samples = 30", "at least one"),
        (
            "train.steps=6",
            "model.encoding=\\\"bam\\\"",
            "model.encoding in `models`",
        ),
        (
            "    \"alibi\",",
            "    \"alibi\", \"alibi,alibi\",",
            "one recipe for",
        ),
        ("[\"1.2\"]", "[]", "prior.heads: expected at least one"),
        ("flat at the start", "flat\\nat", "a name in one line"),
        ("flat at the start", "", "a name in one line"),
        ("samples = 1 }", "samples = 0 }", "ruler.samples"),
        ("window = 600", "window = 0", "perplexity.window"),
        ("bam\", set", "bam\", sets", "unknown field `sets`"),
        ("of = \"alibi\", ", "", "expected an encoding, {"),
        (
            ", family = \"uniform\"",
            "",
            "expected a family, scale, shape",
        ),
        (
            "\"Two encodings\"",
            "\"Two\\nencodings\"",
            "title: expected one line",
        ),
        (
            "seeds = [1, 2]",
            "seeds = [18446744073709551615]",
            "seeds: expected numbers up to",
        ),
        (
            "shape=0.0",
            "shape=1e39",
            "prior shape: expected numbers that f32 holds",
        ),
        ("[\"8x\"]", "[\"9999999x\"]", "ruler.lengths"),
        (
            "flat at the start",
            &"flat ".repeat(60),
            "at most 240 bytes",
        ),
        (
            "\"uniform\" } }",
            "\"uniform\" } }, { name = \"again\", of = \"alibi\", prior = { heads = [\"1.2\"], family = \"uniform\" } }",
            "expected another edit than that of \"one head flat\"",
        ),
        ("\"alibi\",", "\"alibi:2,bam:6\",", "4 heads"),
        ("steps=6", "seed=6", "expected train.seed in `seeds`"),
        (
            "steps=6",
            "device=wgpu",
            "expected in `--device` of the command, got wgpu",
        ),
        ("[\"1.2\"]", "[\"2.0\"]", "one head flat"),
        (
            "of = \"alibi\"",
            "of = \"bam\"",
            "[\"alibi\", \"flat at the start\"]",
        ),
        ("\"1.2\"", "\"1,2\"", "one head flat"),
        (
            "seeds = [1, 2]",
            "seeds = []",
            "seeds: expected at least one",
        ),
        ("seeds = [1, 2]", "seeds = [1, 1]", "each once, got [1, 1]"),
        ("flat at the start", "ALIBI", "names that differ"),
        ("\"Keys\"", "\"…\"", "group.name"),
    ] {
        let text = STUDY.replace(from, to);
        assert_ne!(text, STUDY);
        let file = study(folder.path(), &text);
        let message = fail(FAILED, &args!["study {} --out {}", file, out]);
        assert!(message.contains(expected), "{expected}: {message}");
        assert!(message.contains("study.toml"), "{message}");
        assert!(!out.exists());
    }
    // That a prompt fits is known once there is a tokenizer, and asked before anything is trained.
    let short = STUDY.replace("[\"1x\"], samples = 30", "[\"20\"], samples = 30");
    let file = study(folder.path(), &short);
    let message = fail(FAILED, &args!["study {} --out {}", file, out]);
    assert!(message.contains("Keys, alibi"), "{message}");
    assert!(
        message.contains("tokens of a prompt without filler, got 20"),
        "{message}"
    );
    assert!(!out.join("keys").exists());
    // So is whether the book is long enough.
    let long = STUDY.replace("length = \"4x\"", "length = \"9M\"");
    let file = study(folder.path(), &long);
    let message = fail(FAILED, &args!["study {} --out {}", file, out]);
    assert!(
        message.contains("perplexity length: expected from 2"),
        "{message}"
    );
    assert!(!out.join("keys").exists());

    let file = study(folder.path(), STUDY);
    let message = fail(
        MISUSED,
        &args!["study {} --out {} --group Locks", file, out],
    );
    assert!(
        message.contains("\"Keys\"") && message.contains("\"Locks\""),
        "{message}"
    );
}
