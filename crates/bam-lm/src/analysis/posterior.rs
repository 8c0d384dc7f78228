//! Row posteriors: Bayes' rule on a text, row by row and key by key.
//!
//! The model reads the text as it always does, through its cache; an observer is handed what every
//! layer's attention is given, and takes the rows that were asked for apart. So a row costs memory
//! in proportion to its keys, and no row more than those asked for is held.

use crate::Error;
use crate::model::{Attended, CHUNK, KvCache, TokenRows, Transformer, host_values};
use bam_attention::{KeyPriorScope, TemperatureScope};
use bam_record::{Glance, RowPosterior};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Keys at this distance or nearer are near, for [`Glance::near_mass`].
pub const NEAR: usize = 16;

/// Row posteriors of every head of every layer at these positions of `tokens`: its prior, its
/// likelihood and its posterior over the keys up to the row's own.
///
/// Rows come in ascending order, each once; of a row all layers, and of a layer all heads. The
/// memory is that of the result, rows × layers × heads × keys; see [`each_row_posterior`] for many rows.
///
/// ```
/// use bam_lm::analysis::posterior::row_posteriors;
/// # use bam_lm::model::{ModelConfig, PriorScope, PriorStart};
/// # let config = ModelConfig {
/// #     encoding: "bam+ssmax".parse()?,
/// #     dim: 32, layers: 2, heads: 4, key_heads: 4, hidden: 64, vocabulary: 100,
/// #     train_length: 16, norm_epsilon: 1e-5, rotary_theta: 1e4,
/// #     prior_scope: PriorScope::Layer, prior_start: PriorStart::default(), ssmax_from: 0,
/// #     design: Default::default(),
/// # };
/// # let model = config.checked()?.init(&burn::tensor::Device::flex());
/// let row_posteriors = row_posteriors(&model, &[5, 80, 7, 7, 31], &[2, 4])?;
/// assert_eq!(row_posteriors.len(), 2 * 2 * 4);
/// let of_last = &row_posteriors[8]; // row 4, layer 0, head 0
/// assert_eq!((of_last.row, of_last.posterior.len()), (4, 5));
/// let posterior: f32 = of_last.posterior.iter().sum();
/// assert!((posterior - 1.0).abs() < 1e-5);
/// # Ok::<(), bam_lm::Error>(())
/// ```
///
/// # Errors
/// If a row is not among the tokens or a token is outside the vocabulary.
pub fn row_posteriors(
    model: &Transformer,
    tokens: &[i32],
    rows: &[usize],
) -> Result<Vec<RowPosterior>, Error> {
    let mut row_posteriors = Vec::new();
    each_row_posterior(model, tokens, rows, |row| row_posteriors.push(row))?;
    row_posteriors.sort_by_key(|row| (row.row, row.layer, row.head));
    Ok(row_posteriors)
}

/// The same, handed over one by one: piece by piece of the text, layer by layer, row by row.
///
/// # Errors
/// Those of [`row_posteriors`].
pub fn each_row_posterior(
    model: &Transformer,
    tokens: &[i32],
    rows: &[usize],
    mut sink: impl FnMut(RowPosterior),
) -> Result<(), Error> {
    let mut rows = rows.to_vec();
    rows.sort_unstable();
    rows.dedup();
    let Some(&last) = rows.last() else {
        return Ok(());
    };
    if last >= tokens.len() {
        return Err(Error::Value {
            what: "row",
            expected: format!("a position below the {} tokens", tokens.len()),
            got: last.to_string(),
        });
    }
    let tokens = &tokens[..=last];
    let vocabulary = model.config().vocabulary;
    // Checked as a whole, so that nothing is read of a row that has a wrong token.
    TokenRows::new(1, tokens.to_vec(), vocabulary)?;
    let mut cache = model.cache(1, tokens.len())?;
    for (number, chunk) in tokens.chunks(CHUNK).enumerate() {
        let start = number * CHUNK;
        let piece = TokenRows::new(1, chunk.to_vec(), vocabulary)?;
        let before = |end: usize| rows.partition_point(|row| *row < end);
        match &rows[before(start)..before(start + chunk.len())] {
            [] => drop(model.forward_cached(&piece, &mut cache, 0..0)?),
            wanted => observe(model, &piece, &mut cache, wanted, &mut sink)?,
        }
    }
    Ok(())
}

/// Row posteriors of every head of every layer at the next token after those in the cache, which keeps all keys.
pub(crate) fn of_next(
    model: &Transformer,
    token: i32,
    cache: &mut KvCache,
) -> Result<Vec<RowPosterior>, Error> {
    let row = cache.length();
    let piece = TokenRows::new(1, vec![token], model.config().vocabulary)?;
    let mut row_posteriors = Vec::new();
    observe(model, &piece, cache, &[row], |row| row_posteriors.push(row))?;
    row_posteriors.sort_by_key(|row| (row.layer, row.head));
    Ok(row_posteriors)
}

/// Reads on, and tells of the wanted rows, which are some of the piece's.
fn observe(
    model: &Transformer,
    piece: &TokenRows,
    cache: &mut KvCache,
    wanted: &[usize],
    sink: impl FnMut(RowPosterior),
) -> Result<(), Error> {
    let start = cache.length();
    let read = Range {
        start: wanted[0] - start,
        end: wanted[wanted.len() - 1] + 1 - start,
    };
    let sink = RefCell::new(sink);
    let observer = |attended: &Attended| {
        Layer::new(attended).tell(wanted, &mut *sink.borrow_mut());
    };
    model.observe(piece, cache, read, &observer)
}

/// The inputs of a layer's attention, as numbers. It has kept all keys that a row sees.
struct Layer<'a> {
    attended: &'a Attended,
    /// `[heads, rows, dim]`, `[key_heads, keys, dim]`, `[heads, lags]`.
    q: Vec<f32>,
    k: Vec<f32>,
    ln_weights: Vec<f32>,
    /// `[heads, rows]`, and its scope.
    temperature: Option<(Vec<f32>, TemperatureScope)>,
    /// A prior over keys, `[heads of it, keys]`, and its scope.
    key_prior: Option<(Vec<f64>, KeyPriorScope)>,
    /// The position of the first key that was kept.
    first_kept: usize,
}

impl<'a> Layer<'a> {
    fn new(attended: &'a Attended) -> Self {
        let temperature = attended.call.options.temperature.as_ref();
        let temperature = temperature.map(|of| (host_values(of.values.clone()), of.scope));
        let key_prior = attended.call.options.key_prior.as_ref().map(|of| {
            let mut values = doubled(host_values(of.values.clone()));
            if let Some(low) = &of.remainders {
                let low = doubled(host_values(low.clone()));
                values.iter_mut().zip(low).for_each(|(u, low)| *u += low);
            }
            (values, of.scope)
        });
        Self {
            attended,
            q: host_values(attended.call.q.clone()),
            k: host_values(attended.call.k.clone()),
            ln_weights: host_values(attended.call.log_prior.ln_weights().clone()),
            temperature,
            key_prior,
            // The call counts positions from there.
            first_kept: attended.first_row - attended.call.options.query_offset,
        }
    }

    fn tell(&self, rows: &[usize], sink: &mut impl FnMut(RowPosterior)) {
        let heads = self.attended.call.heads.clone();
        for &row in rows {
            // In the last layer the rows begin with the first that is wanted.
            let index = row - self.attended.first_row;
            let of_row: Vec<RowPosterior> = heads
                .clone()
                .into_par_iter()
                .map(|head| self.posterior(head, row, index))
                .collect();
            of_row.into_iter().for_each(&mut *sink);
        }
    }

    /// Bayes' rule for query `index`, which stands at position `row`.
    fn posterior(&self, head: usize, row: usize, index: usize) -> RowPosterior {
        let [_, heads, rows, dim] = self.attended.call.q.dims();
        let [_, key_heads, keys, _] = self.attended.call.k.dims();
        let lags = self.attended.call.log_prior.lags().count();
        let own = head - self.attended.call.heads.start;
        let window = self.attended.call.options.window;
        let seen = window.map_or(row + 1, |window| window.min(row + 1));
        let first_key = row + 1 - seen;

        let of_row = own * rows + index;
        let query = &self.q[of_row * dim..][..dim];
        let of_head = &self.k[own / (heads / key_heads) * keys * dim..][..keys * dim];
        let root = (dim as f64).sqrt();
        let content: Vec<f64> = of_head[(first_key - self.first_kept) * dim..][..seen * dim]
            .chunks_exact(dim)
            .map(|key| dot(query, key) / root)
            .collect();
        let (temperature, scope) = match &self.temperature {
            Some((values, scope)) => (f64::from(values[of_row]), *scope),
            None => (1.0, TemperatureScope::Likelihood),
        };
        let prior_factor = match scope {
            TemperatureScope::LikelihoodAndPrior => temperature,
            TemperatureScope::Likelihood => 1.0,
        };
        // The lags of a causal row over `seen` keys are the last ones.
        let ln_weights = &self.ln_weights[(own + 1) * lags - seen..][..seen];
        let weighed = ln_weights.iter().map(|w| prior_factor * f64::from(*w));
        let mut weighed: Vec<f64> = weighed.collect();
        if let Some((values, scope)) = &self.key_prior {
            let of_head = own * (values.len() / keys) / heads * keys;
            let factor = match scope {
                KeyPriorScope::Scaled => temperature,
                KeyPriorScope::Added => 1.0,
            };
            // A constant of the row cancels; so large sums do.
            let own_number = values[of_head + row - self.first_kept];
            let of_keys = &values[of_head + first_key - self.first_kept..][..seen];
            for (weight, u) in weighed.iter_mut().zip(of_keys) {
                *weight += factor * (u - own_number);
            }
        }
        let ln_prior = normalised(weighed).0;
        let joint = ln_prior.iter().zip(&content);
        let joint = joint.map(|(prior, content)| prior + temperature * content);
        let (ln_posterior, ln_evidence) = normalised(joint.collect());
        let narrow = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect();
        RowPosterior {
            layer: self.attended.layer,
            head,
            row,
            first_key,
            ln_prior: narrow(ln_prior),
            content: narrow(content),
            temperature,
            posterior: narrow(ln_posterior.into_iter().map(f64::exp).collect()),
            ln_evidence,
        }
    }
}

fn doubled(values: Vec<f32>) -> Vec<f64> {
    values.into_iter().map(f64::from).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    products.sum()
}

/// `x − ln Σ exp x`, and that logarithm.
fn normalised(mut logs: Vec<f64>) -> (Vec<f64>, f64) {
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logs.iter().map(|x| (x - largest).exp()).sum();
    let ln_sum = largest + sum.ln();
    logs.iter_mut().for_each(|x| *x -= ln_sum);
    (logs, ln_sum)
}

/// A row's posterior in three numbers.
#[must_use]
pub fn glance(row: &RowPosterior) -> Glance {
    let by_distance = row.posterior.iter().rev().map(|p| f64::from(*p));
    let (mut mean_distance, mut near_mass) = (0.0, 0.0);
    for (distance, mass) in by_distance.enumerate() {
        mean_distance += mass * distance as f64;
        if distance <= NEAR {
            near_mass += mass;
        }
    }
    Glance {
        ln_evidence: row.ln_evidence,
        mean_distance,
        near_mass,
    }
}

/// `(−Σ p·ln p, Σ p·ln(p/prior))`: entropy of the posterior and its divergence from the prior.
#[must_use]
pub fn entropy_and_divergence(row: &RowPosterior) -> (f64, f64) {
    let (mut entropy, mut divergence) = (0.0, 0.0);
    let keys = row.posterior.iter().zip(&row.ln_prior);
    for ((p, ln_prior), content) in keys.zip(&row.content) {
        let gain = row.temperature * f64::from(*content) - row.ln_evidence;
        let p = f64::from(*p);
        if p > 0.0 {
            divergence += p * gain;
            entropy -= p * (f64::from(*ln_prior) + gain);
        }
    }
    (entropy.max(0.0), divergence.max(0.0))
}

#[cfg(test)]
mod tests;
