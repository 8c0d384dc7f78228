//! The house rules that a machine can check, over every file that git tracks or would track.

mod example;
mod features;
mod manifest;

use crate::source::Source;
use crate::{git, imports};
use std::path::Path;

/// Lines from which a Rust file is two files.
const LONGEST_FILE: usize = 600;

/// Beginnings of paths that exist on one machine only, in two parts so that this file has none.
const MACHINE_PATHS: [(&str, &str); 5] = [
    ("/wo", "rk/"),
    ("/ro", "ot/"),
    ("/ho", "me/"),
    ("/Us", "ers/"),
    ("C:\\Us", "ers\\"),
];

/// Absences: a folder, what its code must not say outside comments and strings, and why.
const ABSENCES: [Absence; 8] = [
    Absence {
        within: &[""],
        except: &[],
        words: &["todo!", "unimplemented!", "dbg!"],
        why: "unfinished code is not committed",
    },
    Absence {
        within: LIBRARIES,
        except: &[],
        words: &["println!", "eprintln!", "print!", "eprint!"],
        why: "libraries never print",
    },
    Absence {
        within: LIBRARIES,
        // Tests say their device that way.
        except: &["crates/bam-attention/src/testing.rs"],
        words: &["std::env", "env::var", "Instant::now", "SystemTime::now"],
        why: "libraries take the environment and the clock as arguments",
    },
    Absence {
        within: &["crates/bam-serve/src/"],
        except: &[],
        words: &["println!", "eprintln!", "std::env", "env::var"],
        why: "a server has a clock, but prints nothing and takes the environment as arguments",
    },
    Absence {
        within: &[
            "crates/bam-attention/src/",
            "crates/bam-attention/tests/",
            "crates/bam-cli/",
            "crates/bam-data/",
            "crates/bam-eval/",
            "crates/bam-lm/",
            "crates/bam-prior/",
            "crates/bam-record/",
            "crates/bam-report/",
            "crates/bam-serve/",
            "xtask/",
        ],
        except: &[LAUNCHES],
        words: &["unsafe"],
        why: "unsafe code lives in bam-kernel and in launches of kernels only",
    },
    Absence {
        within: &["crates/bam-prior/", "crates/bam-kernel/"],
        except: &[],
        words: &["burn", "Tensor"],
        why: "it knows no tensors",
    },
    Absence {
        within: &["crates/bam-attention/src/fused"],
        except: &[],
        words: &["reference::"],
        why: "fused code does not use the reference",
    },
    Absence {
        within: &["crates/bam-attention/src/reference.rs"],
        except: &[],
        words: &["fused::"],
        why: "the reference does not use fused code",
    },
];

/// Openings of a comment on a declaration that are no noun phrase.
const OPENINGS: [&str; 5] = ["What", "Where", "Who", "How", "Which"];

/// The folders that may hold unsafe code, each piece with its reason: the kernel, launches of kernels, tensors that
/// Python lends, and the allocator of a benchmark.
const HOMES_OF_UNSAFE: [&str; 4] = [
    "crates/bam-kernel/",
    "crates/bam-python/src/",
    LAUNCHES,
    "crates/bam-attention/benches/",
];

const LAUNCHES: &str = "crates/bam-attention/src/fused/cube";

const LIBRARIES: &[&str] = &[
    "crates/bam-attention/src/",
    "crates/bam-data/src/",
    "crates/bam-eval/src/",
    "crates/bam-kernel/src/",
    "crates/bam-lm/src/",
    "crates/bam-prior/src/",
    "crates/bam-record/src/",
    "crates/bam-report/src/",
];

struct Absence {
    /// Beginnings of paths.
    within: &'static [&'static str],
    /// Beginnings of paths among them that may.
    except: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

/// Reads every file and reports every breach at once.
pub fn check(root: &Path) -> Result<(), String> {
    let files = git::files(root)?;
    let mut breaches = Vec::new();
    let mut read = 0;
    for name in &files {
        let path = root.join(name);
        // Links and files that are deleted but not yet staged hold nothing to check.
        if !path.symlink_metadata().is_ok_and(|data| data.is_file()) {
            continue;
        }
        let bytes = std::fs::read(&path).map_err(|error| format!("{name}: {error}"))?;
        breaches.extend(breaches_of(name, &bytes));
        read += 1;
    }
    if read == 0 {
        return Err("git names no files: is this a checkout?".into());
    }
    breaches.extend(example::breach(root).unwrap_or_else(Some));
    let packages = manifest::packages(root)?;
    breaches.extend(manifest::breaches(&packages));
    breaches.extend(features::breaches(root, packages.keys())?);
    breaches.extend(imports::breaches(root)?);
    for breach in &breaches {
        eprintln!("{breach}");
    }
    match breaches.len() {
        0 => {
            println!("{read} files keep the house rules");
            Ok(())
        }
        1 => Err("a house rule is broken (above)".into()),
        count => Err(format!("house rules are broken in {count} places (above)")),
    }
}

/// Every breach in one file, as `name:line: what`.
fn breaches_of(name: &str, bytes: &[u8]) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut report = |line: usize, what: String| breaches.push(format!("{name}:{line}: {what}"));
    for (start, end) in MACHINE_PATHS {
        let pattern = format!("{start}{end}");
        for at in occurrences(bytes, pattern.as_bytes()) {
            if begins_a_path(bytes, at) {
                let line = 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count();
                report(line, format!("{pattern}…: a path of one machine"));
            }
        }
    }
    if !name.ends_with(".rs") {
        return breaches;
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        report(1, "not UTF-8".into());
        return breaches;
    };
    let source = Source::new(text);
    for rule in &ABSENCES {
        let is_in = |places: &[&str]| places.iter().any(|start| name.starts_with(start));
        if !is_in(rule.within) || is_in(rule.except) {
            continue;
        }
        for (line, word) in source.code_with(rule.words) {
            report(line, format!("{word}: {}", rule.why));
        }
    }
    if HOMES_OF_UNSAFE.iter().any(|home| name.starts_with(home)) {
        for line in source.undocumented_unsafe() {
            report(line, "unsafe without a SAFETY comment above it".into());
        }
    }
    for (line, what) in source.loose_ends() {
        report(line, what.into());
    }
    if name.starts_with("crates/bam-lm/src/model") {
        for (line, path) in imports::paths(text)
            .into_iter()
            .filter(|(_, path)| watches(path))
        {
            report(
                line,
                format!("{path}: a model is watched, and knows no analysis and no records"),
            );
        }
    }
    for (line, word) in source.openings(&OPENINGS) {
        report(
            line,
            format!("{word} …: a comment on a declaration opens with a noun phrase"),
        );
    }
    let lines = text.lines().count();
    let is_test = name.contains("/tests/") || name.ends_with("/tests.rs");
    if lines > LONGEST_FILE && !is_test {
        report(lines, format!("{lines} lines: longer than {LONGEST_FILE}"));
    }
    breaches
}

/// Whether a path leads to those who watch a model. The history in its own `config.json` does not.
fn watches(path: &str) -> bool {
    let within = |room: &str| path == room || path.starts_with(&format!("{room}::"));
    within("crate::analysis") || within("bam_record") && !within("bam_record::history")
}

fn occurrences<'a>(bytes: &'a [u8], pattern: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    (0..bytes.len().saturating_sub(pattern.len() - 1))
        .filter(move |&at| bytes[at] == pattern[0] && bytes[at..].starts_with(pattern))
}

/// Whether a path begins here, and not in the middle of one or of an address.
fn begins_a_path(bytes: &[u8], at: usize) -> bool {
    let before = at.checked_sub(1).map(|before| bytes[before]);
    !before.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"_-.}".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caught(name: &str, text: &str) -> Vec<String> {
        breaches_of(name, text.as_bytes())
    }

    /// Null control: what breaks a rule is caught, at its line.
    #[test]
    fn breaches_are_caught() {
        let path = format!("read(\"{}{}x\")", "/ho", "me/");
        let fixme = format!("// {}{}: later", "FIX", "ME");
        let todo = format!("// {}{}: later", "TO", "DO");
        let long = "\n".repeat(LONGEST_FILE + 1);
        let opening = format!("/// {} it is.\nfn f() {{}}", "What");
        for (name, text) in [
            ("README.md", path.as_str()),
            ("crates/bam-attention/src/a.rs", &path),
            ("crates/bam-lm/src/a.rs", "fn f() { unsafe { g() } }"),
            ("xtask/src/a.rs", "unsafe fn f() {}"),
            ("crates/bam-prior/src/a.rs", "fn f() { println!(\"x\"); }"),
            ("crates/bam-attention/src/a.rs", "fn f() { eprintln!(); }"),
            ("crates/bam-lm/src/a.rs", "fn f() { dbg!(1); }"),
            ("crates/bam-cli/src/a.rs", "fn f() { todo!() }"),
            ("crates/bam-cli/tests/a.rs", "fn f() { unimplemented!() }"),
            ("crates/bam-lm/src/a.rs", "let now = Instant::now();"),
            ("crates/bam-lm/src/a.rs", "use std::env;"),
            ("crates/bam-eval/src/a.rs", "fn f() { println!(); }"),
            ("crates/bam-serve/src/a.rs", "use std::env;"),
            ("crates/bam-kernel/src/a.rs", "use burn::tensor::Shape;"),
            ("crates/bam-lm/src/model/a.rs", "use crate::analysis::Head;"),
            (
                "crates/bam-lm/src/model.rs",
                "use bam_record::{history::History, Head};",
            ),
            ("crates/bam-lm/src/a.rs", &opening),
            ("crates/bam-prior/src/a.rs", "use burn::tensor::Shape;"),
            (
                "crates/bam-attention/src/fused/a.rs",
                "crate::reference::attend()",
            ),
            (
                "crates/bam-attention/src/reference.rs",
                "use crate::fused::attend;",
            ),
            ("crates/bam-attention/src/a.rs", "let x = unsafe { f() };"),
            ("crates/bam-kernel/src/a.rs", "let x = unsafe { f() };"),
            ("crates/bam-cli/src/a.rs", &fixme),
            ("crates/bam-cli/src/a.rs", &todo),
            ("crates/bam-cli/src/a.rs", &long),
        ] {
            let breaches = caught(name, text);
            assert_eq!(breaches.len(), 1, "{name}: {text}: {breaches:?}");
        }
        let second = caught("crates/bam-lm/src/a.rs", "fn f() {\n    dbg!(1);\n}\n");
        assert!(
            second[0].starts_with("crates/bam-lm/src/a.rs:2: dbg!"),
            "{second:?}"
        );
    }

    #[test]
    fn what_only_looks_like_a_breach_passes() {
        let long = "\n".repeat(LONGEST_FILE + 1);
        let address = format!("https://example.org{}{}page", "/ho", "me/");
        for (name, text) in [
            ("crates/bam-lm/src/a.rs", "#![forbid(unsafe_code)]"),
            (
                "crates/bam-lm/src/a.rs",
                "/// Prints nothing: `println!` is not ours.\nfn f() {}",
            ),
            (
                "crates/bam-lm/src/a.rs",
                "const HELP: &str = r#\"call \"dbg!\" not\"#;",
            ),
            (
                "crates/bam-cli/src/main.rs",
                "fn main() { println!(\"x\"); }",
            ),
            ("crates/bam-prior/tests/a.rs", "fn f() { println!(\"x\"); }"),
            (
                "crates/bam-kernel/src/a.rs",
                "// SAFETY: f has no conditions.\nunsafe { f() };",
            ),
            (
                "crates/bam-cli/src/a.rs",
                "// Later, when the format changes: TODO(#12).",
            ),
            ("crates/bam-serve/src/a.rs", "let now = Instant::now();"),
            (
                "crates/bam-lm/src/model/a.rs",
                "use bam_record::history::{Event, History};",
            ),
            (
                "crates/bam-lm/src/a.rs",
                "// What follows is why.\n/// Whatever.\nfn f() {}",
            ),
            ("crates/bam-cli/src/report/tests.rs", &long),
            ("crates/bam-cli/tests/a.rs", &long),
            ("docs/a.md", &address),
        ] {
            let breaches = caught(name, text);
            assert!(breaches.is_empty(), "{name}: {text}: {breaches:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_searched_too() {
        let mut bytes = vec![0, 159, 146, 150, b'"'];
        bytes.extend(format!("{}{}x", "/ro", "ot/").bytes());
        assert_eq!(breaches_of("model.safetensors", &bytes).len(), 1);
    }
}
