//! The Gaussian prior.

use super::{Family, LagGrid, ParameterSpec, Role, from_slopes, location, scalar};
use bam_prior::{Error, Link, Prior};
use burn::tensor::Tensor;

/// `ln w(d) = −a·(d − μ)²`, `a = exp(θ_scale)`, `μ = 2·sinh(θ_location)`: standard deviation `1/√(2a)`.
#[derive(Debug)]
pub struct Gaussian;

impl Family for Gaussian {
    fn name(&self) -> &'static str {
        "gaussian"
    }

    fn parameters(&self, heads: usize) -> Vec<ParameterSpec> {
        vec![
            scalar("location", Role::Location, Link::TwoSinh, vec![0.0; heads]),
            // As wide as ALiBi's Laplace prior: equal variance, 1/(2a) = 2/m².
            scalar(
                "scale",
                Role::Scale,
                Link::Exponential,
                from_slopes(heads, |m| (m * m / 4.0).ln()),
            ),
        ]
    }

    fn ln_weight(&self, theta: &[Tensor<2>], grid: &LagGrid) -> Tensor<2> {
        let centred = grid.lags() - location(theta[0].clone());
        theta[1].clone().exp().neg() * centred.square()
    }

    fn prior(&self, theta: &[Vec<f64>]) -> Result<Prior, Error> {
        let location = 2.0 * theta[0][0].sinh();
        let sigma = (0.5 * (-theta[1][0]).exp()).sqrt();
        Ok(Prior::Gaussian(bam_prior::Gaussian::new(location, sigma)?))
    }
}
