//! Names of the files that hold a model's tensors: one, or shards under an index.

use crate::Error;
use crate::error::not_as_expected;
use bam_data::atomic_file::if_there;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// `model.safetensors`.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The index of a model in shards, as `save_pretrained` writes it.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// Larger indices are refused before they are read.
const LARGEST: u64 = 1 << 25;
/// Files in PyTorch's own format hold programs; they are not read.
const PICKLES: [&str; 3] = [
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.bin",
];

/// The shard of each tensor.
#[derive(Deserialize)]
pub(super) struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// The index of a folder without [`WEIGHTS_FILE`].
    pub(super) fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(INDEX_FILE);
        if !path.exists() {
            let pickle = PICKLES.iter().find(|name| folder.join(name).exists());
            let got = match pickle {
                None => "neither".to_owned(),
                Some(name) => format!(
                    "{name}, a format that can run programs; convert it to safetensors where you trust it"
                ),
            };
            let expected = format!("{WEIGHTS_FILE} or {INDEX_FILE}");
            return Err(not_as_expected(folder, expected, got));
        }
        let index: Self = bam_data::parse_json(&read_bounded(&path, LARGEST)?)
            .map_err(|error| not_as_expected(&path, "an index of shards", error.to_string()))?;
        let is_plain = |name: &str| {
            Path::new(name).file_name().is_some_and(|file| file == name)
                && !name.contains(['/', '\\', '\0'])
        };
        match index.weight_map.values().find(|name| !is_plain(name)) {
            None => Ok(index),
            Some(elsewhere) => {
                let expected = "names of files in the folder";
                Err(not_as_expected(&path, expected, format!("{elsewhere:?}")))
            }
        }
    }

    /// The shards, with the number of tensors that each is to hold.
    pub(super) fn shards(&self) -> BTreeMap<&str, usize> {
        let mut shards = BTreeMap::new();
        for shard in self.weight_map.values() {
            *shards.entry(shard.as_str()).or_default() += 1;
        }
        shards
    }

    /// The shard that is to hold a tensor.
    pub(super) fn shard_of(&self, tensor: &str) -> Option<&str> {
        self.weight_map.get(tensor).map(String::as_str)
    }

    /// The tensors that a shard is to hold.
    pub(super) fn of(&self, shard: &str) -> impl Iterator<Item = &str> {
        let map = self.weight_map.iter();
        map.filter(move |(_, of)| *of == shard)
            .map(|(name, _)| name.as_str())
    }
}

/// Removes a folder's shards, then their index, which nobody is to read beside a [`WEIGHTS_FILE`].
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    let Ok(index) = Index::read(folder) else {
        return Ok(());
    };
    let is_shard = |name: &&str| name.ends_with(".safetensors") && *name != WEIGHTS_FILE;
    for shard in index.shards().into_keys().filter(is_shard) {
        if_there(fs::remove_file(folder.join(shard)))?;
    }
    if_there(fs::remove_file(folder.join(INDEX_FILE)))
}

/// The bytes of a file, which must not be larger than `limit`.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::io(path, "open it"))?;
    let mut bytes = Vec::new();
    let read = file.take(limit + 1).read_to_end(&mut bytes);
    let read = read.map_err(Error::io(path, "read it"))?;
    match read as u64 > limit {
        true => Err(not_as_expected(
            path,
            format!("at most {limit} bytes"),
            "more",
        )),
        false => Ok(bytes),
    }
}
