//! A block: attention and a gated feed-forward layer, each after a norm and around a residual.

use super::attention::{Attention, Pass, Sight};
use super::cache::LayerCache;
use super::config::ModelConfig;
use crate::Error;
use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig, RmsNorm, RmsNormConfig};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor};
use std::ops::Range;

/// `x + attention(norm(x))`, then `x + feed_forward(norm(x))`.
#[derive(Module, Debug)]
pub struct Block {
    pub(crate) attention: Attention,
    pub(crate) feed_forward: FeedForward,
    pub(crate) attention_norm: RmsNorm,
    pub(crate) ffn_norm: RmsNorm,
}

/// SwiGLU: `w2( silu(w1 x) ⊙ w3 x )`.
#[derive(Module, Debug)]
pub struct FeedForward {
    pub(crate) w1: Linear,
    pub(crate) w2: Linear,
    pub(crate) w3: Linear,
}

/// A matrix without bias.
pub(crate) fn projection(
    input: usize,
    output: usize,
    initializer: &Initializer,
    device: &Device,
) -> Linear {
    LinearConfig::new(input, output)
        .with_bias(false)
        .with_initializer(initializer.clone())
        .init(device)
}

pub(crate) fn norm(config: &ModelConfig, device: &Device) -> RmsNorm {
    RmsNormConfig::new(config.dim)
        .with_epsilon(config.norm_epsilon)
        .init(device)
}

impl Block {
    pub(crate) fn new(
        config: &ModelConfig,
        layer: usize,
        initializer: &Initializer,
        device: &Device,
    ) -> Self {
        let linear = |input, output| projection(input, output, initializer, device);
        Self {
            attention: Attention::new(config, layer, initializer, device),
            feed_forward: FeedForward {
                w1: linear(config.dim, config.hidden),
                w2: linear(config.hidden, config.dim),
                w3: linear(config.dim, config.hidden),
            },
            attention_norm: norm(config, device),
            ffn_norm: norm(config, device),
        }
    }

    /// The block's output for the rows `read` of `x`.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        sight: Sight<'_>,
        pass: &Pass<'_>,
        read: Range<usize>,
    ) -> Result<Tensor<3>, Error> {
        let normed = self.attention_norm.forward(x.clone());
        let attended = self.attention.forward(normed, sight, pass, read.clone())?;
        let x = x.narrow(1, read.start, read.len()) + attended;
        Ok(self.feed(x))
    }

    /// The block's output for one token of each of several rows, each with its own cache.
    pub(crate) fn step(
        &self,
        x: Tensor<3>,
        passes: &[Pass<'_>],
        caches: Vec<&mut LayerCache>,
    ) -> Result<Tensor<3>, Error> {
        let normed = self.attention_norm.forward(x.clone());
        let attended = self.attention.step(normed, passes, caches)?;
        Ok(self.feed(x + attended))
    }

    fn feed(&self, x: Tensor<3>) -> Tensor<3> {
        x.clone() + self.feed_forward.forward(self.ffn_norm.forward(x))
    }
}

impl FeedForward {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = silu(self.w1.forward(x.clone()));
        self.w2.forward(gate * self.w3.forward(x))
    }
}
