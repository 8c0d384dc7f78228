//! Cargo's command line.

use std::path::Path;
use std::process::Command;

/// Cargo, quiet, on all packages.
pub fn cargo(root: &Path, subcommand: &str) -> Command {
    cargo_on(root, subcommand, &["--workspace"])
}

/// Cargo, quiet, on the packages that those flags choose.
pub fn cargo_on(root: &Path, subcommand: &str, packages: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command
        .args([subcommand, "--quiet"])
        .args(packages)
        .current_dir(root);
    command
}
