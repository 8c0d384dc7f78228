use std::{
    fmt,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    time::Duration,
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::{
        Progress, RepoInfo,
        sync::{Api, ApiBuilder, ApiError},
    },
};

use super::{
    DataError, HubAddress,
    folder::{FileKind, describes_its_folder},
    hub_address::is_path,
};

/// The way to the hub, and the folder of what was fetched.
#[derive(Clone)]
pub struct HubAccess {
    /// Laid out like the cache of the Python library, which can share it (usually `~/.cache/huggingface/hub`).
    pub cache: PathBuf,
    /// Usually `https://huggingface.co`, or a mirror of it.
    pub endpoint: String,
    /// For private and gated datasets.
    pub token: Option<String>,
    /// A transfer that brings nothing for this long is given up.
    pub patience: Duration,
}

impl HubAccess {
    /// The public hub, without a token, with a minute's patience.
    #[must_use]
    pub fn public(cache: PathBuf) -> Self {
        Self {
            cache,
            endpoint: "https://huggingface.co".to_owned(),
            token: None,
            patience: Duration::from_secs(60),
        }
    }
}

impl fmt::Debug for HubAccess {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter
            .debug_struct("HubAccess")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("patience", &self.patience)
            .finish()
    }
}

/// The progress of the download of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubProgress {
    /// Path within the dataset.
    pub file: String,
    pub received: u64,
    pub total: u64,
}

/// The files of a [`HubAddress`], fetched one by one into the cache.
pub(super) struct HubFiles<'a> {
    hub: Hub,
    /// Paths within the dataset, in reverse.
    files: Vec<(String, FileKind)>,
    progress: Box<dyn FnMut(HubProgress) + Send + 'a>,
}

impl<'a> HubFiles<'a> {
    /// A file is taken from the cache where it is there; a folder has to be listed by the hub, which also
    /// pins the commit that its files are then read at.
    pub(super) fn list(
        address: &HubAddress,
        access: &HubAccess,
        progress: Box<dyn FnMut(HubProgress) + Send + 'a>,
    ) -> Result<Self, DataError> {
        let mut hub = Hub {
            dataset: address.dataset().to_owned(),
            revision: address.revision().to_owned(),
            access: access.clone(),
        };
        let files = match FileKind::of(address.path()) {
            Some(kind) => vec![(address.path().to_owned(), kind)],
            None => hub.list(address.path())?,
        };
        Ok(Self {
            hub,
            files: files.into_iter().rev().collect(),
            progress,
        })
    }

    pub(super) fn fetch_next(&mut self) -> Result<Option<(PathBuf, FileKind)>, DataError> {
        let Some((file, kind)) = self.files.pop() else {
            return Ok(None);
        };
        let path = match self.hub.cached(&file) {
            Some(path) => path,
            None => self.hub.download(&file, &mut self.progress)?,
        };
        Ok(Some((path, kind)))
    }
}

/// One revision of one dataset.
struct Hub {
    dataset: String,
    revision: String,
    access: HubAccess,
}

impl Hub {
    fn repo(&self) -> Repo {
        let (dataset, revision) = (self.dataset.clone(), self.revision.clone());
        Repo::with_revision(dataset, RepoType::Dataset, revision)
    }

    fn cached(&self, file: &str) -> Option<PathBuf> {
        let cache = Cache::new(self.access.cache.clone());
        cache.repo(self.repo()).get(file)
    }

    /// The files of a corpus under `folder`, sorted. From here on the revision is the commit of this list.
    fn list(&mut self, folder: &str) -> Result<Vec<(String, FileKind)>, DataError> {
        let what = "the list of files";
        let repo = self.repo();
        let info: RepoInfo = self.watch(what, move |api, _| api.repo(repo).info(), |_| {})?;
        let prefix = match folder {
            "" => String::new(),
            folder => format!("{folder}/"),
        };
        let mut files = Vec::new();
        for file in info.siblings {
            let path = file.rfilename;
            let Some(within) = path.strip_prefix(&prefix) else {
                continue;
            };
            if within.split('/').any(describes_its_folder) {
                continue;
            }
            if !is_path(&path) {
                return Err(self.error(&path, "a file name that is not plain names joined by '/'"));
            }
            let kind = FileKind::of(&path).ok_or_else(|| DataError::UnknownExtension {
                path: PathBuf::from(format!("hf://datasets/{}/{path}", self.dataset)),
            })?;
            files.push((path, kind));
        }
        if files.is_empty() {
            return Err(DataError::HubNoFiles {
                dataset: self.dataset.clone(),
                path: folder.to_owned(),
                revision: self.revision.clone(),
            });
        }
        if !is_path(&info.sha) {
            return Err(self.error(what, "a commit that is no hash"));
        }
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.revision = info.sha;
        Ok(files)
    }

    fn download(
        &self,
        file: &str,
        progress: &mut dyn FnMut(HubProgress),
    ) -> Result<PathBuf, DataError> {
        let repo = self.repo();
        let name = file.to_owned();
        let mut total = 0;
        let path = self.watch(
            file,
            move |api, report| api.repo(repo).download_with_progress(&name, report),
            |report| {
                total = report.total;
                progress(HubProgress {
                    file: file.to_owned(),
                    received: report.received,
                    total: report.total,
                });
            },
        )?;
        // A connection that closes early can look like an end; such a file must not stay in the cache.
        let size = std::fs::metadata(&path).map_err(DataError::io("open", &path))?;
        if size.len() != total {
            forget(&path);
            let reason = format!("expected {total} bytes, got {}", size.len());
            return Err(self.error(file, &reason));
        }
        Ok(path)
    }

    /// Runs `job` on a thread of its own and gives up when nothing is heard of it for too long: the
    /// client below has no time limits. The thread then ends with its connection, or with the process.
    fn watch<T: Send + 'static>(
        &self,
        what: &str,
        job: impl FnOnce(Api, Report<T>) -> Result<T, ApiError> + Send + 'static,
        mut progress: impl FnMut(&Received),
    ) -> Result<T, DataError> {
        const RETRIES: usize = 2;
        let api = ApiBuilder::from_cache(Cache::new(self.access.cache.clone()))
            .with_endpoint(self.access.endpoint.clone())
            .with_token(self.access.token.clone())
            .with_progress(false)
            .with_retries(RETRIES)
            .build()
            .map_err(|error| self.error(what, &error.to_string()))?;
        let (sender, events) = mpsc::channel();
        let report = Report {
            received: Received::default(),
            sender: sender.clone(),
        };
        std::thread::spawn(move || {
            let done = job(api, report);
            // Nobody listens any more where the caller lost patience.
            let _ = sender.send(Event::Done(done));
        });
        loop {
            match events.recv_timeout(self.access.patience) {
                Ok(Event::Received(received)) => progress(&received),
                Ok(Event::Done(Ok(result))) => return Ok(result),
                Ok(Event::Done(Err(error))) => return Err(self.error(what, &error.to_string())),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.error(what, "the hub's answer was not understood"));
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(DataError::HubStalled {
                        dataset: self.dataset.clone(),
                        what: what.to_owned(),
                        endpoint: self.access.endpoint.clone(),
                        seconds: self.access.patience.as_secs_f64(),
                    });
                }
            }
        }
    }

    fn error(&self, what: &str, reason: &str) -> DataError {
        DataError::Hub {
            dataset: self.dataset.clone(),
            what: what.to_owned(),
            revision: self.revision.clone(),
            endpoint: self.access.endpoint.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// Removes a file from the cache: the link and what it points to.
fn forget(path: &Path) {
    if let Ok(blob) = std::fs::canonicalize(path) {
        let _ = std::fs::remove_file(blob);
    }
    let _ = std::fs::remove_file(path);
}

#[derive(Clone, Default)]
struct Received {
    received: u64,
    total: u64,
}

enum Event<T> {
    Received(Received),
    Done(Result<T, ApiError>),
}

/// Sends the client's progress to the thread that waits for it.
struct Report<T> {
    received: Received,
    sender: Sender<Event<T>>,
}

impl<T> Progress for Report<T> {
    fn init(&mut self, size: usize, _filename: &str) {
        self.received = Received {
            received: 0,
            total: size as u64,
        };
        let _ = self.sender.send(Event::Received(self.received.clone()));
    }

    fn update(&mut self, size: usize) {
        self.received.received += size as u64;
        let _ = self.sender.send(Event::Received(self.received.clone()));
    }

    fn finish(&mut self) {}
}
