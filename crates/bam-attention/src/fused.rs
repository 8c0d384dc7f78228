//! The fused operation: a Burn backend extension with a hand-written backward pass.
//!
//! [`FusedKernel`] is what a backend has to bring; `flex` brings it for Burn's Flex, by `bam-kernel`, and
//! `cube` for GPUs.
//! `autodiff` makes it a step of Burn's graph.

use crate::error::AttentionError;
use bam_kernel::{KeyPriorScope, Plan, TemperatureScope};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchKindConversion, DispatchTensor, Flex,
};
use burn::tensor::{DType, Device, Tensor};
use prior_state::PriorState;
use std::sync::Arc;

mod autodiff;
#[cfg(feature = "cube")]
mod cube;
mod flex;
pub(crate) mod prior_state;

#[cfg(feature = "cuda-check")]
pub use cube::cuda_sources;
#[cfg(feature = "cube")]
pub(crate) use cube::{DeviceNorms, MOST_TENSORS, products};

/// The tensors of a call, in the order of their gradients.
///
/// `q [b, h, i, d]`, `k` and `v` `[b, h / group, j, d]`, `ln_weights [h, lags]`, `temperature` with
/// 1 or the full size in each of `[b, h, i]`, `key_prior` and what `f32` left of it, which has no gradient, `[b, h or
/// h / group, j]`.
pub(crate) struct Operands<B: Backend> {
    pub q: FloatTensor<B>,
    pub k: FloatTensor<B>,
    pub v: FloatTensor<B>,
    pub ln_weights: FloatTensor<B>,
    pub temperature: FloatTensor<B>,
    pub key_prior: FloatTensor<B>,
    pub key_remainders: FloatTensor<B>,
}

impl<B: Backend> Clone for Operands<B> {
    fn clone(&self) -> Self {
        Self {
            q: self.q.clone(),
            k: self.k.clone(),
            v: self.v.clone(),
            ln_weights: self.ln_weights.clone(),
            temperature: self.temperature.clone(),
            key_prior: self.key_prior.clone(),
            key_remainders: self.key_remainders.clone(),
        }
    }
}

impl<B: Backend> std::fmt::Debug for Operands<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operands").finish_non_exhaustive()
    }
}

/// The part of the forward pass that the backward pass needs.
#[derive(Clone, Debug)]
pub(crate) struct Posterior<B: Backend> {
    /// `[b, h, i, d]`, in `f32` whatever the operands are.
    pub out: FloatTensor<B>,
    /// `ln evidence`, `[b, h, i]`; `+∞` where a row sees no key.
    pub ln_evidence: FloatTensor<B>,
}

/// Everything about a call that is not a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub plan: Arc<Plan>,
    /// `None` where the call has no temperature; its operand is then a one that nobody reads.
    pub temperature: Option<TemperatureScope>,
    /// The same of the prior over keys.
    pub key_prior: Option<KeyPriorScope>,
    pub prior: Arc<PriorState>,
    /// Norms of the keys on a GPU, where they are known.
    #[cfg(feature = "cube")]
    pub key_norms: Option<DeviceNorms>,
}

/// A backend's fused forward and backward pass.
pub(crate) trait FusedKernel: Backend {
    fn forward(operands: &Operands<Self>, context: &Context) -> Posterior<Self>;

    /// Gradients of the operands, given that of the output.
    fn backward(
        operands: &Operands<Self>,
        posterior: &Posterior<Self>,
        out_gradient: FloatTensor<Self>,
        context: &Context,
    ) -> Operands<Self>;

    /// The output in the type of the queries.
    fn narrowed(out: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self>;
}

/// The operation as Burn's dispatch sees it.
#[burn::backend::backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub(crate) trait FusedAttention: Backend {
    #[allow(
        clippy::too_many_arguments,
        reason = "Burn's dispatch wants each tensor as an argument"
    )]
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        ln_weights: FloatTensor<Self>,
        temperature: FloatTensor<Self>,
        key_prior: FloatTensor<Self>,
        key_remainders: FloatTensor<Self>,
        context: Context,
    ) -> FloatTensor<Self>;
}

/// Without a graph, the forward pass is the operation.
macro_rules! untracked {
    ($backend:ty) => {
        impl FusedAttention for $backend {
            fn fused_attention(
                q: FloatTensor<Self>,
                k: FloatTensor<Self>,
                v: FloatTensor<Self>,
                ln_weights: FloatTensor<Self>,
                temperature: FloatTensor<Self>,
                key_prior: FloatTensor<Self>,
                key_remainders: FloatTensor<Self>,
                context: Context,
            ) -> FloatTensor<Self> {
                let dtype = burn::backend::TensorMetadata::dtype(&q);
                let operands = Operands::<Self> {
                    q,
                    k,
                    v,
                    ln_weights,
                    temperature,
                    key_prior,
                    key_remainders,
                };
                Self::narrowed(Self::forward(&operands, &context).out, dtype)
            }
        }
    };
}

untracked!(Flex);
#[cfg(feature = "cube")]
untracked!(burn_cubecl::Cube);

pub(crate) fn attend(
    [q, k, v]: [Tensor<4>; 3],
    ln_weights: Tensor<2>,
    temperature: Option<Tensor<3>>,
    key_prior: Option<[Tensor<3>; 2]>,
    context: Context,
) -> Result<Tensor<4>, AttentionError> {
    supported(&q)?;
    let device = q.device();
    let nobody_reads = || Tensor::ones([1, 1, 1], (&device, DType::F32));
    let temperature = temperature.unwrap_or_else(nobody_reads);
    let [key_prior, remainders] = key_prior.unwrap_or_else(|| [(); 2].map(|()| nobody_reads()));
    let out = Dispatch::fused_attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        ln_weights.into_dispatch(),
        temperature.into_dispatch(),
        key_prior.into_dispatch(),
        remainders.into_dispatch(),
        context,
    );
    Ok(Tensor::from_dispatch(out))
}

/// # Errors
/// If there is no kernel for the device of the tensors, or none for their type.
fn supported(q: &Tensor<4>) -> Result<(), AttentionError> {
    let refused = |expected, got| AttentionError::Unsupported {
        implementation: "fused",
        expected,
        got,
    };
    let one_of = |types: &[DType], expected| match types.contains(&q.dtype()) {
        true => Ok(()),
        false => Err(refused(expected, format!("{:?}", q.dtype()))),
    };
    if on::<Flex>(q).is_some() {
        return one_of(&[DType::F32, DType::BF16], "tensors of type F32 or BF16");
    }
    #[cfg(feature = "cube")]
    if on_gpu(q).is_some() {
        check_head_dim(&q.device(), q.dims()[3])?;
        let mut types = vec![DType::F32, DType::BF16, DType::F16];
        types.retain(|dtype| q.device().supports_dtype(*dtype));
        return one_of(
            &types,
            "tensors of type F32, BF16 or F16 that the device has",
        );
    }
    let expected = "a CPU device (Flex), or a GPU whose cargo feature is on";
    Err(refused(expected, format!("{:?}", q.device())))
}

/// Refuses heads that are wider than the fused operation has a kernel for on a device.
///
/// # Errors
/// Names the widest.
pub fn check_head_dim(device: &Device, dim: usize) -> Result<(), AttentionError> {
    let widest = match device.clone().inner().as_dispatch() {
        #[cfg(feature = "cube")]
        burn::backend::DispatchDevice::Cube(_) => cube::LARGEST_DIM,
        _ => usize::MAX,
    };
    match dim <= widest {
        true => Ok(()),
        false => Err(AttentionError::Value {
            what: "head dimension on a GPU",
            expected: format!("at most {widest}"),
            got: dim.to_string(),
        }),
    }
}

/// The tensor of a GPU, without its graph.
#[cfg(feature = "cube")]
pub(crate) fn on_gpu(tensor: &Tensor<4>) -> Option<burn_cubecl::tensor::CubeTensor> {
    on::<burn_cubecl::Cube>(tensor)
}

/// The backend's tensor, without its graph, if it is that backend's.
fn on<B: Backend>(tensor: &Tensor<4>) -> Option<FloatTensor<B>>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    let plain = tensor.clone().inner().into_dispatch();
    match DispatchTensor::try_into_backend(plain) {
        Ok(BackendTensor::Float(tensor)) => Some(tensor),
        _ => None,
    }
}
