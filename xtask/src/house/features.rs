//! One feature set for each dependency that crates share, whichever of them is built.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// The program, with everything that it is made of.
const WHOLE: &str = "bam-cli";

/// The one platform on which it is checked: others have other dependencies.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Crates that build in seconds from nothing, and so share no features with those that don't.
const APART: [&str; 4] = ["bam-kernel", "bam-prior", "workspace-features", "xtask"];

/// The crate that is never built in one call with the program, and has no tests in Rust: the macros of its own would
/// give all others another feature.
pub const ALONE: &str = "bam-python";

/// The feature sets of each dependency: `burn-std v0.22.1` and `std`.
type Features = BTreeMap<String, BTreeSet<String>>;

/// Dependencies that `cargo test -p` of a crate would build again, with other features than the program's.
pub fn breaches<'a>(
    root: &Path,
    packages: impl IntoIterator<Item = &'a String>,
) -> Result<Vec<String>, String> {
    let whole = tree(root, WHOLE, "normal,build")?;
    let mut breaches = Vec::new();
    for package in packages.into_iter().filter(|package| *package != ALONE) {
        let part = tree(root, package, "normal,build,dev")?;
        let apart = APART.contains(&package.as_str());
        breaches.extend(differences(package, &whole, &part, apart));
    }
    Ok(breaches)
}

fn tree(root: &Path, package: &str, edges: &str) -> Result<Features, String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program)
        .args([
            "tree",
            "--quiet",
            "--prefix",
            "none",
            "--format",
            "{p}|{f}",
            "--no-dedupe",
        ])
        .args(["--target", TARGET, "--edges", edges, "--package", package])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo did not start: {error}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo tree -p {package}: {}", why.trim()));
    }
    Ok(features(&String::from_utf8_lossy(&output.stdout)))
}

/// The list of `cargo tree`, without the workspace's own crates, which say where they lie.
fn features(tree: &str) -> Features {
    let mut found = Features::new();
    for line in tree.lines() {
        let Some((package, features)) = line.split_once('|') else {
            continue;
        };
        let package = package.trim_end_matches(" (proc-macro)");
        if !package.contains(" (") {
            found
                .entry(package.into())
                .or_default()
                .insert(features.into());
        }
    }
    found
}

/// Feature sets that the whole does not have; of a crate apart, those that would add to it.
fn differences(package: &str, whole: &Features, part: &Features, apart: bool) -> Vec<String> {
    let mut differences = Vec::new();
    for (dependency, sets) in part {
        let Some(known) = whole.get(dependency) else {
            continue;
        };
        let within = |set: &String| apart && known.iter().any(|known| is_part(set, known));
        for other in sets.difference(known).filter(|set| !within(set)) {
            let known = known.iter().map(|set| format!("[{set}]"));
            let known = known.collect::<Vec<_>>().join(" or ");
            differences.push(format!(
                "crates/{package}/Cargo.toml:1: {dependency} has features [{other}], {known} in {WHOLE}: \
                 a test of this crate builds it again; say them in crates/workspace-features"
            ));
        }
    }
    differences
}

fn is_part(features: &str, whole: &str) -> bool {
    let mut features = features.split(',').filter(|feature| !feature.is_empty());
    features.all(|feature| whole.split(',').any(|known| known == feature))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE_TREE: &str = "bam-cli v0.1.0 (folder)|\nburn-std v0.22.1|std\nsyn v2.0.0|full\nsyn v2.0.0|default,full\nrand v0.9.0|std";

    #[test]
    fn a_part_with_the_same_features_passes() {
        let part = "bam-lm v0.1.0 (folder)|other\nburn-std v0.22.1|std\nsyn v2.0.0|full\nproptest v1.0.0|std";
        assert_eq!(
            differences("bam-lm", &features(WHOLE_TREE), &features(part), false),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_crate_apart_may_have_fewer_but_not_others() {
        let found = |part| differences("bam-prior", &features(WHOLE_TREE), &features(part), true);
        assert_eq!(
            found("burn-std v0.22.1|\nsyn v2.0.0|default"),
            Vec::<String>::new()
        );
        assert_eq!(found("burn-std v0.22.1|simd").len(), 1);
    }

    /// Null control: a feature less, or one more, is found.
    #[test]
    fn other_features_are_found() {
        for part in [
            "burn-std v0.22.1|",
            "burn-std v0.22.1|simd,std",
            "burn-std v0.22.1 (proc-macro)|simd",
        ] {
            let found = differences("bam-lm", &features(WHOLE_TREE), &features(part), false);
            assert_eq!(found.len(), 1, "{part}: {found:?}");
            assert!(
                found[0].contains("crates/bam-lm/Cargo.toml:1: burn-std v0.22.1 has"),
                "{found:?}"
            );
        }
    }
}
