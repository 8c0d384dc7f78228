//! Dependencies that crates must not have, as cargo reads them from the manifests.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Names of which a crate, and what it uses of this workspace, may depend on none. A name that ends
/// in `*` is a beginning.
const ABSENCES: [(&str, &[&str], &str); 11] = [
    ("bam-prior", TENSORS, "bam-prior knows no tensors"),
    ("bam-kernel", TENSORS, "bam-kernel knows no tensor library"),
    (
        "bam-attention",
        &["bam-data", "bam-lm", "bam-record"],
        "bam-attention knows no models and no files",
    ),
    ("bam-data", TENSORS, "bam-data knows no Burn"),
    (
        "bam-record",
        ABOVE_RECORDS,
        "records know no Burn and no models",
    ),
    (
        "bam-report",
        ABOVE_RECORDS,
        "reports are made of records alone",
    ),
    (
        "bam-lm",
        &["bam-eval", "bam-serve", "bam-report", "axum", "maud"],
        "bam-lm serves, evaluates and draws nothing",
    ),
    ("bam-lm", MPI, "ranks are a trait; MPI is bam-mpi's"),
    ("bam-eval", MPI, "ranks are a trait; MPI is bam-mpi's"),
    (
        "bam-eval",
        &["bam-serve", "bam-report", "axum", "maud"],
        "bam-eval serves and draws nothing",
    ),
    (
        "bam-serve",
        &["bam-report", "bam-eval"],
        "the server knows no reports and no evaluations",
    ),
];

const MPI: &[&str] = &["mpi*", "bam-mpi"];

const TENSORS: &[&str] = &[
    "burn*",
    "candle*",
    "ndarray",
    "tch",
    "bam-attention",
    "bam-lm",
];

const ABOVE_RECORDS: &[&str] = &[
    "burn*",
    "bam-attention",
    "bam-data",
    "bam-eval",
    "bam-lm",
    "bam-serve",
];

/// Nothing but the program has flags, bars and errors without a type.
const OF_THE_PROGRAM: &[&str] = &["clap*", "indicatif", "anyhow"];

/// The crates that may have them.
const PROGRAMS: [&str; 2] = ["bam-cli", "xtask"];

/// A package's dependencies by name: those of its library, and all, with those of its tests.
pub struct Package {
    library: BTreeSet<String>,
    all: BTreeSet<String>,
}

/// The packages of the workspace, by name.
pub fn packages(root: &Path) -> Result<BTreeMap<String, Package>, String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo did not start: {error}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo metadata: {}", why.trim()));
    }
    serde_json::from_slice(&output.stdout)
        .map(|metadata| listed(&metadata))
        .map_err(|error| format!("cargo metadata: {error}"))
}

fn listed(metadata: &Value) -> BTreeMap<String, Package> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let package = |value: Value| {
        let named = |only_library: bool| {
            list(&value["dependencies"])
                .iter()
                .filter(|dependency| !only_library || dependency["kind"] != "dev")
                .map(|dependency| text(&dependency["name"]))
                .collect()
        };
        let package = Package {
            library: named(true),
            all: named(false),
        };
        (text(&value["name"]), package)
    };
    list(&metadata["packages"])
        .into_iter()
        .map(package)
        .collect()
}

/// Dependencies that a crate must not have.
pub fn breaches(packages: &BTreeMap<String, Package>) -> Vec<String> {
    let mut breaches = Vec::new();
    for (name, package) in packages {
        let reached = reached(packages, package);
        let mut refuse = |words: &[&str], why: &str| {
            let refused = |dependency: &&String| words.iter().any(|word| is(word, dependency));
            breaches.extend(reached.iter().filter(refused).map(|dependency| {
                format!("crates/{name}/Cargo.toml:1: reaches {dependency}: {why}")
            }));
        };
        for (_, words, why) in ABSENCES.iter().filter(|(of, ..)| of == name) {
            refuse(words, why);
        }
        if !PROGRAMS.contains(&name.as_str()) {
            refuse(
                OF_THE_PROGRAM,
                "flags, bars and errors without a type are the program's",
            );
        }
    }
    breaches
}

/// Dependencies of a package and of those of this workspace that its library is made of.
fn reached(packages: &BTreeMap<String, Package>, package: &Package) -> BTreeSet<String> {
    let mut reached = package.all.clone();
    let mut waiting: Vec<&String> = package.library.iter().collect();
    while let Some(name) = waiting.pop() {
        for next in packages
            .get(name)
            .iter()
            .flat_map(|package| &package.library)
        {
            if reached.insert(next.clone()) {
                waiting.push(next);
            }
        }
    }
    reached
}

fn is(word: &str, name: &str) -> bool {
    word.strip_suffix('*')
        .map_or(word == name, |start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(packages: &[(&str, &[&str], &[&str])]) -> BTreeMap<String, Package> {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let package = |&(name, library, tests): &(&str, &[&str], &[&str])| {
            let package = Package {
                library: set(library),
                all: set(&[library, tests].concat()),
            };
            (name.to_owned(), package)
        };
        packages.iter().map(package).collect()
    }

    /// Null control: what a crate must not know is found, in its tests and behind another crate.
    #[test]
    fn what_a_crate_must_not_know_is_found() {
        for packages in [
            &[("bam-kernel", &["burn-tensor"][..], &[][..])][..],
            &[("bam-prior", &[], &["ndarray"])],
            &[("bam-eval", &["clap"], &[])],
            &[
                ("bam-report", &["bam-record"], &[]),
                ("bam-record", &["bam-lm"], &[]),
            ],
        ] {
            let breaches = breaches(&workspace(packages));
            assert!(!breaches.is_empty(), "{packages:?}");
            assert!(
                breaches[0].contains("/Cargo.toml:1: reaches "),
                "{breaches:?}"
            );
        }
    }

    #[test]
    fn what_it_may_know_passes() {
        let packages = workspace(&[
            ("bam-attention", &["burn", "bam-kernel"], &["proptest"]),
            ("bam-kernel", &["bam-prior", "rayon"], &["proptest"]),
            ("bam-report", &["bam-record"], &[]),
            ("bam-record", &[], &["bam-cli"]),
            ("bam-cli", &["clap", "anyhow", "bam-report"], &[]),
        ]);
        assert_eq!(breaches(&packages), Vec::<String>::new());
    }

    #[test]
    fn manifests_are_read_by_kind() {
        let packages = listed(
            &serde_json::json!({"packages": [{"name": "a", "dependencies": [
            {"name": "b", "kind": null}, {"name": "c", "kind": "dev"}, {"name": "d", "kind": "build"}]}]}),
        );
        assert_eq!(packages["a"].library, ["b", "d"].map(String::from).into());
        assert_eq!(packages["a"].all.len(), 3);
    }
}
