//! For tests of an implementation: an oracle in `f64`, gradients included, and inputs that tell errors
//! apart.
//!
//! Inputs are signed and spread; a test on positive, narrow ones passes for a kernel that returns
//! the mean of the values.

use crate::{
    Call, Documents, Gradients, KernelError, KeyPrior, KeyPriorScope, Lags, LogWeights, Operands,
    Plan, Posterior, Rows, Temperature, TemperatureScope, Values, Visibility, bf16,
};
use std::sync::Arc;

mod oracle;

pub use oracle::{Link, oracle, oracle_gradients, oracle_row, product_oracle, sums_of_gradients};

/// Gradients in the order of [`oracle_gradients`].
#[must_use]
pub fn in_order(of: Gradients) -> [Vec<f32>; 6] {
    let Gradients {
        q,
        k,
        v,
        ln_weights,
        temperature,
        key_prior,
    } = of;
    [q, k, v, ln_weights, temperature, key_prior]
}

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

/// Sizes that tell errors of tiles, panels, tails and splits apart.
pub const AWKWARD_SIZES: [[usize; 6]; 17] = [
    // batch, heads, key heads, queries, keys, dim
    [1, 1, 1, 1, 1, 1],
    [2, 3, 3, 2, 2, 5],
    [1, 6, 2, 63, 63, 16],
    [2, 3, 1, 65, 65, 17],
    [1, 2, 2, 100, 100, 64],
    [1, 1, 1, 257, 257, 32],
    [1, 3, 3, 1, 257, 16],
    [2, 2, 1, 5, 130, 24],
    [1, 1, 1, 128, 192, 128],
    [3, 1, 1, 64, 64, 8],
    [1, 6, 3, 66, 67, 33],
    [1, 1, 1, 2, 2000, 16],
    [1, 2, 1, 300, 2000, 16],
    [16, 1, 1, 3, 3, 4],
    // Few heads and many keys: the keys are split.
    [1, 1, 1, 9, 9000, 8],
    [1, 2, 1, 8, 5000, 40],
    [1, 1, 1, 1, 4500, 100],
];

/// A prior over keys in plain numbers: each the sum of a pair.
#[derive(Clone, Debug)]
pub struct KeyNumbers {
    /// `[batch, heads, keys]`.
    pub high: Vec<f32>,
    /// The rest that `f32` left of each.
    pub low: Vec<f32>,
    /// The case's query heads, or its key heads.
    pub heads: usize,
    /// Whether the temperature multiplies it.
    pub scope: KeyPriorScope,
}

/// A call in plain numbers, row-major.
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
    pub window: Option<usize>,
    /// `[batch, queries]` and `[batch, keys]`.
    pub documents: Option<(Vec<i32>, Vec<i32>)>,
    /// `[batch, heads, queries]`, and whether it multiplies the prior too.
    pub temperature: Option<(Vec<f32>, bool)>,
    /// A prior over keys.
    pub key_prior: Option<KeyNumbers>,
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
            window: None,
            documents: None,
            temperature: None,
            key_prior: None,
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
    pub fn with_window(self, window: usize) -> Self {
        Self {
            window: Some(window),
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

    /// A number per key and query head, or key head, in pairs that no `f32` has.
    #[must_use]
    pub fn with_key_prior(self, by_query_head: bool, scope: KeyPriorScope) -> Self {
        let heads = if by_query_head {
            self.heads
        } else {
            self.key_heads
        };
        let count = self.batch * heads * self.keys;
        let high = signed_numbers(count, 3.0, 98).into_iter();
        let low = signed_numbers(count, 1e-8, 97);
        let values: Vec<f64> = high
            .zip(low)
            .map(|(high, low)| f64::from(high) + f64::from(low))
            .collect();
        self.with_key_numbers(&values, heads, scope)
    }

    /// Those numbers, `[batch, heads, keys]`, as a prior over keys.
    #[must_use]
    pub fn with_key_numbers(self, values: &[f64], heads: usize, scope: KeyPriorScope) -> Self {
        let (high, low) = KeyPrior::pairs(values);
        Self {
            key_prior: Some(KeyNumbers {
                high,
                low,
                heads,
                scope,
            }),
            ..self
        }
    }

    /// The distance from the definition that `f32` may bring an output to: the rounding of the largest
    /// logit moves a weight by its share, and a weight moves an output by the spread of the values.
    #[must_use]
    pub fn rounding(&self) -> f64 {
        let largest = self.v.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        f64::from(largest) * self.rounding_of_weights()
    }

    /// The share of itself by which `f32` may miss a weight.
    #[must_use]
    pub fn rounding_of_weights(&self) -> f64 {
        let largest = |values: &[f32]| values.iter().fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
        let (tau, on_prior) = match &self.temperature {
            Some((tau, on_prior)) => (largest(tau), *on_prior),
            None => (1.0, false),
        };
        let dim = self.dim as f64;
        let content = tau * largest(&self.q) * largest(&self.k) * dim.sqrt();
        let prior = largest(&self.ln_weights) * if on_prior { tau } else { 1.0 };
        let unit = f64::from(f32::EPSILON);
        let by_key = self.key_prior.as_ref().map_or(0.0, |of| {
            let factor = if of.scope == KeyPriorScope::Scaled {
                tau
            } else {
                1.0
            };
            2.0 * factor * largest(&of.high)
        });
        let of_logit = unit * ((dim + 8.0) * content + 4.0 * (prior + by_key));
        2.0 * of_logit + 64.0 * unit
    }

    /// The call without its numbers.
    ///
    /// # Errors
    /// If the documents don't fit the batch.
    pub fn call(&self) -> Result<Call, KernelError> {
        let documents = match &self.documents {
            None => None,
            Some((queries, keys)) => {
                let documents = Documents::with_cache(self.batch, queries.clone(), keys.clone())?;
                Some(Arc::new(documents))
            }
        };
        Ok(Call {
            offset: self.offset,
            visibility: match self.causal {
                true => Visibility::Causal,
                false => Visibility::Full,
            },
            window: self.window,
            documents,
            ..Call::causal()
        })
    }

    /// The lags of the log-weights.
    #[must_use]
    pub fn lags(&self) -> Lags {
        Lags::starting_at(self.first_lag, self.lags)
    }

    /// The part of a logit that the temperature multiplies, if there is one.
    #[must_use]
    pub fn temperature_scope(&self) -> Option<TemperatureScope> {
        let (_, on_prior) = self.temperature.as_ref()?;
        Some(match on_prior {
            true => TemperatureScope::LikelihoodAndPrior,
            false => TemperatureScope::Likelihood,
        })
    }

    /// The numbers of the call, with these as `q`, `k` and `v`: the case's own, or the same in `bf16`.
    ///
    /// # Errors
    /// If they don't have the case's shapes.
    pub fn operands<'a>(&'a self, [q, k, v]: [Values<'a>; 3]) -> Result<Operands<'a>, KernelError> {
        let rows = [self.batch, self.heads, self.queries];
        let of_keys = [self.batch, self.key_heads, self.keys, self.dim];
        let temperature = match (&self.temperature, self.temperature_scope()) {
            (Some((values, _)), Some(scope)) => Some(Temperature::new(values, rows, scope)?),
            _ => None,
        };
        let of_prior = |of: &'a KeyNumbers| {
            let shape = [self.batch, of.heads, self.keys];
            KeyPrior::new(&of.high, shape, of.scope)?.with_remainders(&of.low)
        };
        Ok(Operands {
            q: Rows::new(q, [self.batch, self.heads, self.queries, self.dim])?,
            k: Rows::new(k, of_keys)?,
            v: Rows::new(v, of_keys)?,
            ln_weights: LogWeights::new(&self.ln_weights, self.heads, self.lags())?,
            temperature,
            key_prior: self.key_prior.as_ref().map(of_prior).transpose()?,
        })
    }

    /// The forward pass on slices; `change` may say how, not what.
    ///
    /// # Errors
    /// Those of [`Plan::new`] and of the operands.
    pub fn forward(&self, change: impl Fn(Call) -> Call) -> Result<Posterior, KernelError> {
        let operands = self.operands(self.values())?;
        Plan::new(change(self.call()?), operands.shapes())?.forward(&operands)
    }

    /// The forward pass with `q`, `k` and `v` rounded to `bf16`.
    ///
    /// # Errors
    /// Those of [`Plan::new`] and of the operands.
    pub fn forward_narrow(&self, change: impl Fn(Call) -> Call) -> Result<Posterior, KernelError> {
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|values| narrow(values));
        let operands = self.operands([&q, &k, &v].map(Values::from))?;
        Plan::new(change(self.call()?), operands.shapes())?.forward(&operands)
    }

    /// Both passes on slices: the output, and the gradients of `Σ out·weights` for
    /// [`Case::loss_weights`].
    ///
    /// # Errors
    /// Those of [`Plan::new`] and of the operands.
    pub fn forward_backward(
        &self,
        change: impl Fn(Call) -> Call,
    ) -> Result<(Posterior, Gradients), KernelError> {
        let weights = self.loss_weights();
        self.pass_and_back(self.values(), (&weights).into(), change)
    }

    /// The same with `q`, `k`, `v` and the weights rounded to `bf16`.
    ///
    /// # Errors
    /// Those of [`Plan::new`] and of the operands.
    pub fn forward_backward_narrow(
        &self,
        change: impl Fn(Call) -> Call,
    ) -> Result<(Posterior, Gradients), KernelError> {
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|values| narrow(values));
        let weights = narrow(&self.loss_weights());
        self.pass_and_back([&q, &k, &v].map(Values::from), (&weights).into(), change)
    }

    fn pass_and_back(
        &self,
        values: [Values<'_>; 3],
        weights: Values<'_>,
        change: impl Fn(Call) -> Call,
    ) -> Result<(Posterior, Gradients), KernelError> {
        let operands = self.operands(values)?;
        let plan = Plan::new(change(self.call()?), operands.shapes())?;
        let posterior = plan.forward(&operands)?;
        let gradients = plan.backward(
            &operands,
            &posterior.out,
            &posterior.ln_evidence,
            &Rows::new(weights, plan.shapes().q)?,
        )?;
        Ok((posterior, gradients))
    }

    /// The number of the first key that a head reads, among those of all batch rows and key heads.
    fn first_key(&self, b: usize, h: usize) -> usize {
        (b * self.key_heads + h / (self.heads / self.key_heads)) * self.keys
    }

    /// The temperature of a row, counted over batch and heads, and whether the prior has it too.
    fn temperature_of(&self, row: usize) -> (f64, bool) {
        match &self.temperature {
            Some((tau, on_prior)) => (f64::from(tau[row]), *on_prior),
            None => (1.0, false),
        }
    }

    /// The place of a head's prior over its first key, and whether the temperature multiplies it.
    fn key_prior_of(&self, b: usize, h: usize) -> Option<(usize, bool)> {
        let of = self.key_prior.as_ref()?;
        let head = b * of.heads + h / (self.heads / of.heads);
        Some((head * self.keys, of.scope == KeyPriorScope::Scaled))
    }

    fn values(&self) -> [Values<'_>; 3] {
        [&self.q, &self.k, &self.v].map(Values::from)
    }

    /// Signed weights of a sum of the outputs to take gradients of, the same every time.
    #[must_use]
    pub fn loss_weights(&self) -> Vec<f32> {
        signed_numbers(self.batch * self.heads * self.queries * self.dim, 1.0, 1234)
    }
}

/// Cases for gradients: sizes with every kind of option.
#[must_use]
pub fn gradient_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (seed, sizes) in [
        [1, 1, 1, 1, 1, 1],
        [2, 3, 1, 2, 2, 5],
        [1, 6, 2, 63, 63, 16],
        [2, 3, 3, 65, 65, 17],
        [2, 2, 1, 5, 130, 24],
        [1, 1, 1, 257, 257, 64],
        [1, 2, 1, 300, 500, 16],
        [1, 1, 1, 700, 700, 48],
    ]
    .into_iter()
    .enumerate()
    {
        let case = Case::random(&sizes.into(), seed as u64);
        cases.push(case.clone());
        cases.push(case.clone().full());
        cases.push(case.clone().with_window(20).with_temperature(true));
        cases.push(case.clone().with_documents(3).with_temperature(true));
        cases.push(case.clone().with_documents(3).with_temperature(false));
        let scaled = case.clone().with_key_prior(true, KeyPriorScope::Scaled);
        cases.push(scaled.with_temperature(true).with_documents(2));
        let added = case.with_key_prior(false, KeyPriorScope::Added);
        cases.push(added.clone().full());
        cases.push(added.with_temperature(true).with_window(40));
    }
    cases
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

fn narrow(values: &[f32]) -> Vec<bf16> {
    values.iter().copied().map(bf16::from_f32).collect()
}
