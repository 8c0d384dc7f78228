//! `cargo xtask fuzz`: random calls, as many as wanted.

use crate::cargo::cargo_on;
use std::path::Path;

/// Runs `bam-kernel`'s test `fuzz` with those options.
///
/// # Errors
/// If a call fails; its number is on standard error.
pub fn run(root: &Path, options: &[&str]) -> Result<(), String> {
    let status = cargo_on(root, "test", &["--package", "bam-kernel"])
        .args(["--release", "--test", "fuzz", "--"])
        .args(options)
        .status()
        .map_err(|error| format!("cargo did not start: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("fuzzing ended with {status}")),
    }
}
