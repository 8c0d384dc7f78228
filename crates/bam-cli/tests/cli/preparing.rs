//! `bam prepare` that is killed: no file of its folder is half-written, and beginning again comes to the same bits.

use crate::program::{FAILED, Running, args, fail, succeed, tree};
use crate::workshop::{self, Workshop};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

const KILLS: usize = 20;

/// A folder of so many files, which take a while.
pub fn large_corpus(shop: &Workshop, files: usize) -> PathBuf {
    let corpus = shop.path("large");
    std::fs::create_dir(&corpus).unwrap();
    for file in 0..files {
        let text = workshop::text(file).repeat(8);
        std::fs::write(corpus.join(format!("{file:03}.txt")), text).unwrap();
    }
    corpus
}

/// Names of a folder's files: those that are temporary, and the others.
fn names(dir: &Path) -> (BTreeSet<OsString>, BTreeSet<OsString>) {
    // It may come and go meanwhile.
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    names.partition(|name| name.to_string_lossy().ends_with(".tmp"))
}

fn temporary(dir: &Path) -> BTreeSet<OsString> {
    names(dir).0
}

/// Files of a folder, by name; of those of a temporary name how many.
fn files(dir: &Path) -> (BTreeMap<OsString, Vec<u8>>, usize) {
    let (temporary, named) = names(dir);
    let read = |name: OsString| {
        let bytes = std::fs::read(dir.join(&name)).unwrap();
        (name, bytes)
    };
    (named.into_iter().map(read).collect(), temporary.len())
}

/// Kills twenty times, each in what the one before it left: at moments of a whole run's time, and every other time as soon as it has
/// begun its files, which is in the midst however busy the machine is. `begin` starts a run of these words and says how to kill it.
pub fn killed<K: Fn(&mut Running)>(
    shop: &Workshop,
    corpus: &Path,
    begin: impl Fn(usize, &[OsString]) -> (Running, K),
) {
    let words = |out: &str| {
        let (tokenizer, out) = (shop.path("tokenizer.json"), shop.path(out));
        args!["prepare {} --tokenizer {} --out {}", corpus, tokenizer, out]
    };
    let again = [&words("killed")[..], &args!["--replace"]].concat();
    succeed(&words("whole"));
    let (whole, _) = files(&shop.path("whole"));
    let before = tree(shop.dir());
    let took = Instant::now();
    let (running, _) = begin(1, &again);
    assert_eq!(running.listen().0, Some(0));
    let took = took.elapsed();
    let out = shop.path("killed");
    let mut in_the_midst = 0;
    for kill in 0..KILLS {
        let left = temporary(&out);
        let (mut running, lose) = begin(kill, &again);
        match kill % 2 {
            0 => std::thread::sleep(took * kill as u32 / KILLS as u32),
            _ => drop(running.comes_to(|| !temporary(&out).is_subset(&left))),
        }
        lose(&mut running);
        let (code, said) = running.listen();
        let (named, temporary) = files(&out);
        for (name, bytes) in &named {
            assert!(whole[name] == *bytes, "{kill}: {name:?} is half-written");
        }
        match named.keys().any(|name| name == "index.json") {
            true => assert!(named == whole, "{kill}: an index without its files"),
            false => assert_ne!(code, Some(0), "{kill}: {said}"),
        }
        in_the_midst += usize::from(temporary > 0);
        if kill % 5 == 4 {
            if temporary > 0 {
                // What is no store is not taken for one, nor written over unasked.
                assert!(fail(FAILED, &words("killed")).contains("--replace"));
            }
            succeed(&again);
            assert_eq!(files(&out), (whole.clone(), 0), "{kill}");
            let mut left = tree(shop.dir());
            left.retain(|path| !path.starts_with(&out));
            assert_eq!(left, before, "{kill}: something is left");
        }
    }
    // Null control: kills came while it was at work.
    assert!(in_the_midst > 3, "{in_the_midst}");
}

#[test]
fn killed_preparations_begin_again_to_the_same_bits() {
    let shop = Workshop::new();
    let corpus = large_corpus(&shop, 200);
    killed(&shop, &corpus, |_, words| {
        (Running::start(words.to_vec()), Running::send_kill)
    });
}
