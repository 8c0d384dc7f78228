//! The uniform prior: position says nothing (NoPE).

use super::{Family, LagGrid, ParameterSpec};
use bam_prior::{Error, Prior};
use burn::tensor::Tensor;

/// `ln w(d) = 0`.
#[derive(Debug)]
pub struct Uniform;

impl Family for Uniform {
    fn name(&self) -> &'static str {
        "uniform"
    }

    fn parameters(&self, _heads: usize) -> Vec<ParameterSpec> {
        Vec::new()
    }

    fn ln_weight(&self, theta: &[Tensor<2>], grid: &LagGrid) -> Tensor<2> {
        debug_assert!(theta.is_empty());
        Tensor::zeros([grid.heads, grid.lags.count()], &grid.device)
    }

    fn prior(&self, _theta: &[Vec<f64>]) -> Result<Prior, Error> {
        Ok(Prior::Uniform(bam_prior::Uniform))
    }
}
