//! Files and folders that are whole or absent.
//!
//! They are made under a temporary name beside their own, `.NAME.PROCESS.tmp`, flushed to disk and renamed.
//! An unfinished one goes again when it is dropped. A killed process leaves its temporary names, which
//! [`name_of`] knows and [`sweep`] removes.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Something that the system refused to do with a file or folder.
#[derive(Debug, thiserror::Error)]
#[error("{}: could not {action}: {source}", path.display())]
pub struct FileError {
    /// The file or folder.
    pub path: PathBuf,
    /// The verb and its object: `read it`.
    pub action: &'static str,
    /// The system's reason.
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: names the file and what was being done to it.
    pub fn new(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self {
            path,
            action,
            source,
        }
    }
}

/// A file that has its name once it is finished; another one of that name stays until then.
#[derive(Debug)]
pub struct NewFile {
    writer: BufWriter<File>,
    temporary: Temporary,
}

impl NewFile {
    /// Begins a file in a folder that exists.
    ///
    /// # Errors
    /// If it can't be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        let temporary = Temporary::beside(path)?;
        let file = File::create(&temporary.path)?;
        Ok(Self {
            writer: BufWriter::with_capacity(1 << 16, file),
            temporary,
        })
    }

    /// Flushes it to disk and gives it its name.
    ///
    /// # Errors
    /// If that can't be done; nothing is left behind then.
    pub fn finish(mut self) -> io::Result<()> {
        self.writer.flush()?;
        self.writer.get_ref().sync_all()?;
        self.temporary.rename()
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A folder that has its name once it is finished.
#[derive(Debug)]
pub struct NewFolder {
    temporary: Temporary,
}

impl NewFolder {
    /// Begins a folder, and those above it.
    ///
    /// # Errors
    /// If it can't be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        let temporary = Temporary::beside(path)?;
        // A killed process may have had the same number.
        if_there(fs::remove_dir_all(&temporary.path))?;
        fs::create_dir_all(&temporary.path)?;
        Ok(Self { temporary })
    }

    /// Its path until it is finished.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.temporary.path
    }

    /// Gives it its name. Files that are to survive a loss of power were flushed by whoever wrote them.
    ///
    /// # Errors
    /// If there is another one that is not empty; nothing is left behind then.
    pub fn finish(mut self) -> io::Result<()> {
        flush_names(&self.temporary.path);
        self.temporary.rename()
    }
}

/// Writes a file, whole or not at all.
///
/// # Errors
/// If the file can't be written; nothing is left behind then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write(path, bytes).map_err(FileError::new(path, "write it"))
}

/// The same, with the system's error.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = NewFile::create(path)?;
    file.write_all(bytes)?;
    file.finish()
}

/// The final name of a temporary name's file or folder; `None` for other names.
#[must_use]
pub fn name_of(temporary: &str) -> Option<&str> {
    let (name, process) = temporary
        .strip_prefix('.')?
        .strip_suffix(".tmp")?
        .rsplit_once('.')?;
    let number = !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit());
    (number && !name.is_empty()).then_some(name)
}

/// Removes what killed processes left in a folder, of what was to have one of `these` names.
///
/// # Errors
/// If the folder can't be listed, or something can't be removed.
pub fn sweep(dir: &Path, these: impl Fn(&str) -> bool) -> Result<(), FileError> {
    for entry in fs::read_dir(dir).map_err(FileError::new(dir, "list it"))? {
        let path = entry.map_err(FileError::new(dir, "list it"))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name_of(&name).is_some_and(&these) {
            remove(&path).map_err(FileError::new(&path, "remove it"))?;
        }
    }
    Ok(())
}

/// A path that is not there is no error.
pub fn if_there(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// A name beside the one that is meant.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    meant: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn beside(meant: &Path) -> io::Result<Self> {
        let nameless = || io::Error::new(io::ErrorKind::InvalidInput, "the path ends in no name");
        let mut name = OsString::from(".");
        name.push(meant.file_name().ok_or_else(nameless)?);
        name.push(format!(".{}.tmp", std::process::id()));
        Ok(Self {
            path: meant.with_file_name(name),
            meant: meant.to_owned(),
            renamed: false,
        })
    }

    fn rename(&mut self) -> io::Result<()> {
        fs::rename(&self.path, &self.meant)?;
        self.renamed = true;
        flush_names(self.meant.parent().unwrap_or(Path::new("")));
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = remove(&self.path);
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata()?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

/// Makes new names in a folder survive a loss of power, where the system can.
fn flush_names(dir: &Path) {
    let dir = match dir.as_os_str().is_empty() {
        true => Path::new("."),
        false => dir,
    };
    // Windows opens no folders, and some file systems flush none: names are whole there all the same.
    let _ = File::open(dir).and_then(|dir| dir.sync_all());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_the_old_one_until_it_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        let read = || fs::read_to_string(&path).unwrap();
        write_atomically(&path, b"old").unwrap();
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        file.flush().unwrap();
        assert_eq!(read(), "old");
        let there = names(dir.path());
        assert_eq!(there.len(), 2, "{there:?}");
        assert_eq!(name_of(&there[0]), Some("a.txt"));
        drop(file);
        assert_eq!(
            (names(dir.path()), read()),
            (vec!["a.txt".into()], "old".into())
        );
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        file.finish().unwrap();
        assert_eq!(
            (names(dir.path()), read()),
            (vec!["a.txt".into()], "new".into())
        );
        // What can't have its name leaves nothing; a path without one is none.
        fs::create_dir(dir.path().join("b")).unwrap();
        assert!(write_atomically(&dir.path().join("b"), b"x").is_err());
        assert_eq!(names(dir.path()), ["a.txt", "b"]);
        assert!(write_atomically(&dir.path().join(".."), b"x").is_err());
    }

    #[test]
    fn a_folder_is_not_there_until_it_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        let begun = || {
            let new = NewFolder::create(&path).unwrap();
            fs::write(new.path().join("file"), "x").unwrap();
            new
        };
        let new = begun();
        assert!(!path.exists());
        drop(new);
        assert_eq!(names(dir.path()), Vec::<String>::new());
        // What a killed process of the same number left is no part of it.
        let killed = begun();
        fs::write(killed.path().join("stale"), "x").unwrap();
        std::mem::forget(killed);
        begun().finish().unwrap();
        assert_eq!(names(&path), ["file"]);
        assert!(
            begun().finish().is_err(),
            "one that is there is not replaced"
        );
        assert_eq!(names(dir.path()), ["model"]);
    }

    #[test]
    fn what_killed_processes_left_is_known_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let others = [".a.12.tmp", ".a.tmp", "a.12.tmp", ".b.x.tmp", "b"];
        for name in others {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        std::mem::forget(NewFile::create(&dir.path().join("b.json")).unwrap());
        std::mem::forget(NewFolder::create(&dir.path().join("b-1")).unwrap());
        assert_eq!(names(dir.path()).len(), 7);
        sweep(dir.path(), |name| name.starts_with('b')).unwrap();
        assert_eq!(
            names(dir.path()),
            [".a.12.tmp", ".a.tmp", ".b.x.tmp", "a.12.tmp", "b"]
        );
    }
}
