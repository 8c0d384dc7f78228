//! Bayes' rule with every score in memory. Slow, short, and right: the oracle of the others.
//!
//! Shape suffixes: b batch, h query heads, q queries, k keys, d head dimension.

use crate::key_prior::KeyPrior;
use crate::log_prior::LogPrior;
use crate::temperature::Temperature;
use bam_kernel::{Documents, KeyPriorScope, Plan, TemperatureScope, Visibility};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// Stands for `ln 0` where a finite number is wanted: far below any logit, never NaN.
const LN_ZERO: f32 = -1e30;

pub(crate) fn attend(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    prior: &LogPrior,
    temperature: Option<&Temperature>,
    key_prior: Option<&KeyPrior>,
    plan: &Plan,
) -> Tensor<4> {
    let device = q.device();
    let batch = q.dims()[0];
    let (q, k, v) = without_padding(q, k, v, plan);
    let (k, v) = (share_heads(k, plan.group()), share_heads(v, plan.group()));
    let hidden_bhqk = hidden(plan, batch, &device);

    let ln_prior_bhqk = by_lag(prior, plan);
    let ln_likelihood_bhqk = q.matmul(k.swap_dims(2, 3)) * plan.content_scale();
    let scaled = |scales: bool, term: Tensor<4>| match temperature {
        Some(temperature) if scales => term * temperature.values.clone().unsqueeze_dim::<4>(3),
        _ => term,
    };
    let on_prior = temperature.is_some_and(|of| of.scope == TemperatureScope::LikelihoodAndPrior);
    let mut ln_joint_bhqk = match on_prior {
        true => scaled(true, ln_likelihood_bhqk + ln_prior_bhqk),
        false => scaled(true, ln_likelihood_bhqk) + ln_prior_bhqk,
    };
    if let Some(prior) = key_prior {
        let u_bhqk = over_keys(prior, plan, hidden_bhqk.clone());
        ln_joint_bhqk = ln_joint_bhqk + scaled(prior.scope == KeyPriorScope::Scaled, u_bhqk);
    }
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

/// `[b, h or h/group, k]` for every query head, zeros at padding, relative to the largest that each row sees, which cancels:
/// so long sums lose nothing. `[b, h, q, k]`.
fn over_keys(prior: &KeyPrior, plan: &Plan, hidden_bhqk: Tensor<4, Bool>) -> Tensor<4> {
    let [high, low] = prior.pairs().map(|u_bhk| {
        let u_bhk1 = u_bhk.unsqueeze_dim::<4>(3);
        let u_bhk1 = match padding(plan, &u_bhk1.device()) {
            Some([_, of_keys]) => u_bhk1.mask_fill(of_keys, 0.0),
            None => u_bhk1,
        };
        let group = plan.shapes().q[1] / u_bhk1.dims()[1];
        share_heads(u_bhk1, group).swap_dims(2, 3)
    });
    let seen_bhqk = high.clone().detach() + hidden_bhqk.float().cast(high.dtype()) * LN_ZERO;
    high - seen_bhqk.max_dim(3) + low
}

/// `[h, lags]` read at the lag of every (query, key): `[1, h, q, k]`.
///
/// One row further is one lag back. So the lags of all rows are copied below each other, and read as rows
/// that are one number shorter: the gradient of that is a plain sum, where one of a look-up is a scatter.
fn by_lag(prior: &LogPrior, plan: &Plan) -> Tensor<4> {
    let (queries, keys) = (plan.positions().queries, plan.positions().keys);
    let [heads, lags] = prior.ln_weights().dims();
    // Of the last row, and as many more as there are rows before it.
    let count = queries + keys - 1;
    let first = plan
        .positions()
        .column_of_first_key(queries - 1, prior.lags());
    // Lags that the prior does not hold belong to hidden keys; zeros serve them.
    let before = (-first).clamp(0, count as i64) as usize;
    let start = first.clamp(0, lags as i64) as usize;
    let held = (count - before).min(lags - start);
    let ln_weights = prior.ln_weights().clone().narrow(1, start, held);
    let zeros =
        |count| Tensor::zeros_like(&ln_weights.clone().narrow(1, 0, 1)).repeat_dim(1, count);
    let mut parts = Vec::new();
    if before > 0 {
        parts.push(zeros(before));
    }
    parts.push(ln_weights.clone());
    if before + held < count {
        parts.push(zeros(count - before - held));
    }
    let row = Tensor::cat(parts, 1);
    if queries == 1 {
        return row.reshape([1, heads, 1, keys]);
    }
    row.reshape([heads, 1, count])
        .repeat_dim(1, queries)
        .reshape([heads, queries * count])
        .narrow(1, queries - 1, queries * (count - 1))
        .reshape([1, heads, queries, count - 1])
        .narrow(3, 0, keys)
}

/// True where a query may not see a key: `[b or 1, 1, q, k]`. Made where it is used, from as many numbers
/// as there are tokens.
fn hidden(plan: &Plan, batch: usize, device: &Device) -> Tensor<4, Bool> {
    let positions = plan.positions();
    let (queries, keys) = (positions.queries as i64, positions.keys as i64);
    let offset = positions.offset as i64;
    let tokens = |range| Tensor::<1, Int>::arange(range, device);
    let query = tokens(offset..offset + queries).reshape([1, 1, queries, 1]);
    let key = tokens(0..keys).reshape([1, 1, 1, keys]);
    let lag = key - query;
    let mut hidden = match positions.visibility {
        Visibility::Causal => lag.clone().greater_elem(0),
        Visibility::Full => lag.clone().greater_elem(keys),
    };
    if let Some(window) = positions.window {
        let reach = window.min(i32::MAX as usize) as i64;
        hidden = hidden.bool_or(lag.abs().greater_equal_elem(reach));
    }
    let Some(documents) = plan.documents() else {
        return hidden;
    };
    let ids = |of: fn(&Documents, usize) -> &[i32]| -> Tensor<1, Int> {
        let all: Vec<i32> = (0..batch).flat_map(|b| of(documents, b)).copied().collect();
        Tensor::from_data(TensorData::new(all.clone(), [all.len()]), device)
    };
    let of_queries = ids(Documents::query_ids).reshape([batch as i64, 1, queries, 1]);
    let of_keys = ids(Documents::key_ids).reshape([batch as i64, 1, 1, keys]);
    let padding = of_keys.clone().equal_elem(Documents::PADDING);
    hidden
        .bool_or(of_queries.not_equal(of_keys))
        .bool_or(padding)
}

/// Zeros at padding: `0·NaN` is NaN, so the mask alone would let through what stands there.
fn without_padding(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    plan: &Plan,
) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    let Some([of_queries, of_keys]) = padding(plan, &q.device()) else {
        return (q, k, v);
    };
    (
        q.mask_fill(of_queries, 0.0),
        k.mask_fill(of_keys.clone(), 0.0),
        v.mask_fill(of_keys, 0.0),
    )
}

/// Whether queries, `[b, 1, q, 1]`, and keys, `[b, 1, k, 1]`, are padding.
fn padding(plan: &Plan, device: &Device) -> Option<[Tensor<4, Bool>; 2]> {
    let documents = plan.documents()?;
    let (batch, queries, keys) = documents.dims();
    let padding = |ids: fn(&Documents, usize) -> &[i32], length| {
        let padding: Vec<bool> = (0..batch)
            .flat_map(|b| {
                ids(documents, b)
                    .iter()
                    .map(|id| Documents::is_padding(*id))
            })
            .collect();
        Tensor::<4, Bool>::from_data(TensorData::new(padding, [batch, 1, length, 1]), device)
    };
    Some([
        padding(Documents::query_ids, queries),
        padding(Documents::key_ids, keys),
    ])
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
