use std::{fmt, str::FromStr};

use super::DataError;

/// A file or folder of a dataset on the Hugging Face hub:
/// `hf://datasets/OWNER/NAME/path/to/file-or-folder[@revision]`.
///
/// The revision may also stand after the name, as the hub itself writes it
/// (`hf://datasets/OWNER/NAME@revision/path`); it is `main` where none is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubAddress {
    dataset: String,
    /// Empty for the whole dataset.
    path: String,
    revision: String,
}

impl HubAddress {
    /// `OWNER/NAME`.
    #[must_use]
    pub fn dataset(&self) -> &str {
        &self.dataset
    }

    /// The file or folder within the dataset; empty for all of it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Branch, tag or commit.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }
}

impl FromStr for HubAddress {
    type Err = DataError;

    fn from_str(address: &str) -> Result<Self, DataError> {
        let error = |reason: &str| DataError::HubAddress {
            address: address.to_owned(),
            reason: reason.to_owned(),
        };
        let rest = address
            .strip_prefix("hf://datasets/")
            .ok_or_else(|| error("it must begin with hf://datasets/"))?;
        let (owner, rest) = rest
            .split_once('/')
            .ok_or_else(|| error("it must name OWNER/NAME"))?;
        let end = rest.find(['/', '@']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let (path, revision) = split_revision(rest);
        let path = path.trim_matches('/');
        if !is_plain(owner, "") || !is_plain(name, "") {
            return Err(error(
                "OWNER and NAME must be letters, digits, '-', '_' or '.'",
            ));
        }
        if !path.is_empty() && !is_path(path) {
            return Err(error("the path must be plain names joined by '/'"));
        }
        if !is_path(revision) {
            return Err(error("the revision must be a branch, tag or commit"));
        }
        Ok(Self {
            dataset: format!("{owner}/{name}"),
            path: path.to_owned(),
            revision: revision.to_owned(),
        })
    }
}

impl fmt::Display for HubAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "hf://datasets/{}", self.dataset)?;
        if !self.path.is_empty() {
            write!(formatter, "/{}", self.path)?;
        }
        write!(formatter, "@{}", self.revision)
    }
}

/// The rest after `OWNER/NAME`: `/path@revision` or `@revision/path`.
fn split_revision(rest: &str) -> (&str, &str) {
    let Some(after) = rest.strip_prefix('@') else {
        return rest.rsplit_once('@').unwrap_or((rest, "main"));
    };
    // The hub's own references have three parts: refs/convert/parquet, refs/pr/12.
    let parts = if after.starts_with("refs/convert/") || after.starts_with("refs/pr/") {
        3
    } else {
        1
    };
    let end = after
        .match_indices('/')
        .nth(parts - 1)
        .map_or(after.len(), |(index, _)| index);
    let (revision, path) = after.split_at(end);
    (path, revision)
}

/// No part leaves its folder, and none needs escaping in a URL.
pub(super) fn is_path(path: &str) -> bool {
    path.split('/').all(|part| is_plain(part, "=+,"))
}

fn is_plain(name: &str, more: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c) || more.contains(c);
    !name.is_empty() && name != "." && name != ".." && name.chars().all(allowed)
}
