//! The temperature of ASEntmax, on softmax: learned of every row, so that some rows are sharp and others flat.

use crate::Error;
use bam_attention::nn::linear;
use bam_attention::{Options, Temperature, TemperatureScope, scalable_softmax};
use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::activation::{log_sigmoid, tanh};

/// A factor on the logits of row `i` of head `h`, from the input `x_i` of the layer's attention:
///
/// ```text
/// τ_hi = δ + β_hi·(ln(n_i + 1))^γ_hi      β_hi = softplus(w_β,h·x_i)      γ_hi = 2·tanh(w_γ,h·x_i)      δ = 1
/// ```
///
/// with `n_i` the number of keys that the row sees, as in [`scalable_softmax`]. It never falls below 1, the
/// logits as they are, and for `γ < 0` it falls with the keys.
///
/// Source: arXiv 2506.16640, of whose α-entmax this is not a part; links, constants and `n + 1` as its program has
/// them (`adapt-softplus-tanh` in `sparse_gemma.py` of `deep-spin/asentmax`), which scales content alone.
#[derive(Module, Debug)]
pub struct AdaptiveTemperature {
    /// `w_β`, `[width, heads]`.
    pub(crate) beta: Linear,
    /// `w_γ`, `[width, heads]`.
    pub(crate) gamma: Linear,
    #[module(skip)]
    scope: TemperatureScope,
}

/// `w_β·x` and `w_γ·x` of rows, `[batch, rows, heads]`.
#[derive(Clone)]
pub(crate) struct Gates {
    beta: Tensor<3>,
    gamma: Tensor<3>,
}

/// `γ` is between this and its negative.
const LARGEST_POWER: f64 = 2.0;

impl AdaptiveTemperature {
    /// With these weights, of `β` and of `γ`.
    pub(crate) fn new([beta, gamma]: [Linear; 2], scope: TemperatureScope) -> Self {
        Self { beta, gamma, scope }
    }

    /// Of rows of a layer's input, `[batch, rows, width]`.
    pub(crate) fn gates(&self, rows: Tensor<3>) -> Gates {
        Gates {
            beta: linear(&self.beta, rows.clone()),
            gamma: linear(&self.gamma, rows),
        }
    }

    /// The temperatures of the rows, which stand where the options say among so many keys.
    ///
    /// # Shapes
    /// - result: `[batch, heads, rows]`
    ///
    /// # Errors
    /// Those of [`scalable_softmax`].
    pub(crate) fn temperature(
        &self,
        gates: Gates,
        keys: usize,
        options: &Options,
    ) -> Result<Temperature, Error> {
        let [_, rows, _] = gates.beta.dims();
        let one = Tensor::ones([1], (&gates.beta.device(), gates.beta.dtype()));
        let ln_count = scalable_softmax(one, rows, keys, options)?;
        // ln(n + 1) = ln(1 + e^(ln n)).
        let ln_ln = softplus(ln_count).log();
        let beta = softplus(gates.beta).swap_dims(1, 2);
        let gamma = tanh(gates.gamma).swap_dims(1, 2) * LARGEST_POWER;
        Ok(Temperature {
            values: beta * (gamma * ln_ln).exp() + 1.0,
            scope: self.scope,
        })
    }
}

impl Gates {
    /// Those of one of several sequences.
    pub(crate) fn of_row(&self, row: usize) -> Self {
        Self {
            beta: self.beta.clone().narrow(0, row, 1),
            gamma: self.gamma.clone().narrow(0, row, 1),
        }
    }
}

/// `ln(1 + e^x)`, which overflows nowhere.
fn softplus(x: Tensor<3>) -> Tensor<3> {
    log_sigmoid(x.neg()).neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::host_values;
    use crate::testing::{lively, small};
    use bam_attention::testing::signed_numbers;
    use bam_attention::{Documents, Implementation};
    use burn::tensor::{Device, TensorData};
    use std::sync::Arc;

    /// The formula in `f64`, with documents, windows and tokens before; impostors leave out a part of it.
    #[test]
    fn it_is_the_formula() {
        let model = lively(small("bam+adaptive"), 8, &Device::flex());
        let adaptive = model.layers[1].adaptive.as_ref().unwrap();
        let tensors = model.to_tensors();
        let of = |part: &str| {
            let name = format!("layers.1.attention.temperature.{part}.weight");
            assert_eq!(tensors[&name].0, [6, 24], "a row a head");
            tensors[&name].1.clone()
        };
        let (beta, gamma) = (of("beta"), of("gamma"));
        for (batch, rows, before, window) in [
            (1, 1, 0, None),
            (2, 65, 0, None),
            (1, 63, 9, Some(7)),
            (3, 2, 257, Some(300)),
            (2, 5, 100_000, None),
        ] {
            let keys = before + rows;
            let x = signed_numbers(batch * rows * 24, 2.0, rows as u64);
            let input = TensorData::new(x.clone(), [batch, rows, 24]);
            let input = Tensor::<3>::from_data(input, &Device::flex());
            let mut options = Options::causal(Implementation::Fused).with_query_offset(before);
            options.window = window;
            let document = |place: usize| i32::from(before == 0 && place % 65 > 40);
            let ids = |places: std::ops::Range<usize>| -> Vec<i32> {
                (0..batch)
                    .flat_map(|_| places.clone().map(document))
                    .collect()
            };
            let documents = Documents::with_cache(batch, ids(before..keys), ids(0..keys));
            options.documents = Some(Arc::new(documents.unwrap()));
            let got = adaptive.temperature(adaptive.gates(input), keys, &options);
            let got = host_values(got.unwrap().values);
            let formula = |delta: f64, power: f64, more: f64| -> Vec<f64> {
                let mut values = Vec::new();
                for (b, h) in (0..batch).flat_map(|b| (0..6).map(move |h| (b, h))) {
                    for i in 0..rows {
                        let dot = |w: &[f32]| -> f64 {
                            let x = &x[(b * rows + i) * 24..][..24];
                            let w = &w[h * 24..][..24];
                            x.iter()
                                .zip(w)
                                .map(|(x, w)| f64::from(*x) * f64::from(*w))
                                .sum()
                        };
                        let place = before + i;
                        let seen = (0..=place).filter(|j| {
                            place - j < window.unwrap_or(usize::MAX)
                                && document(*j) == document(place)
                        });
                        let n = seen.count() as f64;
                        let beta = dot(&beta).exp().ln_1p();
                        values
                            .push(delta + beta * (n + more).ln().powf(power * dot(&gamma).tanh()));
                    }
                }
                values
            };
            let off = |expected: &[f64]| {
                let pairs = got.iter().zip(expected);
                let off = pairs.map(|(a, b)| (f64::from(*a) - b).abs() / b);
                off.fold(0.0, f64::max)
            };
            let right = off(&formula(1.0, 2.0, 1.0));
            assert!(right < 3e-5, "{rows} after {before}: {right}");
            // Among 100,000 keys one more is not told.
            let one_more = (before < 100_000).then(|| formula(1.0, 2.0, 2.0));
            let impostors = [formula(0.0, 2.0, 1.0), formula(1.0, 0.0, 1.0)];
            for impostor in impostors.into_iter().chain(one_more) {
                let wrong = off(&impostor);
                assert!(
                    wrong > 100.0 * right.max(1e-7),
                    "{rows} after {before}: {wrong} beside {right}"
                );
            }
        }
    }
}
