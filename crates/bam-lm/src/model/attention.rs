//! One attention layer: projections around [`bam_attention::attend`].

use super::block::Projections;
use super::config::{ModelConfig, PriorScope};
use super::kv_cache::{HeadGroupCache, LayerCache};
use super::prior::PriorHeads;
use super::rotary::rotate;
use crate::Error;
use crate::model::encoding::Position;
use bam_attention::{
    Documents, Implementation, LogPrior, Options, Skipping, Temperature, TemperatureScope, attend,
    scalable_softmax,
};
use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;
use std::ops::Range;
use std::sync::Arc;

/// Projections, the layer's own prior where it has one, and the scale of scalable softmax.
#[derive(Module, Debug)]
pub struct Attention {
    pub(crate) wq: Linear,
    pub(crate) wk: Linear,
    pub(crate) wv: Linear,
    pub(crate) wo: Option<Linear>,
    pub(crate) prior: Option<PriorHeads>,
    /// `[heads]`.
    pub(crate) ssmax_scale: Option<Param<Tensor<1>>>,
    #[module(skip)]
    layer: usize,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    key_heads: usize,
    #[module(skip)]
    ssmax: Option<Scope>,
    #[module(skip)]
    clip: Option<f64>,
}

/// A [`TemperatureScope`] that a module can hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope(TemperatureScope);

/// Queries of the rows read, keys and values of all: `[batch, length, heads, head dim]`.
struct Projected {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
}

/// What all layers of a forward pass share.
pub(crate) struct Pass<'a> {
    pub implementation: Implementation,
    /// What may be left unread, where a cache says so.
    pub skipping: Option<Skipping>,
    /// Tokens before the first one of this pass.
    pub offset: usize,
    pub documents: Option<Arc<Documents>>,
    pub horizon: Option<usize>,
    /// Angles of the positions, where the encoding rotates.
    pub rotary: Option<(Tensor<2>, Tensor<2>)>,
    /// Who is told what every layer attends to, where there is a cache.
    pub observer: Option<&'a Observer<'a>>,
}

/// What a layer's rows look at.
pub(crate) enum Sight<'a> {
    /// The tokens of this pass, under the layer's prior.
    Pass(&'a LogPrior),
    /// And those before them, in a cache that holds the prior.
    Cache(&'a mut LayerCache),
}

pub(crate) type Observer<'a> = dyn Fn(&Attended) + 'a;

/// What some neighbouring heads of a layer attended to, as [`attend`] was given it.
pub(crate) struct Attended {
    pub layer: usize,
    /// Query heads.
    pub heads: Range<usize>,
    /// Position of the first row.
    pub first_row: usize,
    /// `[batch, heads, rows, dim]`.
    pub q: Tensor<4>,
    /// `[batch, key_heads, keys, dim]`, up to the last token of the pass.
    pub k: Tensor<4>,
    pub log_prior: LogPrior,
    pub options: Options,
}

impl Attention {
    pub(crate) fn new(config: &ModelConfig, layer: usize, projections: &Projections<'_>) -> Self {
        let (design, device) = (config.design, projections.device);
        let linear = |input, output| projections.make(input, output, design.attention_bias);
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
            wo: (design.output_projection).then(|| linear(config.dim, config.dim)),
            prior,
            ssmax_scale,
            layer,
            heads: config.heads,
            key_heads: config.key_heads,
            ssmax,
            clip: design.clip_qkv,
        }
    }

    /// The layer's output for the rows `read` of `x`, `[batch, read, dim]`.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        sight: Sight<'_>,
        pass: &Pass<'_>,
        read: Range<usize>,
    ) -> Result<Tensor<3>, Error> {
        let heads = Projected {
            k: self.project(&self.wk, x.clone(), self.key_heads),
            v: self.project(&self.wv, x.clone(), self.key_heads),
            q: self.project(&self.wq, x.narrow(1, read.start, read.len()), self.heads),
        };
        let out = self.attend(heads, sight, pass, read)?;
        Ok(self.out(out))
    }

    /// The layer's output for one token of each of several rows, `[rows, 1, dim]`, each with its own
    /// cache. The projections are those of all rows together.
    pub(crate) fn decode_step(
        &self,
        x: Tensor<3>,
        passes: &[Pass<'_>],
        caches: Vec<&mut LayerCache>,
    ) -> Result<Tensor<3>, Error> {
        let q = self.project(&self.wq, x.clone(), self.heads);
        let k = self.project(&self.wk, x.clone(), self.key_heads);
        let v = self.project(&self.wv, x, self.key_heads);
        let mut outs = Vec::with_capacity(caches.len());
        for (row, cache) in caches.into_iter().enumerate() {
            let [q, k, v] = [&q, &k, &v].map(|t| t.clone().narrow(0, row, 1));
            let heads = Projected { q, k, v };
            outs.push(self.attend(heads, Sight::Cache(cache), &passes[row], 0..1)?);
        }
        Ok(self.out(Tensor::cat(outs, 0)))
    }

    fn out(&self, heads: Tensor<3>) -> Tensor<3> {
        match &self.wo {
            Some(wo) => wo.forward(heads),
            None => heads,
        }
    }

    /// `[batch, length, dim]` → `[batch, length, heads, head dim]`.
    fn project(&self, linear: &Linear, x: Tensor<3>, heads: usize) -> Tensor<4> {
        let x = linear.forward(x);
        let x = match self.clip {
            Some(limit) => x.clamp(-limit, limit),
            None => x,
        };
        let [batch, length, width] = x.dims();
        x.reshape([batch, length, heads, width / heads])
    }

    /// The heads' expectations of the values, side by side: `[batch, read, dim]`.
    fn attend(
        &self,
        Projected { q, k, v }: Projected,
        sight: Sight<'_>,
        pass: &Pass<'_>,
        read: Range<usize>,
    ) -> Result<Tensor<3>, Error> {
        let [batch, length, ..] = k.dims();
        let turn = |x: Tensor<4>, rows: Range<usize>| match &pass.rotary {
            None => x,
            Some((cos, sin)) => {
                let [cos, sin] = [cos, sin].map(|t| t.clone().narrow(0, rows.start, rows.len()));
                rotate(x, &(cos, sin))
            }
        };
        let (k, v) = (turn(k, 0..length).swap_dims(1, 2), v.swap_dims(1, 2));
        let q = turn(q, read.clone()).swap_dims(1, 2);
        let options = self.options(pass, &read, pass.offset + length)?;
        let out = match sight {
            Sight::Pass(log_prior) => attend(q, k, v, log_prior, &options)?,
            Sight::Cache(cache) => {
                let mut outs = Vec::with_capacity(cache.groups.len());
                for group in &mut cache.groups {
                    outs.push(self.attend_group(group, pass, &options, &read, [&q, &k, &v])?);
                }
                match outs.len() {
                    1 => outs.remove(0),
                    _ => Tensor::cat(outs, 1),
                }
            }
        };
        let [_, heads, rows, head_dim] = out.dims();
        Ok(out.swap_dims(1, 2).reshape([batch, rows, heads * head_dim]))
    }

    /// The output of a group's heads, which read what the group has kept and the new tokens.
    fn attend_group(
        &self,
        group: &mut HeadGroupCache,
        pass: &Pass<'_>,
        options: &Options,
        read: &Range<usize>,
        [q, k, v]: [&Tensor<4>; 3],
    ) -> Result<Tensor<4>, Error> {
        let some =
            |x: &Tensor<4>, heads: &Range<usize>| x.clone().narrow(1, heads.start, heads.len());
        let [k, v] = [k, v].map(|x| some(x, &group.key_heads));
        let seen = group.append(pass.offset, k, v)?;
        let q = some(q, &group.heads);
        let mut options = options
            .clone()
            .with_query_offset(seen.before + read.start)
            .with_skip_log(group.skip_log.clone());
        options.key_norms = seen.norms;
        // The nearer of the two hides.
        options.horizon = options.horizon.into_iter().chain(seen.horizon).min();
        if let Some(temperature) = &mut options.temperature {
            let of_all = temperature.values.clone();
            temperature.values = of_all.narrow(1, group.heads.start, group.heads.len());
        }
        if let Some(observer) = pass.observer {
            observer(&Attended {
                layer: self.layer,
                heads: group.heads.clone(),
                first_row: pass.offset + read.start,
                q: q.clone(),
                k: seen.keys.clone(),
                log_prior: group.log_prior.clone(),
                options: options.clone(),
            });
        }
        let out = attend(q, seen.keys, seen.values, &group.log_prior, &options)?;
        Ok(out)
    }

    /// The options of rows that see all `keys` tokens up to the last one.
    fn options(&self, pass: &Pass<'_>, read: &Range<usize>, keys: usize) -> Result<Options, Error> {
        let mut options =
            Options::causal(pass.implementation).with_query_offset(pass.offset + read.start);
        if let Some(skipping) = pass.skipping {
            options.skipping = skipping;
        }
        options.horizon = pass.horizon;
        options.documents.clone_from(&pass.documents);
        if let (Some(scale), Some(Scope(scope))) = (&self.ssmax_scale, self.ssmax) {
            let values = scalable_softmax(scale.val(), read.len(), keys, &options)?;
            options.temperature = Some(Temperature { values, scope });
        }
        Ok(options)
    }
}
