//! Attention whose heads have priors: projections around [`attend`].
//!
//! Shape suffixes: b batch, q queries, k keys, h heads, d head dimension, m model width.

use super::kv_cache::{HeadGroupCache, KvCache};
use super::linear::linear;
use super::mask::{Mask, forgetting_tokens};
use super::prior::{PositionalPrior, PositionalPriorConfig};
use crate::error::wrong;
use crate::{
    AttentionError, Implementation, KeyPrior, Lags, LogPrior, Options, Skipping, Temperature,
    TemperatureScope, Visibility, attend, scalable_softmax,
};
use bam_kernel::KernelError;
use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::activation::log_sigmoid;
use burn::tensor::{DType, Device, Tensor, TensorData};
use std::ops::Range;
use std::sync::Arc;

/// A layer of attention under a positional prior.
///
/// The number of heads is that of the prior: there is one for each.
///
/// ```
/// use bam_attention::TemperatureScope;
/// use bam_attention::nn::{BayesianAttentionConfig, Family, PositionalPriorConfig};
/// use burn::tensor::{Device, Distribution, Tensor};
///
/// let device = Device::flex();
/// let prior = PositionalPriorConfig::learned(Family::GeneralizedGaussian, 8);
/// let attention = BayesianAttentionConfig::new(64, prior)
///     .with_key_heads(Some(2))
///     .with_scalable_softmax(Some(TemperatureScope::LikelihoodAndPrior))
///     .init(&device)?;
/// let x = Tensor::<3>::random([1, 100, 64], Distribution::Default, &device);
/// let all = attention.forward(x.clone(), None)?;
/// // The same in pieces, as a decoder reads.
/// let mut cache = attention.cache(1, 100)?;
/// let first = attention.forward_cached(x.clone().narrow(1, 0, 99), None, &mut cache)?;
/// let last = attention.forward_cached(x.narrow(1, 99, 1), None, &mut cache)?;
/// assert_eq!(Tensor::cat(vec![first, last], 1).dims(), all.dims());
/// # Ok::<(), bam_attention::AttentionError>(())
/// ```
#[derive(Config, Debug)]
pub struct BayesianAttentionConfig {
    /// Width of the model: a multiple of the heads.
    pub d_model: usize,
    /// The prior of every query head.
    pub prior: PositionalPriorConfig,
    /// Key and value heads, a divisor of the query heads; where nothing is said, as many.
    pub key_heads: Option<usize>,
    /// Whether rows see nothing after them. Cross-attention looks both ways.
    #[config(default = true)]
    pub causal: bool,
    /// Hides keys at this distance and beyond.
    pub window: Option<usize>,
    /// Scalable softmax, a learned factor `s_h·ln n` on the logits, and what it multiplies.
    pub scalable_softmax: Option<TemperatureScope>,
    /// Forget gates (arXiv 2503.02130): `f = σ(w·x + b)` for every token and query head, whose logarithms' running sum is a
    /// prior over keys beside that over lags, `u_j = −Σ_{l ≤ j} ln f_l`. `w` starts as the other matrices, `b` at these
    /// numbers, one a head: at 0 a gate halves what lies behind it, at 5 it keeps all but a hundredth of it.
    pub forget_gate: Option<Vec<f64>>,
    /// Biases of the projections; they start at 0.
    #[config(default = true)]
    pub bias: bool,
    /// Whether a matrix follows the heads.
    #[config(default = true)]
    pub output_projection: bool,
    /// Queries, keys and values are clamped to this size, entry by entry.
    pub clip_qkv: Option<f64>,
    /// The start of the projections' matrices; Burn's for attention if nothing is said.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/3f64.sqrt(), fan_out_only:false}")]
    pub initializer: Initializer,
}

/// Attention of `x` under a prior for every head; made by [`BayesianAttentionConfig`].
#[derive(Module, Debug)]
pub struct BayesianAttention {
    /// Width to query heads.
    pub query: Linear,
    /// Width to key heads.
    pub key: Linear,
    /// Width to value heads, as many.
    pub value: Linear,
    /// Query heads to width.
    pub output: Option<Linear>,
    /// The priors of the query heads.
    pub prior: PositionalPrior,
    /// `s_h` of scalable softmax, `[heads]`; it starts at 1.
    pub ssmax_scale: Option<Param<Tensor<1>>>,
    /// Width to a forget gate for every query head.
    pub forget: Option<Linear>,
    #[module(skip)]
    form: Form,
}

/// Everything about a layer that is not learned.
#[derive(Clone, Copy, Debug)]
struct Form {
    heads: usize,
    key_heads: usize,
    visibility: Visibility,
    window: Option<usize>,
    temperature_scope: Option<TemperatureScope>,
    clip: Option<f64>,
    implementation: Implementation,
    skipping: Option<Skipping>,
}

/// Queries, keys and values by head.
#[derive(Clone, Debug)]
pub struct Projected {
    /// `[batch, queries, heads, head dim]`.
    pub q: Tensor<4>,
    /// `[batch, keys, key heads, head dim]`.
    pub k: Tensor<4>,
    /// `[batch, keys, key heads, head dim]`.
    pub v: Tensor<4>,
    /// Logarithms of forget gates, `[batch, keys, heads]`, where there are some.
    pub ln_forget: Option<Tensor<3>>,
}

/// One call of [`attend`] with a cache, for those who watch: some neighbouring heads.
#[derive(Clone, Debug)]
pub struct Attended {
    /// Query heads.
    pub heads: Range<usize>,
    /// `[batch, heads, queries, dim]`.
    pub q: Tensor<4>,
    /// `[batch, key heads, keys, dim]`, those that are kept up to the last new one.
    pub k: Tensor<4>,
    /// The heads' prior.
    pub log_prior: LogPrior,
    /// The options of the call.
    pub options: Options,
}

impl BayesianAttentionConfig {
    /// The module, on the fused implementation.
    ///
    /// # Errors
    /// Names the first number that does not fit the others, and those of [`PositionalPriorConfig::init`].
    pub fn init(&self, device: &Device) -> Result<BayesianAttention, AttentionError> {
        let (d_model, heads) = (self.d_model, self.prior.heads());
        let key_heads = self.key_heads.unwrap_or(heads);
        let prior = self.prior.init(device)?;
        if d_model == 0 || !d_model.is_multiple_of(heads) {
            return wrong("d_model", format!("a multiple of {heads} heads"), d_model);
        }
        if key_heads == 0 || !heads.is_multiple_of(key_heads) {
            let expected = format!("a divisor of {heads} heads");
            return wrong("key_heads", expected, key_heads);
        }
        if self.window == Some(0) {
            return wrong("window", "at least 1 token, the own one", 0);
        }
        let is_none = |limit: &f64| !(*limit as f32 > 0.0 && (*limit as f32).is_finite());
        if let Some(limit) = self.clip_qkv.filter(is_none) {
            return wrong("clip_qkv", "a number above 0 that f32 holds", limit);
        }
        if let Some(biases) = &self.forget_gate {
            if !self.causal {
                return wrong("forget_gate", "none in a layer that is not causal", "one");
            }
            if biases.len() != heads || biases.iter().any(|bias| !bias.is_finite()) {
                let expected = format!("{heads} finite numbers");
                return wrong("forget_gate", expected, format!("{biases:?}"));
            }
        }
        let key_width = key_heads * (d_model / heads);
        let linear = |input, output| {
            let mut linear = LinearConfig::new(input, output)
                .with_bias(false)
                .with_initializer(self.initializer.clone())
                .init(device);
            linear.bias = (self.bias).then(|| Initializer::Zeros.init([output], device));
            linear
        };
        let ones = || Param::from_tensor(Tensor::ones([heads], device));
        Ok(BayesianAttention {
            query: linear(d_model, d_model),
            key: linear(d_model, key_width),
            value: linear(d_model, key_width),
            output: (self.output_projection).then(|| linear(d_model, d_model)),
            prior,
            ssmax_scale: self.scalable_softmax.map(|_| ones()),
            forget: self.forget_gate.as_ref().map(|biases| {
                let mut gate = linear(d_model, heads);
                let start = Tensor::from_data(TensorData::from(biases.as_slice()), device);
                gate.bias = Some(Param::from_tensor(start));
                gate
            }),
            form: Form {
                heads,
                key_heads,
                visibility: match self.causal {
                    true => Visibility::Causal,
                    false => Visibility::Full,
                },
                window: self.window,
                temperature_scope: self.scalable_softmax,
                clip: self.clip_qkv,
                implementation: Implementation::Fused,
                skipping: None,
            },
        })
    }
}

impl BayesianAttention {
    /// The same layer, computed in another way. Not part of a configuration: it means the same.
    #[must_use]
    pub fn with_implementation(mut self, implementation: Implementation) -> Self {
        self.form.implementation = implementation;
        self
    }

    /// The same layer, with other keys that may be left unread than [`Options::causal`] has.
    #[must_use]
    pub fn with_skipping(mut self, skipping: Skipping) -> Self {
        self.form.skipping = Some(skipping);
        self
    }

    /// Query heads.
    #[must_use]
    pub fn heads(&self) -> usize {
        self.form.heads
    }

    /// Key and value heads.
    #[must_use]
    pub fn key_heads(&self) -> usize {
        self.form.key_heads
    }

    /// The scope of scalable softmax, where there is one.
    #[must_use]
    pub fn temperature_scope(&self) -> Option<TemperatureScope> {
        self.form.temperature_scope
    }

    /// Self-attention.
    ///
    /// # Shapes
    /// - `x`: `[batch, length, d_model]`; `mask` of the same rows
    /// - result: `[batch, length, d_model]`
    ///
    /// # Errors
    /// Of [`attend`]: another width, an empty input, a mask of other rows, what the implementation
    /// does not support.
    pub fn forward(&self, x: Tensor<3>, mask: Option<&Mask>) -> Result<Tensor<3>, AttentionError> {
        let [_, length, _] = x.dims();
        let lags = match self.form.visibility {
            Visibility::Causal => Lags::causal(length),
            Visibility::Full => Lags::full(length, length),
        };
        let heads = self.project(x.clone(), x)?;
        let options = masked(self.options(), mask);
        let out = self.attend(heads, &self.prior.forward(lags), options)?;
        Ok(self.project_out(out))
    }

    /// Cross-attention: every row of `x` sees all of `memory`, within the window if there is one. Both begin at position 0, so key `j` is at
    /// the lag `j − i` from row `i`, of either sign.
    ///
    /// # Shapes
    /// - `x`: `[batch, queries, d_model]`, `memory`: `[batch, keys, d_model]`
    /// - `mask`: of so many queries and keys, [`Mask::cross_padding`]
    /// - result: `[batch, queries, d_model]`
    ///
    /// # Errors
    /// Those of [`BayesianAttention::forward`]; a layer with forget gates, which say what came between a key and a row.
    pub fn forward_cross(
        &self,
        x: Tensor<3>,
        memory: Tensor<3>,
        mask: Option<&Mask>,
    ) -> Result<Tensor<3>, AttentionError> {
        if self.forget.is_some() {
            return wrong("forget_gate", "none in cross-attention", "one");
        }
        let lags = Lags::full(x.dims()[1], memory.dims()[1]);
        let heads = self.project(x, memory)?;
        let mut options = masked(self.options(), mask);
        options.visibility = Visibility::Full;
        let out = self.attend(heads, &self.prior.forward(lags), options)?;
        Ok(self.project_out(out))
    }

    /// Self-attention of the tokens after those in the cache, which takes them in.
    ///
    /// # Shapes
    /// - `x`: `[batch, new, d_model]`; `mask` of the new tokens, who join the documents before them
    /// - result: `[batch, new, d_model]`
    ///
    /// # Errors
    /// Those of [`BayesianAttention::forward`]; a cache without room, a layer that is not causal, tensors
    /// with autodiff ([`Module::valid`] takes it off): what a cache keeps has no gradient.
    pub fn forward_cached(
        &self,
        x: Tensor<3>,
        mask: Option<&Mask>,
        cache: &mut KvCache,
    ) -> Result<Tensor<3>, AttentionError> {
        let [batch, new, _] = x.dims();
        cache.check(batch, new)?;
        let heads = self.project(x.clone(), x)?;
        if heads.q.is_autodiff() {
            return Err(AttentionError::Unsupported {
                implementation: "cached",
                expected: "tensors without autodiff",
                got: "some with it".into(),
            });
        }
        let documents = cache.documents(mask, new)?;
        let before = cache.kept();
        let mut options = self.options().with_query_offset(before);
        options.documents = documents.clone().map(Arc::new);
        let groups = std::slice::from_mut(&mut cache.group);
        let out = self.attend_cached(heads, groups, before, options, None)?;
        cache.advance(new, documents.as_ref());
        Ok(self.project_out(out))
    }

    /// An empty cache for `batch` rows of up to `capacity` tokens.
    ///
    /// # Errors
    /// If there is nothing to keep, or the layer is not causal.
    pub fn cache(&self, batch: usize, capacity: usize) -> Result<KvCache, AttentionError> {
        if self.form.visibility != Visibility::Causal {
            return wrong("cache", "a causal layer", "one of both directions");
        }
        for (what, size) in [("batch", batch), ("capacity", capacity)] {
            if size == 0 {
                return Err(KernelError::Empty { what }.into());
            }
        }
        let prior = self.prior.valid().forward(Lags::causal(capacity));
        let Form {
            heads, key_heads, ..
        } = self.form;
        let head_dim = self.query.weight.lazy_shape()[1] / heads;
        let window = self.form.window.filter(|window| *window < capacity);
        let shape = [batch, key_heads, capacity, head_dim];
        let device = prior.ln_weights().device();
        let group = HeadGroupCache::new(0..key_heads, window, shape, &prior, &device)?;
        Ok(KvCache::new(group, batch, capacity))
    }

    /// Options as this layer calls [`attend`], before window and temperature, which
    /// [`BayesianAttention::attend`] adds.
    #[must_use]
    pub fn options(&self) -> Options {
        let mut options = Options::causal(self.form.implementation);
        options.visibility = self.form.visibility;
        options.skipping = self.form.skipping.unwrap_or(options.skipping);
        options
    }

    /// The first of three steps, for those who put something between them, such as a rotation:
    /// [`BayesianAttention::project`], [`BayesianAttention::attend`], [`BayesianAttention::project_out`].
    ///
    /// # Shapes
    /// - `queries`: `[batch, queries, d_model]`, `memory`: `[batch, keys, d_model]`
    ///
    /// # Errors
    /// If they have another width, or nothing.
    pub fn project(
        &self,
        queries: Tensor<3>,
        memory: Tensor<3>,
    ) -> Result<Projected, AttentionError> {
        let width = self.query.weight.lazy_shape()[0];
        for (what, x) in [("queries", &queries), ("memory", &memory)] {
            let [batch, length, got] = x.dims();
            if batch * length == 0 {
                return Err(KernelError::Empty { what }.into());
            }
            if got != width {
                return Err(KernelError::Shape {
                    what,
                    expected: format!("[{batch}, {length}, {width}]"),
                    got: format!("[{batch}, {length}, {got}]"),
                }
                .into());
            }
        }
        let Form {
            heads, key_heads, ..
        } = self.form;
        let gates = self.forget.as_ref().map(|gate| {
            let x = memory.clone().cast(gate.weight.val().dtype());
            log_sigmoid(linear(gate, x).cast(DType::F32))
        });
        Ok(Projected {
            ln_forget: gates,
            k: self.by_head(&self.key, memory.clone(), key_heads),
            v: self.by_head(&self.value, memory, key_heads),
            q: self.by_head(&self.query, queries, heads),
        })
    }

    /// `[batch, length, d_model]` → `[batch, length, heads, head dim]`.
    fn by_head(&self, layer: &Linear, x_blm: Tensor<3>, heads: usize) -> Tensor<4> {
        let x = linear(layer, x_blm);
        let x = match self.form.clip {
            Some(limit) => x.clamp(-limit, limit),
            None => x,
        };
        let [batch, length, width] = x.dims();
        x.reshape([batch, length, heads, width / heads])
    }

    /// The heads' expectations of the values, side by side, under a prior that need not be the layer's
    /// own: several layers can share one.
    ///
    /// # Shapes
    /// - `prior`: `[heads, lags]`, every lag between a row and a key it sees
    /// - result: `[batch, queries, heads · head dim]`
    ///
    /// # Errors
    /// Those of [`attend`]; a prior over keys beside forget gates.
    pub fn attend(
        &self,
        heads: Projected,
        prior: &LogPrior,
        options: Options,
    ) -> Result<Tensor<3>, AttentionError> {
        let keys = heads.k.dims()[1];
        let ln_forget = gates(&heads, &options)?;
        let [q_bhqd, k_bhkd, v_bhkd] = by_row(heads);
        let mut options = self.complete(options, q_bhqd.dims()[2], keys)?;
        if let Some(ln_f) = ln_forget {
            options.key_prior = Some(KeyPrior::forgetting(ln_f));
        }
        let out_bhqd = attend(q_bhqd, k_bhkd, v_bhkd, prior, &options)?;
        Ok(side_by_side(out_bhqd))
    }

    /// The same of new tokens after those in a cache, which takes them in.
    ///
    /// Groups of heads may keep fewer than the `before` tokens; a row's temperature counts the keys that it
    /// sees among all of them and the new ones. `options` has the first query's position there, and
    /// documents only if there is one group; a prior over keys is that of the new tokens, and kept beside their keys.
    ///
    /// # Errors
    /// Those of [`attend`].
    pub fn attend_cached(
        &self,
        heads: Projected,
        groups: &mut [HeadGroupCache],
        before: usize,
        options: Options,
        observer: Option<&dyn Fn(Attended)>,
    ) -> Result<Tensor<3>, AttentionError> {
        let kept: Vec<_> = groups.iter().map(HeadGroupCache::tokens).collect();
        let out = self.attend_groups(heads, groups, before, options, observer);
        if out.is_err() {
            // The tokens of a call that failed are not in.
            for (group, tokens) in groups.iter_mut().zip(kept) {
                group.restore(tokens);
            }
        }
        out
    }

    fn attend_groups(
        &self,
        heads: Projected,
        groups: &mut [HeadGroupCache],
        before: usize,
        options: Options,
        observer: Option<&dyn Fn(Attended)>,
    ) -> Result<Tensor<3>, AttentionError> {
        let keys = before + heads.k.dims()[1];
        let ln_forget = gates(&heads, &options)?;
        let new = options.key_prior.clone();
        let [q_bhqd, k_bhkd, v_bhkd] = by_row(heads);
        let Some(skipped) = options.query_offset.checked_sub(before) else {
            let expected = format!("at least the {before} tokens before");
            return wrong("query_offset", expected, options.query_offset);
        };
        let options = self.complete(options, q_bhqd.dims()[2], keys)?;
        let mut outs = Vec::with_capacity(groups.len());
        for group in groups {
            let some =
                |x: &Tensor<4>, heads: &Range<usize>| x.clone().narrow(1, heads.start, heads.len());
            let [k, v] = [&k_bhkd, &v_bhkd].map(|x| some(x, &group.key_heads));
            let of_gates = ln_forget.as_ref().map(|ln_f| {
                let (first, count) = (group.heads.start, group.heads.len());
                let new = KeyPrior::forgetting(ln_f.clone().narrow(1, first, count));
                group.gone_on(before, new)
            });
            let new = of_gates.or_else(|| {
                new.as_ref()
                    .map(|new| group.own_heads(new, self.form.heads))
            });
            let seen = group.append(before, k, v, new)?;
            let q = some(&q_bhqd, &group.heads);
            let mut options = options.clone().with_query_offset(seen.before + skipped);
            options.key_prior = seen.key_prior;
            if options.implementation == Implementation::Fused {
                options.skip_log = Some(group.skip_log.clone());
                options.key_norms = seen.norms;
            }
            // The nearer of the two hides.
            options.window = options.window.into_iter().chain(seen.window).min();
            if let Some(temperature) = &mut options.temperature {
                let of_all = temperature.values.clone();
                temperature.values = of_all.narrow(1, group.heads.start, group.heads.len());
            }
            if let Some(observer) = observer {
                observer(Attended {
                    heads: group.heads.clone(),
                    q: q.clone(),
                    k: seen.keys.clone(),
                    log_prior: group.log_prior.clone(),
                    options: options.clone(),
                });
            }
            outs.push(attend(
                q,
                seen.keys,
                seen.values,
                &group.log_prior,
                &options,
            )?);
        }
        let out_bhqd = match outs.len() {
            1 => outs.remove(0),
            _ => Tensor::cat(outs, 1),
        };
        Ok(side_by_side(out_bhqd))
    }

    /// The last step: `[batch, queries, heads · head dim]` → `[batch, queries, d_model]`.
    #[must_use]
    pub fn project_out(&self, heads: Tensor<3>) -> Tensor<3> {
        match &self.output {
            Some(output) => linear(output, heads),
            None => heads,
        }
    }

    /// Options with the layer's window and temperature.
    fn complete(
        &self,
        mut options: Options,
        queries: usize,
        keys: usize,
    ) -> Result<Options, AttentionError> {
        options.window = options.window.into_iter().chain(self.form.window).min();
        if let (Some(scale), Some(scope)) = (&self.ssmax_scale, self.form.temperature_scope) {
            let values = scalable_softmax(scale.val(), queries, keys, &options)?;
            options.temperature = Some(Temperature { values, scope });
        }
        Ok(options)
    }
}

fn masked(options: Options, mask: Option<&Mask>) -> Options {
    Options {
        documents: mask.map(|Mask(documents)| documents.clone()),
        ..options
    }
}

/// Logarithms of forget gates, `[batch, heads, keys]`.
///
/// # Errors
/// If there is another prior over keys too.
fn gates(heads: &Projected, options: &Options) -> Result<Option<Tensor<3>>, AttentionError> {
    if heads.ln_forget.is_some() && options.key_prior.is_some() {
        return wrong("key_prior", "none beside forget gates", "one");
    }
    let ln_f = heads.ln_forget.clone().map(|ln_f| ln_f.swap_dims(1, 2));
    Ok(ln_f.map(|ln_f| forgetting_tokens(ln_f, options.documents.as_deref())))
}

/// `[batch, length, heads, head dim]` → `[batch, heads, length, head dim]`.
fn by_row(Projected { q, k, v, .. }: Projected) -> [Tensor<4>; 3] {
    [q, k, v].map(|x| x.swap_dims(1, 2))
}

/// `[batch, heads, queries, head dim]` → `[batch, queries, heads · head dim]`.
fn side_by_side(out_bhqd: Tensor<4>) -> Tensor<3> {
    let [batch, heads, queries, head_dim] = out_bhqd.dims();
    let out_bqhd = out_bhqd.swap_dims(1, 2);
    out_bqhd.reshape([batch, queries, heads * head_dim])
}
