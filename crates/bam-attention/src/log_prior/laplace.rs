//! The Laplace prior: ALiBi, with the slopes as parameters.

use super::{Family, LagGrid, ParameterSpec, Role, from_slopes, scalar};
use bam_prior::{Error, Link, Prior};
use burn::tensor::Tensor;

/// `ln w(d) = −m·|d|`, slope `m = exp(θ)`. Source: ALiBi, arXiv 2108.12409.
#[derive(Debug)]
pub struct Laplace;

impl Family for Laplace {
    fn name(&self) -> &'static str {
        "laplace"
    }

    fn parameters(&self, heads: usize) -> Vec<ParameterSpec> {
        vec![scalar(
            "scale",
            Role::Scale,
            Link::Exponential,
            from_slopes(heads, f64::ln),
        )]
    }

    fn ln_weight(&self, theta: &[Tensor<2>], grid: &LagGrid) -> Tensor<2> {
        theta[0].clone().exp().neg() * grid.distances()
    }

    fn prior(&self, theta: &[Vec<f64>]) -> Result<Prior, Error> {
        Ok(Prior::Laplace(bam_prior::Laplace::new(theta[0][0].exp())?))
    }
}
