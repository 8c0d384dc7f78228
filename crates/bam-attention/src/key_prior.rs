//! A prior over keys: one number per key and head.

use bam_kernel::KeyPriorScope;
use burn::tensor::{DType, Tensor};
use std::ops::Range;

/// A log-weight per key, `u_hj`: how much a key counts, whoever asks and wherever from. Finite; −10³⁰ is as good as `ln 0`.
///
/// ```text
/// logit_hij = τ_hi · ( q_hi·k_hj/√D + ln w_h(j − i) ) + u_hj
/// ```
///
/// A term per row cancels, so `u_j = −Σ_{l ≤ j} ln f_l` is the bias `Σ_{j < l ≤ i} ln f_l` of the Forgetting Transformer
/// (arXiv 2503.02130): [`KeyPrior::forgetting`].
#[derive(Clone, Debug)]
pub struct KeyPrior {
    /// `[batch, heads, keys]`, of the query heads or of the key heads.
    pub values: Tensor<3>,
    /// The rest that `f32` left of each number, where sums are long: `u` is the sum of both. The gradient is that of `values`.
    pub remainders: Option<Tensor<3>>,
    /// Whether a temperature multiplies it too.
    pub scope: KeyPriorScope,
}

impl KeyPrior {
    /// Of numbers that `f32` holds well.
    ///
    /// # Shapes
    /// - `values`: `[batch, heads, keys]`
    #[must_use]
    pub fn new(values: Tensor<3>, scope: KeyPriorScope) -> Self {
        Self {
            values,
            remainders: None,
            scope,
        }
    }

    /// `u_j = Σ_{l ≤ j} steps_l`, added in pairs of `f32`: as good as in double precision, so that
    /// differences between neighbours are right however far the sum has come.
    ///
    /// # Shapes
    /// - `steps`: `[batch, heads, keys]`; taken as `f32`
    #[must_use]
    pub fn running_sum(steps: Tensor<3>, scope: KeyPriorScope) -> Self {
        let steps = steps.cast(DType::F32);
        let plain = steps.clone().detach();
        let [high, low] = running_pairs([plain.clone(), plain.zeros_like()]);
        // The gradient of a running sum is that of Burn's own, whose value is not taken.
        let sum = steps.cumsum(2);
        let nothing = sum.clone() - sum.detach();
        Self {
            values: high + nothing,
            remainders: Some(low),
            scope,
        }
    }

    /// The prior of forget gates, from the logarithm of each token's gate: `u_j = −Σ_{l ≤ j} ln f_l`, not scaled
    /// by a temperature.
    ///
    /// # Shapes
    /// - `ln_f`: `[batch, heads, keys]`, at most 0
    #[must_use]
    pub fn forgetting(ln_f: Tensor<3>) -> Self {
        Self::running_sum(-ln_f, KeyPriorScope::Added)
    }

    /// Those of some heads, or of some keys: a range of axis 1 or 2.
    pub(crate) fn narrowed(&self, axis: usize, range: Range<usize>) -> Self {
        let some = |part: &Tensor<3>| part.clone().narrow(axis, range.start, range.len());
        Self {
            values: some(&self.values),
            remainders: self.remainders.as_ref().map(some),
            scope: self.scope,
        }
    }

    /// Of several, one after the other along an axis.
    pub(crate) fn joined(parts: Vec<Self>, axis: usize) -> Option<Self> {
        let scope = parts.first()?.scope;
        let [high, low]: [Vec<_>; 2] = {
            let pairs: Vec<_> = parts.iter().map(Self::pairs).collect();
            [0, 1].map(|part| pairs.iter().map(|pair| pair[part].clone()).collect())
        };
        Some(Self {
            values: Tensor::cat(high, axis),
            remainders: Some(Tensor::cat(low, axis)),
            scope,
        })
    }

    /// Both numbers of each pair.
    pub(crate) fn pairs(&self) -> [Tensor<3>; 2] {
        let none = || self.values.clone().detach().zeros_like();
        let low = self.remainders.clone().unwrap_or_else(none);
        [self.values.clone(), low]
    }

    /// The same of later tokens, whose sum goes on from the pair of the one before.
    pub(crate) fn after(self, [high, low]: [Tensor<3>; 2]) -> Self {
        let [values, remainders] = added(self.pairs(), [high, low]);
        Self {
            values,
            remainders: Some(remainders),
            ..self
        }
    }
}

/// Running sums along the last axis: of twice as many terms in each round.
fn running_pairs(mut pairs: [Tensor<3>; 2]) -> [Tensor<3>; 2] {
    let [batch, heads, keys] = pairs[0].dims();
    let mut reach = 1;
    while reach < keys {
        let before = pairs.clone().map(|part| {
            let zeros = Tensor::zeros([batch, heads, reach], (&part.device(), part.dtype()));
            Tensor::cat(vec![zeros, part.narrow(2, 0, keys - reach)], 2)
        });
        pairs = added(pairs, before);
        reach *= 2;
    }
    pairs
}

/// The sum of two pairs: of the high parts exactly, what is left of it in the low part (Knuth's two-sum).
fn added([a, a_low]: [Tensor<3>; 2], [b, b_low]: [Tensor<3>; 2]) -> [Tensor<3>; 2] {
    let (sum, of_b, of_a) = two_sum(a, b);
    let low = of_a + of_b + (a_low + b_low);
    let high = sum.clone() + low.clone();
    let left = low - (high.clone() - sum);
    [high, left]
}

/// `a + b` rounded, and what that left of `b` and of `a`.
fn two_sum(a: Tensor<3>, b: Tensor<3>) -> (Tensor<3>, Tensor<3>, Tensor<3>) {
    let sum = a.clone() + b.clone();
    let b_taken = sum.clone() - a.clone();
    let a_taken = sum.clone() - b_taken.clone();
    (sum, b - b_taken, a - a_taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{signed_numbers, test_device};
    use burn::tensor::TensorData;

    /// Sums over a hundred thousand numbers, against those in `f64`; a plain sum in `f32` is off by more than 10⁻³.
    #[test]
    fn running_sums_keep_their_digits() {
        const COUNT: usize = 100_000;
        let numbers: Vec<f32> = signed_numbers(2 * COUNT, 0.3, 3)
            .iter()
            .map(|x| x.abs())
            .collect();
        let steps = TensorData::new(numbers.clone(), [1, 2, COUNT]);
        let steps = Tensor::from_data(steps, &test_device());
        let plain: Vec<f32> = steps.clone().cumsum(2).into_data().try_into_vec().unwrap();
        let pairs = KeyPrior::running_sum(steps, KeyPriorScope::Added);
        let [high, low] = pairs
            .pairs()
            .map(|part| -> Vec<f32> { part.into_data().try_into_vec().unwrap() });
        let (mut worst, mut of_plain) = (0.0f64, 0.0f64);
        for head in 0..2 {
            let mut sum = 0.0;
            for index in head * COUNT..(head + 1) * COUNT {
                sum += f64::from(numbers[index]);
                let pair = f64::from(high[index]) + f64::from(low[index]);
                worst = worst.max((pair - sum).abs());
                of_plain = of_plain.max((f64::from(plain[index]) - sum).abs());
            }
            assert!(sum > 1e4);
        }
        assert!(worst < 1e-8, "{worst:e}");
        assert!(of_plain > 1e-3, "{of_plain:e}");
    }

    #[test]
    fn the_gradient_of_a_running_sum_is_a_sum_from_the_end() {
        let device = test_device().autodiff();
        let steps = TensorData::new(signed_numbers(5, 1.0, 1), [1, 1, 5]);
        let steps = Tensor::<3>::from_data(steps, &device).require_grad();
        let weights = [3.0, -1.0, 2.0, 0.5, 4.0];
        let weights = Tensor::from_data(TensorData::new(weights.to_vec(), [1, 1, 5]), &device);
        let prior = KeyPrior::forgetting(steps.clone());
        let gradients = (prior.values * weights).sum().backward();
        let got: Vec<f32> = steps
            .grad(&gradients)
            .unwrap()
            .into_data()
            .try_into_vec()
            .unwrap();
        assert_eq!(got, [-8.5, -5.5, -6.5, -4.5, -4.0]);
    }
}
