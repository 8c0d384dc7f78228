//! Priors whose log-weights `f32` can't hold are refused, before anything is computed with them.

use crate::Error;
use crate::model::{ModelConfig, Transformer, host_values};
use bam_attention::Lags;
use bam_prior::{PositionalPrior, Prior};

/// Rows that are looked at for overflow; `doctor` looks further.
const MOST_KEYS: usize = 1 << 16;

/// `|ln w(d)| ≤` the largest `f32` for the laws themselves, in `f64`, at every lag of a row of the training
/// length: what saturates in the model is finite there.
///
/// # Errors
/// Those of a law; the name of the first head of which that is not so.
pub(super) fn check_laws(
    laws: impl Iterator<Item = (String, Result<Prior, Error>)>,
    config: &ModelConfig,
) -> Result<(), Error> {
    let keys = config.train_length.min(MOST_KEYS);
    for (head, law) in laws {
        let law = law?;
        let mut ln_weights = (0..keys).map(|distance| law.ln_weight(-(distance as f64)));
        let overflows = |x: &f64| !(x.abs() <= f64::from(f32::MAX));
        if let Some(ln_weight) = ln_weights.find(overflows) {
            return Err(overflow(keys, ln_weight, &head));
        }
    }
    Ok(())
}

fn overflow(keys: usize, got: f64, at: &str) -> Error {
    Error::Value {
        what: "prior",
        expected: format!("finite log-weights in f32 within {keys} tokens"),
        got: format!("{got:.2e} in head {at}"),
    }
}

/// The same of the log-weights that the model computes.
///
/// # Errors
/// As [`check_laws`] has them.
pub(super) fn check_weights(model: &Transformer) -> Result<(), Error> {
    let keys = model.config().train_length.min(MOST_KEYS);
    for (layer, prior) in model.log_priors(Lags::causal(keys)).iter().enumerate() {
        let ln_weights = host_values(prior.ln_weights().clone());
        if let Some(index) = ln_weights.iter().position(|x| !x.is_finite()) {
            let at = format!("{layer}.{}", index / keys);
            return Err(overflow(keys, ln_weights[index].into(), &at));
        }
    }
    Ok(())
}
