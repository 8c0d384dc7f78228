//! The float type of a model's matrix products.

use bam_attention::nn;
use burn::nn::Linear;
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// The float type that [`Transformer::forward`](super::Transformer::forward) multiplies matrices in, those
/// of attention among them. Parameters, norms, activations, priors, the loss and every gradient of a
/// parameter are `f32` either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Products {
    /// As the parameters are.
    #[default]
    F32,
    /// Both factors are rounded to `bf16`, and so is the product.
    Bf16,
}

impl Products {
    /// Bytes of a factor.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Rounds the matrix to `bf16`, and the bias; the gradient goes through to what they were.
pub(crate) fn round(linear: &mut Linear) {
    linear.weight = linear.weight.clone().map(|weight| weight.cast(DType::BF16));
    let bias = linear.bias.take();
    linear.bias = bias.map(|bias| bias.map(|bias| bias.cast(DType::BF16)));
}

/// The float type of the layer's products.
pub(crate) fn float_type(linear: &Linear) -> DType {
    linear.weight.val().dtype()
}

/// `x W + b` in the type of `W`.
pub(crate) fn product<const D: usize>(linear: &Linear, x: Tensor<D>) -> Tensor<D> {
    nn::linear(linear, x.cast(float_type(linear)))
}
