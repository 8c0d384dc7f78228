//! One attention layer: projections around [`bam_attention::attend`].

use super::block::projection;
use super::cache::LayerCache;
use super::config::{ModelConfig, PriorScope};
use super::prior::PriorHeads;
use super::rotary::rotate;
use crate::Error;
use crate::encoding::Position;
use bam_attention::{
    Documents, Implementation, LogPrior, Options, Skipping, Temperature, TemperatureScope, attend,
    scalable_softmax,
};
use burn::module::{Module, Param};
use burn::nn::{Initializer, Linear};
use burn::tensor::{Device, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// Projections, the layer's own prior where it has one, and the scale of scalable softmax.
#[derive(Module, Debug)]
pub struct Attention {
    pub(crate) wq: Linear,
    pub(crate) wk: Linear,
    pub(crate) wv: Linear,
    pub(crate) wo: Linear,
    pub(crate) prior: Option<PriorHeads>,
    /// `[heads]`.
    pub(crate) ssmax_scale: Option<Param<Tensor<1>>>,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    key_heads: usize,
    #[module(skip)]
    ssmax: Option<Scope>,
}

/// A [`TemperatureScope`] that a module can hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope(TemperatureScope);

/// What all layers of a forward pass share.
pub(crate) struct Pass {
    pub implementation: Implementation,
    /// What may be left unread, where a cache says so.
    pub skipping: Option<Skipping>,
    /// Tokens before the first one of this pass.
    pub offset: usize,
    pub documents: Option<Arc<Documents>>,
    pub horizon: Option<usize>,
    /// Angles of the positions, where the encoding rotates.
    pub rotary: Option<(Tensor<2>, Tensor<2>)>,
}

impl Attention {
    pub(crate) fn new(
        config: &ModelConfig,
        layer: usize,
        initializer: &Initializer,
        device: &Device,
    ) -> Self {
        let linear = |input, output| projection(input, output, initializer, device);
        let key_width = config.key_heads * config.head_dim();
        let prior = match &config.encoding.position {
            Position::Prior(groups) if config.prior_scope == PriorScope::Layer => {
                Some(PriorHeads::new(groups, config, device))
            }
            _ => None,
        };
        let ssmax = config
            .encoding
            .ssmax
            .filter(|_| layer >= config.ssmax_from)
            .map(Scope);
        let ssmax_scale = ssmax.map(|_| Param::from_tensor(Tensor::ones([config.heads], device)));
        Self {
            wq: linear(config.dim, config.dim),
            wk: linear(config.dim, key_width),
            wv: linear(config.dim, key_width),
            wo: linear(config.dim, config.dim),
            prior,
            ssmax_scale,
            heads: config.heads,
            key_heads: config.key_heads,
            ssmax,
        }
    }

    /// The layer's output for the rows `read` of `x`, `[batch, read, dim]`.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        log_prior: &LogPrior,
        pass: &Pass,
        cache: Option<&mut LayerCache>,
        read: Range<usize>,
    ) -> Result<Tensor<3>, Error> {
        let [batch, length, dim] = x.dims();
        let head_dim = dim / self.heads;
        let split = |x: Tensor<3>, heads| {
            let [batch, length, _] = x.dims();
            x.reshape([batch, length, heads, head_dim])
        };
        let turn = |x: Tensor<4>, rows: Range<usize>| match &pass.rotary {
            None => x,
            Some((cos, sin)) => {
                let [cos, sin] = [cos, sin].map(|t| t.clone().narrow(0, rows.start, rows.len()));
                rotate(x, &(cos, sin))
            }
        };
        let k = turn(split(self.wk.forward(x.clone()), self.key_heads), 0..length);
        let v = split(self.wv.forward(x.clone()), self.key_heads);
        let (k, v) = (k.swap_dims(1, 2), v.swap_dims(1, 2));
        let (k, v, known) = match cache {
            Some(cache) => {
                let (k, v) = cache.append(pass.offset, k, v)?;
                (k, v, Some((cache.norms.clone(), cache.skip_log.clone())))
            }
            None => (k, v, None),
        };
        let rows = read.len();
        let x = x.narrow(1, read.start, rows);
        let q = turn(split(self.wq.forward(x), self.heads), read.clone()).swap_dims(1, 2);

        let mut options = self.options(pass, &read, rows, k.dims()[2])?;
        if let Some((norms, log)) = known {
            options = options.with_key_norms(norms).with_skip_log(log);
        }
        let out = attend(q, k, v, log_prior, &options)?;
        Ok(self
            .wo
            .forward(out.swap_dims(1, 2).reshape([batch, rows, dim])))
    }

    fn options(
        &self,
        pass: &Pass,
        read: &Range<usize>,
        queries: usize,
        keys: usize,
    ) -> Result<Options, Error> {
        let mut options =
            Options::causal(pass.implementation).with_query_offset(pass.offset + read.start);
        if let Some(skipping) = pass.skipping {
            options.skipping = skipping;
        }
        options.horizon = pass.horizon;
        options.documents.clone_from(&pass.documents);
        if let (Some(scale), Some(Scope(scope))) = (&self.ssmax_scale, self.ssmax) {
            let values = scalable_softmax(scale.val(), queries, keys, &options)?;
            options.temperature = Some(Temperature { values, scope });
        }
        Ok(options)
    }
}
