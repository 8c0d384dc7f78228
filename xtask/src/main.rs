//! The project's chores, in Rust: `cargo xtask` lists them.
#![forbid(unsafe_code)]

mod bench;
mod bundle;
mod cargo;
mod check;
mod clients;
mod cuda_check;
mod fuzz;
mod git;
mod house;
mod imports;
mod source;
mod wheel;
mod wheels;

use check::{Extent, With};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
The project's chores.

Usage: cargo xtask <COMMAND>

Commands:
  check         Every step that needs nothing but Rust and Python, cheapest first; stops at the first failure
  check --with NAME,…
                The same with a device (wgpu, cuda:1, …) or mpi in the program, and their tests: nothing is built twice.
                CI runs it with wgpu,mpi
  check --fast  The part of it that needs no Burn: format, house rules, tests of bam-prior and bam-kernel
  check --device NAME
                The tests that take a device, on that one (wgpu, cuda:1, …), after its self-test. Software devices
                take minutes: they compile every kernel
  check --mpi   The tests of several ranks: they take an MPI with its headers and libclang, and run `mpirun`
  house         The house rules only
  wheel [--python PATH]
                Build the Python package, install it into a fresh environment and run its tests there; fetches
                PyTorch, transformers and pytest from PyPI into target/ (5 GB) once
  imports       Draw which file imports which, in docs/imports.md
  fuzz [--cases N] [--first SEED]
                Random calls of the operation against the definition; CI runs a few thousand
  bench attention [--threads T] [--json FILE] [--python PATH] [--max-length N] [--sections NAME,…]
                The fused operation beside PyTorch's: answers checked, a table, a record a row.
                Sections: ceiling, passes, decode, skipping, growth, pytorch; and grid, only where named: the wheel
                beside PyTorch in one process over the shapes of benchmarks/wheel_pytorch.py
  bench attention --device NAME [--json FILE] [--python PATH] [--max-length N]
                The same on a device, 16 heads of 64 and 128, beside Burn's attention, and PyTorch's on CUDA
  bench prepare --corpora FILE,… --tokenizers FILE,… [--threads T] [--json FILE] [--python PATH]
                Corpora to tokens beside the packages tokenizers and tiktoken, ids compared first
  bench training [--threads T] [--json FILE] [--python PATH] [--dtypes f32,bf16]
                Training steps beside the reference program's operations in PyTorch
  bench scale [--json FILE]
                Training steps on one and two ranks under `mpirun`, and exchanges between two: losses compared first.
                Wants an MPI with its headers, and libclang
  clients [--model DIR] [--python PATH] [--only NAME,…] [--requests FILE] [--count N] [--lengths N,…]
          [--examples N] [--seconds S] [--out DIR]
                Other people's programs against `bam serve` (curl, openai, lm_eval, ruler, schemathesis,
                chromium, load) and exported models (transformers; llama_cpp wants an ALiBi or rotary model)
  cuda-check [--only WORD] [--compilers llvm,cpp] [--capabilities 80,90,100] [--python PATH] [--record yes]
                Every GPU kernel compiled for CUDA and assembled, without a GPU: registers, spills, shared
                memory. Fails where a kernel spills. Fetches CUDA's tools and LLVM from PyPI into target/
  bundle [--out DIR] [--tests NAME,…] [--jobs N] [--python PATH]
                A folder with the program, kernel tests and benchmarks for a machine with an NVIDIA driver;
                its run.sh runs them. Needs no GPU; fetches LLVM from PyPI into target/
  help          This text";

/// The reason why a command did not do its work.
enum Fault {
    /// The command line is wrong.
    Usage(String),
    /// Something went wrong.
    Failure(String),
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self::Failure(message)
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&root(), &args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fault::Failure(message)) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
        Err(Fault::Usage(message)) => {
            eprintln!("error: {message}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

fn run(root: &Path, args: &[&str]) -> Result<(), Fault> {
    use Fault::Usage;
    match *args {
        [] | ["help" | "--help" | "-h"] => println!("{HELP}"),
        ["check"] => check::run(root, &Extent::All(With::default()))?,
        ["check", "--with", names] => check::run(root, &Extent::All(With::parse(names)))?,
        ["check", "--fast"] => check::run(root, &Extent::Fast)?,
        ["check", "--mpi"] => check::run(root, &Extent::Only(With::parse("mpi")))?,
        ["check", "--device", device] => {
            check::run(root, &Extent::Only(With::parse(device)))?;
        }
        ["house"] => house::check(root)?,
        ["imports"] => imports::run(root)?,
        ["wheel"] => wheel::run(root, "python3")?,
        ["wheel", "--python", python] => wheel::run(root, python)?,
        ["fuzz", ref words @ ..] => fuzz::run(root, words)?,
        ["clients", ref words @ ..] => {
            clients::run(root, &clients::Options::parse(words).map_err(Usage)?)?;
        }
        ["bench", name, ref words @ ..] => {
            bench::run(root, name, &bench::Options::parse(words).map_err(Usage)?)?;
        }
        ["bundle", ref words @ ..] => {
            bundle::run(root, &bundle::Options::parse(words).map_err(Usage)?)?;
        }
        ["cuda-check", ref words @ ..] => {
            cuda_check::run(root, &cuda_check::Options::parse(words).map_err(Usage)?)?;
        }
        _ => return Err(Usage(format!("no such command: {}", args.join(" ")))),
    }
    Ok(())
}

/// The workspace: the folder above this package's, wherever the command was typed.
fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map_or(package.clone(), PathBuf::from)
}
