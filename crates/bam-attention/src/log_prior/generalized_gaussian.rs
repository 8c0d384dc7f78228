//! The generalised Gaussian prior: BAM, as the reference trains it.

use super::{Family, LagGrid, ParameterSpec, Role, from_slopes, location, scalar};
use bam_prior::{Error, Link, Prior};
use burn::tensor::Tensor;

/// Keeps the power's base, and with it the gradient, off zero.
const EPSILON: f32 = bam_prior::GeneralizedGaussian::EPSILON as f32;
/// `−ln w` saturates at `e^60 ≈ 10²⁶` nats, beyond any likelihood: a shape of 7 at a lag of 10⁶
/// would overflow `f32`, and `0·∞` in the backward pass make every gradient NaN.
const LN_LARGEST: f32 = 60.0;

/// `ln w(d) = −(|d − μ| + ε)^β · a`: location `μ = 2·sinh(θ_loc)`, scale `a = exp(θ_scale)` outside
/// the power, shape `β = θ_shape` unconstrained, `ε = 1e-5`. `β = 1` is Laplace, `β = 2` Gaussian,
/// `β → 0` flat, `β < 0` anti-local. Source: arXiv 2505.22842.
#[derive(Debug)]
pub struct GeneralizedGaussian;

impl Family for GeneralizedGaussian {
    fn name(&self) -> &'static str {
        "generalized_gaussian"
    }

    fn parameters(&self, heads: usize) -> Vec<ParameterSpec> {
        vec![
            scalar("loc", Role::Location, Link::TwoSinh, vec![0.0; heads]),
            scalar(
                "scale",
                Role::Scale,
                Link::Exponential,
                from_slopes(heads, f64::ln),
            ),
            scalar("shape", Role::Shape, Link::Identity, vec![1.0; heads]),
        ]
    }

    fn ln_weight(&self, theta: &[Tensor<2>], grid: &LagGrid) -> Tensor<2> {
        let [theta_location, theta_scale, shape] = [0, 1, 2].map(|index| theta[index].clone());
        let ln_distance = ((grid.lags() - location(theta_location)).abs() + EPSILON).log();
        let ln_magnitude = ln_distance * shape + theta_scale;
        ln_magnitude.clamp_max(LN_LARGEST).exp().neg()
    }

    fn prior(&self, theta: &[Vec<f64>]) -> Result<Prior, Error> {
        Ok(Prior::GeneralizedGaussian(
            bam_prior::GeneralizedGaussian::new(
                2.0 * theta[0][0].sinh(),
                theta[1][0].exp(),
                theta[2][0],
            )?,
        ))
    }
}
