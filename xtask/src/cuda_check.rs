//! `cargo xtask cuda-check`: every GPU kernel compiled for CUDA and assembled, without a GPU.
//!
//! `bam-attention`'s example `cuda_sources` compiles the kernels that launches make, by both of CubeCL's
//! compilers: to CUDA C++, which NVRTC turns into PTX, and by LLVM to PTX. ptxas tells what their machine
//! code takes.

mod table;

use crate::cargo::bare;
use crate::clients::succeed;
use crate::{git, wheels};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;
use table::{Row, Takes};

/// LLVM is what `burn/cuda` runs by; CUDA C++ where `cubecl/cuda-cpp` is on and NVRTC is there.
const COMPILERS: [&str; 2] = ["llvm", "cpp"];

/// The kernels that are run on a processor: between them every way to take products, and every rule.
const EMULATED: [&str; 6] = [
    "64-causal-f32",
    "64-causal-bf16",
    "128-causal-bf16",
    "64-certified-bf16",
    "64-causal-bf16-cmma",
    "64-certified-bf16-cmma",
];

/// The options of the command line.
#[derive(Debug, PartialEq)]
pub struct Options {
    /// A part of the kernels' names.
    only: String,
    /// Compute capabilities, 90 for 9.0.
    capabilities: Vec<u32>,
    compilers: Vec<String>,
    python: String,
    record: bool,
}

impl Options {
    /// # Errors
    /// A message that says which word is wrong.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self {
            only: String::new(),
            capabilities: vec![80, 90, 100],
            compilers: COMPILERS.map(String::from).into(),
            python: "python3".into(),
            record: false,
        };
        for pair in words.chunks(2) {
            let [name, value] = *pair else {
                return Err(format!("{}: expected a value after it", pair[0]));
            };
            let wrong = |expected: &str| format!("{name}: expected {expected}, got {value}");
            let list = value.split(',');
            match name {
                "--only" => options.only = value.into(),
                "--python" => options.python = value.into(),
                "--capabilities" => {
                    let numbers: Result<_, _> = list.map(str::parse).collect();
                    options.capabilities = numbers.map_err(|_| wrong("some of 80, 90, 100"))?;
                }
                "--compilers" if list.clone().all(|word| COMPILERS.contains(&word)) => {
                    options.compilers = list.map(String::from).collect();
                }
                "--compilers" => return Err(wrong("some of llvm, cpp")),
                "--record" if ["yes", "no"].contains(&value) => options.record = value == "yes",
                "--record" => return Err(wrong("yes or no")),
                _ => return Err(format!("no such option: {name}")),
            }
        }
        Ok(options)
    }
}

/// Compiles, assembles, prints a table, and writes a record if one is wanted.
///
/// # Errors
/// If a kernel does not compile or spills registers, or a tool is missing.
pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    let tools = wheels::cuda(root, &options.python)?;
    let folder = root.join("target/cuda-check");
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(failed)?;
    }
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let kernels = sources(root, &folder, &tools, options)?;
    emulate(root, &folder, &kernels, options)?;
    let mut rows = Vec::new();
    for capability in &options.capabilities {
        let architecture = table::architecture(*capability);
        for compiler in &options.compilers {
            eprintln!("{} kernels by {compiler} for {architecture}", kernels.len());
            let mut end = capability.to_string();
            if compiler == "cpp" {
                end.clone_from(&architecture);
                let mut nvrtc = Command::new(&options.python);
                nvrtc
                    .arg(root.join("xtask/src/cuda_check/nvrtc.py"))
                    .arg(&tools)
                    .arg(&architecture);
                for kernel in &kernels {
                    nvrtc.arg(folder.join(format!("{}.cu", name(kernel))));
                }
                // It names the kernels that fail; the others are assembled all the same.
                if let Err(why) = succeed(&mut nvrtc) {
                    eprintln!("{why}");
                }
            }
            for kernel in &kernels {
                let ptx = folder.join(format!("{}.{end}.ptx", name(kernel)));
                let text = std::fs::read_to_string(&ptx).unwrap_or_default();
                let number = |of: &str| kernel[of].as_u64().unwrap_or_default();
                rows.push(Row {
                    kernel: name(kernel).into(),
                    compiler: compiler.clone(),
                    capability: *capability,
                    units: number("units"),
                    shared: number("shared_bytes"),
                    mma: text.matches("mma.sync").count(),
                    takes: assembled(&tools, &architecture, &ptx)?,
                });
            }
        }
    }
    let table = table::table(&rows);
    println!("{table}");
    if options.record {
        record(root, &rows, &table)?;
    }
    let faults: Vec<String> = rows.iter().filter_map(Row::fault).collect();
    match faults[..] {
        [] => Ok(()),
        _ => Err(format!(
            "{} of {} programs:\n{}",
            faults.len(),
            rows.len(),
            faults.join("\n")
        )),
    }
}

/// Runs kernels on a processor, those of matrix units among them, where all of a kind were asked for, and
/// compares them with the definition.
fn emulate(root: &Path, folder: &Path, kernels: &[Value], options: &Options) -> Result<(), String> {
    let is_there = |wanted: &str| kernels.iter().any(|kernel| name(kernel) == wanted);
    let whole = |kind: &&str| {
        let of = |pass| is_there(&format!("{pass}-{kind}"));
        ["forward", "by_rows", "by_keys"].into_iter().all(of)
    };
    let kinds: Vec<&str> = EMULATED.into_iter().filter(whole).collect();
    if kinds.is_empty() {
        return Ok(());
    }
    eprintln!("emulated: {}", kinds.join(", "));
    let mut python = Command::new(&options.python);
    let script = root.join("xtask/src/cuda_check/emulate.py");
    python.arg(script).arg(folder).args(kinds);
    let status = python
        .status()
        .map_err(|error| format!("{} did not start: {error}", options.python))?;
    match status.success() {
        true => Ok(()),
        false => Err("a kernel computes wrong numbers".into()),
    }
}

fn name(kernel: &Value) -> &str {
    kernel["kernel"].as_str().unwrap_or_default()
}

/// The kernels that are asked for, written into the folder.
fn sources(
    root: &Path,
    folder: &Path,
    tools: &Path,
    options: &Options,
) -> Result<Vec<Value>, String> {
    let mut cargo = bare(root);
    cargo
        .args(["run", "--quiet", "--release", "-p", "bam-attention"])
        .args(["--features", "cuda-check", "--example", "cuda_sources"])
        .env("XDG_DATA_HOME", wheels::llvm(root, &options.python)?)
        .env("CUDA_PATH", tools)
        .arg("--")
        .arg(folder)
        .arg(&options.only)
        .stderr(Stdio::inherit());
    if options.compilers.iter().any(|name| name == "llvm") {
        cargo.args(options.capabilities.iter().map(u32::to_string));
    }
    let output = cargo
        .output()
        .map_err(|error| format!("cargo did not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("cuda_sources ended with {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let kernels = text.lines().map(serde_json::from_str);
    let kernels: Vec<Value> = kernels
        .collect::<Result<_, _>>()
        .map_err(|error| format!("cuda_sources: {error}"))?;
    match kernels.is_empty() {
        true => Err(format!("--only: no kernel's name has {}", options.only)),
        false => Ok(kernels),
    }
}

/// Registers and memory of a program; nothing if there is none, or ptxas refuses it.
fn assembled(tools: &Path, architecture: &str, ptx: &Path) -> Result<Option<Takes>, String> {
    if !ptx.exists() {
        return Ok(None);
    }
    let output = Command::new(tools.join("bin/ptxas"))
        .args(["--verbose", "--gpu-name", architecture, "--output-file"])
        .arg(ptx.with_extension("cubin"))
        .arg(ptx)
        .output()
        .map_err(|error| format!("ptxas did not start: {error}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{}: {told}", ptx.display());
        return Ok(None);
    }
    Ok(Takes::read(&told))
}

/// A dated folder: a line of JSON a program, and the table.
fn record(root: &Path, rows: &[Row], table: &str) -> Result<(), String> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let (date, commit) = (&now[..10], git::describe(root));
    let folder = root.join(format!("benchmarks/records/{date}-cuda-check"));
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        let there = folder.display();
        return Err(format!("{there} is there: records are not edited"));
    }
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let lines = rows
        .iter()
        .map(|row| format!("{}\n", row.json(&now, &commit)));
    std::fs::write(folder.join("kernels.jsonl"), lines.collect::<String>()).map_err(failed)?;
    let faults: Vec<String> = rows.iter().filter_map(Row::fault).collect();
    let summary = format!(
        "# Kernels assembled for CUDA, {date}\n\n`cargo xtask cuda-check`, commit {commit}, NVRTC and ptxas {}; no GPU ran them. \
         `llvm` is what the feature `cuda` runs by, `cpp` is CUDA C++.\nA row is the worst of a kernel, head width and compiler, \
         over types, rules and architectures; `kernels.jsonl` has every program. Cubes: as many as\na multiprocessor has \
         registers, shared memory and units for.\n\n{table}\n{} of {} programs spill more than 64 bytes.\n",
        wheels::CUDA_VERSION,
        faults.len(),
        rows.len()
    );
    std::fs::write(folder.join("summary.md"), summary).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let options = Options::parse(&["--only", "by_keys", "--record", "yes"]).unwrap();
        assert!(options.record && options.only == "by_keys");
        for (words, expected) in [
            (
                ["--record", "please"],
                "--record: expected yes or no, got please",
            ),
            (
                ["--compilers", "gcc"],
                "--compilers: expected some of llvm, cpp, got gcc",
            ),
            (
                ["--capabilities", "sm"],
                "--capabilities: expected some of 80, 90, 100, got sm",
            ),
        ] {
            assert_eq!(Options::parse(&words).unwrap_err(), expected);
        }
    }
}
