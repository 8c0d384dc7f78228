//! Files that are written while an evaluation runs, and are there only when all of it is done.

use anyhow::Context;
use bam_data::atomic_file::NewFile;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Files under other names, until [`Outbox::deliver`].
#[derive(Debug, Default)]
pub struct Outbox {
    files: BTreeMap<PathBuf, NewFile>,
    /// Folders that were not there before, the innermost first.
    made: Vec<PathBuf>,
}

impl Outbox {
    /// Makes the folders that files will go to, so that what is wrong with them is known before any work.
    pub fn open<'a>(folders: impl Iterator<Item = &'a Path>) -> anyhow::Result<Self> {
        let mut outbox = Self::default();
        for folder in folders {
            let new = folder.ancestors().take_while(|above| !above.exists());
            outbox.made.extend(new.map(Path::to_owned));
            fs::create_dir_all(folder)
                .with_context(|| format!("{}: could not make the folder", folder.display()))?;
        }
        Ok(outbox)
    }

    /// Whether something was written for this file.
    pub fn has(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// Adds lines to a file, or a whole text.
    pub fn add<T: AsRef<str>>(&mut self, path: PathBuf, lines: &[T]) -> anyhow::Result<()> {
        let name = path.display().to_string();
        let failed = || format!("{name}: could not write it");
        let file = match self.files.entry(path) {
            Entry::Occupied(file) => file.into_mut(),
            Entry::Vacant(place) => {
                let file = begin(place.key()).with_context(failed)?;
                place.insert(file)
            }
        };
        for line in lines {
            let line = line.as_ref().trim_end_matches('\n');
            writeln!(file, "{line}").with_context(failed)?;
        }
        Ok(())
    }

    /// Gives all files their names.
    pub fn deliver(mut self) -> anyhow::Result<()> {
        while let Some((path, file)) = self.files.pop_first() {
            file.finish()
                .inspect_err(|_| remove_empty_above(&path))
                .with_context(|| format!("{}: could not write it", path.display()))?;
        }
        Ok(())
    }
}

fn begin(path: &Path) -> std::io::Result<NewFile> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    NewFile::create(path)
}

fn remove_empty_above(path: &Path) {
    // The first that is not empty stays, and so do those above it.
    let _ = path.ancestors().skip(1).try_for_each(fs::remove_dir);
}

impl Drop for Outbox {
    /// What was not delivered goes, and folders that are empty then.
    fn drop(&mut self) {
        while let Some((path, file)) = self.files.pop_first() {
            drop(file);
            remove_empty_above(&path);
        }
        for folder in &self.made {
            // Refused where something is in it.
            let _ = fs::remove_dir(folder);
        }
    }
}
