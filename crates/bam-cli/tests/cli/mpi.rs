//! Several ranks under `mpirun`: the same bits as one process, and errors that name the rank.

use crate::preparing::{self, large_corpus};
use crate::program::{FAILED, MISUSED, Running, args, assert_no_panic, program, succeed, tree};
use crate::resume::{Trace, record};
use crate::workshop::{Workshop, passkeys};
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const SETTINGS: [&str; 3] = [
    "train.steps=60",
    "train.parts=4",
    "train.checkpoint_every=5",
];

/// The longest that a job may go on after a rank is lost.
const MINUTE: Duration = Duration::from_secs(60);

/// `mpirun` of so many ranks that are given these words, and after them of others with other words.
fn mpirun(groups: &[(usize, &[OsString])]) -> Command {
    let mut command = Command::new("mpirun");
    for (index, (ranks, words)) in groups.iter().enumerate() {
        command.args((index > 0).then_some(":"));
        command
            .args(["-n", &ranks.to_string()])
            .arg(program())
            .args(*words);
    }
    within_limits(&mut command);
    command
}

/// As variables, which other launchers than Open MPI's leave alone: it takes root, more ranks than cores, and polite waiting.
fn within_limits(command: &mut Command) {
    command.stdin(Stdio::null()).envs([
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("OMPI_MCA_hwloc_base_binding_policy", "none"),
        ("OMPI_MCA_mpi_yield_when_idle", "1"),
    ]);
}

fn output(groups: &[(usize, &[OsString])]) -> Output {
    mpirun(groups).output().expect("there is an mpirun")
}

fn succeed_on(ranks: usize, words: &[OsString]) -> String {
    let output = output(&[(ranks, words)]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{ranks} ranks of {words:?}: {errors}"
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Of two ranks that a shell starts each, by a script whose arguments are the program and its words.
fn two_in_shells(script: &str, words: &[OsString]) -> Output {
    let mut command = Command::new("mpirun");
    command.args(["-n", "2", "sh", "-c", script, "sh"]);
    command.arg(program()).args(words);
    within_limits(&mut command);
    command.output().expect("there is an mpirun")
}

fn fail_on(groups: &[(usize, &[OsString])]) -> String {
    let output = output(groups);
    assert_no_panic(&output, groups[0].1);
    assert_eq!(output.status.code(), Some(FAILED), "{groups:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Losses, weights, and every byte of the last checkpoint.
fn assert_same_runs(one: &Path, other: &Path) {
    let steps = std::fs::read_to_string(one.join("metrics.jsonl"))
        .unwrap()
        .lines()
        .count();
    let last = format!("checkpoint-{steps:08}");
    Trace::of(one).assert_same(&Trace::of(other));
    for file in [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "config.json",
    ] {
        let read = |run: &Path| std::fs::read(run.join(&last).join(file)).unwrap();
        assert!(read(one) == read(other), "{file} of {other:?} differs");
    }
}

#[test]
fn training_is_the_same_on_any_number_of_ranks() {
    let shop = Workshop::new();
    succeed(&shop.train("one", &SETTINGS));
    for state in ["replicated", "sharded"] {
        for ranks in [1, 2, 3] {
            let run = format!("{state}-{ranks}");
            let state = format!("train.optimizer_state={state}");
            let settings = [&SETTINGS[..], &[&state]].concat();
            let said = succeed_on(ranks, &shop.train(&run, &settings));
            assert_eq!(said, "", "{run}");
            assert_same_runs(&shop.path("one"), &shop.path(&run));
        }
    }
    let mut words = shop.train("one", &["train.parts=4"]);
    words.extend(args!["--plan --json"]);
    words.retain(|word| *word != "--out" && *word != shop.path("one"));
    let plan = |ranks: &str| {
        let mut words = words.clone();
        words.extend(args!["--ranks {}", ranks]);
        let plan: serde_json::Value = serde_json::from_str(&succeed(&words)).unwrap();
        (
            plan["sent"].as_u64().unwrap(),
            plan["memory"]["exchange"].as_u64().unwrap(),
        )
    };
    assert_eq!(plan("1"), (0, 0));
    assert!(plan("2").0 > 0 && plan("2").1 > 0);
}

/// The process of a rank.
#[cfg(target_os = "linux")]
fn process_of(mpirun: u32, rank: usize) -> Option<u32> {
    let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
    let children = std::fs::read_to_string(format!("/proc/{mpirun}/task/{mpirun}/children"));
    let children = children.unwrap_or_default();
    let mut children = children.split_whitespace().map(|id| id.parse().unwrap());
    children.find(|id: &u32| {
        let variables = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        variables
            .split(|byte| *byte == 0)
            .any(|of| of == wanted.as_bytes())
    })
}

/// Sends a signal to the process of a rank, which must be at work.
#[cfg(target_os = "linux")]
fn signal(running: &Running, rank: usize, name: &str) {
    let process = process_of(running.id(), rank).expect("the rank is at work");
    let (name, process) = (format!("-{name}"), process.to_string());
    let sent = Command::new("kill").args([name, process]).status();
    assert!(sent.expect("there is a kill").success());
}

/// Twenty runs that lose one of their ranks, at twenty places.
#[cfg(target_os = "linux")]
#[test]
fn a_killed_rank_ends_the_job_and_the_run_goes_on_elsewhere() {
    let shop = Workshop::new();
    succeed(&shop.train("one", &SETTINGS));
    for kill in 0..20 {
        let (ranks, run) = (2 + kill % 2, format!("killed-{kill}"));
        let dir = shop.path(&run);
        let settings = [
            &SETTINGS[..],
            &["train.optimizer_state=sharded"][..kill % 2],
        ]
        .concat();
        let words = shop.train(&run, &settings);
        let mut running = Running::of(mpirun(&[(ranks, &words)]), words);
        running.until_lines(&dir.join("metrics.jsonl"), 2 * kill);
        let lost = kill % ranks;
        signal(&running, lost, "KILL");
        let begun = Instant::now();
        let (code, said) = running.listen();
        assert!(
            begun.elapsed() < MINUTE && code != Some(0),
            "{code:?}: {said}"
        );
        assert!(said.contains(&format!("rank {lost} ")), "{kill}: {said}");
        assert!(!dir.join("model.safetensors").exists());
        let resume = args!["train --resume --out {}", dir];
        match kill % 4 {
            0 => drop(succeed(&resume)),
            other => drop(succeed_on(other, &resume)),
        }
        assert_same_runs(&shop.path("one"), &dir);
    }
}

/// A file system that has no room for a checkpoint: no file of its process may be longer than this.
#[test]
fn a_full_disk_ends_the_job_and_names_the_rank() {
    let shop = Workshop::new();
    succeed(&shop.train("one", &SETTINGS));
    let dir = shop.path("full");
    let words = shop.train("full", &SETTINGS);
    // Blocks of 512 bytes. Ignored, so that the write fails instead.
    let limited = "trap '' XFSZ; ulimit -f 40; exec \"$@\"";
    let begun = Instant::now();
    let output = two_in_shells(limited, &words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && begun.elapsed() < MINUTE);
    assert!(
        said.contains("error: rank 0 of 2: ") && said.contains("could not"),
        "{said}"
    );
    assert!(
        !tree(&dir)
            .iter()
            .any(|path| path.ends_with("checkpoint-00000005"))
    );
    succeed_on(3, &args!["train --resume --out {}", dir]);
    assert_same_runs(&shop.path("one"), &dir);
}

/// Tells one rank to stop while rank 0 stands still, without which none goes on: so the work is in its midst for certain. `mpirun` waits a
/// second before it tells its ranks, in which all may be done.
#[cfg(target_os = "linux")]
fn stop_in_the_midst(running: Running, told: usize, midst: impl FnOnce() -> bool) -> String {
    signal(&running, 0, "STOP");
    assert!(midst());
    signal(&running, told, "INT");
    signal(&running, 0, "CONT");
    let (code, said) = running.listen();
    assert_ne!(code, Some(0), "{said}");
    said
}

#[cfg(target_os = "linux")]
#[test]
fn interrupted_jobs_leave_a_checkpoint() {
    let shop = Workshop::new();
    let last_of = |dir: &Path| {
        let metrics = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
        let last = metrics.lines().count();
        let kept = tree(dir).into_iter();
        let kept: Vec<_> = kept.filter(|path| path.ends_with("state.json")).collect();
        assert_eq!(kept, [dir.join(format!("checkpoint-{last:08}/state.json"))]);
        last
    };
    let settings = |steps| [steps, "train.parts=4", "train.checkpoint_every=1000000"];
    succeed(&shop.train("one", &settings("train.steps=200")));
    for told in [0, 1] {
        let run = format!("told-{told}");
        let dir = shop.path(&run);
        let words = shop.train(&run, &settings("train.steps=200"));
        let mut running = Running::of(mpirun(&[(2, &words)]), words);
        running.until_lines(&dir.join("metrics.jsonl"), 10);
        let unfinished = || !dir.join("model.safetensors").exists();
        let said = stop_in_the_midst(running, told, unfinished);
        assert!(said.contains("stopped after step"), "{said}");
        assert!((10..200).contains(&last_of(&dir)));
        succeed_on(3 - 2 * told, &args!["train --resume --out {}", dir]);
        assert_same_runs(&shop.path("one"), &dir);
    }

    // Ctrl-C, of a run that is not done before `mpirun` passes it on.
    let words = shop.train("endless", &settings("train.steps=1000000"));
    let mut command = mpirun(&[(2, &words)]);
    command.env("OMPI_MCA_odls_base_sigkill_timeout", "3");
    let mut running = Running::of(command, words);
    let dir = shop.path("endless");
    running.until_lines(&dir.join("metrics.jsonl"), 10);
    running.press_interrupt();
    let (code, said) = running.listen();
    assert!(
        said.contains("stopped after step") && code != Some(0),
        "{code:?}: {said}"
    );
    assert!(last_of(&dir) >= 10);
}

/// `mpirun` of two ranks, each in a folder of its own, `node-0` and `node-1`, as on two machines; what is there is for `files`.
fn on_nodes(shop: &Workshop, words: &[OsString], files: impl Fn(usize, &Path)) -> String {
    for rank in 0..2 {
        let node = shop.path(&format!("node-{rank}"));
        let _ = std::fs::remove_dir_all(&node);
        std::fs::create_dir_all(node.join("corpus")).unwrap();
        for file in [
            "recipe.toml",
            "tokenizer.json",
            "corpus/one.txt",
            "corpus/two.md",
        ] {
            std::fs::copy(shop.path(file), node.join(file)).unwrap();
        }
        files(rank, &node);
    }
    let there = format!(
        "cd {:?}/node-$OMPI_COMM_WORLD_RANK && exec \"$@\"",
        shop.dir()
    );
    let output = two_in_shells(&there, words);
    assert_no_panic(&output, words);
    assert_eq!(output.status.code(), Some(FAILED), "{words:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Before anything is written, and with the rank, what is expected and what came.
#[test]
fn nodes_that_differ_are_refused_at_the_start() {
    let shop = Workshop::new();
    let run = shop.path("run");
    let train = args!["train recipe.toml --tokenizer tokenizer.json --out {}", run];
    let edit = |path: &Path, from: &str, to: &str| {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(from));
        std::fs::write(path, text.replace(from, to)).unwrap();
    };
    let refusal = on_nodes(&shop, &train, |rank, node| {
        if rank == 1 {
            edit(&node.join("recipe.toml"), "parts = 2", "parts = 4");
        }
    });
    let expected = "error: rank 1 of 2: recipe: expected parts = 2 as on rank 0, got parts = 4";
    assert!(refusal.contains(expected), "{refusal}");
    let refusal = on_nodes(&shop, &train, |rank, node| {
        if rank == 1 {
            std::fs::remove_file(node.join("tokenizer.json")).unwrap();
        }
    });
    let (rank, file) = ("error: rank 1 of 2: ", "tokenizer.json");
    assert!(
        refusal.contains(rank) && refusal.contains(file),
        "{refusal}"
    );

    // Tokens of the same text in another order are other data.
    let prepare = |corpus: &Path, out: &Path| {
        let tokenizer = shop.path("tokenizer.json");
        succeed(&args![
            "prepare {} --tokenizer {} --out {}",
            corpus,
            tokenizer,
            out
        ]);
    };
    let refusal = on_nodes(&shop, &train, |rank, node| {
        let tokens = format!("{:?}", shop.path("tokens"));
        edit(&node.join("recipe.toml"), &tokens, "\"tokens\"");
        if rank == 1 {
            let [one, two] = ["one.txt", "two.md"].map(|file| node.join("corpus").join(file));
            let text = std::fs::read(&one).unwrap();
            std::fs::rename(&two, one).unwrap();
            std::fs::write(two, text).unwrap();
        }
        prepare(&node.join("corpus"), &node.join("tokens"));
    });
    assert!(
        refusal.contains("rank 1 of 2: tokens: expected"),
        "{refusal}"
    );

    // A corpus that is not up to date on one node.
    let tokens = shop.path("prepared");
    let words = args!["prepare corpus --tokenizer tokenizer.json --out {}", tokens];
    let refusal = on_nodes(&shop, &words, |rank, node| {
        if rank == 1 {
            std::fs::remove_file(node.join("corpus/two.md")).unwrap();
        }
    });
    let expected = "error: rank 1 of 2: corpus: expected corpus/two.md (";
    assert!(refusal.contains(expected), "{refusal}");
    assert!(
        refusal.contains("bytes) as on rank 0, got no such line"),
        "{refusal}"
    );
    assert!(!run.exists() && !tokens.exists());
}

/// Another command on one rank would be waited for, or mix its samples into those of the others.
#[test]
fn commands_that_differ_are_refused_at_the_start() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let before = tree(shop.dir());
    let (train, eval) = (shop.train("run", &SETTINGS), passkeys(&model, "2"));
    let with = |words: &[OsString], more: &[OsString]| [words, more].concat();
    for (words, other) in [
        (&train, shop.train("elsewhere", &SETTINGS)),
        (&train, with(&train, &args!["--set {}", "train.seed=2"])),
        (&train, with(&train, &args!["--plan"])),
        (&train, args!["--version"]),
        (&train, with(&train, &args!["--bogus"])),
        (&train, eval.clone()),
        (&eval, passkeys(&model, "3")),
        (&eval, with(&eval, &args!["--seed 2"])),
        (&eval, with(&eval, &args!["--greedy"])),
    ] {
        let refusal = fail_on(&[(1, words), (1, &other)]);
        let expected = "error: rank 1 of 2: command: expected ";
        assert!(refusal.contains(expected), "{other:?}: {refusal}");
        assert_eq!(refusal.matches("error: ").count(), 1, "{refusal}");
    }
    assert_eq!(tree(shop.dir()), before);
    // Devices are a rank's own, and where all are wrong alike it is said once.
    let other = with(&eval, &args!["--device cpu"]);
    assert!(output(&[(1, &eval), (1, &other)]).status.success());
    for (words, code) in [
        (
            args!["train none.toml --tokenizer none.json --out run"],
            FAILED,
        ),
        (args!["train --bogus"], MISUSED),
    ] {
        let output = output(&[(2, &words)]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert_eq!(said.matches("error: ").count(), 1, "{said}");
    }
    let refusal = fail_on(&[(2, &args!["doctor {}", model])]);
    let expected = "expected one process, got one of 2";
    assert!(refusal.contains(expected), "{refusal}");
}

#[test]
fn evaluations_are_the_same_on_any_number_of_ranks() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let book = shop.path("corpus").join("one.txt");
    let commands = [
        passkeys(&model, "9"),
        args![
            "eval perplexity {} {} --length 300 --window 100",
            model,
            book
        ],
    ];
    for (index, command) in commands.iter().enumerate() {
        let evaluate = |ranks: usize| {
            let out = shop.path(&format!("{index}-{ranks}.json"));
            let words = [&command[..], &args!["--out {} --json", out]].concat();
            match ranks {
                0 => succeed(&words),
                _ => succeed_on(ranks, &words),
            };
            let journal = out.with_extension("unfinished.jsonl");
            assert!(!journal.exists());
            record(&out)
        };
        let one = evaluate(0);
        for ranks in [2, 3] {
            assert_eq!(evaluate(ranks), one, "{command:?} on {ranks}");
        }
    }
}

/// A journal of two ranks is one process's, and the other way round; whichever rank is told to stop, all do.
#[cfg(target_os = "linux")]
#[test]
fn journals_go_on_with_another_number_of_ranks() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let out = shop.path("record.json");
    let journal = out.with_extension("unfinished.jsonl");
    let evaluate = [&passkeys(&model, "4000")[..], &args!["--out {}", out]].concat();
    let found = || std::fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    succeed(&evaluate);
    let whole = record(&out);
    for (told, then) in [(1, 0), (0, 3)] {
        std::fs::remove_file(&out).unwrap();
        let mut running = Running::of(mpirun(&[(2, &evaluate)]), evaluate.clone());
        running.until_lines(&journal, 5);
        // Rank 0 deals: while it stands still nothing is found.
        let said = stop_in_the_midst(running, told, || (5..4000).contains(&found()));
        assert!(
            said.contains("the same command goes on from there"),
            "{said}"
        );
        assert!((5..4000).contains(&found()), "{}", found());
        let _ = match then {
            0 => succeed(&evaluate),
            _ => succeed_on(then, &evaluate),
        };
        assert_eq!(record(&out), whole);
        assert!(!journal.exists());
    }
}

/// From books to report; what has a record is not measured again, on another number of ranks either.
#[test]
fn quickstarts_come_to_the_same_records() {
    let folder = tempfile::TempDir::new().unwrap();
    let words = |out: &str| {
        let out = folder.path().join(out);
        args![
            "quickstart --encodings bam+ssmax --steps 4 --longest 2 --out {}",
            out
        ]
    };
    let run = |out: &str| folder.path().join(out).join("bam+ssmax");
    let records = |out: &str| {
        ["heads.json", "perplexity.json", "passkey.json"].map(|name| record(&run(out).join(name)))
    };
    succeed(&words("one"));
    let summary = succeed_on(2, &words("two"));
    assert_eq!(summary.matches("Passkey retrieval").count(), 1, "{summary}");
    assert_same_runs(&run("one"), &run("two"));
    assert_eq!(records("one"), records("two"));
    let read = |out: &str, name: &str| std::fs::read(folder.path().join(out).join(name)).unwrap();
    assert!(read("one", "tokenizer.json") == read("two", "tokenizer.json"));
    for name in ["two/report.html", "two/bam+ssmax/passkey.json"] {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    let before = std::fs::metadata(run("two").join("perplexity.json")).unwrap();
    let again = [&words("two")[..], &args!["--resume"]].concat();
    succeed_on(3, &again);
    assert_eq!(records("one"), records("two"));
    let after = std::fs::metadata(run("two").join("perplexity.json")).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    assert!(folder.path().join("two/report.html").exists());
    let refusal = fail_on(&[(2, &words("two"))]);
    assert_eq!(refusal.matches("--resume").count(), 1, "{refusal}");
}

#[test]
fn tokens_are_the_same_on_any_number_of_ranks() {
    let shop = Workshop::new();
    let corpus = shop.path("many");
    std::fs::create_dir(&corpus).unwrap();
    for file in 0..7 {
        let text = crate::workshop::text(file);
        let text = &text[..text.len() / (file + 1)];
        std::fs::write(corpus.join(format!("{file}.txt")), text).unwrap();
    }
    let prepare = |ranks: usize| {
        let (tokenizer, out) = (
            shop.path("tokenizer.json"),
            shop.path(&format!("many-{ranks}")),
        );
        let words = args!["prepare {} --tokenizer {} --out {}", corpus, tokenizer, out];
        match ranks {
            0 => succeed(&words),
            _ => succeed_on(ranks, &words),
        };
        let files = tree(&out).into_iter();
        let files = files.map(|path| {
            (
                path.file_name().unwrap().to_owned(),
                std::fs::read(&path).unwrap(),
            )
        });
        files.collect::<Vec<_>>()
    };
    let one = prepare(0);
    for ranks in [2, 3, 9] {
        assert!(prepare(ranks) == one, "{ranks} ranks");
    }
    // Nothing is left beside the folders.
    let parts = tree(shop.dir())
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(".part-"));
    assert_eq!(parts.count(), 0);
    // What is there is not overwritten, and one rank says so.
    let words = args![
        "prepare {} --tokenizer {} --out {}",
        corpus,
        shop.path("tokenizer.json"),
        shop.path("many-2")
    ];
    let refusal = fail_on(&[(2, &words)]);
    assert_eq!(
        refusal.matches("expected an empty folder").count(),
        1,
        "{refusal}"
    );
}

/// Jobs that lose one of their ranks; what follows is on another number of them.
#[cfg(target_os = "linux")]
#[test]
fn killed_preparations_on_ranks_begin_again_to_the_same_bits() {
    let shop = Workshop::new();
    let corpus = large_corpus(&shop, 40);
    preparing::killed(&shop, &corpus, |kill, words| {
        let ranks = 2 + kill % 2;
        let running = Running::of(mpirun(&[(ranks, words)]), words.to_vec());
        let lose = move |running: &mut Running| {
            // Before the ranks are there, or after they ended, there is none to kill.
            if let Some(process) = process_of(running.id(), kill % ranks) {
                let process = process.to_string();
                let _ = Command::new("kill").args(["-KILL", &process]).status();
            }
        };
        (running, lose)
    });
}
