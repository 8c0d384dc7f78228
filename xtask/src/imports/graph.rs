//! Imports between the files of a crate, and the circles in them.

use super::mention::{Mention, Mentions};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The files of a crate by name, and for each the files it imports with the first line that says so.
#[derive(Debug, Default)]
pub struct Graph {
    pub modules: Vec<Module>,
    pub imports: Vec<BTreeMap<usize, usize>>,
}

/// A file that is a module: `["model", "config"]` for `src/model/config.rs`, none for the root.
#[derive(Debug)]
pub struct Module {
    pub file: String,
    pub path: Vec<String>,
    mentions: Mentions,
}

/// Re-exports of re-exports are followed this far.
const DEEPEST: usize = 16;

impl Graph {
    /// The graph of `(file, text)`; files are named from the crate's `src/` on.
    pub fn new<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut modules: Vec<Module> = files
            .into_iter()
            .map(|(file, text)| Module {
                file: file.into(),
                path: module_path(file),
                mentions: Mentions::of(text),
            })
            .collect();
        let of_tests: BTreeSet<Vec<String>> = modules
            .iter()
            .flat_map(|module| {
                let below = |name: &String| [module.path.clone(), vec![name.clone()]].concat();
                module.mentions.tests.iter().map(below)
            })
            .collect();
        modules.retain(|module| !of_tests.iter().any(|test| module.path.starts_with(test)));
        let mut graph = Self {
            imports: vec![BTreeMap::new(); modules.len()],
            modules,
        };
        for from in 0..graph.modules.len() {
            graph.imports[from] = graph.imports_of(from);
        }
        graph
    }

    fn imports_of(&self, from: usize) -> BTreeMap<usize, usize> {
        let module = &self.modules[from];
        let mut found = BTreeMap::new();
        for mention in &module.mentions.paths {
            let Some(to) = self.target(from, &mention.segments, DEEPEST) else {
                continue;
            };
            let passed_on = mention.import.as_ref().is_some_and(|import| import.public)
                && self.modules[to].path.starts_with(&module.path);
            if to != from && !passed_on {
                let line = found.entry(to).or_insert(mention.line);
                *line = mention.line.min(*line);
            }
        }
        found
    }

    fn module(&self, path: &[String]) -> Option<usize> {
        self.modules.iter().position(|module| module.path == path)
    }

    fn import_of(&self, module: usize, name: &str) -> Option<&Mention> {
        let mut paths = self.modules[module].mentions.paths.iter();
        paths.find(|mention| {
            let import = mention.import.as_ref();
            import.is_some_and(|import| import.name == name) && mention.segments != [name]
        })
    }

    /// The file in which a path, said in a module, ends; none for other crates and local names.
    fn target(&self, from: usize, segments: &[String], deep: usize) -> Option<usize> {
        let deep = deep.checked_sub(1)?;
        let mut at = self.modules[from].path.clone();
        let (first, mut rest) = segments.split_first()?;
        match first.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                at.pop()?;
            }
            _ => {
                let below = [at.clone(), vec![first.clone()]].concat();
                if self.module(&below).is_none() {
                    let import = self.import_of(from, first)?;
                    let whole = [&import.segments[..], rest].concat();
                    return self.target(from, &whole, deep);
                }
                at = below;
            }
        }
        while let Some((name, after)) = rest.split_first() {
            if name == "super" {
                at.pop()?;
                rest = after;
                continue;
            }
            let below = [at.clone(), vec![name.clone()]].concat();
            if self.module(&below).is_some() {
                (at, rest) = (below, after);
                continue;
            }
            let here = self.module(&at)?;
            if self.modules[here].mentions.defined.contains(name) {
                return Some(here);
            }
            if let Some(import) = self.import_of(here, name) {
                let whole = [&import.segments[..], after].concat();
                return self.target(here, &whole, deep).or(Some(here));
            }
            return Some(self.by_glob(here, name, deep).unwrap_or(here));
        }
        self.module(&at)
    }

    fn by_glob(&self, module: usize, name: &str, deep: usize) -> Option<usize> {
        let paths = self.modules[module].mentions.paths.iter();
        paths
            .filter(|mention| {
                mention
                    .import
                    .as_ref()
                    .is_some_and(|import| import.name == "*")
            })
            .filter_map(|mention| self.target(module, &mention.segments, deep))
            .find(|&target| self.modules[target].mentions.defined.contains(name))
    }

    /// For every set of files that reach each other, a shortest way round it.
    pub fn circles(&self) -> Vec<Vec<usize>> {
        let mut in_one = vec![false; self.modules.len()];
        let mut circles = Vec::new();
        for start in 0..self.modules.len() {
            if in_one[start] {
                continue;
            }
            if let Some(circle) = self.way(start, start) {
                for (other, known) in in_one.iter_mut().enumerate() {
                    *known |= self.way(start, other).is_some() && self.way(other, start).is_some();
                }
                circles.push(circle);
            }
        }
        circles
    }

    /// A shortest way along imports, both ends named.
    fn way(&self, from: usize, to: usize) -> Option<Vec<usize>> {
        let mut before = BTreeMap::new();
        let mut waiting = VecDeque::from([from]);
        while let Some(at) = waiting.pop_front() {
            for &next in self.imports[at].keys() {
                if before.contains_key(&next) {
                    continue;
                }
                before.insert(next, at);
                if next == to {
                    let mut way = vec![to];
                    while way.len() == 1 || way.last() != Some(&from) {
                        way.push(before[way.last()?]);
                    }
                    way.reverse();
                    return Some(way);
                }
                waiting.push_back(next);
            }
        }
        None
    }

    /// Imports that no longer way implies.
    pub fn essential(&self, from: usize) -> Vec<usize> {
        let direct = || self.imports[from].keys().copied();
        direct()
            .filter(|&to| !direct().any(|by| by != to && self.way(by, to).is_some()))
            .collect()
    }
}

fn module_path(file: &str) -> Vec<String> {
    let mut path: Vec<String> = file
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if path.len() == 1 && ["lib", "main"].contains(&path[0].as_str()) {
        path.clear();
    }
    path.pop_if(|last| last == "mod");
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let graph = Graph::new(files.iter().copied());
        let name = |at: usize| graph.modules[at].file.clone();
        let circles = graph.circles();
        let named = circles
            .into_iter()
            .map(|circle| circle.into_iter().map(name).collect());
        named.collect()
    }

    #[test]
    fn what_only_passes_on_makes_no_circle() {
        for files in [
            &[
                ("lib.rs", "mod a;\nmod b;\npub use a::A;\npub use b::B;"),
                ("a.rs", "use crate::B;\npub struct A(B);"),
                ("b.rs", "pub struct B;"),
            ][..],
            &[
                ("lib.rs", "mod a;\nfn f() { a::f() }"),
                (
                    "a.rs",
                    "#[cfg(test)]\nmod tests { use crate::f; }\npub fn f() {}",
                ),
            ],
            &[
                ("main.rs", "mod a;\nfn main() { a::f() }"),
                (
                    "a.rs",
                    "mod b;\nmod c;\npub use b::*;\npub fn f() { c::g() }",
                ),
                ("a/b.rs", "pub struct B;"),
                ("a/c.rs", "use super::B;\npub fn g() -> B { B }"),
            ],
            &[
                (
                    "lib.rs",
                    "mod a;\nfn f() { a::f() }\n#[cfg(test)]\nmod cases;",
                ),
                ("cases.rs", "use crate::f;"),
                ("a.rs", "// crate::f() is not called.\npub fn f() {}"),
            ],
        ] {
            assert_eq!(circles(files), Vec::<Vec<String>>::new(), "{files:?}");
        }
    }

    /// Null control: circles of two, of three, through an alias, a re-export and a glob.
    #[test]
    fn circles_are_found() {
        for files in [
            &[
                ("a.rs", "use crate::b::B;\npub struct A(B);"),
                ("b.rs", "pub struct B(Box<crate::a::A>);"),
            ][..],
            &[
                ("a.rs", "use crate::b;\npub fn f() { b::g() }"),
                ("b.rs", "use super::c as other;\npub fn g() { other::h() }"),
                ("c.rs", "pub fn h() { crate::a::f() }"),
            ],
            &[
                ("a.rs", "mod b;\npub struct A;\nfn f() { b::f() }"),
                ("a/b.rs", "use super::A;\npub fn f() -> A { A }"),
            ],
            &[
                ("lib.rs", "mod a;\nmod b;\npub use a::f;\npub use b::*;"),
                ("a.rs", "pub fn f() { crate::g() }"),
                ("b.rs", "pub fn g() { crate::f() }"),
            ],
        ] {
            let found = circles(files);
            assert_eq!(found.len(), 1, "{files:?}: {found:?}");
            assert_eq!(found[0].first(), found[0].last(), "{found:?}");
        }
    }

    #[test]
    fn an_import_that_others_imply_is_not_drawn() {
        let files = [
            ("a.rs", "use crate::{b::B, c::C};"),
            ("b.rs", "use crate::c::C;\npub struct B(C);"),
            ("c.rs", "pub struct C;"),
        ];
        let graph = Graph::new(files);
        assert_eq!(graph.imports[0].keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(graph.essential(0), [1]);
    }
}
