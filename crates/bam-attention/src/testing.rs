//! For those who test an implementation: an oracle in `f64` and inputs that tell errors apart.
//!
//! Inputs are signed and spread; a test on positive, narrow ones passes for a kernel that returns
//! the mean of the values.

use crate::{
    AttentionError, Documents, Implementation, Lags, LogPrior, Options, Temperature,
    TemperatureScope, Visibility, attend,
};
use burn::tensor::{Device, Tensor, TensorData};
use std::sync::Arc;

/// The sizes and options of a random [`Case`].
#[derive(Clone, Debug)]
pub struct Shape {
    /// Batch rows.
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key heads.
    pub key_heads: usize,
    /// Query rows.
    pub queries: usize,
    /// Keys.
    pub keys: usize,
    /// Head dimension.
    pub dim: usize,
}

impl From<[usize; 6]> for Shape {
    /// Batch rows, query heads, key heads, queries, keys, head dimension.
    fn from([batch, heads, key_heads, queries, keys, dim]: [usize; 6]) -> Self {
        Self {
            batch,
            heads,
            key_heads,
            queries,
            keys,
            dim,
        }
    }
}

/// The tensors of a case, ready for [`attend`].
#[derive(Clone, Debug)]
pub struct Tensors {
    /// `[batch, heads, queries, dim]`.
    pub q: Tensor<4>,
    /// `[batch, key_heads, keys, dim]`.
    pub k: Tensor<4>,
    /// `[batch, key_heads, keys, dim]`.
    pub v: Tensor<4>,
    /// `[heads, lags]`.
    pub ln_weights: Tensor<2>,
    /// `[batch, heads, queries]`; not used where the case has no temperature.
    pub temperature: Tensor<3>,
}

/// A call in plain numbers, row-major as the tensors of [`attend`] are.
#[derive(Clone, Debug)]
pub struct Case {
    /// Batch rows.
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key heads.
    pub key_heads: usize,
    /// Query rows.
    pub queries: usize,
    /// Keys.
    pub keys: usize,
    /// Head dimension.
    pub dim: usize,
    /// Position of the first query.
    pub offset: usize,
    /// Whether keys after the query are hidden.
    pub causal: bool,
    /// Keys at this distance and beyond are hidden.
    pub horizon: Option<usize>,
    /// `[batch, queries]` and `[batch, keys]`.
    pub documents: Option<(Vec<i32>, Vec<i32>)>,
    /// `[batch, heads, queries]`, and whether it multiplies the prior too.
    pub temperature: Option<(Vec<f32>, bool)>,
    /// `[batch, heads, queries, dim]`.
    pub q: Vec<f32>,
    /// `[batch, key_heads, keys, dim]`.
    pub k: Vec<f32>,
    /// `[batch, key_heads, keys, dim]`.
    pub v: Vec<f32>,
    /// `[heads, lags]`.
    pub ln_weights: Vec<f32>,
    /// Smallest lag of `ln_weights`.
    pub first_lag: i64,
    /// Number of lags of `ln_weights`.
    pub lags: usize,
}

impl Case {
    /// Causal rows at the end of the keys, under a prior that differs per head and lag.
    #[must_use]
    pub fn random(shape: &Shape, seed: u64) -> Self {
        let &Shape {
            batch,
            heads,
            key_heads,
            queries,
            keys,
            dim,
        } = shape;
        let numbers = |count, spread, stream| signed_numbers(count, spread, seed * 16 + stream);
        let lags = queries + keys - 1;
        Self {
            batch,
            heads,
            key_heads,
            queries,
            keys,
            dim,
            offset: keys.saturating_sub(queries),
            causal: true,
            horizon: None,
            documents: None,
            temperature: None,
            q: numbers(batch * heads * queries * dim, 2.0, 1),
            k: numbers(batch * key_heads * keys * dim, 2.0, 2),
            v: numbers(batch * key_heads * keys * dim, 3.0, 3),
            ln_weights: numbers(heads * lags, 3.0, 4),
            first_lag: 1 - keys as i64,
            lags,
        }
    }

    /// Rows see keys on both sides.
    #[must_use]
    pub fn full(mut self) -> Self {
        self.causal = false;
        self
    }

    /// Keys at this distance and beyond are hidden.
    #[must_use]
    pub fn with_horizon(self, horizon: usize) -> Self {
        Self {
            horizon: Some(horizon),
            ..self
        }
    }

    /// `count` documents in every row, of changing lengths, with some padding at its end.
    #[must_use]
    pub fn with_documents(mut self, count: usize) -> Self {
        let keys: Vec<i32> = (0..self.batch * self.keys)
            .map(|index| {
                let (b, j) = (index / self.keys, index % self.keys);
                if self.keys > 4 && j + 1 + b % 2 >= self.keys {
                    return Documents::PADDING;
                }
                // Uneven lengths: the square root bends an even division.
                ((j as f64 / self.keys as f64).sqrt() * count as f64) as i32 * 7 - 3
            })
            .collect();
        let queries = keys
            .chunks(self.keys)
            .flat_map(|ids| ids[self.offset..self.offset + self.queries].to_vec())
            .collect();
        self.documents = Some((queries, keys));
        self
    }

    /// A temperature per row, of either sign, on the prior too or not.
    #[must_use]
    pub fn with_temperature(mut self, on_prior: bool) -> Self {
        let values = signed_numbers(self.batch * self.heads * self.queries, 2.0, 99);
        self.temperature = Some((values, on_prior));
        self
    }

    /// The case as tensors on `device`.
    #[must_use]
    pub fn tensors(&self, device: &Device) -> Tensors {
        let kv = [self.batch, self.key_heads, self.keys, self.dim];
        let rows = [self.batch, self.heads, self.queries];
        let tau = match &self.temperature {
            Some((values, _)) => values.clone(),
            None => vec![1.0; rows.iter().product()],
        };
        let q_shape = [self.batch, self.heads, self.queries, self.dim];
        Tensors {
            q: Tensor::from_data(TensorData::new(self.q.clone(), q_shape), device),
            k: Tensor::from_data(TensorData::new(self.k.clone(), kv), device),
            v: Tensor::from_data(TensorData::new(self.v.clone(), kv), device),
            ln_weights: Tensor::from_data(
                TensorData::new(self.ln_weights.clone(), [self.heads, self.lags]),
                device,
            ),
            temperature: Tensor::from_data(TensorData::new(tau, rows), device),
        }
    }

    /// The case's options, for [`Case::attend_as`]; a test may change how, not what.
    ///
    /// # Errors
    /// If the documents don't fit the batch.
    pub fn options(
        &self,
        tensors: &Tensors,
        implementation: Implementation,
    ) -> Result<Options, AttentionError> {
        let mut options = Options::causal(implementation).with_query_offset(self.offset);
        if !self.causal {
            options.visibility = Visibility::Full;
        }
        options.horizon = self.horizon;
        if let Some((queries, keys)) = &self.documents {
            let documents = Documents::with_cache(self.batch, queries.clone(), keys.clone())?;
            options.documents = Some(Arc::new(documents));
        }
        if let Some((_, on_prior)) = self.temperature {
            let scope = match on_prior {
                true => TemperatureScope::LikelihoodAndPrior,
                false => TemperatureScope::Likelihood,
            };
            let values = tensors.temperature.clone();
            options.temperature = Some(Temperature { values, scope });
        }
        Ok(options)
    }

    /// [`attend`] on the case's tensors.
    ///
    /// # Errors
    /// Those of [`attend`].
    pub fn attend(
        &self,
        tensors: &Tensors,
        implementation: Implementation,
    ) -> Result<Tensor<4>, AttentionError> {
        self.attend_as(tensors, &self.options(tensors, implementation)?)
    }

    /// [`attend`] on the case's tensors with those options.
    ///
    /// # Errors
    /// Those of [`attend`].
    pub fn attend_as(
        &self,
        tensors: &Tensors,
        options: &Options,
    ) -> Result<Tensor<4>, AttentionError> {
        let lags = Lags::starting_at(self.first_lag, self.lags);
        let prior = LogPrior::new(tensors.ln_weights.clone(), lags)?;
        let [q, k, v] = [&tensors.q, &tensors.k, &tensors.v].map(Clone::clone);
        attend(q, k, v, &prior, options)
    }

    /// The case's output and its gradients of `Σ out·weights` by q, k, v, log-prior and temperature,
    /// for signed weights that are the same every time.
    ///
    /// # Errors
    /// Those of [`attend`].
    pub fn passes(
        &self,
        change: impl Fn(Options) -> Options,
        implementation: Implementation,
    ) -> Result<[Vec<f32>; 6], AttentionError> {
        let device = Device::flex().autodiff();
        let plain = self.tensors(&device);
        let tensors = Tensors {
            q: plain.q.require_grad(),
            k: plain.k.require_grad(),
            v: plain.v.require_grad(),
            ln_weights: plain.ln_weights.require_grad(),
            temperature: plain.temperature.require_grad(),
        };
        let options = change(self.options(&tensors, implementation)?);
        let out = self.attend_as(&tensors, &options)?;
        let weights = TensorData::new(self.loss_weights(), out.dims());
        let weights = Tensor::from_data(weights, &device);
        let gradients = (out.clone() * weights).sum().backward();
        Ok([
            numbers(Some(out.into_data())),
            numbers(tensors.q.grad(&gradients).map(Tensor::into_data)),
            numbers(tensors.k.grad(&gradients).map(Tensor::into_data)),
            numbers(tensors.v.grad(&gradients).map(Tensor::into_data)),
            numbers(tensors.ln_weights.grad(&gradients).map(Tensor::into_data)),
            numbers(tensors.temperature.grad(&gradients).map(Tensor::into_data)),
        ])
    }

    /// The weights of the sum that [`Case::passes`] takes the gradients of.
    #[must_use]
    pub fn loss_weights(&self) -> Vec<f32> {
        signed_numbers(self.batch * self.heads * self.queries * self.dim, 1.0, 1234)
    }
}

fn numbers(data: Option<TensorData>) -> Vec<f32> {
    data.and_then(|data| data.try_into_vec().ok())
        .unwrap_or_default()
}

/// `count` numbers in (−`spread`, `spread`), the same for the same seed (a SplitMix64 stream).
#[must_use]
pub fn signed_numbers(count: usize, spread: f32, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..count)
        .map(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            ((z >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * spread
        })
        .collect()
}

/// The definition, one output at a time, in `f64`: `[batch, heads, queries, dim]`.
#[must_use]
pub fn oracle(case: &Case) -> Vec<f64> {
    let mut out = Vec::with_capacity(case.batch * case.heads * case.queries * case.dim);
    for b in 0..case.batch {
        for h in 0..case.heads {
            for i in 0..case.queries {
                out.extend(oracle_row(case, b, h, i));
            }
        }
    }
    out
}

/// The definition's output of query row `i` of head `h` of batch row `b`: `[dim]`.
#[must_use]
pub fn oracle_row(case: &Case, b: usize, h: usize, i: usize) -> Vec<f64> {
    let key_head = b * case.key_heads + h / (case.heads / case.key_heads);
    let row = (b * case.heads + h) * case.queries + i;
    let q = &case.q[row * case.dim..][..case.dim];
    let (tau, on_prior) = match &case.temperature {
        Some((tau, on_prior)) => (f64::from(tau[row]), *on_prior),
        None => (1.0, false),
    };
    let mut logits = Vec::new();
    for j in 0..case.keys {
        let lag = j as i64 - (case.offset + i) as i64;
        let hidden = case.causal && lag > 0
            || case
                .horizon
                .is_some_and(|horizon| lag.unsigned_abs() >= horizon as u64)
            || case.documents.as_ref().is_some_and(|(queries, keys)| {
                let (own, other) = (queries[b * case.queries + i], keys[b * case.keys + j]);
                own != other || other == crate::Documents::PADDING
            });
        if hidden {
            continue;
        }
        let k = &case.k[(key_head * case.keys + j) * case.dim..][..case.dim];
        let dot: f64 = q
            .iter()
            .zip(k)
            .map(|(q, k)| f64::from(*q) * f64::from(*k))
            .sum();
        let content = dot / (case.dim as f64).sqrt();
        let column = (lag - case.first_lag) as usize;
        let prior = f64::from(case.ln_weights[h * case.lags + column]);
        let logit = if on_prior {
            tau * (content + prior)
        } else {
            tau * content + prior
        };
        logits.push((j, logit));
    }
    let largest = logits
        .iter()
        .fold(f64::NEG_INFINITY, |max, (_, logit)| max.max(*logit));
    let mut out = vec![0.0; case.dim];
    let mut evidence = 0.0;
    for (j, logit) in logits {
        let weight = (logit - largest).exp();
        evidence += weight;
        let v = &case.v[(key_head * case.keys + j) * case.dim..][..case.dim];
        out.iter_mut()
            .zip(v)
            .for_each(|(out, v)| *out += weight * f64::from(*v));
    }
    if evidence > 0.0 {
        out.iter_mut().for_each(|out| *out /= evidence);
    }
    out
}
