//! Cargo's command line.

use std::path::Path;
use std::process::Command;

/// Cargo, quiet, on all packages.
pub fn cargo(root: &Path, subcommand: &str) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command
        .args([subcommand, "--quiet", "--workspace"])
        .current_dir(root);
    command
}
