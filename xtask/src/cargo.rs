//! Cargo's command line.

use std::path::Path;
use std::process::Command;

/// Cargo in the workspace, as if typed there.
///
/// Cargo tells the programs that it runs about their own package. Build scripts, ring's among them, ask
/// for the same variables and would run again, and all that depends on them be built again.
pub fn bare(root: &Path) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    let of_package =
        |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(of_package) {
            command.env_remove(name);
        }
    }
    command.current_dir(root);
    command
}

/// Cargo, quiet, on all packages.
pub fn cargo(root: &Path, subcommand: &str) -> Command {
    cargo_on(root, subcommand, &["--workspace"])
}

/// Cargo, quiet, on the packages that those flags choose.
pub fn cargo_on(root: &Path, subcommand: &str, packages: &[&str]) -> Command {
    let mut command = bare(root);
    command.args([subcommand, "--quiet"]).args(packages);
    command
}
