use std::{fs::File, io::Read, path::Path};

use super::DataError;

/// The bytes of a file, and one more than `limit` at most: it is for the caller to refuse a larger one.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, DataError> {
    let file = File::open(path).map_err(DataError::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(DataError::io("read", path))?;
    Ok(bytes)
}
