//! The files of other programs, to the letter, on small fixed records.

use super::lm_eval::samples::SampleLines;
use super::lm_eval::{self, TaskHashes};
use super::run::{Moment, Run, folder_name};
use super::{babilong, ruler};
use crate::loglikelihood::{Likelihood, Question};
use crate::ruler::{Sample, SampleSet, Task};
use bam_record::RulerCell;
use bam_record::testing::{babilong_record, cell, loglikelihood_record, ruler_record};
use serde_json::json;

fn moment() -> Moment {
    Moment {
        seconds: 1_767_323_045.25,
        stamp: "2026-01-02T03-04-05.250000".into(),
    }
}

fn sample_set() -> SampleSet {
    let sample = |index| Sample {
        index,
        input: "It is 7654321. What is it?".into(),
        answer_prefix: " It is".into(),
        outputs: vec!["7654321".into()],
        length: 310,
        answer_position: Some(3),
    };
    SampleSet {
        task: Task::NiahSingle1,
        length: 512,
        samples: (0..3).map(sample).collect(),
        not_made: None,
    }
}

#[test]
fn rulers_summary_is_what_its_program_writes() {
    let record = ruler_record();
    let lengths = record.metrics.by_length();
    let run: Vec<&RulerCell> = lengths[1].clone();
    assert_eq!(
        ruler::summary(&run),
        "0,1,2\nTasks,niah_single_1,vt\nScore,100.0,30.0\nNulls,0/2,0/2\n"
    );
    assert_eq!(ruler::summary_name(&run), "summary.csv");
    assert_eq!(
        ruler::summary(&run[..1]),
        "0,1\nTasks,niah_single_1\nScore,100.0\nNulls,0/2\n"
    );
    assert_eq!(ruler::summary_name(&run[..1]), "summary-niah_single_1.csv");
    let lines = ruler::predictions(&record.metrics.cells[0], &sample_set());
    let first = json!({
        "index": 0, "pred": " 7654321.", "input": "It is 7654321. What is it? It is",
        "outputs": ["7654321"], "others": {}, "truncation": -1, "length": 310,
    });
    let read: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!((lines.len(), read), (3, first));
}

#[test]
fn lm_evals_results_have_its_keys() {
    let (record, began) = (ruler_record(), moment());
    let run = Run {
        folder: "runs/a:b",
        began: &began,
    };
    let mut lines = SampleLines::default();
    lines.ruler(&record.metrics.cells[0], &sample_set());
    let hashes = TaskHashes::from([("niah_single_1".into(), lines.digest())]);
    let results = lm_eval::ruler(&record, &run, &hashes);
    assert_eq!(
        results["results"],
        json!({
            "niah_single_1": {
                "name": "niah_single_1", "alias": "niah_single_1", "sample_len": 5,
                "512,none": 2.0 / 3.0, "512_stderr,none": 0.125,
                "4096,none": 1.0, "4096_stderr,none": 0.125,
            },
            "ruler_vt": {
                "name": "ruler_vt", "alias": "ruler_vt", "sample_len": 2,
                "512,none": -1.0, "512_stderr,none": "N/A",
                "4096,none": 0.30000000000000004, "4096_stderr,none": 0.125,
            },
            // No mean over fewer tasks than the others'.
            "ruler": {
                "name": "ruler", "alias": "ruler",
                "512,none": -1.0, "512_stderr,none": "N/A",
                "4096,none": 0.65, "4096_stderr,none": "N/A",
            },
        })
    );
    assert_eq!(results["groups"]["ruler"], results["results"]["ruler"]);
    assert_eq!(
        results["group_subtasks"],
        json!({"niah_single_1": [], "ruler_vt": [], "ruler": ["niah_single_1", "ruler_vt"]})
    );
    assert_eq!(
        results["configs"]["ruler_vt"]["generation_kwargs"],
        json!({"do_sample": false, "temperature": 0.0, "max_gen_toks": 30, "until": []})
    );
    assert_eq!(
        results["higher_is_better"]["ruler_vt"],
        json!({"512": true, "4096": true})
    );
    assert_eq!(
        results["n-samples"]["ruler_vt"],
        json!({"original": 2, "effective": 2})
    );
    assert_eq!(
        results["n-shot"],
        json!({"niah_single_1": 0, "ruler_vt": 0})
    );
    assert_eq!(
        results["versions"],
        json!({"niah_single_1": null, "ruler_vt": null})
    );
    for (key, value) in [
        ("git_hash", json!("0123abc")),
        ("date", json!(1_767_323_045.25)),
        ("lm_eval_version", json!(null)),
        ("model_source", json!("bam")),
        ("model_name", json!("runs/a:b")),
        ("model_name_sanitized", json!("runs__a__b")),
        ("total_evaluation_time_seconds", json!("12.5")),
    ] {
        assert_eq!(results[key], value, "{key}");
    }
    assert_eq!(results["config"]["random_seed"], 42);
    assert_eq!(
        results["task_hashes"]["niah_single_1"]
            .as_str()
            .unwrap()
            .len(),
        64
    );
}

#[test]
fn lm_evals_sample_lines_hold_prompt_and_answer() {
    let mut lines = SampleLines::default();
    let cell = cell("niah_single_1", 512, &[1.0, 0.0, 1.0]);
    let first = lines.ruler(&cell, &sample_set());
    let more = lines.ruler(&cell, &sample_set());
    let read = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let line = read(&first[0]);
    assert_eq!(line["doc"]["gen_prefix"], " It is");
    assert_eq!(line["doc"]["max_length"], 512);
    assert_eq!(line["target"], "['7654321']");
    let asked = &line["arguments"]["gen_args_0"];
    assert_eq!(asked["arg_0"], "It is 7654321. What is it? It is");
    assert_eq!(asked["arg_1"]["max_gen_toks"], 128);
    assert_eq!(line["filtered_resps"], json!([" 7654321."]));
    assert_eq!(
        (&line["512"], &line["metrics"]),
        (&json!(1.0), &json!(["512"]))
    );
    // SHA-256 of what Python's json.dumps(doc, indent=2) writes.
    let doc = "{\n  \"gen_prefix\": \" It is\",\n  \"index\": 0,\n  \"input\": \"It is 7654321. What is \
               it?\",\n  \"length\": 310,\n  \"max_length\": 512,\n  \"outputs\": [\n    \"7654321\"\n  ]\n}";
    assert_eq!(serde_json::to_string_pretty(&line["doc"]).unwrap(), doc);
    assert_eq!(line["prompt_hash"].as_str().unwrap().len(), 64);
    // Another length goes on counting.
    assert_eq!(read(&more[2])["doc_id"], 5);
}

#[test]
fn likelihoods_have_lm_evals_metrics() {
    let began = moment();
    let run = Run {
        folder: "m",
        began: &began,
    };
    let results = lm_eval::loglikelihood(&loglikelihood_record(), &run, &TaskHashes::new());
    assert_eq!(
        results["results"],
        json!({
            "arc_easy": {
                "name": "arc_easy", "alias": "arc_easy", "sample_len": 200,
                "acc,none": 0.25, "acc_stderr,none": 0.03, "acc_norm,none": 0.3, "acc_norm_stderr,none": 0.04,
                "bits_per_byte,none": 1.5, "bits_per_byte_stderr,none": "N/A",
            },
            "lambada": {
                "name": "lambada", "alias": "lambada", "sample_len": 200,
                "acc,none": 0.25, "acc_stderr,none": 0.03,
                "perplexity,none": 12.5, "perplexity_stderr,none": "N/A",
                "bits_per_byte,none": 1.5, "bits_per_byte_stderr,none": "N/A",
            },
        })
    );
    assert_eq!(results["higher_is_better"]["lambada"]["perplexity"], false);
    assert_eq!(
        results["configs"]["arc_easy"]["output_type"],
        "multiple_choice"
    );
    assert_eq!(results["groups"], json!({}));
}

/// Field by field what lm-eval 0.4.13 logs of a `multiple_choice` and of a `loglikelihood` task; hashes are
/// `hashlib`'s.
#[test]
fn lm_evals_sample_lines_of_likelihoods() {
    let likelihood = |ln_probability, greedy| Likelihood {
        ln_probability,
        greedy,
    };
    let choice = Question {
        context: "Where is Mary?".into(),
        continuations: vec![" in the old garden".into(), " out".into()],
        right: 0,
        document: Some(7),
        contents: Some(json!({"query": "Mary", "gold": 0})),
    };
    let word = Question {
        context: "It is".into(),
        continuations: vec![" so".into()],
        right: 0,
        document: None,
        contents: None,
    };
    let answers = [
        vec![likelihood(-8.0, false), likelihood(-3.0, true)],
        vec![likelihood(-0.1, true)],
    ];
    let read = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap();
    // A number that comes again is no key.
    let twice = [choice.clone(), choice.clone()];
    let answers_to_both = [answers[0].clone(), answers[0].clone()];
    let twice = SampleLines::default().loglikelihood(&twice, &answers_to_both);
    assert_eq!(
        [0, 1].map(|line| read(&twice[line])["doc_id"].clone()),
        [0, 1]
    );
    let mut lines = SampleLines::default();
    let lines = lines.loglikelihood(&[choice, word], &answers);
    assert_eq!(
        read(&lines[0]),
        json!({
            "doc_id": 7,
            "doc": {"query": "Mary", "gold": 0},
            "target": "0",
            "arguments": {
                "gen_args_0": {"arg_0": "Where is Mary?", "arg_1": " in the old garden"},
                "gen_args_1": {"arg_0": "Where is Mary?", "arg_1": " out"},
            },
            "resps": [[["-8.0", "False"]], [["-3.0", "True"]]],
            "filtered_resps": [["-8.0", "False"], ["-3.0", "True"]],
            "filter": "none",
            "metrics": ["acc", "acc_norm"],
            "acc": 0.0,
            // −8 for 17 characters is more each than −3 for 3.
            "acc_norm": 1.0,
            "doc_hash": "722deaa259eac6cd5fde91caf2a9980496d6ed40c8d870bb95a9ea3c5a6f0e3e",
            "prompt_hash": "bd1a7ef388fe5ed20d0346903a788b854439a60529ef6a36dd067e5ba05abc6d",
            "target_hash": "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9",
        })
    );
    assert_eq!(
        read(&lines[1]),
        json!({
            "doc_id": 8,
            // What there is to say where requests hold no document.
            "doc": {"context": "It is", "continuations": [" so"], "label": 0},
            "target": " so",
            "arguments": {"gen_args_0": {"arg_0": "It is", "arg_1": " so"}},
            "resps": [[["-0.1", "True"]]],
            "filtered_resps": [["-0.1", "True"]],
            "filter": "none",
            "metrics": ["perplexity", "acc"],
            "perplexity": -0.1,
            "acc": 1,
            "doc_hash": "5609de10d33e009b1dcaedf917fed5ea839f055bd07309a291e752062d982256",
            "prompt_hash": "130deb9847838292ff1a52b6c5d57ce4a682e1591c464312f93b83a741a11fd0",
            "target_hash": "947a501ab5edae4e7212a15afc4cd19f5c91814571738a98d3e47d22a265207f",
        })
    );
}

#[test]
fn babilongs_tables_are_what_pandas_reads() {
    let record = babilong_record();
    let cell = &record.metrics.cells[0];
    assert_eq!(
        babilong::table(cell),
        ",target,output,question\n0,garden,garden,Where is Mary?\n\
         1,garden,\"the \"\"hall\"\",\nI think\",Where is Mary?\n2,garden,garden,Where is Mary?\n\
         3,garden,,Where is Mary?\n"
    );
    assert_eq!(
        babilong::table_name(cell),
        "qa1_0k_instruction_yes_examples_yes_post_prompt_yes_chat_template_no_system_prompt_no.csv"
    );
    let began = moment();
    let run = Run {
        folder: "m",
        began: &began,
    };
    let of = |label: &str| lm_eval::babilong(&record, label, &run, &TaskHashes::new());
    let facts = of("0k");
    assert_eq!(facts["results"]["babilong_qa1"]["acc,none"], 0.5);
    let error = facts["results"]["babilong_qa1"]["acc_stderr,none"]
        .as_f64()
        .unwrap();
    assert!((error - (0.25_f64 / 3.0).sqrt()).abs() < 1e-12);
    // Weighted by questions: (2 + 1) of (4 + 1).
    assert_eq!(facts["groups"]["babilong"]["acc,none"], 0.6);
    let absent = of("1k");
    assert_eq!(absent["results"]["babilong_qa1"]["acc,none"], -1.0);
    assert_eq!(absent["groups"]["babilong"]["acc,none"], -1.0);
}

#[test]
fn names_lead_nowhere_else() {
    for (name, folder) in [
        ("runs/a", "runs__a"),
        ("/x//y", "__x__y"),
        ("a:b\\c?d", "a__b__c__d"),
        ("bam+ssmax", "bam+ssmax"),
        ("..", "model"),
        (".", "model"),
        ("", "model"),
        ("../x", "..__x"),
    ] {
        assert_eq!(folder_name(name), folder, "{name}");
    }
}
