//! Log-weights per head and lag, as tensors: every family of [`bam_prior`], differentiable.
//!
//! The operation needs the prior only up to a constant per row, so here a family is its unnormalised
//! log-weight `ln w_h(d)` of the lag `d`: [`ln_weight`]. **Adding a family** is one arm of it; the rest
//! is in [`bam_prior::Family`]. Parameters are unconstrained (`θ`), one row per head.

use crate::error::AttentionError;
use crate::fused::prior_state::PriorState;
use bam_kernel::{KernelError, Lags};
use burn::tensor::{Device, Int, Tensor, TensorData};
use std::ops::Range;
use std::sync::Arc;

mod families;

pub use families::ln_weight;

/// The prior of one call: a log-weight per head and lag.
#[derive(Clone, Debug)]
pub struct LogPrior {
    ln_weights: Tensor<2>,
    lags: Lags,
    /// A backend's knowledge of the weights, shared by all clones.
    state: Arc<PriorState>,
}

impl LogPrior {
    /// `ln_weights` is `[heads, lags]`, column `c` holding the lag `lags.first() + c`.
    ///
    /// # Errors
    /// If the tensor has another number of columns than there are lags.
    pub fn new(ln_weights: Tensor<2>, lags: Lags) -> Result<Self, AttentionError> {
        let [heads, columns] = ln_weights.dims();
        if columns != lags.count() {
            return Err(KernelError::Shape {
                what: "log-prior",
                expected: format!("[heads, {}]", lags.count()),
                got: format!("[{heads}, {columns}]"),
            }
            .into());
        }
        Ok(Self::of(ln_weights, lags))
    }

    /// The uniform prior (NoPE): `ln w = 0`.
    #[must_use]
    pub fn uniform(heads: usize, lags: Lags, device: &Device) -> Self {
        Self::of(Tensor::zeros([heads, lags.count()], device), lags)
    }

    /// The prior of some of its heads over some of its lags, for caches: in memory of its own, and
    /// without a gradient; the same prior where that is all of it.
    ///
    /// # Errors
    /// If there are no such heads or lags.
    pub fn narrowed(&self, heads: Range<usize>, lags: Lags) -> Result<Self, AttentionError> {
        let [all, _] = self.ln_weights.dims();
        if lags.first() < self.lags.first() || lags.last() > self.lags.last() {
            return Err(KernelError::Lags {
                first: lags.first(),
                last: lags.last(),
                got_first: self.lags.first(),
                got_last: self.lags.last(),
            }
            .into());
        }
        if heads.is_empty() || heads.end > all || lags.count() == 0 {
            return Err(KernelError::Shape {
                what: "narrowed log-prior",
                expected: format!("some of {all} heads, and lags"),
                got: format!("heads {heads:?} and {} lags", lags.count()),
            }
            .into());
        }
        if (heads.len(), lags) == (all, self.lags) {
            return Ok(self.clone());
        }
        let first = (lags.first() - self.lags.first()) as usize;
        let plain = self.ln_weights.clone().inner();
        let some = plain.narrow(0, heads.start, heads.len());
        let some = some.narrow(1, first, lags.count());
        // A view would be copied at every call.
        let device = some.device();
        Ok(Self::of(Tensor::from_data(some.into_data(), &device), lags))
    }

    pub(crate) fn of(ln_weights: Tensor<2>, lags: Lags) -> Self {
        Self {
            ln_weights,
            lags,
            state: Arc::default(),
        }
    }

    pub(crate) fn state(&self) -> Arc<PriorState> {
        self.state.clone()
    }

    /// `[heads, lags]`.
    #[must_use]
    pub fn ln_weights(&self) -> &Tensor<2> {
        &self.ln_weights
    }

    /// The lag of every column.
    #[must_use]
    pub fn lags(&self) -> &Lags {
        &self.lags
    }
}

/// The heads and lags that a family is evaluated on.
#[derive(Clone, Debug)]
pub struct LagGrid {
    /// Number of heads.
    pub heads: usize,
    /// The lags.
    pub lags: Lags,
    /// The device of the result.
    pub device: Device,
}

impl LagGrid {
    /// The lags as `[1, lags]`.
    fn lags(&self) -> Tensor<2> {
        let values: Vec<f32> = self.lags.iter().map(|lag| lag as f32).collect();
        Tensor::from_data(
            TensorData::new(values, [1, self.lags.count()]),
            &self.device,
        )
    }

    /// `|d|` as `[1, lags]`.
    fn distances(&self) -> Tensor<2> {
        self.lags().abs()
    }

    /// Reads a table `[heads, width]` at `entry(lag)` for every lag: `[heads, lags]`.
    fn look_up(&self, table: Tensor<2>, entry: impl Fn(i64) -> usize) -> Tensor<2> {
        let entries: Vec<i32> = self.lags.iter().map(|lag| entry(lag) as i32).collect();
        let entries = TensorData::new(entries, [self.lags.count()]);
        table.select(1, Tensor::<1, Int>::from_data(entries, &self.device))
    }
}
