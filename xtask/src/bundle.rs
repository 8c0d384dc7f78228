//! `cargo xtask bundle`: a folder for a machine that has an NVIDIA driver and nothing else, built on one
//! that has no GPU. The driver's library is opened when a program starts, and LLVM is within it; the
//! functions that its kernels call come along, since they are part of CUDA's tools and not of a driver.

use crate::cargo::bare;
use crate::clients::succeed;
use crate::wheels;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The tests of the kernels that are taken along unless others are named.
const TESTS: &str = "agreement,gradients";

/// The options of the command line.
#[derive(Debug, PartialEq)]
pub struct Options {
    out: PathBuf,
    tests: Vec<String>,
    python: String,
    jobs: String,
}

impl Options {
    /// # Errors
    /// A message that says which word is wrong.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let list = |value: &str| value.split(',').map(String::from).collect();
        let mut options = Self {
            out: PathBuf::from("target/bundle"),
            tests: list(TESTS),
            python: "python3".into(),
            jobs: "default".into(),
        };
        for pair in words.chunks(2) {
            let [name, value] = *pair else {
                return Err(format!("{}: expected a value after it", pair[0]));
            };
            match name {
                "--out" => options.out = value.into(),
                "--tests" => options.tests = list(value),
                "--python" => options.python = value.into(),
                "--jobs" => options.jobs = value.into(),
                _ => return Err(format!("no such option: {name}")),
            }
        }
        Ok(options)
    }
}

/// Builds, strips, packs, and says how large the folder is.
///
/// # Errors
/// If something does not build, a tool is missing, or the folder can't be written.
pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    let llvm = wheels::llvm(root, &options.python)?;
    let tools = wheels::cuda(root, &options.python)?;
    let out = root.join(&options.out);
    let programs = out.join("programs");
    let failed = |error: std::io::Error| format!("{}: {error}", out.display());
    if out.exists() {
        std::fs::remove_dir_all(&out).map_err(failed)?;
    }
    std::fs::create_dir_all(programs.join("tests")).map_err(failed)?;
    let mut tests = vec!["--bench".to_owned(), "attention".to_owned()];
    for test in &options.tests {
        tests.extend(["--test".to_owned(), test.clone()]);
    }
    let build = |subcommand: &str, package: &str, what: &[String]| {
        let mut cargo = bare(root);
        cargo
            .args([subcommand, "--release", "--jobs", &options.jobs])
            .args(["--features", "cuda", "--package", package])
            .args(["--message-format", "json-render-diagnostics"])
            .args(what)
            .env("XDG_DATA_HOME", &llvm);
        executables(cargo)
    };
    let bam = build("build", "bam-cli", &["--bin".into(), "bam".into()])?;
    tests.push("--no-run".into());
    let tests = build("test", "bam-attention", &tests)?;
    for (name, kind, program) in bam.into_iter().chain(tests) {
        let to = match kind.as_str() {
            "test" => programs.join("tests").join(name),
            "bench" => programs.join(format!("bench-{name}")),
            _ => programs.join(name),
        };
        let mut strip = Command::new("strip");
        succeed(strip.arg("-o").arg(to).arg(program))?;
    }
    // Programs have most of their code in common: a window over all of them finds it again.
    let mut tar = Command::new("tar");
    tar.args(["--create", "--file", "programs.tar.xz", "--remove-files"])
        .arg("--use-compress-program=xz --threads=1 --lzma2=preset=6,dict=1GiB")
        .arg("programs");
    succeed(tar.current_dir(&out))?;
    let library = "nvvm/libdevice/libdevice.10.bc";
    std::fs::create_dir_all(out.join("cuda/nvvm/libdevice")).map_err(failed)?;
    let files = [
        (root.join("xtask/src/bundle/run.sh"), "run.sh".to_owned()),
        (
            root.join("benchmarks/attention_pytorch.py"),
            "attention_pytorch.py".to_owned(),
        ),
        (tools.join(library), format!("cuda/{library}")),
    ];
    for (from, to) in files {
        std::fs::copy(&from, out.join(to))
            .map_err(|error| format!("{}: {error}", from.display()))?;
    }
    let mut bytes = 0;
    for entry in std::fs::read_dir(&out).map_err(failed)? {
        bytes += entry
            .and_then(|entry| entry.metadata())
            .map_err(failed)?
            .len();
    }
    println!("{}: {} MB", out.display(), bytes / 1_000_000);
    Ok(())
}

/// The programs that a build of Cargo's made: name, kind and file.
fn executables(mut cargo: Command) -> Result<Vec<(String, String, PathBuf)>, String> {
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo did not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo ended with {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let program = |message: Value| {
        let word = |value: &Value| value.as_str().map(String::from);
        let target = &message["target"];
        let file = word(&message["executable"])?;
        Some((
            word(&target["name"])?,
            word(&target["kind"][0])?,
            file.into(),
        ))
    };
    Ok(messages.filter_map(program).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let options = Options::parse(&["--tests", "bf16,agreement"]).unwrap();
        assert_eq!(options.tests, ["bf16", "agreement"]);
        let wrong = Options::parse(&["--size", "small"]).unwrap_err();
        assert_eq!(wrong, "no such option: --size");
    }

    #[test]
    fn executables_are_found_among_a_build_s_messages() {
        let mut echo = Command::new("echo");
        echo.arg(
            r#"{"reason":"compiler-artifact","target":{"name":"agreement","kind":["test"]},"executable":"a"}
{"reason":"compiler-artifact","target":{"name":"burn","kind":["lib"]},"executable":null}"#,
        );
        let expected = (
            "agreement".to_owned(),
            "test".to_owned(),
            PathBuf::from("a"),
        );
        assert_eq!(executables(echo).unwrap(), [expected]);
    }
}
