//! Models on disk, in the Hugging Face layout: `config.json`, `model.safetensors`.
//!
//! Files are [whole](bam_data::atomic_file) or absent, and so are models.

mod replacement;
mod shards;
mod tensor_files;
mod tensors;

pub use replacement::{CONFIG_FILE, place, replace};
pub(crate) use shards::read_bounded;
pub use shards::{INDEX_FILE, WEIGHTS_FILE};
pub(crate) use tensor_files::TensorFiles;
pub use tensor_files::{weight_files, weights_sha256};
pub(crate) use tensors::transpose;
pub use tensors::{NamedTensors, read_tensors, read_tensors_and_ids, write_tensors};

use super::ModelConfig;
use super::parameters::{EachParameter, ReplaceParameter, Replacing, Visiting};
use super::prior::host_values;
use super::transformer::Transformer;
use crate::Error;
use bam_record::history::History;
use burn::module::{Module, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

impl Transformer {
    /// The parameters under their checkpoint names, in their checkpoint layout.
    #[must_use]
    pub fn to_tensors(&self) -> NamedTensors {
        let mut values = CollectValues(HashMap::new());
        self.visit(&mut Visiting(&mut values));
        self.parameters()
            .into_iter()
            .map(|info| {
                let mut of = values
                    .0
                    .remove(&info.id)
                    .expect("every parameter was visited");
                if info.transposed {
                    of = transpose(&of, info.stored_shape[1], info.stored_shape[0]);
                }
                (info.name, (info.stored_shape, of))
            })
            .collect()
    }

    /// Replaces the parameters by those of a file's tensors; `path` is for messages.
    ///
    /// # Errors
    /// If one is missing, has another shape or is not finite, or if the file holds others.
    pub fn with_tensors(self, mut tensors: NamedTensors, path: &Path) -> Result<Self, Error> {
        let wrong = |tensor: &str, expected: String, got: String| Error::Tensor {
            path: path.to_owned(),
            tensor: tensor.to_owned(),
            expected,
            got,
        };
        let mut values = HashMap::new();
        for info in self.parameters() {
            let expected = format!("shape {:?}", info.stored_shape);
            let (shape, mut of) = tensors
                .remove(&info.name)
                .ok_or_else(|| wrong(&info.name, expected.clone(), "no such tensor".into()))?;
            if shape != info.stored_shape {
                return Err(wrong(&info.name, expected, format!("shape {shape:?}")));
            }
            if let Some(index) = of.iter().position(|x| !x.is_finite()) {
                let got = format!("{} at index {index}", of[index]);
                return Err(wrong(&info.name, "finite numbers".into(), got));
            }
            if info.transposed {
                of = transpose(&of, shape[0], shape[1]);
            }
            values.insert(info.id, of);
        }
        if let Some(name) = tensors.keys().min() {
            let expected = format!("no such tensor in a {} model", self.config.encoding);
            return Err(wrong(name, expected, "one".into()));
        }
        Ok(self.with_values(values))
    }

    /// Replaces the values of some parameters, in the model's own layout.
    pub(crate) fn with_values(self, values: HashMap<ParamId, Vec<f32>>) -> Self {
        self.map(&mut Replacing(&mut Assign(values)))
    }

    /// Writes `config.json` and `model.safetensors` into `dir`, which must exist; both or neither, as
    /// [`replace`] says.
    ///
    /// # Errors
    /// If a file can't be written.
    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        let json = serde_json::to_string_pretty(&self.config_file());
        let json = json.expect("a config is plain data");
        replace(dir, json.as_bytes(), self.to_tensors())
    }

    /// Its configuration, from `config.json`.
    #[must_use]
    pub fn config_file(&self) -> ConfigFile<'_> {
        ConfigFile {
            config: &self.config,
            history: &self.history,
        }
    }

    /// Reads a model from a folder.
    ///
    /// # Errors
    /// If a file is missing, broken, or does not fit the configuration.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, Error> {
        let history = read_history(dir)?;
        let (config, tensors) = read_files(dir)?;
        let model = config.with_tensors(tensors, &weights_path(dir), device)?;
        Ok(Self { history, ..model })
    }
}

/// `config.json`: a model's shape, and what was done to it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ConfigFile<'a> {
    /// The shape.
    #[serde(flatten)]
    pub config: &'a ModelConfig,
    /// The model's history.
    #[serde(skip_serializing_if = "History::is_empty")]
    pub history: &'a History,
}

/// Reads what was done to the model in a folder. A folder that says nothing of it has no history.
///
/// # Errors
/// If its `config.json` can't be read, or says it in another form.
pub fn read_history(dir: &Path) -> Result<History, Error> {
    #[derive(Deserialize)]
    struct Fields {
        #[serde(default)]
        history: History,
    }
    let expected = "a bam model configuration";
    let fields: Fields = read_json(&place(dir, CONFIG_FILE), expected)?;
    Ok(fields.history)
}

/// Reads a model's configuration and its tensors, whatever they hold.
///
/// # Errors
/// If a file is missing or is not what its name says.
pub fn read_files(dir: &Path) -> Result<(ModelConfig, NamedTensors), Error> {
    let config: ModelConfig = read_json(&place(dir, CONFIG_FILE), "a bam model configuration")?;
    let tensors = TensorFiles::open(dir, "")?.rest()?;
    let held: u128 = tensors
        .values()
        .map(|(_, values)| values.len() as u128)
        .sum();
    if config.least_numbers() > MOST_CLAIMED * held {
        return Err(Error::File {
            path: weights_path(dir),
            expected: format!(
                "tensors of the {} numbers that config.json needs",
                config.least_numbers()
            ),
            got: format!("tensors of {held}"),
        });
    }
    Ok((config, tensors))
}

/// The file that messages about a folder's tensors name: the one that holds them, or the index.
#[must_use]
pub fn weights_path(dir: &Path) -> PathBuf {
    let index = dir.join(INDEX_FILE);
    match place(dir, WEIGHTS_FILE) {
        none if !none.exists() && index.exists() => index,
        whole => whole,
    }
}

/// A configuration that claims so many times what its tensors hold is refused before a model is made of
/// it; those that claim less find out which tensor is wrong.
const MOST_CLAIMED: u128 = 16;

/// Reads a JSON file.
///
/// # Errors
/// If it can't be read or is not `expected`.
pub fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    expected: &'static str,
) -> Result<T, Error> {
    let bytes = fs::read(path).map_err(Error::io(path, "read it"))?;
    bam_data::parse_json(&bytes).map_err(|error| Error::File {
        path: path.to_owned(),
        expected: expected.to_owned(),
        got: error.to_string(),
    })
}

struct CollectValues(HashMap<ParamId, Vec<f32>>);

impl EachParameter for CollectValues {
    fn visit<const D: usize>(&mut self, id: ParamId, tensor: Tensor<D>) {
        self.0.insert(id, host_values(tensor));
    }
}

struct Assign(HashMap<ParamId, Vec<f32>>);

impl ReplaceParameter for Assign {
    fn replace<const D: usize>(&mut self, id: ParamId, tensor: Tensor<D>) -> Tensor<D> {
        match self.0.remove(&id) {
            None => tensor,
            Some(values) => {
                Tensor::from_data(TensorData::new(values, tensor.shape()), &tensor.device())
            }
        }
    }
}
