//! KERPLE, power: a stretched exponential tail.

use super::{Family, LagGrid, ParameterSpec, Role, from_slopes, scalar};
use bam_prior::{Error, Link, Prior};
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

/// `ln w(d) = −r₁·|d|^r₂`, `r₁ = exp(θ₁)`, `r₂ = 2·sigmoid(θ₂)` in (0, 2). Source: KERPLE, arXiv 2205.09921.
#[derive(Debug)]
pub struct KerplePower;

impl Family for KerplePower {
    fn name(&self) -> &'static str {
        "kerple_power"
    }

    fn parameters(&self, heads: usize) -> Vec<ParameterSpec> {
        vec![
            scalar(
                "scale",
                Role::Scale,
                Link::Exponential,
                from_slopes(heads, f64::ln),
            ),
            scalar("exponent", Role::Shape, Link::TwoLogistic, vec![0.0; heads]),
        ]
    }

    fn ln_weight(&self, theta: &[Tensor<2>], grid: &LagGrid) -> Tensor<2> {
        let r1 = theta[0].clone().exp();
        let r2 = sigmoid(theta[1].clone()) * 2.0;
        // 0^r₂ = 0, and its derivative by r₂ is 0 too: ln 0 is replaced before and masked after.
        let distances = grid.distances();
        let at_zero = distances.clone().equal_elem(0.0);
        let power = (distances.clamp_min(1.0).log() * r2).exp();
        let [heads, lags] = power.dims();
        (r1.neg() * power).mask_fill(at_zero.expand([heads, lags]), 0.0)
    }

    fn prior(&self, theta: &[Vec<f64>]) -> Result<Prior, Error> {
        let exponent = 2.0 / (1.0 + (-theta[1][0]).exp());
        Ok(Prior::KerplePower(bam_prior::KerplePower::new(
            theta[0][0].exp(),
            exponent,
        )?))
    }
}
