//! The main job at toy size, from the books in the program to the page. Minutes at full size, a few
//! seconds here.

use crate::end_to_end::assert_asks_for_nothing;
use crate::program::{FAILED, INTERRUPTED, Running, args, fail, succeed, succeed_json, tree};
use tempfile::TempDir;

#[test]
fn interrupted_and_resumed_it_writes_the_page() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("toy");
    let words = |steps: &str| {
        args![
            "quickstart --encodings bam+ssmax --steps {} --longest 2 --out {}",
            steps,
            out
        ]
    };
    let mut running = Running::start(words("12"));
    running.until_lines(&out.join("bam+ssmax/metrics.jsonl"), 1);
    assert_eq!(running.interrupt(), Some(INTERRUPTED));
    assert!(!out.join("report.html").exists());
    assert!(!out.join("bam+ssmax/model.safetensors").exists());

    let message = fail(FAILED, &words("12"));
    assert!(message.contains("--resume"), "{message}");
    // Another length of training is another run, and is not ignored.
    let mut longer = words("13");
    longer.extend(args!["--resume"]);
    let message = fail(FAILED, &longer);
    assert!(message.contains("train.steps = 13"), "{message}");

    let mut resumed = words("12");
    resumed.extend(args!["--resume"]);
    let summary = succeed(&resumed);
    assert!(
        summary.contains("bam+ssmax") && summary.contains("256"),
        "{summary}"
    );
    let html = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(
        html.contains("--steps 12 --longest 2"),
        "the page says how it came about"
    );
    assert_asks_for_nothing(&html);
    let markdown = std::fs::read_to_string(out.join("summary.md")).unwrap();
    assert!(markdown.contains("bam+ssmax"));
    let metrics = std::fs::read_to_string(out.join("bam+ssmax/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 12);
    let half_written = tree(&out).into_iter().find(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.ends_with(".tmp")
    });
    assert_eq!(half_written, None);

    // All is there: the records are read, nothing is computed again.
    resumed.extend(args!["--json"]);
    let runs = succeed_json(&resumed);
    assert_eq!(runs[0][0], "bam+ssmax");
    assert_eq!(runs[0][1]["training"].as_array().unwrap().len(), 12);
    assert_eq!(runs[0][1]["passkey"]["metrics"]["train_length"], 128);
}
