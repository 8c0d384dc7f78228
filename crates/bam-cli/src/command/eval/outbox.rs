//! Files that are written while an evaluation runs, and are there only when all of it is done.

use anyhow::Context;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Files under other names, until [`Outbox::deliver`].
#[derive(Debug, Default)]
pub struct Outbox {
    files: BTreeMap<PathBuf, Partial>,
    /// Folders that were not there before, the innermost first.
    made: Vec<PathBuf>,
}

#[derive(Debug)]
struct Partial {
    temporary: PathBuf,
    writer: BufWriter<File>,
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
        let failed = || format!("{}: could not write it", path.display());
        if !self.files.contains_key(&path) {
            let partial = Partial::beside(&path).with_context(failed)?;
            self.files.insert(path.clone(), partial);
        }
        if let Some(partial) = self.files.get_mut(&path) {
            for line in lines {
                let line = line.as_ref().trim_end_matches('\n');
                writeln!(partial.writer, "{line}").with_context(failed)?;
            }
        }
        Ok(())
    }

    /// Gives all files their names.
    pub fn deliver(mut self) -> anyhow::Result<()> {
        for (path, partial) in &mut self.files {
            let writer = &mut partial.writer;
            writer
                .flush()
                .and_then(|()| writer.get_ref().sync_all())
                .and_then(|()| fs::rename(&partial.temporary, path))
                .with_context(|| format!("{}: could not write it", path.display()))?;
        }
        Ok(())
    }
}

impl Partial {
    fn beside(path: &Path) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let writer = BufWriter::new(File::create(&temporary)?);
        Ok(Self { temporary, writer })
    }
}

impl Drop for Outbox {
    /// What was not delivered goes, and folders that are empty then.
    fn drop(&mut self) {
        for (path, partial) in &self.files {
            if fs::remove_file(&partial.temporary).is_ok() {
                let above = path.ancestors().skip(1);
                // The first that is not empty stays, and so do those above it.
                let _ = above.into_iter().try_for_each(fs::remove_dir);
            }
        }
        for folder in &self.made {
            // Refused where something is in it.
            let _ = fs::remove_dir(folder);
        }
    }
}
