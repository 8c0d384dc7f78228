//! Cargo's command line.

use std::path::Path;
use std::process::Command;

/// Cargo, quiet, on all packages but `bam-prior`: another selection builds Burn anew.
pub fn cargo(root: &Path, subcommand: &str) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command
        .args([
            subcommand,
            "--quiet",
            "--workspace",
            "--exclude",
            "bam-prior",
        ])
        .current_dir(root);
    command
}
