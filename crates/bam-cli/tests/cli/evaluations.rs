//! Evaluations that other programs know, their files, and several models side by side.

use crate::program::{FAILED, MISUSED, args, fail, succeed, succeed_json, tree, words};
use crate::resume::json;
use crate::workshop::{PROMPT_LENGTH, Workshop};
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Two models of one tokenizer.
fn two_models(shop: &Workshop) -> [PathBuf; 2] {
    for (name, encoding) in [("a", "bam+ssmax"), ("b", "alibi")] {
        let encoding = format!("model.encoding={encoding:?}");
        succeed(&shop.train(name, &["train.steps=2", "model.layers=1", &encoding]));
    }
    [shop.path("a"), shop.path("b")]
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// The file whose name begins so.
fn only(dir: &Path, start: &str) -> PathBuf {
    let mut found = tree(dir);
    found.retain(|path| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with(start)
    });
    let [only] = &found[..] else {
        panic!("{dir:?}: {start}: {found:?}");
    };
    only.clone()
}

fn answers(cell: &Value) -> Vec<&Value> {
    let answers = cell["answers"].as_array().unwrap();
    answers.iter().map(|of| &of["answer"]).collect()
}

#[test]
fn ruler_from_samples_to_other_programs_files() {
    let shop = Workshop::new();
    let [a, b] = two_models(&shop);
    let (saved, lm, ru) = (shop.path("saved"), shop.path("lm"), shop.path("ru"));
    let exports = [
        format!("lm-eval:{}", lm.display()),
        format!("ruler:{}", ru.display()),
    ];
    let ruler = |models: &[&Path], more: &[&str]| {
        let mut line = args!["eval ruler"];
        line.extend(models.iter().map(OsString::from));
        line.extend(args!["--lengths 200,900 --samples 3"]);
        line.extend(args!["--tasks fwe,niah_single_1 --json"]);
        line.extend(words(more));
        line
    };
    let keep = ["--save-samples", saved.to_str().unwrap()];
    let export = ["--export", &exports[0], "--export", &exports[1]];
    let records = succeed_json(&ruler(
        &[&a, &b],
        &[keep, [export[0], export[1]], [export[2], export[3]]].concat(),
    ));
    assert_eq!(records.as_array().unwrap().len(), 2);
    for (record, (dir, name)) in records
        .as_array()
        .unwrap()
        .iter()
        .zip([(&a, "bam+ssmax"), (&b, "alibi")])
    {
        assert_eq!(record["name"], name);
        assert_eq!(json(&dir.join("ruler.json")), *record);
        let cells = record["metrics"]["cells"].as_array().unwrap();
        let of: Vec<String> = cells
            .iter()
            .map(|cell| format!("{} {}", cell["task"], cell["length"]))
            .collect();
        assert_eq!(
            of,
            [
                "\"niah_single_1\" 200",
                "\"fwe\" 200",
                "\"niah_single_1\" 900",
                "\"fwe\" 900"
            ]
        );
        // Too short is said, not run with less.
        for cell in &cells[..2] {
            let reason = cell["not_run"].as_str().unwrap();
            assert!(reason.contains("needs at least"), "{reason}");
            assert!(cell["score"].is_null() && answers(cell).is_empty());
        }
        for cell in &cells[2..] {
            assert!(cell["not_run"].is_null());
            assert_eq!(answers(cell).len(), 3);
            let tokens = |of: &Value| of["tokens"].as_u64().unwrap();
            assert!(
                cell["answers"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|of| (600..900).contains(&tokens(of)))
            );
        }

        let folder = dir.display().to_string().replace('/', "__");
        let pred = ru.join(&folder).join("synthetic/900/pred");
        let summary = std::fs::read_to_string(pred.join("summary.csv")).unwrap();
        assert!(
            summary.starts_with("0,1,2\nTasks,niah_single_1,fwe\nScore,"),
            "{summary}"
        );
        let preds = lines(&pred.join("fwe.jsonl"));
        let said: Vec<&Value> = preds.iter().map(|line| &line["pred"]).collect();
        assert_eq!(said, answers(&cells[3]));
        assert!(!ru.join(&folder).join("synthetic/200").exists());

        let results = json(&only(&lm.join(&folder), "results_"));
        assert_eq!(
            results["results"]["ruler_fwe"]["900,none"],
            cells[3]["score"][0]
        );
        assert_eq!(results["results"]["niah_single_1"]["200,none"], -1.0);
        assert_eq!(results["model_name_sanitized"], folder.as_str());
        let samples = only(&lm.join(&folder), "samples_niah_single_1_");
        let hash = results["task_hashes"]["niah_single_1"].as_str().unwrap();
        assert_eq!((lines(&samples).len(), hash.len()), (3, 64));

        // What was asked is answered the same again, from either program's file.
        for (file, cell) in [
            (saved.join("900/niah_single_1/validation.jsonl"), 2),
            (samples, 2),
            (saved.join("900/fwe/validation.jsonl"), 3),
        ] {
            let out = shop.path("again.json");
            let again = succeed_json(&args![
                "eval ruler {} --samples-from {} --json --out {}",
                dir,
                file,
                out
            ]);
            let again = again["metrics"]["cells"].as_array().unwrap();
            assert_eq!(again.len(), 1);
            assert_eq!(again[0]["length"], 900);
            assert_eq!(answers(&again[0]), answers(&cells[cell]));
            assert_eq!(again[0]["score"], cells[cell]["score"]);
        }
    }
    let samples = lines(&saved.join("900/niah_single_1/validation.jsonl"));
    for (index, sample) in samples.iter().enumerate() {
        assert_eq!(
            (&sample["index"], &sample["max_length"]),
            (&index.into(), &900.into())
        );
        let input = sample["input"].as_str().unwrap();
        assert!(input.contains(sample["outputs"][0].as_str().unwrap()));
        assert!(sample["token_position_answer"].as_u64() < sample["length"].as_u64());
        assert!(sample["answer_prefix"].as_str().unwrap().ends_with(" is"));
    }

    // The seed decides, and nothing else.
    let bytes = |dir: &str, seed: &str| {
        let (dir, out) = (shop.path(dir), shop.path("other.json"));
        let more = [
            "--seed",
            seed,
            "--save-samples",
            dir.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ];
        succeed(&ruler(&[&b], &more));
        std::fs::read(dir.join("900/fwe/validation.jsonl")).unwrap()
    };
    let first = std::fs::read(saved.join("900/fwe/validation.jsonl")).unwrap();
    assert_eq!(bytes("same", "42"), first);
    assert_ne!(bytes("other", "43"), first);
}

#[test]
fn several_models_are_one_table() {
    let shop = Workshop::new();
    let [a, b] = two_models(&shop);
    let document = shop.path("corpus").join("one.txt");
    let requests = shop.path("requests.jsonl");
    let request = r#"{"context": "the quiet", "continuation": " town", "task": "lambada"}"#;
    std::fs::write(&requests, request).unwrap();
    let export = format!("lm-eval:{}", shop.path("lm").display());
    let passkey = [words(&["--lengths", PROMPT_LENGTH, "--samples", "2"])].concat();
    let commands = [
        (
            [args!["eval passkey {} {}", a, b], passkey].concat(),
            1,
            "right",
        ),
        (
            args![
                "eval perplexity {} {} {} --length 100 --window 50",
                a,
                b,
                document
            ],
            2,
            "perplexity",
        ),
        (
            args![
                "eval loglikelihood {} {} --requests {} --export {}",
                a,
                b,
                requests,
                export
            ],
            3,
            "acc",
        ),
    ];
    let mut headers = Vec::new();
    for (line, rows, metric) in commands {
        let text = succeed(&line);
        let table: Vec<&str> = text
            .lines()
            .skip_while(|line| !line.starts_with("model"))
            .collect();
        headers.push(table[0].split_whitespace().collect::<Vec<_>>().join(" "));
        assert!(
            table[2].starts_with("bam+ssmax ") && table[2].contains(metric),
            "{text}"
        );
        assert!(table[2 + rows].starts_with("alibi "), "{text}");
        let out = shop.path("record.json");
        let several = [line.clone(), args!["--out {}", out]].concat();
        let message = fail(MISUSED, &several);
        assert!(
            message.contains("--out: expected one model, got 2"),
            "{message}"
        );
        let records = succeed_json(&[line, args!["--json"]].concat());
        assert_eq!(
            (&records[0]["name"], &records[1]["name"]),
            (&"bam+ssmax".into(), &"alibi".into())
        );
    }
    assert_eq!(
        headers[0],
        "model task tokens × training metric value 95 % samples note"
    );
    assert!(
        headers.iter().all(|header| *header == headers[0]),
        "{headers:?}"
    );
    for dir in [&a, &b] {
        for record in ["passkey.json", "perplexity.json", "loglikelihood.json"] {
            assert!(dir.join(record).is_file(), "{dir:?}: {record}");
        }
        let folder = dir.display().to_string().replace('/', "__");
        let named = |start: &str| {
            let mut files = tree(&shop.path("lm").join(&folder));
            files.retain(|path| {
                path.file_name()
                    .unwrap()
                    .to_string_lossy()
                    .starts_with(start)
            });
            files
        };
        // Of the run with a table and of the one with JSON.
        let (results, samples) = (named("results_"), named("samples_lambada_"));
        assert_eq!((results.len(), samples.len()), (2, 2));
        let results = json(&results[0]);
        let metrics = &results["results"]["lambada"];
        assert!(metrics["perplexity,none"].as_f64() > Some(1.0), "{metrics}");
        let hash = results["task_hashes"]["lambada"].as_str().unwrap();
        let sample = &lines(&samples[0])[0];
        // As lm-eval has them of a single continuation: the perplexity of a task is of their mean.
        let mean = sample["perplexity"].as_f64().unwrap();
        assert_eq!((sample["target"].as_str(), hash.len()), (Some(" town"), 64));
        let expected = metrics["perplexity,none"].as_f64().unwrap();
        assert!(((-mean).exp() / expected - 1.0).abs() < 1e-12);
    }
    // Two of a kind are told apart.
    let text = succeed(&args![
        "eval perplexity {} {} {} --length 60",
        a,
        a,
        document
    ]);
    assert!(
        text.contains(&format!("bam+ssmax ({})", a.display())),
        "{text}"
    );
    let twice = args![
        "eval loglikelihood {} {} --requests {} --export {}",
        a,
        a,
        requests,
        export
    ];
    let message = fail(MISUSED, &twice);
    assert!(
        message.contains("--export: expected each model once"),
        "{message}"
    );
    let nowhere = shop.path("nowhere");
    let message = fail(
        FAILED,
        &args!["eval perplexity {} {} {}", a, nowhere, document],
    );
    assert!(
        message.contains("nowhere: expected a model's config.json"),
        "{message}"
    );
}

/// Some stories in bAbI's form, ours.
pub fn facts(shop: &Workshop) -> PathBuf {
    let dir = shop.path("facts");
    std::fs::create_dir_all(&dir).unwrap();
    let story = |n: usize| {
        let place = ["garden", "office", "kitchen"][n % 3];
        format!(
            "1 Olga ran to the hallway.\n2 Olga ran to the {place}.\n3 Where is Olga? \t{place}\t2\n"
        )
    };
    let text: String = (0..5).map(story).collect();
    std::fs::write(dir.join("qa1_single-supporting-fact_test.txt"), text).unwrap();
    std::fs::write(
        dir.join("qa20_agents-motivations_test.txt"),
        "1 Olga is bored.\n2 Where will olga go? \tgarden\t1\n",
    )
    .unwrap();
    dir
}

#[test]
fn babilong_from_facts_to_tables() {
    let shop = Workshop::new();
    let [a, b] = two_models(&shop);
    let (facts, out) = (facts(&shop), shop.path("tables"));
    let exports = [
        format!("lm-eval:{}", shop.path("lm").display()),
        format!("babilong:{}", out.display()),
    ];
    let haystack = shop.path("corpus").join("two.md");
    let line = args![
        "eval babilong {} {} --facts {} --haystack {}",
        a,
        b,
        facts,
        haystack
    ];
    let more = [
        "--tasks",
        "qa1,qa20",
        "--lengths",
        "0k,100,1.5k",
        "--samples",
        "3",
    ];
    let line = [
        line,
        words(&more),
        words(&["--export", &exports[0], "--export", &exports[1]]),
    ]
    .concat();
    let records = succeed_json(&[line.clone(), args!["--json"]].concat());
    for (record, dir) in records.as_array().unwrap().iter().zip([&a, &b]) {
        assert_eq!(json(&dir.join("babilong.json")), *record);
        assert_eq!(record["metrics"]["haystack"], "two.md");
        let cells = record["metrics"]["cells"].as_array().unwrap();
        let counts: Vec<usize> = cells.iter().map(|cell| answers(cell).len()).collect();
        assert_eq!(counts, [3, 1, 0, 0, 3, 1]);
        assert!(
            cells[2]["not_run"]
                .as_str()
                .unwrap()
                .starts_with("qa1 needs at least")
        );
        let long = cells[4]["answers"][0]["tokens"].as_u64().unwrap();
        assert!((1400..=1516).contains(&long), "{long}");
        assert!(cells[0]["answers"][0]["tokens"].as_u64() < Some(long));
        let folder = dir.display().to_string().replace('/', "__");
        let table = std::fs::read_to_string(only(&out.join(&folder), "qa1_1.5k_")).unwrap();
        assert!(
            table.starts_with(",target,output,question\n0,garden,"),
            "{table}"
        );
        let results = json(&only(&shop.path("lm/1.5k").join(&folder), "results_"));
        let right = cells[4]["correct"].as_f64().unwrap() / 3.0;
        assert_eq!(results["results"]["babilong_qa1"]["acc,none"], right);
        assert_eq!(
            lines(&only(
                &shop.path("lm/0k").join(&folder),
                "samples_babilong_qa20_"
            ))
            .len(),
            1
        );
    }
    let text = succeed(&args![
        "eval babilong {} --facts {} --tasks qa20 --lengths 1k --samples 1",
        a,
        facts
    ]);
    assert!(text.contains("qa20") && text.contains("right"), "{text}");
}

#[test]
fn misuse() {
    let ruler = |more: &[&str]| [args!["eval ruler model"], words(more)].concat();
    let babilong = |more: &[&str]| [args!["eval babilong model"], words(more)].concat();
    for (line, named) in [
        (
            ruler(&["--tasks", "qa_1"]),
            "qa_1: expected --squad with SQuAD's dev-v2.0.json",
        ),
        (
            ruler(&["--tasks", "all", "--squad", "x"]),
            "qa_2: expected --hotpotqa",
        ),
        (ruler(&["--tasks", "niah"]), "expected one of niah_single_1"),
        (ruler(&["--samples", "0"]), "--samples"),
        (ruler(&["--lengths", "4K"]), "got 4K"),
        (
            ruler(&["--export", "babilong:x"]),
            "expected lm-eval:DIR or ruler:DIR, got babilong:x",
        ),
        (
            ruler(&["--samples-from", "x.jsonl", "--lengths", "4k"]),
            "--samples-from",
        ),
        (babilong(&[]), "--facts"),
        (
            babilong(&["--facts", "x", "--tasks", "qa21"]),
            "expected one of qa1 to qa20",
        ),
        (babilong(&["--facts", "x", "--lengths", "0.5K"]), "0.5K"),
        (
            babilong(&["--facts", "x", "--export", "ruler:x"]),
            "got ruler:x",
        ),
        (
            args!["eval loglikelihood m --requests r --export ruler:x"],
            "expected lm-eval:DIR",
        ),
        (args!["eval passkey"], "<MODELS>"),
        (args!["eval perplexity model"], "<DOCUMENT>"),
    ] {
        let message = fail(MISUSED, &line);
        assert!(message.contains(named), "{line:?}: {message}");
    }
}

#[test]
fn bad_files() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let write = |name: &str, text: &str| std::fs::write(shop.path(name), text).unwrap();
    write("empty.txt", " \n");
    write("no.json", "{\"data\": [");
    write("vt.jsonl", "{\"input\": \"x\"}\n");
    write("other.jsonl", "{\"input\": \"x\", \"outputs\": [\"y\"]}\n");
    write("file", "");
    let facts = shop.path("facts");
    std::fs::create_dir(&facts).unwrap();
    write("facts/qa1_single-supporting-fact_test.txt", "no number\n");
    let path = |name: &str| shop.path(name).display().to_string();
    let ruler = |more: &[&str]| [args!["eval ruler {}", model], words(more)].concat();
    for (line, named) in [
        (
            ruler(&["--essays", &path("empty.txt")]),
            &["essays", "empty.txt"][..],
        ),
        (ruler(&["--essays", &path("nowhere.txt")]), &["nowhere.txt"]),
        (ruler(&["--squad", &path("no.json")]), &["no.json", "SQuAD"]),
        (
            ruler(&["--hotpotqa", &path("no.json")]),
            &["no.json", "HotpotQA"],
        ),
        (ruler(&["--hotpotqa", &path("file")]), &["file"]),
        (
            ruler(&["--samples-from", &path("vt.jsonl")]),
            &["vt.jsonl", "line 1"],
        ),
        (
            ruler(&["--samples-from", &path("other.jsonl")]),
            &["other.jsonl", "name of a task"],
        ),
        (
            ruler(&["--samples-from", &path("recipe.toml")]),
            &["recipe.toml"],
        ),
        (
            ruler(&["--export", &format!("ruler:{}", path("file"))]),
            &["file", "folder"],
        ),
        (
            ruler(&["--save-samples", &path("file")]),
            &["file", "folder"],
        ),
        (
            ruler(&["--lengths", "99999999999"]),
            &["length", "at most 16777216"],
        ),
        (
            args!["eval babilong {} --facts {} --tasks qa1", model, facts],
            &["qa1_single-supporting-fact_test.txt", "line 1"],
        ),
        (
            args!["eval babilong {} --facts {} --tasks qa2", model, facts],
            &["qa2_two-supporting-facts_test.txt", "No such file"],
        ),
    ] {
        shop.refuses(&line, named);
    }
}

#[test]
fn synthetic_tasks_are_trained_and_asked() {
    let shop = Workshop::new();
    let mix = "data.mix={text=0.0,synthetic=1.0}";
    let tasks = "data.synthetic={tasks=[\"copy\",\"induction\"]}";
    succeed(&shop.train("syn", &["train.steps=2", "model.layers=1", mix, tasks]));
    let dir = shop.path("syn");
    let ask = |more: &str| {
        let mut line = args!["eval synthetic"];
        line.push(dir.clone().into());
        line.extend(args![more]);
        line
    };
    let record = succeed_json(&ask(
        "--tasks copy,recall-32 --lengths 40,100 --samples 3 --json",
    ));
    assert_eq!(json(&dir.join("synthetic.json")), record);
    let cells = record["metrics"]["cells"].as_array().unwrap();
    let of: Vec<_> = cells
        .iter()
        .map(|cell| (&cell["task"], &cell["length"], &cell["samples"]))
        .collect();
    assert_eq!(
        of,
        [
            (&"copy".into(), &40.into(), &3.into()),
            (&"copy".into(), &100.into(), &3.into()),
            (&"recall-32".into(), &100.into(), &3.into())
        ]
    );
    assert_eq!(record["metrics"]["not_run"][0]["task"], "recall-32");
    let wrong = fail(MISUSED, &ask("--tasks copy,recall-9"));
    assert!(
        wrong.contains("recall-9") && wrong.contains("recall-8, recall-32"),
        "{wrong}"
    );
    let short = shop.train(
        "short",
        &[
            "train.steps=2",
            "train.length=16",
            mix,
            "data.synthetic={tasks=[\"latest\"]}",
        ],
    );
    let wrong = fail(FAILED, &short);
    assert!(wrong.contains("latest") && wrong.contains("16"), "{wrong}");
    assert!(
        !shop.path("short").exists(),
        "nothing is left of a run that can't be"
    );
}
