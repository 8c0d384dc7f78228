//! Tensors of a device, and launches of one unit for each of many things.

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Units of a cube where each has work of its own.
pub(super) const UNITS: usize = 64;

/// The tensor itself where its last axis is contiguous, else a copy.
pub(super) fn readable(tensor: &CubeTensor) -> CubeTensor {
    match tensor.meta.strides().last() {
        Some(1) => tensor.clone(),
        _ => into_contiguous(tensor.clone()),
    }
}

pub(super) fn empty(like: &CubeTensor, shape: &[usize]) -> CubeTensor {
    empty_device_contiguous_dtype(
        like.client.clone(),
        like.device.clone(),
        Shape::from(shape.to_vec()),
        DType::F32,
    )
}

/// The same numbers, which lie one after the other.
pub(super) fn reshaped(tensor: CubeTensor, shape: &[usize]) -> CubeTensor {
    CubeTensor::new_contiguous(
        tensor.client,
        tensor.device,
        Shape::from(shape.to_vec()),
        tensor.handle,
        tensor.dtype,
    )
}

pub(super) fn arg(tensor: &CubeTensor) -> TensorArg {
    tensor.clone().into_tensor_arg()
}

pub(super) fn element(tensor: &CubeTensor) -> cubecl::ir::ElemType {
    burn::backend::cubecl::dtype_to_storage_type(tensor.dtype)
}

/// A launch of one unit for each of so many things.
pub(super) fn one_each(things: usize) -> (CubeCount, CubeDim) {
    let cubes = things.div_ceil(UNITS) as u32;
    // A device counts cubes in each direction up to 65,535 at least.
    let x = cubes.min(32_768);
    (
        CubeCount::Static(x, cubes.div_ceil(x), 1),
        CubeDim::new_1d(UNITS as u32),
    )
}
