//! Student's t prior: heavy tails around a location.

use super::{Family, LagGrid, ParameterSpec, Role, from_slopes, location, scalar};
use bam_prior::{Error, Link, Prior};
use burn::tensor::Tensor;

/// `ln w(d) = −(ν+1)/2 · ln(1 + ((d − μ)/σ)²/ν)`: `μ = 2·sinh(θ_location)`, `σ = exp(θ_scale)`,
/// `ν = exp(θ_shape)` degrees of freedom.
#[derive(Debug)]
pub struct StudentT;

impl Family for StudentT {
    fn name(&self) -> &'static str {
        "student_t"
    }

    fn parameters(&self, heads: usize) -> Vec<ParameterSpec> {
        vec![
            scalar("location", Role::Location, Link::TwoSinh, vec![0.0; heads]),
            scalar(
                "scale",
                Role::Scale,
                Link::Exponential,
                from_slopes(heads, |m| -m.ln()),
            ),
            scalar("shape", Role::Shape, Link::Exponential, vec![0.0; heads]),
        ]
    }

    fn ln_weight(&self, theta: &[Tensor<2>], grid: &LagGrid) -> Tensor<2> {
        let sigma = theta[1].clone().exp();
        let nu = theta[2].clone().exp();
        let standardised = (grid.lags() - location(theta[0].clone())) / sigma;
        (standardised.square() / nu.clone()).log1p() * (nu + 1.0) * -0.5
    }

    fn prior(&self, theta: &[Vec<f64>]) -> Result<Prior, Error> {
        Ok(Prior::StudentT(bam_prior::StudentT::new(
            2.0 * theta[0][0].sinh(),
            theta[1][0].exp(),
            theta[2][0].exp(),
        )?))
    }
}
