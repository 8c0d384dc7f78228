//! The fused operation on GPUs, in CubeCL: whatever Burn's `Cube` runs on.
//!
//! ```text
//! bounds    norms of keys and rows, ranges of the prior: what skipping decides by
//! by_key    a prior over keys: pairs, what each row takes it relative to, ranges
//! forward   blocks of rows, tiles of keys stream past; merge, where keys were split
//! backward  by rows: dq, dτ, diagonals of dlogit;  by keys: dk, dv, du;  add_up: partial sums, in order
//! ```
//!
//! No atomics: every number has one owner, and sums are taken in an order that sizes alone decide.

#![allow(unsafe_code)] // Kernels are launched without checks of every index; they make their own.

use super::{Context, FusedKernel, Operands, Posterior};
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::Cube;
use burn_cubecl::kernel::cast;
use call::Call;
pub(crate) use call::products;
pub(crate) use norms::DeviceNorms;
pub(crate) use tiling::{LARGEST_DIM, MOST_TENSORS};

mod bounds;
mod by_key;
mod by_keys;
mod by_rows;
mod call;
#[cfg(feature = "cuda-check")]
pub mod cuda_sources;
mod documents;
mod forward;
mod log;
mod norms;
mod pairs;
mod passes;
mod rules;
mod sums;
mod tensors;
mod tiling;
mod units;
mod window;

impl FusedKernel for Cube {
    fn forward(operands: &Operands<Self>, context: &Context) -> Posterior<Self> {
        Call::new(operands, context).forward()
    }

    fn backward(
        operands: &Operands<Self>,
        posterior: &Posterior<Self>,
        out_gradient: FloatTensor<Self>,
        context: &Context,
    ) -> Operands<Self> {
        Call::new(operands, context).backward(posterior, out_gradient)
    }

    fn narrowed(out: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        cast(out, dtype)
    }
}
