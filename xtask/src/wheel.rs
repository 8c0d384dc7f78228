//! `cargo xtask wheel`: the Python package as a user gets it, built, installed into a fresh environment, tested there.

use crate::clients::succeed;
use crate::wheels;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "crates/bam-python";

/// Builds, installs and tests the wheel.
///
/// # Errors
/// If there is no Python, or a step fails.
pub fn run(root: &Path, python: &str) -> Result<(), String> {
    let mut tests = installed(root, python)?;
    // Tests import what is installed, since their folder is not above the package's sources.
    tests
        .args([
            "-m",
            "pytest",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
        ])
        .current_dir(root.join(PACKAGE).join("tests"));
    match tests.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the wheel's tests ended with {status}")),
        Err(error) => Err(format!("{}: {error}", tests.get_program().display())),
    }
}

/// Builds the wheel and installs it: the Python of a fresh environment that has it, and everything that its
/// tests and its benchmark import.
///
/// # Errors
/// If there is no Python, or a step fails.
pub fn installed(root: &Path, python: &str) -> Result<Command, String> {
    has_python(python)?;
    let packages = wheels::for_tests(root, python)?;
    let folder = root.join("target/wheel");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let environment = folder.join("environment");
    let dist = folder.join("dist");
    succeed(Command::new(python).args(["-m", "venv"]).arg(&environment))?;
    let own = environment.join(if cfg!(windows) {
        "Scripts/python.exe"
    } else {
        "bin/python"
    });
    // As the documentation says to build it.
    pip(
        &own,
        root,
        &["wheel", "--no-deps", "--wheel-dir"],
        &[&dist, &root.join(PACKAGE)],
    )?;
    let wheel = wheel_in(&dist)?;
    println!("{}", wheel.file_name().unwrap_or_default().display());
    pip(&own, root, &["install", "--no-deps"], &[&wheel])?;
    let mut command = Command::new(own);
    command.env("PYTHONPATH", packages);
    Ok(command)
}

fn has_python(python: &str) -> Result<(), String> {
    let asks = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
    match Command::new(python).args(["-c", asks]).output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(format!(
            "the Python package was NOT built or tested: expected {python} of 3.10 or newer with venv and pip \
             (Debian: apt install python3 python3-venv python3-pip), got none"
        )),
    }
}

fn pip(python: &Path, root: &Path, words: &[&str], paths: &[&Path]) -> Result<(), String> {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check"])
        .args(words)
        .args(paths)
        .env("CARGO_TARGET_DIR", root.join("target"));
    succeed(&mut pip)
}

fn wheel_in(dist: &Path) -> Result<PathBuf, String> {
    let failed = |error| format!("{}: {error}", dist.display());
    let files = std::fs::read_dir(dist).map_err(failed)?;
    let mut paths = files.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| format!("{}: expected a wheel, got none", dist.display()))
}
