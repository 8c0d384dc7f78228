//! `cargo xtask imports`: which file of a crate imports which, drawn; and the circles in it.

mod graph;
mod mention;

use crate::git;
use graph::Graph;
use mention::Mentions;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

const PICTURE: &str = "docs/imports.md";

const ABOVE: &str = "\
# Imports between files

Drawn by `cargo xtask imports` from the sources; `cargo xtask house` fails where it is not today's, and where an import goes round in
a circle. An arrow goes from a file to one that it imports from its own crate. Imports that a longer way implies are left out, and so
are tests and what a parent only passes on from its children.
";

/// Draws the picture anew.
pub fn run(root: &Path) -> Result<(), String> {
    let crates = crates(root)?;
    std::fs::write(root.join(PICTURE), picture(&crates))
        .map_err(|error| format!("{PICTURE}: {error}"))?;
    for (name, graph) in &crates {
        let imports: usize = graph.imports.iter().map(BTreeMap::len).sum();
        println!("{name}: {} files, {imports} imports", graph.modules.len());
    }
    println!("drawn in {PICTURE}");
    Ok(())
}

/// Circles, and a picture that is not of these sources.
pub fn breaches(root: &Path) -> Result<Vec<String>, String> {
    let crates = crates(root)?;
    let mut breaches: Vec<String> = crates
        .iter()
        .flat_map(|(name, graph)| {
            let circles = graph.circles().into_iter();
            circles.map(move |circle| described(name, graph, &circle))
        })
        .collect();
    let drawn = std::fs::read_to_string(root.join(PICTURE)).unwrap_or_default();
    if drawn != picture(&crates) {
        breaches.push(format!(
            "{PICTURE}:1: not of today's sources: cargo xtask imports"
        ));
    }
    Ok(breaches)
}

/// The paths that a file's code mentions, tests left out: `(line, path)`.
pub fn paths(text: &str) -> Vec<(usize, String)> {
    let mentions = Mentions::of(text).paths.into_iter();
    mentions
        .map(|mention| (mention.line, mention.segments.join("::")))
        .collect()
}

/// The graph of each package, by the folder of its sources.
fn crates(root: &Path) -> Result<BTreeMap<String, Graph>, String> {
    let mut sources: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for name in git::files(root)? {
        let Some((package, file)) = name.split_once("/src/") else {
            continue;
        };
        let path = root.join(&name);
        if file.ends_with(".rs") && path.is_file() {
            let text =
                std::fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
            let files = sources.entry(package.into()).or_default();
            files.push((file.into(), text));
        }
    }
    let graph = |files: Vec<(String, String)>| {
        Graph::new(
            files
                .iter()
                .map(|(name, text)| (name.as_str(), text.as_str())),
        )
    };
    Ok(sources
        .into_iter()
        .map(|(package, files)| (package, graph(files)))
        .collect())
}

fn described(package: &str, graph: &Graph, circle: &[usize]) -> String {
    let mut text = String::new();
    for step in circle.windows(2) {
        let (from, to) = (step[0], step[1]);
        let line = graph.imports[from][&to];
        let place = if text.is_empty() {
            format!(
                "{package}/src/{}:{line}: imports in a circle:",
                graph.modules[from].file
            )
        } else {
            format!(", {}:{line}", graph.modules[from].file)
        };
        let _ = write!(text, "{place} → {}", graph.modules[to].file);
    }
    text
}

fn picture(crates: &BTreeMap<String, Graph>) -> String {
    let mut text = ABOVE.to_owned();
    for (package, graph) in crates {
        let arrows: Vec<(usize, usize)> = (0..graph.modules.len())
            .flat_map(|from| graph.essential(from).into_iter().map(move |to| (from, to)))
            .collect();
        if arrows.is_empty() {
            continue;
        }
        let label = |at: usize| match graph.modules[at].path.join("::") {
            root if root.is_empty() => "crate".to_owned(),
            path => path,
        };
        let _ = write!(text, "\n## {package}\n\n```mermaid\nflowchart LR\n");
        for (from, to) in arrows {
            let _ = writeln!(text, "  {from}[{}] --> {to}[{}]", label(from), label(to));
        }
        text += "```\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        Graph::new([
            ("lib.rs", "mod a;\nmod b;"),
            ("a.rs", "\nuse crate::b::f;"),
            ("b.rs", "use crate::a;\npub fn f() { a::g() }"),
        ])
    }

    #[test]
    fn a_circle_is_described_with_its_lines() {
        let graph = graph();
        let circles = graph.circles();
        let text = described("crates/x", &graph, &circles[0]);
        assert_eq!(
            text,
            "crates/x/src/a.rs:2: imports in a circle: → b.rs, b.rs:1 → a.rs"
        );
    }

    #[test]
    fn crates_with_imports_are_drawn() {
        let text = picture(&BTreeMap::from([
            ("crates/x".into(), graph()),
            ("crates/y".into(), Graph::default()),
        ]));
        assert!(text.contains("## crates/x\n"), "{text}");
        assert!(!text.contains("crates/y"), "{text}");
    }
}
