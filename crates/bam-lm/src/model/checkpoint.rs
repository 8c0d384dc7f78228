//! Models on disk, in the Hugging Face layout: `config.json`, `model.safetensors`.
//!
//! Files are [whole](bam_data::atomic_file) or absent, and so are models.

mod replacement;

pub use replacement::{place, replace};

use super::ModelConfig;
use super::parameters::{EachParameter, ReplaceParameter, Replacing, Visiting};
use super::prior::host_values;
use super::transformer::Transformer;
use crate::Error;
use bam_data::atomic_file::write_atomically;
use bam_record::history::History;
use burn::module::{Module, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// `config.json`.
pub const CONFIG_FILE: &str = "config.json";
/// `model.safetensors`.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// Named tensors on the host: shape and values.
pub type NamedTensors = HashMap<String, (Vec<usize>, Vec<f32>)>;

impl Transformer {
    /// The parameters under their checkpoint names, in their checkpoint layout.
    #[must_use]
    pub fn to_tensors(&self) -> NamedTensors {
        let mut values = Collect(HashMap::new());
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
        Ok(self.map(&mut Replacing(&mut Assign(values))))
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
        let model = config
            .init(device)
            .with_tensors(tensors, &place(dir, WEIGHTS_FILE))?;
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
    let path = place(dir, WEIGHTS_FILE);
    let tensors = read_tensors(&path)?;
    let held: u128 = tensors
        .values()
        .map(|(_, values)| values.len() as u128)
        .sum();
    if config.least_numbers() > MOST_CLAIMED * held {
        return Err(Error::File {
            path,
            expected: format!(
                "tensors of the {} numbers that config.json needs",
                config.least_numbers()
            ),
            got: format!("tensors of {held}"),
        });
    }
    Ok((config, tensors))
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
    serde_json::from_slice(&bytes).map_err(|error| Error::File {
        path: path.to_owned(),
        expected: expected.to_owned(),
        got: error.to_string(),
    })
}

/// Reads a safetensors file of weights into named `f32` tensors; `F16`, `BF16` and `F64` are converted.
/// Whole numbers are no weights: most often they are what a quantisation left.
///
/// # Errors
/// If the file can't be read, is truncated, its header lies, or a tensor is of another type.
pub fn read_tensors(path: &Path) -> Result<NamedTensors, Error> {
    read_as(path, "F32, F16, BF16 or F64", floats)
}

/// The same where some tensors are ids, of type `I32` or `I64`.
///
/// # Errors
/// As [`read_tensors`] has them.
pub fn read_tensors_and_ids(path: &Path) -> Result<NamedTensors, Error> {
    read_as(path, "F32, F16, BF16, F64, I32 or I64", |dtype, data| {
        floats(dtype, data).or_else(|| ids(dtype, data))
    })
}

fn read_as(
    path: &Path,
    expected: &str,
    numbers: impl Fn(Dtype, &[u8]) -> Option<Vec<f32>>,
) -> Result<NamedTensors, Error> {
    let bytes = fs::read(path).map_err(Error::io(path, "read it"))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| Error::File {
        path: path.to_owned(),
        expected: "a safetensors file".into(),
        got: error.to_string(),
    })?;
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let values = numbers(view.dtype(), view.data()).ok_or_else(|| Error::Tensor {
                path: path.to_owned(),
                tensor: name.clone(),
                expected: format!("numbers of type {expected}"),
                got: format!("{:?}", view.dtype()),
            })?;
            Ok((name, (view.shape().to_vec(), values)))
        })
        .collect()
}

/// Little-endian floating-point numbers as `f32`; `None` for types that are no such numbers.
pub(crate) fn floats(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => each(data, f32::from_le_bytes),
        Dtype::F64 => each(data, |bytes| f64::from_le_bytes(bytes) as f32),
        Dtype::F16 => each(data, |bytes| {
            burn::tensor::f16::from_le_bytes(bytes).to_f32()
        }),
        Dtype::BF16 => each(data, |bytes| {
            burn::tensor::bf16::from_le_bytes(bytes).to_f32()
        }),
        _ => return None,
    })
}

/// The same of whole numbers.
fn ids(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::I32 => each(data, |bytes| i32::from_le_bytes(bytes) as f32),
        Dtype::I64 => each(data, |bytes| i64::from_le_bytes(bytes) as f32),
        _ => return None,
    })
}

fn each<const N: usize>(data: &[u8], of: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let numbers = data.as_chunks::<N>().0.iter();
    numbers.map(|bytes| of(*bytes)).collect()
}

/// Writes named tensors as a safetensors file that `transformers` reads.
///
/// # Errors
/// If the file can't be written.
pub fn write_tensors(path: &Path, tensors: NamedTensors) -> Result<(), Error> {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, (shape, values))| {
            (
                name,
                shape,
                values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            )
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), data)
            .expect("the bytes were made from the shape's values");
        (name.as_str(), view)
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let file = safetensors::serialize(views, Some(metadata)).map_err(|error| Error::File {
        path: path.to_owned(),
        expected: "tensors that can be serialised".into(),
        got: error.to_string(),
    })?;
    Ok(write_atomically(path, &file)?)
}

/// `[rows, columns]` → `[columns, rows]`.
pub(crate) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..values.len())
        .map(|index| values[index % rows * columns + index / rows])
        .collect()
}

struct Collect(HashMap<ParamId, Vec<f32>>);

impl EachParameter for Collect {
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
