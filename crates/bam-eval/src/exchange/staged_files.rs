//! Files that are written while an evaluation runs, and are there only when all of it is done.

use bam_data::atomic_file::{FileError, NewFile};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Files under other names, until [`StagedFiles::deliver`].
#[derive(Debug, Default)]
pub struct StagedFiles {
    files: BTreeMap<PathBuf, NewFile>,
    /// Folders that were not there before, the innermost first.
    made: Vec<PathBuf>,
}

impl StagedFiles {
    /// Makes the folders that files will go to, so that what is wrong with them is known before any work.
    ///
    /// # Errors
    /// If one can't be made.
    pub fn open<'a>(folders: impl IntoIterator<Item = &'a Path>) -> Result<Self, FileError> {
        let mut staged = Self::default();
        for folder in folders {
            let new = folder.ancestors().take_while(|above| !above.exists());
            staged.made.extend(new.map(Path::to_owned));
            fs::create_dir_all(folder).map_err(FileError::new(folder, "make the folder"))?;
        }
        Ok(staged)
    }

    /// Whether something was written for this file.
    #[must_use]
    pub fn has(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// Adds lines to a file, or a whole text.
    ///
    /// # Errors
    /// If they can't be written.
    pub fn add(
        &mut self,
        path: PathBuf,
        lines: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<(), FileError> {
        let failed = FileError::new(path.clone(), "write it");
        self.write(path, lines).map_err(failed)
    }

    fn write(
        &mut self,
        path: PathBuf,
        lines: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> io::Result<()> {
        let file = match self.files.entry(path) {
            Entry::Occupied(file) => file.into_mut(),
            Entry::Vacant(place) => {
                if let Some(folder) = place.key().parent() {
                    fs::create_dir_all(folder)?;
                }
                let file = NewFile::create(place.key())?;
                place.insert(file)
            }
        };
        for line in lines {
            writeln!(file, "{}", line.as_ref().trim_end_matches('\n'))?;
        }
        Ok(())
    }

    /// Gives all files their names.
    ///
    /// # Errors
    /// If one can't be finished.
    pub fn deliver(mut self) -> Result<(), FileError> {
        while let Some((path, file)) = self.files.pop_first() {
            file.finish()
                .inspect_err(|_| remove_empty_above(&path))
                .map_err(FileError::new(&path, "write it"))?;
        }
        Ok(())
    }
}

fn remove_empty_above(path: &Path) {
    // The first that is not empty stays, and so do those above it.
    let _ = path.ancestors().skip(1).try_for_each(fs::remove_dir);
}

impl Drop for StagedFiles {
    /// Files that were not delivered go, and folders that are empty then.
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
