//! A mixture: Laplace with a uniform slab beneath, so that no distance is forgotten.

use super::{Family, LagGrid, ParameterSpec, Role, from_slopes, scalar};
use bam_prior::{Component, Error, Link, Prior};
use burn::tensor::Tensor;
use burn::tensor::activation::softplus;

/// `π = sigmoid(−4.6) ≈ 1 %`.
const INITIAL_SLAB_LOGIT: f64 = -4.6;

/// `ln w(d) = ln( (1 − π)·exp(−m·|d|) + π )`: slope `m = exp(θ_scale)`, slab `π = sigmoid(θ_slab)`.
#[derive(Debug)]
pub struct LaplaceSlab;

impl Family for LaplaceSlab {
    fn name(&self) -> &'static str {
        "laplace_slab"
    }

    fn parameters(&self, heads: usize) -> Vec<ParameterSpec> {
        vec![
            scalar(
                "scale",
                Role::Scale,
                Link::Exponential,
                from_slopes(heads, f64::ln),
            ),
            scalar(
                "slab",
                Role::Shape,
                Link::Logistic,
                vec![INITIAL_SLAB_LOGIT; heads],
            ),
        ]
    }

    fn ln_weight(&self, theta: &[Tensor<2>], grid: &LagGrid) -> Tensor<2> {
        let ln_laplace = theta[0].clone().exp().neg() * grid.distances();
        // ln(e^a + e^b) with b = θ_slab relative to the Laplace part; ln(1 − π) = −softplus(θ).
        let slab = theta[1].clone();
        let largest = ln_laplace.clone().max_pair(slab.clone()).detach();
        let sum = (ln_laplace - largest.clone()).exp() + (slab.clone() - largest.clone()).exp();
        largest + sum.log() - softplus(slab, 1.0)
    }

    fn prior(&self, theta: &[Vec<f64>]) -> Result<Prior, Error> {
        let slab = 1.0 / (1.0 + (-theta[1][0]).exp());
        let laplace = bam_prior::Laplace::new(theta[0][0].exp())?;
        Ok(Prior::Mixture(bam_prior::Mixture::new(vec![
            Component {
                weight: 1.0 - slab,
                prior: Prior::Laplace(laplace),
            },
            Component {
                weight: slab,
                prior: Prior::Uniform(bam_prior::Uniform),
            },
        ])?))
    }
}
