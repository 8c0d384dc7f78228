//! The definition in `f64`, and its gradients.

use super::Case;
use crate::Documents;
use half::bf16;

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
    let mut out = vec![0.0; case.dim];
    let first = case.first_key(b, h);
    for key in posterior(case, b, h, i) {
        let v = &case.v[(first + key.index) * case.dim..][..case.dim];
        for (out, v) in out.iter_mut().zip(v) {
            *out += key.posterior * f64::from(*v);
        }
    }
    out
}

/// The gradients of `Σ out·weights`, for [`Case::loss_weights`], in `f64`: by `q`, `k`, `v`, the
/// log-weights, the temperature and the prior over keys, of which there are none where the case has none.
#[must_use]
pub fn oracle_gradients(case: &Case) -> [Vec<f64>; 6] {
    sums_of_gradients(
        case,
        &case.loss_weights(),
        |x| x,
        |of| (of.posterior, of.posterior * (of.value - of.delta)),
    )
}

/// A row and a key that it sees, on the way back.
pub struct Link {
    /// The key's share of the row.
    pub posterior: f64,
    /// `g·v`.
    pub value: f64,
    /// The same of the absolute values of its terms.
    pub value_size: f64,
    /// The expectation of `g·v` over the row's keys.
    pub delta: f64,
    /// The expectation of its absolute value.
    pub delta_size: f64,
}

/// The sums that gradients are, of weights of the outputs, in the order of [`oracle_gradients`]. `terms` gives the
/// posterior and the gradient of the logit, or bounds of something that takes their place; `size` is applied to
/// what they are multiplied by.
#[must_use]
pub fn sums_of_gradients(
    case: &Case,
    weights: &[f32],
    size: impl Fn(f64) -> f64,
    terms: impl Fn(&Link) -> (f64, f64),
) -> [Vec<f64>; 6] {
    let rows = case.batch * case.heads * case.queries;
    let mut dq = vec![0.0; case.q.len()];
    let (mut dk, mut dv) = (vec![0.0; case.k.len()], vec![0.0; case.v.len()]);
    let mut d_ln_weights = vec![0.0; case.ln_weights.len()];
    let mut d_temperature = vec![0.0; rows];
    let numbers = case.key_prior.as_ref().map_or(0, |of| of.high.len());
    let mut d_key_prior = vec![0.0; numbers];
    let scale = 1.0 / (case.dim as f64).sqrt();
    let dim = case.dim;
    for row in 0..rows {
        let (b, h) = (
            row / case.queries / case.heads,
            row / case.queries % case.heads,
        );
        let keys = posterior(case, b, h, row % case.queries);
        let first = case.first_key(b, h);
        let (tau, on_prior) = case.temperature_of(row);
        let (g, q) = (&weights[row * dim..][..dim], &case.q[row * dim..][..dim]);
        let values = |key: &Key| {
            let v = &case.v[(first + key.index) * dim..][..dim];
            let sizes = g.iter().zip(v).map(|(g, v)| f64::from((g * v).abs()));
            (dot(g, v), sizes.sum::<f64>())
        };
        let [mut delta, mut delta_size] = [0.0; 2];
        for key in &keys {
            let (value, _) = values(key);
            delta += key.posterior * value;
            delta_size += key.posterior * value.abs();
        }
        for key in &keys {
            let (value, value_size) = values(key);
            let (of_value, of_logit) = terms(&Link {
                posterior: key.posterior,
                value,
                value_size,
                delta,
                delta_size,
            });
            let of_key = (first + key.index) * dim;
            for t in 0..dim {
                let of_product = of_logit * size(tau * scale);
                dq[row * dim + t] += of_product * size(f64::from(case.k[of_key + t]));
                dk[of_key + t] += of_product * size(f64::from(q[t]));
                dv[of_key + t] += of_value * size(f64::from(g[t]));
            }
            let factor = if on_prior { tau } else { 1.0 };
            d_ln_weights[h * case.lags + key.column] += of_logit * size(factor);
            let mut scaled = key.content + if on_prior { key.prior } else { 0.0 };
            if let Some((of_head, on_key_prior)) = case.key_prior_of(b, h) {
                let factor = if on_key_prior { tau } else { 1.0 };
                d_key_prior[of_head + key.index] += of_logit * size(factor);
                scaled += if on_key_prior { key.key_prior } else { 0.0 };
            }
            d_temperature[row] += of_logit * size(scaled);
        }
    }
    if case.temperature.is_none() {
        d_temperature.clear();
    }
    [dq, dk, dv, d_ln_weights, d_temperature, d_key_prior]
}

/// `left · right` in `f64`, `[rows, depth]` times `[depth, columns]`, and how far a sum in `f32` may be off.
#[must_use]
pub fn product_oracle(
    left: &[bf16],
    right: &[bf16],
    [rows, depth, columns]: [usize; 3],
) -> (Vec<f64>, Vec<f64>) {
    let unit = depth as f64 * f64::from(f32::EPSILON) / 2.0;
    let sums = (0..rows * columns).map(|index| {
        let of_row = &left[index / columns * depth..][..depth];
        let of_column = right[index % columns..].iter().step_by(columns);
        let terms = of_row.iter().zip(of_column);
        terms.fold((0.0, 0.0), |(sum, bound), (left, right)| {
            let term = left.to_f64() * right.to_f64();
            (sum + term, bound + unit * term.abs())
        })
    });
    sums.unzip()
}

/// A key that a row sees.
struct Key {
    index: usize,
    /// Of the log-weights.
    column: usize,
    /// `q·k/√D`.
    content: f64,
    /// `ln w`.
    prior: f64,
    /// `u`, less the largest of the row's keys: what a row has in common cancels.
    key_prior: f64,
    posterior: f64,
}

/// The keys that a row sees, with their share of it.
fn posterior(case: &Case, b: usize, h: usize, i: usize) -> Vec<Key> {
    let row = (b * case.heads + h) * case.queries + i;
    let q = &case.q[row * case.dim..][..case.dim];
    let (tau, on_prior) = case.temperature_of(row);
    let first = case.first_key(b, h);
    let mut keys: Vec<Key> = Vec::new();
    let u = |j: usize| match (&case.key_prior, case.key_prior_of(b, h)) {
        (Some(of), Some((of_head, _))) => {
            f64::from(of.high[of_head + j]) + f64::from(of.low[of_head + j])
        }
        _ => 0.0,
    };
    let on_key_prior = case.key_prior_of(b, h).is_some_and(|(_, scaled)| scaled);
    for j in 0..case.keys {
        let lag = j as i64 - (case.offset + i) as i64;
        let hidden = case.causal && lag > 0
            || case
                .window
                .is_some_and(|window| lag.unsigned_abs() >= window as u64)
            || case.documents.as_ref().is_some_and(|(queries, keys)| {
                let (own, other) = (queries[b * case.queries + i], keys[b * case.keys + j]);
                own != other || other == Documents::PADDING
            });
        if hidden {
            continue;
        }
        let content = dot(q, &case.k[(first + j) * case.dim..][..case.dim]);
        let content = content / (case.dim as f64).sqrt();
        let column = (lag - case.first_lag) as usize;
        let prior = f64::from(case.ln_weights[h * case.lags + column]);
        keys.push(Key {
            index: j,
            column,
            content,
            prior,
            key_prior: u(j),
            posterior: 0.0,
        });
    }
    let largest = keys.iter().map(|key| key.key_prior);
    let largest = largest.fold(f64::NEG_INFINITY, f64::max);
    let factor = |scaled: bool| if scaled { tau } else { 1.0 };
    for key in &mut keys {
        key.key_prior -= largest;
        let by_lag = factor(on_prior) * key.prior;
        // The logit, for the time being.
        key.posterior = tau * key.content + by_lag + factor(on_key_prior) * key.key_prior;
    }
    let largest = keys.iter().map(|key| key.posterior);
    let largest = largest.fold(f64::NEG_INFINITY, f64::max);
    let mut evidence = 0.0;
    for key in &mut keys {
        key.posterior = (key.posterior - largest).exp();
        evidence += key.posterior;
    }
    keys.iter_mut().for_each(|key| key.posterior /= evidence);
    keys
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}
