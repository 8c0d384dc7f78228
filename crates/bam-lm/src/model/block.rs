//! A block: attention and a feed-forward layer, each after a norm and around a residual.

use super::adaptive::AdaptiveTemperature;
use super::attention::{Layer, Pass, Sight};
use super::config::{ModelConfig, PriorScope};
use super::design::{Activation, Design, NormKind, Residual};
use super::encoding::RowTemperature;
use super::kv_cache::LayerCache;
use super::products::{float_type, product};
use super::rowwise::{gated, rms_norm};
use crate::Error;
use bam_attention::nn::{self, BayesianAttention, BayesianAttentionConfig, PositionalPriorConfig};
use burn::module::{Module, Param};
use burn::nn::{
    Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig, RmsNorm, RmsNormConfig,
};
use burn::tensor::activation::{gelu, gelu_approximate, silu};
use burn::tensor::{Device, Tensor};
use std::ops::Range;

/// `x + attention(norm(x))`, then `x + feed_forward(norm(x))`; residuals start where the design says.
#[derive(Module, Debug)]
pub struct Block {
    pub(crate) attention: BayesianAttention,
    pub(crate) feed_forward: FeedForward,
    pub(crate) attention_norm: Norm,
    pub(crate) ffn_norm: Norm,
    pub(crate) adaptive: Option<AdaptiveTemperature>,
    layer: usize,
    /// Whether queries and keys are rotated here.
    rotates: bool,
    #[module(skip)]
    window: Option<usize>,
    #[module(skip)]
    design: Design,
}

/// `w2( σ(w1 x) ⊙ w3 x )`, or `w2( σ(w1 x) )` where there is no `w3`.
#[derive(Module, Debug)]
pub struct FeedForward {
    pub(crate) w1: Linear,
    pub(crate) w2: Linear,
    pub(crate) w3: Option<Linear>,
    #[module(skip)]
    activation: Activation,
}

/// A norm of the width of the stream.
#[derive(Module, Debug)]
pub enum Norm {
    /// Without a mean.
    Rms(RmsNorm),
    /// With one, with `β` or without.
    Layer(LayerNorm),
}

impl Norm {
    pub(crate) fn new(config: &ModelConfig, device: &Device) -> Self {
        let layer = |bias| {
            let of = LayerNormConfig::new(config.dim).with_epsilon(config.norm_epsilon);
            Self::Layer(of.with_bias(bias).init(device))
        };
        match config.design.norm {
            NormKind::Rms => {
                let of = RmsNormConfig::new(config.dim).with_epsilon(config.norm_epsilon);
                Self::Rms(of.init(device))
            }
            NormKind::Layer => layer(true),
            NormKind::LayerWithoutBias => layer(false),
        }
    }

    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Rms(norm) => rms_norm(norm, x),
            Self::Layer(norm) => norm.forward(x),
        }
    }

    pub(crate) fn gains(&self) -> &Param<Tensor<1>> {
        match self {
            Self::Rms(norm) => &norm.gamma,
            Self::Layer(norm) => &norm.gamma,
        }
    }

    pub(crate) fn bias(&self) -> Option<&Param<Tensor<1>>> {
        match self {
            Self::Rms(_) => None,
            Self::Layer(norm) => norm.beta.as_ref(),
        }
    }
}

/// Makes matrices, all with the same kind of random weights; biases start at 0.
pub(crate) struct Projections<'a> {
    pub initializer: &'a Initializer,
    pub device: &'a Device,
}

impl Projections<'_> {
    pub(crate) fn make(&self, input: usize, output: usize, bias: bool) -> Linear {
        let mut linear = LinearConfig::new(input, output)
            .with_bias(false)
            .with_initializer(self.initializer.clone())
            .init(self.device);
        linear.bias = bias.then(|| Initializer::Zeros.init([output], self.device));
        linear
    }
}

impl Block {
    /// # Errors
    /// If the numbers do not fit each other.
    pub(crate) fn new(
        config: &ModelConfig,
        layer: usize,
        projections: &Projections<'_>,
    ) -> Result<Self, Error> {
        let design = config.design;
        let linear = |input, output| projections.make(input, output, design.feed_forward_bias);
        // Elsewhere than here a prior is uniform to a layer: shared by all, or none.
        let own = config.priors_of(layer, PriorScope::Layer)?;
        let prior = own.unwrap_or_else(|| PositionalPriorConfig::uniform(config.heads));
        let encoding = config.encoding.of_layer(layer);
        let (ssmax, adaptive) = match config.temperature(layer) {
            None => (None, None),
            Some(RowTemperature::Scalable(scope)) => (Some(scope), None),
            Some(RowTemperature::Adaptive(scope)) => {
                let weights = [(); 2].map(|()| projections.make(config.dim, config.heads, false));
                (None, Some(AdaptiveTemperature::new(weights, scope)))
            }
        };
        let gates = || config.prior_start.forget_bias.of_heads(config.heads);
        let gates = encoding.forgets.then(gates);
        let attention = BayesianAttentionConfig::new(config.dim, prior)
            .with_key_heads(Some(config.key_heads))
            .with_window(config.window(layer))
            .with_scalable_softmax(ssmax)
            .with_forget_gate(gates)
            .with_bias(design.attention_bias)
            .with_output_projection(design.output_projection)
            .with_clip_qkv(design.clip_qkv)
            .with_initializer(projections.initializer.clone());
        Ok(Self {
            attention: attention.init(projections.device)?,
            feed_forward: FeedForward {
                w1: linear(config.dim, config.hidden),
                w2: linear(config.hidden, config.dim),
                w3: design.gated.then(|| linear(config.dim, config.hidden)),
                activation: design.activation,
            },
            attention_norm: Norm::new(config, projections.device),
            ffn_norm: Norm::new(config, projections.device),
            adaptive,
            layer,
            window: config.window(layer),
            rotates: encoding.position.rotates(),
            design,
        })
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
        let residual = start(self.design.attention_residual, x, &normed);
        let rows = read.clone();
        let attended = self.attention().forward(normed, sight, pass, rows)?;
        Ok(self.feed(residual.narrow(1, read.start, read.len()) + attended))
    }

    /// The block's output for one token of each of several rows, each with its own cache.
    pub(crate) fn decode_step(
        &self,
        x: Tensor<3>,
        passes: &[Pass<'_>],
        caches: Vec<&mut LayerCache>,
    ) -> Result<Tensor<3>, Error> {
        let normed = self.attention_norm.forward(x.clone());
        let residual = start(self.design.attention_residual, x, &normed);
        let attended = self.attention().decode_step(normed, passes, caches)?;
        Ok(self.feed(residual + attended))
    }

    fn attention(&self) -> Layer<'_> {
        Layer {
            attention: &self.attention,
            index: self.layer,
            rotates: self.rotates,
            window: self.window,
            adaptive: self.adaptive.as_ref(),
        }
    }

    /// The layers whose matrices multiply.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let BayesianAttention {
            query,
            key,
            value,
            output,
            ..
        } = &mut self.attention;
        let FeedForward { w1, w2, w3, .. } = &mut self.feed_forward;
        let all = [query, key, value, w1, w2].into_iter();
        all.chain(output).chain(w3)
    }

    fn feed(&self, x: Tensor<3>) -> Tensor<3> {
        let normed = self.ffn_norm.forward(x.clone());
        let residual = start(self.design.feed_forward_residual, x, &normed);
        residual + self.feed_forward.forward(normed)
    }
}

fn start(of: Residual, stream: Tensor<3>, normed: &Tensor<3>) -> Tensor<3> {
    match of {
        Residual::Stream => stream,
        Residual::Normed => normed.clone(),
    }
}

impl FeedForward {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let stream = x.dtype();
        let x = x.cast(float_type(&self.w1));
        let inner = nn::linear(&self.w1, x.clone()).cast(stream);
        let gate = self.w3.as_ref().map(|w3| nn::linear(w3, x).cast(stream));
        let inner = match (self.activation, gate) {
            (Activation::Silu, Some(gate)) => gated(inner, gate),
            (activation, gate) => {
                let inner = match activation {
                    Activation::Silu => silu(inner),
                    Activation::Gelu => gelu(inner),
                    Activation::GeluTanh => gelu_approximate(inner),
                };
                gate.map_or(inner.clone(), |gate| inner * gate)
            }
        };
        product(&self.w2, inner).cast(stream)
    }
}
