use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{
    DataError, Document, HubAccess, HubAddress, HubProgress,
    folder::{self, FileKind},
    hub::HubFiles,
    json_lines::JsonLines,
    parquet_rows::ParquetRows,
};

/// A source of text.
///
/// Parsed from what a user types: an address that begins with `hf://` is a dataset of the Hugging Face
/// hub, anything else a local file or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Local(PathBuf),
    Hub(HubAddress),
}

impl FromStr for Source {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        if text.starts_with("hf:") {
            Ok(Self::Hub(text.parse()?))
        } else {
            Ok(Self::Local(PathBuf::from(text)))
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Local(path) => write!(formatter, "{}", path.display()),
            Self::Hub(address) => write!(formatter, "{address}"),
        }
    }
}

/// The text to read: a [`Source`] and how to read it.
///
/// - `.txt`, `.md`: one document a file.
/// - `.jsonl`, `.jsonl.gz`, `.jsonl.zst`: one document a line, the string in field `text`; other fields
///   are ignored, blank lines skipped. Zstandard windows may be up to 128 MiB.
/// - `.parquet`: one document a row, the string in column `text`.
/// - A line or row whose text is null (Python writes `NaN` too) is no document; [`Documents::without_text`]
///   counts them.
/// - A folder: all of these below it, sorted by path, links followed. Dot files, READMEs and licences
///   are left out; any other file is an error rather than a silent gap.
///
/// A byte order mark at the beginning of a text file or of a line of JSON is not part of its text.
#[derive(Clone, Debug)]
pub struct Corpus {
    source: Source,
    field: String,
    hub: Option<HubAccess>,
    /// One of so many runs of files.
    run: (usize, usize),
}

impl Corpus {
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self {
            source,
            field: "text".to_owned(),
            hub: None,
            run: (0, 1),
        }
    }

    /// Reads one of `of` runs of a local corpus's files, which hold about as many bytes each and are all of it, in its order, one
    /// after the other. A run may be empty.
    #[must_use]
    pub fn run_of_files(mut self, index: usize, of: usize) -> Self {
        self.run = (index, of);
        self
    }

    /// Takes the text from this field or column instead of `text`.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.field = field.into();
        self
    }

    /// Lets a source on the hub be read.
    #[must_use]
    pub fn with_hub(mut self, access: HubAccess) -> Self {
        self.hub = Some(access);
        self
    }

    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The files of a corpus that is here and their bytes, in their order; none of the hub's.
    ///
    /// # Errors
    /// If they can't be listed.
    pub fn local_files(&self) -> Result<Vec<(PathBuf, u64)>, DataError> {
        let Source::Local(path) = &self.source else {
            return Ok(Vec::new());
        };
        let sized = |(path, _): (PathBuf, FileKind)| {
            let bytes = bytes(&path)?;
            Ok((path, bytes))
        };
        folder::files(path)?.into_iter().map(sized).collect()
    }

    /// All documents in order. Files are opened, and fetched from the hub, as the iteration comes to them.
    ///
    /// The same files give the same documents in the same order. The first error ends the iteration, and
    /// a corpus without any text ends with one.
    ///
    /// # Errors
    ///
    /// If the source does not exist, cannot be listed, or holds no file.
    pub fn documents<'a>(
        &self,
        progress: impl FnMut(HubProgress) + Send + 'a,
    ) -> Result<Documents<'a>, DataError> {
        let files = match (&self.source, &self.hub) {
            (Source::Local(path), _) => {
                Files::Local(run(folder::files(path)?, self.run)?.into_iter())
            }
            (Source::Hub(address), Some(access)) => {
                Files::Hub(HubFiles::list(address, access, Box::new(progress))?)
            }
            (Source::Hub(address), None) => {
                return Err(DataError::HubAccessMissing {
                    dataset: address.dataset().to_owned(),
                });
            }
        };
        Ok(Documents {
            corpus: self.source.to_string(),
            field: self.field.clone(),
            files,
            open: None,
            // Others may hold it.
            any_text: self.run.1 > 1,
            without_text: 0,
            ended: false,
        })
    }
}

/// The documents of a [`Corpus`], one at a time.
pub struct Documents<'a> {
    corpus: String,
    field: String,
    files: Files<'a>,
    open: Option<Rows>,
    any_text: bool,
    without_text: u64,
    ended: bool,
}

/// The rows of one file; those whose text is null are `None`.
type Rows = Box<dyn Iterator<Item = Result<Option<Document>, DataError>> + Send>;

enum Files<'a> {
    Local(std::vec::IntoIter<(PathBuf, FileKind)>),
    Hub(HubFiles<'a>),
}

impl Documents<'_> {
    /// Lines and rows so far whose text was null.
    #[must_use]
    pub fn without_text(&self) -> u64 {
        self.without_text
    }

    fn advance(&mut self) -> Result<Option<Document>, DataError> {
        loop {
            if let Some(open) = &mut self.open {
                match open.next().transpose()? {
                    Some(Some(document)) => return Ok(Some(document)),
                    Some(None) => {
                        self.without_text += 1;
                        continue;
                    }
                    None => self.open = None,
                }
            }
            let file = match &mut self.files {
                Files::Local(files) => files.next(),
                Files::Hub(files) => files.fetch_next()?,
            };
            match file {
                Some((path, kind)) => self.open = Some(open(&path, kind, &self.field)?),
                None => return Ok(None),
            }
        }
    }
}

impl Iterator for Documents<'_> {
    type Item = Result<Document, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.advance() {
            Ok(Some(document)) => {
                self.any_text |= !document.text.is_empty();
                Some(Ok(document))
            }
            Ok(None) => {
                self.ended = true;
                (!self.any_text).then(|| {
                    Err(DataError::EmptyCorpus {
                        corpus: self.corpus.clone(),
                    })
                })
            }
            Err(error) => {
                self.ended = true;
                Some(Err(error))
            }
        }
    }
}

fn bytes(path: &Path) -> Result<u64, DataError> {
    let metadata = std::fs::metadata(path).map_err(DataError::io("open", path))?;
    Ok(metadata.len())
}

/// A file is in the run that its middle byte is in.
fn run(
    files: Vec<(PathBuf, FileKind)>,
    (index, of): (usize, usize),
) -> Result<Vec<(PathBuf, FileKind)>, DataError> {
    if of == 1 {
        return Ok(files);
    }
    let size = |(path, _): &(PathBuf, FileKind)| Ok(u128::from(bytes(path)?));
    let sizes: Vec<u128> = files.iter().map(size).collect::<Result<_, DataError>>()?;
    let all = sizes.iter().sum::<u128>().max(1);
    let mut end = 0;
    let runs = sizes.iter().map(|size| {
        end += size;
        ((2 * end - size) * of as u128 / (2 * all)).min(of as u128 - 1) as usize
    });
    let runs: Vec<usize> = runs.collect();
    let files = files.into_iter().zip(runs);
    Ok(files
        .filter(|(_, run)| *run == index)
        .map(|(file, _)| file)
        .collect())
}

fn open(path: &Path, kind: FileKind, field: &str) -> Result<Rows, DataError> {
    Ok(match kind {
        FileKind::Text => Box::new(std::iter::once(Ok(Some(Document::read(path)?)))),
        FileKind::JsonLines(compression) => Box::new(JsonLines::open(path, compression, field)?),
        FileKind::Parquet => Box::new(ParquetRows::open(path, field)?),
    })
}
