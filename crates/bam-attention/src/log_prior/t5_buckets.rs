//! T5's relative position bias: a log-weight per bucket of lags.

use super::{Family, LagGrid, ParameterSpec, Role};
use bam_prior::{Direction, Error, Link, Prior};
use burn::tensor::Tensor;

const BUCKETS: usize = 32;
const MAX_DISTANCE: usize = 128;

/// `ln w(d) = θ[bucket(d)]`: 32 buckets, the first half exact, the rest logarithmic up to 128; in
/// causal rows all of them lie behind the query. Source: T5, arXiv 1910.10683.
#[derive(Debug)]
pub struct T5Buckets;

impl Family for T5Buckets {
    fn name(&self) -> &'static str {
        "t5_buckets"
    }

    fn parameters(&self, heads: usize) -> Vec<ParameterSpec> {
        vec![ParameterSpec {
            name: "weights",
            role: Role::Scale,
            link: Link::Identity,
            width: BUCKETS,
            initial: vec![0.0; heads * BUCKETS],
        }]
    }

    fn ln_weight(&self, theta: &[Tensor<2>], grid: &LagGrid) -> Tensor<2> {
        // Which bucket a lag is in does not depend on the log-weights.
        let direction = if grid.lags.last() > 0 {
            Direction::Bidirectional
        } else {
            Direction::Causal
        };
        let buckets = bam_prior::T5Buckets::new(vec![0.0; BUCKETS], MAX_DISTANCE, direction)
            .expect("32 buckets up to distance 128 are valid");
        grid.look_up(theta[0].clone(), |lag| buckets.bucket(lag as f64))
    }

    fn prior(&self, theta: &[Vec<f64>]) -> Result<Prior, Error> {
        let weights = theta[0].clone();
        Ok(Prior::T5Buckets(bam_prior::T5Buckets::new(
            weights,
            MAX_DISTANCE,
            Direction::Causal,
        )?))
    }
}
