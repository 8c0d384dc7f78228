//! The tensors of a folder: one safetensors file, or shards under an index. One tensor is read at a time,
//! after its header was held against the file's length and the shape that the model needs.

use crate::Error;
use crate::interop::import::{not_as_expected, read_bounded};
use crate::model::checkpoint::floats;
use safetensors::tensor::{Dtype, Metadata};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Larger headers and indices are refused before they are read.
const LARGEST: u64 = 1 << 25;
/// Files in PyTorch's own format hold programs; they are not read.
const PICKLES: [&str; 3] = [
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.bin",
];

/// The tensors that were not taken yet, by their names without the prefix.
pub(super) struct TensorFiles {
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

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl TensorFiles {
    pub(super) fn open(folder: &Path, prefix: &str) -> Result<Self, Error> {
        let mut files = Self {
            folder: folder.to_owned(),
            tensors: BTreeMap::new(),
        };
        if folder.join(WHOLE).exists() {
            for (name, place) in header(&inside(folder, WHOLE)?)? {
                files.add(&name, prefix, place)?;
            }
            return Ok(files);
        }
        let index_path = folder.join(INDEX);
        if !index_path.exists() {
            let pickle = PICKLES.iter().find(|name| folder.join(name).exists());
            let got = match pickle {
                None => "neither".to_owned(),
                Some(name) => format!(
                    "{name}, a format that can run programs; convert it to safetensors where you trust it"
                ),
            };
            return Err(not_as_expected(folder, format!("{WHOLE} or {INDEX}"), got));
        }
        let index_path = inside(folder, INDEX)?;
        let index: Index =
            bam_data::parse_json(&read_bounded(&index_path, LARGEST)?).map_err(|error| {
                not_as_expected(&index_path, "an index of shards", error.to_string())
            })?;
        let mut shards: BTreeMap<&str, usize> = BTreeMap::new();
        for shard in index.weight_map.values() {
            *shards.entry(shard).or_default() += 1;
        }
        for (shard, promised) in shards {
            let file = inside(folder, shard)?;
            let found = header(&file)?;
            for (name, place) in found {
                if index.weight_map.get(&name).map(String::as_str) != Some(shard) {
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
                let missing = (index.weight_map.iter()).find(|(name, of)| {
                    *of == shard && !files.has(name.strip_prefix(prefix).unwrap_or(name))
                });
                let name = missing.map_or("", |(name, _)| name);
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

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The values of a tensor, which has this shape.
    pub(super) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
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
        if !matches!(place.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(wrong(
                "F32, F16 or BF16".into(),
                format!("{:?}", place.dtype),
            ));
        }
        let mut bytes = vec![0; place.bytes];
        File::open(&place.file)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(place.start))?;
                file.read_exact(&mut bytes)
            })
            .map_err(Error::io(&place.file, "read it"))?;
        let values = floats(place.dtype, &bytes).ok_or_else(|| {
            wrong(
                "floating-point numbers".into(),
                format!("{:?}", place.dtype),
            )
        })?;
        match values.iter().position(|x| !x.is_finite()) {
            None => Ok(values),
            Some(index) => {
                let got = format!("{} at index {index}", values[index]);
                Err(wrong("finite numbers".into(), got))
            }
        }
    }

    pub(super) fn wrong(&self, name: &str, expected: impl Into<String>, got: &str) -> Error {
        wrong(&self.folder, name, &expected.into(), got)
    }

    /// Whether all tensors were taken.
    pub(super) fn finish(&self, model_type: &str) -> Result<(), Error> {
        match self.tensors.iter().next() {
            None => Ok(()),
            Some((name, place)) => {
                let expected = format!("no such tensor in such a model ({model_type})");
                Err(wrong(&place.file, name, &expected, "one"))
            }
        }
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

/// The path of a file that lies in the folder, links followed. The hub's own cache is let through: a
/// snapshot's files there are links to `../../blobs`.
pub(super) fn inside(folder: &Path, name: &str) -> Result<PathBuf, Error> {
    let plain = Path::new(name).file_name().is_some_and(|file| file == name);
    if !plain || name.contains(['/', '\\', '\0']) {
        let expected = "names of files in the folder";
        return Err(not_as_expected(folder, expected, format!("{name:?}")));
    }
    let path = folder.join(name);
    lies_inside(folder, &path)?;
    Ok(path)
}

/// Refuses a path of the folder that leads out of it, as [`inside`] says.
pub(super) fn lies_inside(folder: &Path, path: &Path) -> Result<(), Error> {
    let resolve = |path: &Path| path.canonicalize().map_err(Error::io(path, "find it"));
    let (real, home) = (resolve(path)?, resolve(folder)?);
    let snapshots = home.parent().filter(|parent| parent.ends_with("snapshots"));
    let blobs = snapshots
        .and_then(Path::parent)
        .map(|cache| cache.join("blobs"));
    let within = [Some(home), blobs].into_iter().flatten();
    if within.into_iter().any(|home| real.starts_with(home)) && real.is_file() {
        return Ok(());
    }
    let expected = "a file in the folder itself";
    Err(not_as_expected(
        path,
        expected,
        format!("{}", real.display()),
    ))
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
