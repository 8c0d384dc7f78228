//! SHA-256 as text.

use crate::atomic_file::FileError;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::path::Path;

/// Bytes as hexadecimal digits, two lower-case ones each.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of the bytes of files, one after the other, in hexadecimal.
///
/// # Errors
/// If one can't be read.
pub fn sha256_of(paths: &[impl AsRef<Path>]) -> Result<String, FileError> {
    let mut digest = Sha256::new();
    for path in paths {
        let path = path.as_ref();
        let mut file = File::open(path).map_err(FileError::new(path, "read it"))?;
        io::copy(&mut file, &mut digest).map_err(FileError::new(path, "read it"))?;
    }
    Ok(hexadecimal(&digest.finalize()))
}
