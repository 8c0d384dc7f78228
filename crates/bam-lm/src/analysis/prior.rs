//! The heads' beliefs about distance: their priors as distributions over a row of keys.

use crate::Error;
use crate::model::{Transformer, check_length, host_values};
use bam_prior::{PositionalPrior, Prior, RowSummary};
use bam_record::{Head, Heads};

/// Points of a prior curve.
const CURVE_POINTS: usize = 97;

/// Every head's prior over a causal row of `keys` keys.
///
/// Rotary and sinusoidal layers have a uniform prior in every head: position enters elsewhere.
///
/// # Errors
/// If a prior's parameters are no numbers, or `keys` is 0 or above [`LONGEST_SEQUENCE`](crate::model::LONGEST_SEQUENCE).
pub fn heads(model: &Transformer, keys: usize) -> Result<Heads, Error> {
    check_length(keys)?;
    let mut heads = Vec::new();
    for (layer, block) in model.layers.iter().enumerate() {
        let scales = block
            .attention
            .ssmax_scale
            .as_ref()
            .map(|scale| host_values(scale.val()));
        for (head, prior) in distributions(model, layer).into_iter().enumerate() {
            let ssmax_scale = scales.as_ref().map(|scales| f64::from(scales[head]));
            heads.push(describe(layer, head, &prior?, ssmax_scale, keys)?);
        }
    }
    Ok(Heads {
        row_keys: keys,
        heads,
        measured: None,
    })
}

/// The priors of a layer's heads, its own or those that all layers share.
pub(crate) fn distributions(
    model: &Transformer,
    layer: usize,
) -> Vec<Result<Prior, bam_prior::Error>> {
    model.prior_of(layer).each_prior()
}

/// Whether any layer has a prior to look at.
#[must_use]
pub fn has_prior(model: &Transformer) -> bool {
    model.config().encoding.has_prior()
}

fn describe(
    layer: usize,
    head: usize,
    prior: &Prior,
    ssmax_scale: Option<f64>,
    keys: usize,
) -> Result<Head, Error> {
    let row = RowSummary::new(prior, keys)?;
    let lags = row.mass_lags();
    let largest = (0..keys)
        .map(|r| prior.ln_weight(-(r as f64)))
        .fold(f64::NEG_INFINITY, f64::max);
    Ok(Head {
        layer,
        head,
        family: prior.family().to_owned(),
        parameters: prior
            .parameters()
            .into_iter()
            .map(|parameter| (parameter.name.into_owned(), parameter.value))
            .collect(),
        ssmax_scale,
        class: match row.class() {
            bam_prior::Class::Local => "local",
            bam_prior::Class::Flat => "flat",
            bam_prior::Class::AntiLocal => "anti_local",
        }
        .to_owned(),
        mass_lags: [lags.p50, lags.p90, lags.p99].map(|lag| lag as f64),
        entropy: row.entropy(),
        curve: curve_distances(keys)
            .into_iter()
            .map(|r| (r, prior.ln_weight(-r) - largest))
            .collect(),
    })
}

/// Whole distances from 0 to the row's end, evenly spaced on a logarithmic axis.
pub(crate) fn curve_distances(keys: usize) -> Vec<f64> {
    let end = (keys - 1) as f64;
    let mut distances: Vec<f64> = (0..CURVE_POINTS)
        .map(|point| ((end + 1.0).ln() * point as f64 / (CURVE_POINTS - 1) as f64).exp() - 1.0)
        .map(f64::round)
        .collect();
    distances.dedup();
    distances
}
