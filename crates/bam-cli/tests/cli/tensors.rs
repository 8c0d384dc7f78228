//! Safetensors files, read and written without the program's own code.

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

pub type Tensors = BTreeMap<String, Tensor>;

impl Tensor {
    pub fn floats(&self) -> Vec<f32> {
        assert_eq!(self.dtype, Dtype::F32);
        let fours = self.bytes.as_chunks::<4>().0;
        fours.iter().map(|four| f32::from_le_bytes(*four)).collect()
    }

    pub fn set_float(&mut self, index: usize, value: f32) {
        self.bytes[4 * index..][..4].copy_from_slice(&value.to_le_bytes());
    }

    /// 64-bit ids, where the reference's are of 32.
    pub fn of_ids(shape: &[usize], ids: impl IntoIterator<Item = i64>) -> Self {
        Self {
            dtype: Dtype::I64,
            shape: shape.to_vec(),
            bytes: ids.into_iter().flat_map(i64::to_le_bytes).collect(),
        }
    }
}

pub fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).expect("a file");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let tensors = file.tensors().into_iter();
    tensors
        .map(|(name, view)| {
            let tensor = Tensor {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            };
            (name, tensor)
        })
        .collect()
}

pub fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
        (name, view.expect("bytes that fit the shape"))
    });
    let bytes = safetensors::serialize(views, None).expect("a safetensors file");
    std::fs::write(path, bytes).expect("the folder can be written");
}

/// `‖ours − theirs‖ / ‖theirs‖`.
pub fn relative_error(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let norm = |values: Vec<f64>| values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let difference = ours.iter().zip(theirs);
    let difference = difference.map(|(a, b)| f64::from(*a) - f64::from(*b));
    norm(difference.collect()) / norm(theirs.iter().map(|x| f64::from(*x)).collect())
}
