//! A free table: a log-weight per distance, the last entry for all beyond.

use super::{Family, LagGrid, ParameterSpec, Role};
use bam_prior::{Error, Link, Prior};
use burn::tensor::Tensor;

const ENTRIES: usize = 64;

/// `ln w(d) = θ[min(|d|, 63)]`: 64 entries, any lag answered.
#[derive(Debug)]
pub struct Table;

impl Family for Table {
    fn name(&self) -> &'static str {
        "table"
    }

    fn parameters(&self, heads: usize) -> Vec<ParameterSpec> {
        vec![ParameterSpec {
            name: "weights",
            role: Role::Scale,
            link: Link::Identity,
            width: ENTRIES,
            initial: vec![0.0; heads * ENTRIES],
        }]
    }

    fn ln_weight(&self, theta: &[Tensor<2>], grid: &LagGrid) -> Tensor<2> {
        grid.look_up(theta[0].clone(), |lag| {
            (lag.unsigned_abs() as usize).min(ENTRIES - 1)
        })
    }

    fn prior(&self, theta: &[Vec<f64>]) -> Result<Prior, Error> {
        Ok(Prior::Table(bam_prior::Table::new(theta[0].clone())?))
    }
}
