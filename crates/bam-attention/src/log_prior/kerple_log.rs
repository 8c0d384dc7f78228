//! KERPLE, logarithmic: a power-law tail.

use super::{Family, LagGrid, ParameterSpec, Role, from_slopes, scalar};
use bam_prior::{Error, Link, Prior};
use burn::tensor::Tensor;

/// `ln w(d) = −r₁·ln(1 + r₂·|d|)`, `r = exp(θ)`. Source: KERPLE, arXiv 2205.09921.
#[derive(Debug)]
pub struct KerpleLog;

impl Family for KerpleLog {
    fn name(&self) -> &'static str {
        "kerple_log"
    }

    fn parameters(&self, heads: usize) -> Vec<ParameterSpec> {
        vec![
            scalar("scale", Role::Scale, Link::Exponential, vec![0.0; heads]),
            scalar(
                "rate",
                Role::Shape,
                Link::Exponential,
                from_slopes(heads, f64::ln),
            ),
        ]
    }

    fn ln_weight(&self, theta: &[Tensor<2>], grid: &LagGrid) -> Tensor<2> {
        let [r1, r2] = [0, 1].map(|index| theta[index].clone().exp());
        r1.neg() * (r2 * grid.distances()).log1p()
    }

    fn prior(&self, theta: &[Vec<f64>]) -> Result<Prior, Error> {
        let [r1, r2] = [0, 1].map(|index| theta[index][0].exp());
        Ok(Prior::KerpleLog(bam_prior::KerpleLog::new(r1, r2)?))
    }
}
