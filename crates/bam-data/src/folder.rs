use std::path::{Path, PathBuf};

use super::DataError;

/// The kind of a file, known from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// One document, the whole file.
    Text,
    /// One document a line.
    JsonLines(Compression),
    /// One document a row.
    Parquet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstandard,
}

impl FileKind {
    /// By extension, whatever its case. `None` where it is not one we read.
    pub(super) fn of(name: &str) -> Option<Self> {
        const KINDS: [(&str, FileKind); 6] = [
            (".txt", FileKind::Text),
            (".md", FileKind::Text),
            (".jsonl", FileKind::JsonLines(Compression::None)),
            (".jsonl.gz", FileKind::JsonLines(Compression::Gzip)),
            (".jsonl.zst", FileKind::JsonLines(Compression::Zstandard)),
            (".parquet", FileKind::Parquet),
        ];
        let name = name.to_ascii_lowercase();
        KINDS
            .into_iter()
            .find(|(extension, _)| name.ends_with(extension))
            .map(|(_, kind)| kind)
    }
}

/// Files that speak about a folder rather than belong to its text: dot files, READMEs, licences.
pub(super) fn describes_its_folder(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default();
    stem.is_empty()
        || ["readme", "license", "licence"].contains(&stem.to_ascii_lowercase().as_str())
}

/// Every file of a corpus below `path`, sorted; just `path` where it is a file.
pub(super) fn files(path: &Path) -> Result<Vec<(PathBuf, FileKind)>, DataError> {
    let metadata = std::fs::metadata(path).map_err(DataError::io("open", path))?;
    if !metadata.is_dir() {
        return Ok(vec![(path.to_path_buf(), kind(path)?)]);
    }
    let mut found = Vec::new();
    walk(path, 0, &mut found)?;
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

fn walk(
    folder: &Path,
    depth: usize,
    found: &mut Vec<(PathBuf, FileKind)>,
) -> Result<(), DataError> {
    const LIMIT: usize = 32;
    if depth > LIMIT {
        return Err(DataError::FolderDepth {
            path: folder.to_path_buf(),
            limit: LIMIT,
        });
    }
    let entries = std::fs::read_dir(folder).map_err(DataError::io("list", folder))?;
    for entry in entries {
        let path = entry.map_err(DataError::io("list", folder))?.path();
        if describes_its_folder(&name(&path)) {
            continue;
        }
        // Follows links: the hub's own cache is made of them.
        let metadata = std::fs::metadata(&path).map_err(DataError::io("open", &path))?;
        if metadata.is_dir() {
            walk(&path, depth + 1, found)?;
        } else {
            let kind = kind(&path)?;
            found.push((path, kind));
        }
    }
    Ok(())
}

fn kind(path: &Path) -> Result<FileKind, DataError> {
    FileKind::of(&name(path)).ok_or_else(|| DataError::UnknownExtension {
        path: path.to_path_buf(),
    })
}

fn name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}
