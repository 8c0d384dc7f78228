//! Bayes' rule with every score in memory. Slow, short, and right: the oracle of the others.
//!
//! Shape suffixes: b batch, h query heads, q queries, k keys, d head dimension.

use crate::log_prior::LogPrior;
use crate::temperature::Temperature;
use bam_kernel::{Documents, Lags, Plan, TemperatureScope};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// Stands for `ln 0` where a finite number is wanted: far below any logit, never NaN.
const LN_ZERO: f32 = -1e30;

pub(crate) fn attend(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    prior: &LogPrior,
    temperature: Option<&Temperature>,
    plan: &Plan,
) -> Tensor<4> {
    let device = q.device();
    let batch = q.dims()[0];
    let (q, k, v) = without_padding(q, k, v, plan);
    let (k, v) = (share_heads(k, plan.group()), share_heads(v, plan.group()));
    let hidden_bhqk = hidden(plan, batch, &device);

    let ln_prior_bhqk = by_lag(prior, plan, &device);
    let ln_likelihood_bhqk = q.matmul(k.swap_dims(2, 3)) * plan.content_scale();
    let ln_joint_bhqk = match temperature {
        None => ln_likelihood_bhqk + ln_prior_bhqk,
        Some(temperature) => {
            let tau_bhq1 = temperature.values.clone().unsqueeze_dim::<4>(3);
            match temperature.scope {
                TemperatureScope::Likelihood => ln_likelihood_bhqk * tau_bhq1 + ln_prior_bhqk,
                TemperatureScope::LikelihoodAndPrior => {
                    (ln_likelihood_bhqk + ln_prior_bhqk) * tau_bhq1
                }
            }
        }
    };
    let visible_bhqk = hidden_bhqk
        .clone()
        .bool_not()
        .float()
        .cast(ln_joint_bhqk.dtype());
    let ln_joint_bhqk = ln_joint_bhqk.mask_fill(hidden_bhqk, LN_ZERO);
    let largest_bhq1 = ln_joint_bhqk.clone().detach().max_dim(3);
    let joint_bhqk = (ln_joint_bhqk - largest_bhq1).exp() * visible_bhqk;
    let evidence_bhq1 = joint_bhqk.clone().sum_dim(3).clamp_min(f32::MIN_POSITIVE);
    (joint_bhqk / evidence_bhq1).matmul(v)
}

/// `[h, lags]` read at the lag of every (query, key): `[1, h, q, k]`.
fn by_lag(prior: &LogPrior, plan: &Plan, device: &Device) -> Tensor<4> {
    let (queries, keys) = (plan.positions().queries, plan.positions().keys);
    let lags: &Lags = prior.lags();
    let columns: Vec<i32> = (0..queries)
        .flat_map(|row| {
            let first = plan.positions().column_of_first_key(row, lags);
            let last_column = lags.count() as i64 - 1;
            // Lags outside the range belong to hidden keys; any column serves them.
            (0..keys as i64).map(move |key| (first + key).clamp(0, last_column) as i32)
        })
        .collect();
    let columns = Tensor::<1, Int>::from_data(TensorData::new(columns, [queries * keys]), device);
    let [heads, _] = prior.ln_weights().dims();
    prior
        .ln_weights()
        .clone()
        .select(1, columns)
        .reshape([1, heads, queries, keys])
}

/// True where a query may not see a key: `[b or 1, 1, q, k]`.
fn hidden(plan: &Plan, batch: usize, device: &Device) -> Tensor<4, Bool> {
    let (queries, keys) = (plan.positions().queries, plan.positions().keys);
    let documents = plan.documents();
    let rows = documents.map_or(1, |_| batch);
    let mut hidden = vec![true; rows * queries * keys];
    for (index, row) in hidden.chunks_exact_mut(keys).enumerate() {
        let (b, i) = (index / queries, index % queries);
        for j in plan.positions().visible_keys(i) {
            row[j] = documents.is_some_and(|documents| {
                !Documents::shared(documents.query_ids(b)[i], documents.key_ids(b)[j])
            });
        }
    }
    Tensor::from_data(TensorData::new(hidden, [rows, 1, queries, keys]), device)
}

/// Zeros at padding: `0·NaN` is NaN, so the mask alone would let through what stands there.
fn without_padding(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    plan: &Plan,
) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    let Some(documents) = plan.documents() else {
        return (q, k, v);
    };
    let ([batch, _, queries, _], keys, device) = (q.dims(), k.dims()[2], q.device());
    let padding = |ids: fn(&Documents, usize) -> &[i32], length| {
        let padding: Vec<bool> = (0..batch)
            .flat_map(|b| {
                ids(documents, b)
                    .iter()
                    .map(|id| Documents::is_padding(*id))
            })
            .collect();
        Tensor::<4, Bool>::from_data(TensorData::new(padding, [batch, 1, length, 1]), &device)
    };
    let of_queries = padding(Documents::query_ids, queries);
    let of_keys = padding(Documents::key_ids, keys);
    (
        q.mask_fill(of_queries, 0.0),
        k.mask_fill(of_keys.clone(), 0.0),
        v.mask_fill(of_keys, 0.0),
    )
}

/// Each key head serves `group` query heads: `[b, h/group, k, d]` → `[b, h, k, d]`.
fn share_heads(x: Tensor<4>, group: usize) -> Tensor<4> {
    if group == 1 {
        return x;
    }
    let [batch, heads, keys, dim] = x.dims();
    x.reshape([batch, heads, 1, keys * dim])
        .repeat_dim(2, group)
        .reshape([batch, heads * group, keys, dim])
}
