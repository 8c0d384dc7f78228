//! Numbers in pairs, the sum of which is meant: what a prior over keys is on a device.

use super::rules::Rules;
use cubecl::prelude::*;

/// High and low part of a number.
pub(super) type Pair = Vector<f32, Const<2>>;

#[cube]
pub(super) fn pair(high: f32, low: f32) -> Pair {
    let mut pair = Pair::new(high);
    pair.insert(1usize, low);
    pair
}

/// `a − b`: high and low parts apart, so that no sum of them is rounded that is larger than the difference.
#[cube]
pub(super) fn difference(a: Pair, b: Pair) -> f32 {
    let parts = a - b;
    parts.extract(0usize) + parts.extract(1usize)
}

/// The head of the prior that a query head reads, counted over the batch; `of` is `[batch, heads, …]`. 0 where there is no
/// prior.
#[cube]
pub(super) fn prior_head(
    of: &Tensor<Pair>,
    batch: usize,
    head: usize,
    heads: usize,
    #[comptime] rules: Rules,
) -> usize {
    let mut at = 0usize.runtime();
    if comptime!(rules.has_key_prior()) {
        at = batch * of.shape(1) + head / (heads / of.shape(1));
    }
    at
}
