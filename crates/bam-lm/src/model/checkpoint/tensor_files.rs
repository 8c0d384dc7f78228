//! The tensors of a folder: one safetensors file, or shards under an index. One tensor is read at a time,
//! after its header was held against the file's length and the shape that the model needs.

use super::replacement::place;
use super::shards::{INDEX_FILE, Index, WEIGHTS_FILE};
use super::tensors::{NamedTensors, floats};
use crate::Error;
use crate::error::not_as_expected;
use bam_data::sha256_of;
use safetensors::tensor::{Dtype, Metadata};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Larger headers are refused before they are read.
const LARGEST: u64 = 1 << 25;

/// The tensors that were not taken yet, by their names without the prefix.
pub(crate) struct TensorFiles {
    folder: PathBuf,
    tensors: BTreeMap<String, Place>,
}

/// The place of a tensor.
#[derive(Clone, Debug)]
struct Place {
    file: PathBuf,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Of its first byte.
    start: u64,
    bytes: usize,
}

/// The files that hold a folder's tensors, an index first where it has one.
///
/// # Errors
/// If there are none, or an index names others than files of the folder.
pub fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let whole = place(dir, WEIGHTS_FILE);
    if whole.exists() {
        return Ok(vec![whole]);
    }
    let index = Index::read(dir)?;
    let names = std::iter::once(INDEX_FILE).chain(index.shards().into_keys());
    Ok(names.map(|name| dir.join(name)).collect())
}

/// SHA-256 of a folder's tensors, in hexadecimal: of the bytes of their files.
///
/// # Errors
/// If they can't be read.
pub fn weights_sha256(dir: &Path) -> Result<String, Error> {
    Ok(sha256_of(&weight_files(dir)?)?)
}

impl TensorFiles {
    pub(crate) fn open(folder: &Path, prefix: &str) -> Result<Self, Error> {
        let mut files = Self {
            folder: folder.to_owned(),
            tensors: BTreeMap::new(),
        };
        let whole = place(folder, WEIGHTS_FILE);
        if whole.exists() {
            for (name, place) in header(&whole)? {
                files.add(&name, prefix, place)?;
            }
            return Ok(files);
        }
        let index = Index::read(folder)?;
        for (shard, promised) in index.shards() {
            let file = folder.join(shard);
            let found = header(&file)?;
            for (name, place) in found {
                if index.shard_of(&name) != Some(shard) {
                    let got = "a tensor that the index does not place there";
                    return Err(wrong(&file, &name, "one of the index", got));
                }
                files.add(&name, prefix, place)?;
            }
            // Names are keys, so those of one shard differ.
            let held = (files.tensors.values())
                .filter(|place| place.file == file)
                .count();
            if held != promised {
                let held = |name: &&str| files.has(name.strip_prefix(prefix).unwrap_or(name));
                let name = index.of(shard).find(|name| !held(name)).unwrap_or_default();
                return Err(wrong(
                    &file,
                    name,
                    "it there, as the index says",
                    "no such tensor",
                ));
            }
        }
        Ok(files)
    }

    fn add(&mut self, name: &str, prefix: &str, place: Place) -> Result<(), Error> {
        let short = name.strip_prefix(prefix).unwrap_or(name);
        let file = place.file.clone();
        match self.tensors.insert(short.to_owned(), place) {
            None => Ok(()),
            Some(_) => Err(wrong(&file, name, "each tensor once", "it twice")),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Whether there is a tensor whose name ends that way.
    pub(crate) fn any(&self, ending: &str) -> bool {
        self.tensors.keys().any(|name| name.ends_with(ending))
    }

    /// The values of a tensor, which has this shape.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let Some(place) = self.tensors.remove(name) else {
            return Err(self.wrong(name, format!("shape {shape:?}"), "no such tensor"));
        };
        let wrong = |expected: String, got: String| wrong(&place.file, name, &expected, &got);
        if place.shape != shape {
            return Err(wrong(
                format!("shape {shape:?}"),
                format!("shape {:?}", place.shape),
            ));
        }
        let values = place.values(name)?;
        match values.iter().position(|x| !x.is_finite()) {
            None => Ok(values),
            Some(index) => {
                let got = format!("{} at index {index}", values[index]);
                Err(wrong("finite numbers".into(), got))
            }
        }
    }

    /// All tensors that were not taken, whatever they hold.
    pub(crate) fn rest(self) -> Result<NamedTensors, Error> {
        let each = self.tensors.into_iter().map(|(name, place)| {
            let values = place.values(&name)?;
            Ok((name, (place.shape, values)))
        });
        each.collect()
    }

    pub(crate) fn wrong(&self, name: &str, expected: impl Into<String>, got: &str) -> Error {
        wrong(&self.folder, name, &expected.into(), got)
    }

    /// Whether all tensors were taken.
    pub(crate) fn finish(&self, model_type: &str) -> Result<(), Error> {
        match self.tensors.iter().next() {
            None => Ok(()),
            Some((name, place)) => {
                let expected = format!("no such tensor in such a model ({model_type})");
                Err(wrong(&place.file, name, &expected, "one"))
            }
        }
    }
}

impl Place {
    /// The numbers, of whatever floating-point type.
    fn values(&self, name: &str) -> Result<Vec<f32>, Error> {
        let mut bytes = vec![0; self.bytes];
        File::open(&self.file)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(self.start))?;
                file.read_exact(&mut bytes)
            })
            .map_err(Error::io(&self.file, "read it"))?;
        floats(self.dtype, &bytes).ok_or_else(|| {
            let expected = "numbers of type F32, F16, BF16 or F64";
            wrong(&self.file, name, expected, &format!("{:?}", self.dtype))
        })
    }
}

fn wrong(file: &Path, tensor: &str, expected: &str, got: &str) -> Error {
    Error::Tensor {
        path: file.to_owned(),
        tensor: tensor.to_owned(),
        expected: expected.to_owned(),
        got: got.to_owned(),
    }
}

/// The tensors of a file, from its header, which fits the file's length.
fn header(path: &Path) -> Result<Vec<(String, Place)>, Error> {
    let refuse = |got: String| not_as_expected(path, "a safetensors file", got);
    let mut file = File::open(path).map_err(Error::io(path, "open it"))?;
    let whole = (file.metadata())
        .map_err(Error::io(path, "measure it"))?
        .len();
    let mut length = [0; 8];
    file.read_exact(&mut length)
        .map_err(|_| refuse(format!("{whole} bytes")))?;
    let length = u64::from_le_bytes(length);
    if length > LARGEST || length > whole - 8 {
        return Err(refuse(format!(
            "a header of {length} bytes in a file of {whole}"
        )));
    }
    let mut json = vec![0; length as usize];
    file.read_exact(&mut json)
        .map_err(Error::io(path, "read it"))?;
    let metadata: Metadata =
        serde_json::from_slice(&json).map_err(|error| refuse(error.to_string()))?;
    let data = 8 + length;
    if metadata.data_len() as u64 != whole - data {
        let got = format!(
            "tensors of {} bytes in {}",
            metadata.data_len(),
            whole - data
        );
        return Err(refuse(got));
    }
    let tensors = metadata.tensors().into_iter();
    Ok(tensors
        .map(|(name, info)| {
            let (start, end) = info.data_offsets;
            let place = Place {
                file: path.to_owned(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                start: data + start as u64,
                bytes: end - start,
            };
            (name, place)
        })
        .collect())
}
