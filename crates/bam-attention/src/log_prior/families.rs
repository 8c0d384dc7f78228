//! The log-weight of every family as differentiable tensor code; names, links and starting values are
//! [`Family`]'s.

use super::LagGrid;
use bam_prior::{Direction, Family, GeneralizedGaussian, Link, T5Buckets};
use burn::tensor::Tensor;
use burn::tensor::activation::{sigmoid, softplus};

/// Keeps the power's base, and with it the gradient, off zero.
const EPSILON: f32 = GeneralizedGaussian::EPSILON as f32;
/// `−ln w` saturates at `e^60 ≈ 10²⁶` nats, beyond any likelihood: a shape of 7 at a lag of 10⁶
/// would overflow `f32`, and `0·∞` in the backward pass make every gradient NaN.
const LN_LARGEST: f32 = 60.0;

/// `ln w_h(d)` of a family for every head and lag, by the laws in the table of [`Family`].
///
/// # Shapes
/// - `theta`: unconstrained, per parameter `[heads, width]` in the order of [`Family::parameters`]
/// - result: `[heads, lags]`
///
/// # Panics
/// If `theta` holds fewer tensors than the family has parameters.
#[must_use]
pub fn ln_weight(family: Family, theta: &[Tensor<2>], grid: &LagGrid) -> Tensor<2> {
    let links: Vec<Link> = (family.parameters(0).into_iter().map(|of| of.link)).collect();
    let theta = |index: usize| theta[index].clone();
    let value = |index: usize| constrain(links[index], theta(index));
    match family {
        Family::Uniform => Tensor::zeros([grid.heads, grid.lags.count()], &grid.device),
        Family::Laplace => value(0).neg() * grid.distances(),
        Family::Gaussian => value(1).neg() * (grid.lags() - value(0)).square(),
        Family::GeneralizedGaussian => {
            // As exp(β·ln(|d − μ| + ε) + ln a).
            let ln_distance = ((grid.lags() - value(0)).abs() + EPSILON).log();
            let ln_magnitude = ln_distance * value(2) + theta(1);
            ln_magnitude.clamp_max(LN_LARGEST).exp().neg()
        }
        Family::KerpleLog => value(0).neg() * (value(1) * grid.distances()).log1p(),
        Family::KerplePower => {
            // 0^r₂ = 0, and its derivative by r₂ is 0 too: ln 0 is replaced before and masked after.
            let distances = grid.distances();
            let at_zero = distances.clone().equal_elem(0.0);
            let power = (distances.clamp_min(1.0).log() * value(1)).exp();
            let [heads, lags] = power.dims();
            (value(0).neg() * power).mask_fill(at_zero.expand([heads, lags]), 0.0)
        }
        Family::StudentT => {
            let nu = value(2);
            let standardised = (grid.lags() - value(0)) / value(1);
            (standardised.square() / nu.clone()).log1p() * (nu + 1.0) * -0.5
        }
        Family::T5Buckets => {
            let [_, buckets] = theta(0).dims();
            // In causal rows all buckets lie behind the query. Which one a lag is in does not depend on
            // the log-weights.
            let direction = match grid.lags.last() > 0 {
                true => Direction::Bidirectional,
                false => Direction::Causal,
            };
            let buckets = T5Buckets::new(vec![0.0; buckets], T5Buckets::MAX_DISTANCE, direction)
                .expect("the family's buckets are valid");
            grid.look_up(theta(0), |lag| buckets.bucket(lag as f64))
        }
        Family::Table => {
            let [_, entries] = theta(0).dims();
            grid.look_up(theta(0), |lag| {
                (lag.unsigned_abs() as usize).min(entries - 1)
            })
        }
        Family::LaplaceSlab => {
            let ln_laplace = value(0).neg() * grid.distances();
            // ln(e^a + e^b) with b = θ_slab relative to the Laplace part; ln(1 − π) = −softplus(θ).
            let slab = theta(1);
            let largest = ln_laplace.clone().max_pair(slab.clone()).detach();
            let sum = (ln_laplace - largest.clone()).exp() + (slab.clone() - largest.clone()).exp();
            largest + sum.log() - softplus(slab, 1.0)
        }
    }
}

/// A parameter's value from what is stored, entry by entry: [`Link::constrain`] on tensors.
fn constrain(link: Link, theta: Tensor<2>) -> Tensor<2> {
    match link {
        Link::Identity => theta,
        Link::Exponential => theta.exp(),
        Link::TwoSinh => theta.clone().exp() - theta.neg().exp(),
        Link::Softplus => softplus(theta, 1.0),
        Link::Logistic => sigmoid(theta),
        Link::TwoLogistic => sigmoid(theta) * 2.0,
    }
}
