//! The whole model.

use super::attention::{Observer, Pass, Sight};
use super::block::{Block, Norm, Projections};
use super::checkpoint::NamedTensors;
use super::config::{ModelConfig, PriorScope};
use super::kv_cache::KvCache;
use super::products::{Products, float_type, product, round};
use super::rotary::{angles, sinusoids};
use super::rowwise::{Scored, cross_entropy};
use crate::Error;
use bam_attention::nn::{PositionalPrior, multiplied};
use bam_attention::{Documents, Implementation, Lags, LogPrior};
use bam_record::history::{Event, History};
use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Initializer, Linear};
use burn::tensor::{Device, Int, Tensor, TensorData};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Token ids, row after row, known to be ids of the vocabulary they were checked against.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRows {
    rows: usize,
    ids: Vec<i32>,
    vocabulary: usize,
}

impl TokenRows {
    /// `rows` rows of equal length.
    ///
    /// # Errors
    /// If there is no token, the rows are unequal, or an id is not below `vocabulary`.
    pub fn new(rows: usize, ids: Vec<i32>, vocabulary: usize) -> Result<Self, Error> {
        if rows == 0 || ids.is_empty() || !ids.len().is_multiple_of(rows) {
            return Err(Error::Value {
                what: "tokens",
                expected: format!("at least one, in {rows} rows of equal length"),
                got: format!("{} tokens", ids.len()),
            });
        }
        check_ids(&ids, vocabulary)?;
        Ok(Self {
            rows,
            ids,
            vocabulary,
        })
    }

    /// # Errors
    /// If an id is not below `vocabulary`.
    fn check(&self, vocabulary: usize) -> Result<(), Error> {
        match self.vocabulary > vocabulary {
            true => check_ids(&self.ids, vocabulary),
            false => Ok(()),
        }
    }

    /// Tokens of a row.
    #[must_use]
    pub fn length(&self) -> usize {
        self.ids.len() / self.rows
    }

    /// `[rows, length]`.
    pub(crate) fn tensor(&self, device: &Device) -> Tensor<2, Int> {
        let data = TensorData::new(self.ids.clone(), [self.rows, self.length()]);
        Tensor::from_data(data, device)
    }
}

fn check_ids(ids: &[i32], vocabulary: usize) -> Result<(), Error> {
    let outside = |id: &i32| *id < 0 || *id as usize >= vocabulary;
    match ids.iter().position(outside) {
        None => Ok(()),
        Some(index) => Err(Error::Token {
            index,
            vocabulary,
            got: i64::from(ids[index]),
        }),
    }
}

/// A decoder, built as its [`Design`](super::Design) says: LLaMA-like if nothing else is said.
///
/// ```
/// use bam_lm::model::{Design, ModelConfig, PriorScope, PriorStart, TokenRows};
/// use bam_attention::Implementation;
/// use burn::tensor::Device;
///
/// let config = ModelConfig {
///     encoding: "bam+ssmax".parse()?,
///     dim: 32, layers: 2, heads: 4, key_heads: 4, hidden: 64, vocabulary: 100,
///     train_length: 16, norm_epsilon: 1e-5, rotary_theta: 1e4,
///     prior_scope: PriorScope::Layer, prior_start: PriorStart::default(), ssmax_from: 0,
///     design: Design::default(),
/// };
/// let model = config.checked()?.init(&Device::flex());
/// let tokens = TokenRows::new(2, vec![1; 2 * 40], 100)?; // longer than it was trained: fine
/// let logits = model.forward(&tokens, None, Implementation::Fused)?;
/// assert_eq!(logits.dims(), [2, 40, 100]);
/// # Ok::<(), bam_lm::Error>(())
/// ```
#[derive(Module, Debug)]
pub struct Transformer {
    pub(crate) tok_embeddings: Embedding,
    pub(crate) embedding_norm: Option<Norm>,
    pub(crate) layers: Vec<Block>,
    pub(crate) norm: Option<Norm>,
    /// The head, where it is not the embeddings.
    pub(crate) output: Option<Linear>,
    /// The prior that all layers share, where they do.
    pub(crate) prior: Option<PositionalPrior>,
    #[module(skip)]
    pub(crate) config: ModelConfig,
    #[module(skip)]
    pub(crate) history: History,
    #[module(skip)]
    pub(crate) products: Products,
}

/// The source of a pass's tokens.
enum Source<'a> {
    /// Nothing: they are whole rows, under the priors of the layers.
    Rows {
        priors: Vec<LogPrior>,
        documents: Option<Arc<Documents>>,
        implementation: Implementation,
    },
    /// The tokens before them.
    Cache {
        cache: &'a mut KvCache,
        observer: Option<&'a Observer<'a>>,
    },
}

impl<'a> Source<'a> {
    fn offset(&self) -> usize {
        match self {
            Self::Rows { .. } => 0,
            Self::Cache { cache, .. } => cache.length,
        }
    }

    /// The pass that reads it.
    fn pass(&self) -> Pass<'a> {
        match self {
            Self::Rows {
                documents,
                implementation,
                ..
            } => Pass {
                implementation: *implementation,
                skipping: None,
                offset: 0,
                documents: documents.clone(),
                rotary: None,
                observer: None,
            },
            Self::Cache { cache, observer } => Pass {
                observer: *observer,
                ..pass_after(cache)
            },
        }
    }

    fn sight(&mut self, layer: usize) -> Sight<'_> {
        match self {
            Self::Rows { priors, .. } => Sight::Pass(&priors[layer]),
            Self::Cache { cache, .. } => Sight::Cache(&mut cache.layers[layer]),
        }
    }
}

/// A pass after the tokens of a cache.
fn pass_after<'a>(cache: &KvCache) -> Pass<'a> {
    Pass {
        implementation: Implementation::Fused,
        skipping: Some(cache.skipping),
        offset: cache.length,
        documents: None,
        rotary: None,
        observer: None,
    }
}

impl ModelConfig {
    /// A model with random weights: matrices and embeddings N(0, 0.02), biases 0, gains and SSMax
    /// scales 1, priors where the configuration starts them. Random numbers come from the device's seed.
    ///
    /// # Panics
    /// If the configuration does not fit itself: [`ModelConfig::checked`].
    #[must_use]
    pub fn init(&self, device: &Device) -> Transformer {
        let (mean, std) = (0.0, 0.02);
        let made = self.made(&Initializer::Normal { mean, std }, device);
        made.expect("a configuration that was checked fits itself")
    }

    /// A model with the parameters of a file's tensors; `path` is for messages. Nothing is drawn.
    ///
    /// # Errors
    /// Those of [`Transformer::with_tensors`]; if the configuration does not fit itself.
    pub fn with_tensors(
        &self,
        tensors: NamedTensors,
        path: &Path,
        device: &Device,
    ) -> Result<Transformer, Error> {
        let empty = self.made(&Initializer::Zeros, device)?;
        empty.with_tensors(tensors, path)
    }

    /// Weights that are not drawn are zeros.
    pub(crate) fn made(
        &self,
        initializer: &Initializer,
        device: &Device,
    ) -> Result<Transformer, Error> {
        let projections = Projections {
            initializer,
            device,
        };
        let design = self.design;
        let prior = match self.priors_of(0, PriorScope::Global)? {
            Some(shared) => Some(shared.init(device)?),
            None => None,
        };
        let layers = (0..self.layers).map(|layer| Block::new(self, layer, &projections));
        Ok(Transformer {
            tok_embeddings: EmbeddingConfig::new(self.vocabulary, self.dim)
                .with_initializer(initializer.clone())
                .init(device),
            embedding_norm: design.embedding_norm.then(|| Norm::new(self, device)),
            layers: layers.collect::<Result<_, Error>>()?,
            norm: design.final_norm.then(|| Norm::new(self, device)),
            output: (!design.tied_head).then(|| projections.make(self.dim, self.vocabulary, false)),
            prior,
            config: self.clone(),
            history: History::default(),
            products: Products::default(),
        })
    }
}

impl Transformer {
    /// The model's configuration.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its history since it was first made.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The same model, to which all of this was done.
    #[must_use]
    pub fn with_history(mut self, history: History) -> Self {
        self.history = history;
        self
    }

    /// The same model, to which this was done last.
    #[must_use]
    pub fn with_event(mut self, event: Event) -> Self {
        self.history.events.push(event);
        self
    }

    /// The same model, whose [`Transformer::forward`] multiplies in this type. No part of a model on disk.
    #[must_use]
    pub fn with_products(mut self, products: Products) -> Self {
        self.products = products;
        self
    }

    /// The model with its matrices in the type of its products; the gradient goes through to them.
    fn rounded(&self) -> Option<Self> {
        (self.products == Products::Bf16).then(|| {
            let mut model = self.clone();
            let of_blocks = model.layers.iter_mut().flat_map(Block::linears_mut);
            of_blocks.chain(&mut model.output).for_each(round);
            model
        })
    }

    /// The device of the weights.
    #[must_use]
    pub fn device(&self) -> Device {
        self.tok_embeddings.weight.val().device()
    }

    /// Logits of every next token.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, length]`
    /// - result: `[batch, length, vocabulary]`
    ///
    /// # Errors
    /// Ids outside the vocabulary, documents of another size.
    pub fn forward(
        &self,
        tokens: &TokenRows,
        documents: Option<Arc<Documents>>,
        implementation: Implementation,
    ) -> Result<Tensor<3>, Error> {
        let rows = Source::Rows {
            priors: self.log_priors(Lags::causal(tokens.length())),
            documents,
            implementation,
        };
        let rounded = self.rounded();
        let model = rounded.as_ref().unwrap_or(self);
        let hidden = model.run(tokens, rows, 0..tokens.length())?;
        Ok(model.head(hidden))
    }

    /// Weighted mean cross-entropy of `targets`, in nats: `Σ w·ce / Σ w`.
    ///
    /// `weights` holds one number per target, row after row.
    ///
    /// # Errors
    /// Those of [`Transformer::forward`]; targets or weights of another size.
    pub fn loss(
        &self,
        tokens: &TokenRows,
        targets: &TokenRows,
        weights: &[f32],
        documents: Option<Arc<Documents>>,
        implementation: Implementation,
    ) -> Result<Tensor<1>, Error> {
        let [rows, length, vocabulary] = [tokens.rows, tokens.length(), self.config.vocabulary];
        let count = rows * length;
        if [targets.rows, targets.length()] != [rows, length] || weights.len() != count {
            return Err(Error::Value {
                what: "targets",
                expected: format!("{rows} rows of {length} tokens, each with a weight"),
                got: format!(
                    "{} rows of {} and {} weights",
                    targets.rows,
                    targets.length(),
                    weights.len()
                ),
            });
        }
        targets.check(vocabulary)?;
        let total: f32 = weights.iter().sum::<f32>().max(f32::MIN_POSITIVE);
        let scored = Scored {
            targets: targets.ids.iter().map(|id| *id as usize).collect(),
            weights: weights.iter().map(|weight| weight / total).collect(),
        };
        let logits = self.forward(tokens, documents, implementation)?;
        Ok(cross_entropy(logits.reshape([count, vocabulary]), scored))
    }

    /// Reads on: adds the tokens to the cache and returns the logits after the tokens `read`, an
    /// index range into `tokens`. The last layer is computed there only; `None` if it is empty.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, length]`
    /// - result: `[batch, read, vocabulary]`
    ///
    /// # Errors
    /// Ids outside the vocabulary, more tokens than the cache has room for.
    pub fn forward_cached(
        &self,
        tokens: &TokenRows,
        cache: &mut KvCache,
        read: Range<usize>,
    ) -> Result<Option<Tensor<3>>, Error> {
        let reads = !read.is_empty();
        // A layer can't be run for no row at all; without readers the last one is run for one.
        let rows = if reads { read } else { 0..1 };
        let hidden = self.run_cached(tokens, cache, None, rows)?;
        Ok(reads.then(|| self.head(hidden)))
    }

    /// Reads on as [`Transformer::forward_cached`] does, without logits, and tells an observer what every
    /// layer attends to; the last layer in the rows `read`, which are not none.
    ///
    /// # Errors
    /// Those of [`Transformer::forward_cached`].
    pub(crate) fn observe(
        &self,
        tokens: &TokenRows,
        cache: &mut KvCache,
        read: Range<usize>,
        observer: &Observer<'_>,
    ) -> Result<(), Error> {
        self.run_cached(tokens, cache, Some(observer), read)
            .map(drop)
    }

    /// # Errors
    /// If the cache lives elsewhere.
    fn check_device(&self, cache: &KvCache) -> Result<(), Error> {
        let own = self.device();
        match *cache.device() == own {
            true => Ok(()),
            false => Err(Error::Value {
                what: "cache",
                expected: format!("one on the model's device, {own:?}"),
                got: format!("one on {:?}", cache.device()),
            }),
        }
    }

    fn run_cached(
        &self,
        tokens: &TokenRows,
        cache: &mut KvCache,
        observer: Option<&Observer<'_>>,
        read: Range<usize>,
    ) -> Result<Tensor<3>, Error> {
        self.check_device(cache)?;
        let end = cache.length + tokens.length();
        if end > cache.capacity() || read.end > tokens.length() {
            return Err(Error::Value {
                what: "tokens",
                expected: format!("at most {} more", cache.capacity() - cache.length),
                got: tokens.length().to_string(),
            });
        }
        let source = Source::Cache {
            cache: &mut *cache,
            observer,
        };
        let hidden = self.run(tokens, source, read)?;
        cache.length = end;
        Ok(hidden)
    }

    /// The last block's output at the rows `read`.
    fn run(
        &self,
        tokens: &TokenRows,
        mut source: Source<'_>,
        read: Range<usize>,
    ) -> Result<Tensor<3>, Error> {
        tokens.check(self.config.vocabulary)?;
        let offset = source.offset();
        let positions = offset..offset + tokens.length();
        let mut x = self.embed(tokens.tensor(&self.device()));
        x = self.with_position(x, positions.clone());
        let pass = self.with_angles(source.pass(), positions);
        let last = self.layers.len() - 1;
        for (index, block) in self.layers.iter().enumerate() {
            let rows = if index == last {
                read.clone()
            } else {
                0..tokens.length()
            };
            x = block.forward(x, source.sight(index), &pass, rows)?;
        }
        Ok(x)
    }

    /// One token of each of several sequences, each with its own cache: adds them, and returns the logits
    /// after them.
    ///
    /// The same as [`Transformer::forward_cached`] on each, up to rounding; the matrix products are shared.
    ///
    /// # Shapes
    /// - `tokens`: one per cache
    /// - result: `[rows, 1, vocabulary]`
    ///
    /// # Errors
    /// Ids outside the vocabulary, a cache without room or of more than one sequence.
    pub fn decode_step(
        &self,
        tokens: &[i32],
        caches: &mut [&mut KvCache],
    ) -> Result<Tensor<3>, Error> {
        let rows = TokenRows::new(tokens.len(), tokens.to_vec(), self.config.vocabulary)?;
        let full = |cache: &&mut KvCache| cache.length >= cache.capacity() || cache.batch() != 1;
        if tokens.len() != caches.len() || caches.iter().any(full) {
            return Err(Error::Value {
                what: "caches",
                expected: format!("{} of one sequence, with room for a token", tokens.len()),
                got: format!("{}", caches.len()),
            });
        }
        for cache in caches.iter() {
            self.check_device(cache)?;
        }
        let x = self.embed(rows.tensor(&self.device()));
        let mut passes = Vec::with_capacity(caches.len());
        let mut rows = Vec::with_capacity(caches.len());
        for (index, cache) in caches.iter_mut().enumerate() {
            let position = cache.length..cache.length + 1;
            rows.push(self.with_position(x.clone().narrow(0, index, 1), position.clone()));
            passes.push(self.with_angles(pass_after(cache), position));
        }
        let mut x = Tensor::cat(rows, 0);
        for (index, block) in self.layers.iter().enumerate() {
            let layers = caches.iter_mut().map(|cache| &mut cache.layers[index]);
            x = block.decode_step(x, &passes, layers.collect())?;
        }
        caches.iter_mut().for_each(|cache| cache.length += 1);
        Ok(self.head(x))
    }

    /// The blocks' input, without positions.
    fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        self.normed_embeddings(self.tok_embeddings.forward(tokens))
    }

    pub(crate) fn normed_embeddings(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.embedding_norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    /// Logits of what the blocks end with.
    fn head(&self, x: Tensor<3>) -> Tensor<3> {
        let x = match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        let stream = x.dtype();
        let logits = match &self.output {
            Some(output) => product(output, x),
            None => {
                let products = float_type(&self.layers[0].feed_forward.w1);
                let head = self.tok_embeddings.weight.val().cast(products);
                multiplied(x.cast(products), head.transpose(), None)
            }
        };
        logits.cast(stream)
    }

    /// A pass with what the encoding does to attention at those positions.
    fn with_angles<'a>(&self, pass: Pass<'a>, positions: Range<usize>) -> Pass<'a> {
        let config = &self.config;
        let rotates = config.encoding.rotates();
        let (head_dim, theta) = (config.head_dim(), config.rotary_theta);
        Pass {
            rotary: rotates.then(|| angles(positions, head_dim, theta, &self.device())),
            ..pass
        }
    }

    /// Embeddings with what the encoding adds to them.
    fn with_position(&self, x: Tensor<3>, positions: Range<usize>) -> Tensor<3> {
        let config = &self.config;
        match config.encoding.adds_sinusoids() {
            true => x + sinusoids(positions, config.dim, config.rotary_theta, &self.device()),
            false => x,
        }
    }

    /// The prior of every layer over the lags.
    pub(crate) fn log_priors(&self, lags: Lags) -> Vec<LogPrior> {
        match &self.prior {
            Some(shared) => vec![shared.forward(lags); self.layers.len()],
            None => {
                let layers = self.layers.iter();
                layers
                    .map(|block| block.attention.prior.forward(lags))
                    .collect()
            }
        }
    }

    /// The priors of a layer's heads, its own or those that all layers share.
    pub(crate) fn prior_of(&self, layer: usize) -> &PositionalPrior {
        let shared = self.prior.as_ref();
        shared.unwrap_or(&self.layers[layer].attention.prior)
    }
}
