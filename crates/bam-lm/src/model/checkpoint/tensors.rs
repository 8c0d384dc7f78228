//! Tensors on the host, and safetensors files of them.

use crate::Error;
use bam_data::atomic_file::write_atomically;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Named tensors on the host: shape and values.
pub type NamedTensors = HashMap<String, (Vec<usize>, Vec<f32>)>;

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
