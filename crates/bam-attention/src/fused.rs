//! The fused operation: a Burn backend extension with a hand-written backward pass.
//!
//! [`FusedKernel`] is what a backend has to bring, `cpu` is Flex's. `autodiff` makes it a step of
//! Burn's graph. Scores never exist as a whole: both passes stream over tiles of keys.

use crate::attend::Checked;
use crate::{AttentionError, LogPrior};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchKindConversion, DispatchTensor, Flex};
use burn::tensor::{DType, Tensor};
use std::sync::Arc;

mod autodiff;
pub(crate) mod cpu;

/// The tensors of a call, in the order of their gradients.
///
/// `q [b, h, i, d]`, `k` and `v` `[b, h / group, j, d]`, `ln_weights [h, lags]`, `temperature` with
/// 1 or the full size in each of `[b, h, i]`.
pub(crate) struct Operands<B: Backend> {
    pub q: FloatTensor<B>,
    pub k: FloatTensor<B>,
    pub v: FloatTensor<B>,
    pub ln_weights: FloatTensor<B>,
    pub temperature: FloatTensor<B>,
}

impl<B: Backend> Clone for Operands<B> {
    fn clone(&self) -> Self {
        Self {
            q: self.q.clone(),
            k: self.k.clone(),
            v: self.v.clone(),
            ln_weights: self.ln_weights.clone(),
            temperature: self.temperature.clone(),
        }
    }
}

impl<B: Backend> std::fmt::Debug for Operands<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operands").finish_non_exhaustive()
    }
}

/// What the backward pass needs of the forward pass.
#[derive(Clone, Debug)]
pub(crate) struct Posterior<B: Backend> {
    /// `[b, h, i, d]`.
    pub out: FloatTensor<B>,
    /// `ln evidence`, `[b, h, i]`; `+∞` where a row sees no key.
    pub ln_evidence: FloatTensor<B>,
}

/// Everything about a call that is not a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub call: Arc<Checked>,
    pub lags: crate::Lags,
}

/// A backend's fused forward and backward pass.
pub(crate) trait FusedKernel: Backend {
    fn forward(operands: &Operands<Self>, plan: &Plan) -> Posterior<Self>;

    /// Gradients of the operands, given that of the output.
    fn backward(
        operands: &Operands<Self>,
        posterior: &Posterior<Self>,
        out_gradient: FloatTensor<Self>,
        plan: &Plan,
    ) -> Operands<Self>;
}

/// The operation as Burn's dispatch sees it.
#[burn::backend::backend_extension(Autodiff, Flex)]
pub(crate) trait FusedAttention: Backend {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        ln_weights: FloatTensor<Self>,
        temperature: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self>;
}

impl FusedAttention for Flex {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        ln_weights: FloatTensor<Self>,
        temperature: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self> {
        let operands = Operands::<Self> {
            q,
            k,
            v,
            ln_weights,
            temperature,
        };
        Self::forward(&operands, &plan).out
    }
}

pub(crate) fn attend(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    prior: &LogPrior,
    call: Checked,
) -> Result<Tensor<4>, AttentionError> {
    let unsupported = |expected, got: String| AttentionError::Unsupported {
        implementation: "fused",
        expected,
        got,
    };
    if q.dtype() != DType::F32 {
        return Err(unsupported(
            "tensors of type F32",
            format!("{:?}", q.dtype()),
        ));
    }
    let device = q.device();
    if !is_flex(q.clone()) {
        return Err(unsupported("a Flex device", format!("{device:?}")));
    }
    let temperature = match &call.options.temperature {
        Some(temperature) => temperature.values.clone(),
        None => Tensor::ones([1, 1, 1], &device),
    };
    let plan = Plan {
        lags: *prior.lags(),
        call: Arc::new(call),
    };
    let out = Dispatch::fused_attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        prior.ln_weights().clone().into_dispatch(),
        temperature.into_dispatch(),
        plan,
    );
    Ok(Tensor::from_dispatch(out))
}

fn is_flex(q: Tensor<4>) -> bool {
    let plain = q.inner().into_dispatch();
    <DispatchTensor as DispatchKindConversion<Flex>>::try_into_backend(plain).is_ok()
}
