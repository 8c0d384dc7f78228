//! Gradient descent in twenty lines, for the examples: a real program takes `burn::optim`.

use bam_attention::testing::signed_numbers;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Gradients, Tensor};

/// Moves every parameter that has a gradient by `rate` against its sign, entry by entry.
pub fn step<M: Module>(module: M, loss: Tensor<1>, rate: f64) -> M {
    let gradients = loss.backward();
    module.map(&mut Descent { gradients, rate })
}

struct Descent {
    gradients: Gradients,
    rate: f64,
}

impl ModuleMapper for Descent {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|old| match old.grad(&self.gradients) {
            Some(gradient) => {
                let moved = old.inner() - gradient.sign() * self.rate;
                Tensor::from_inner(moved).require_grad()
            }
            None => old,
        })
    }
}

/// Whole numbers below `below`, the same for the same seed.
pub fn symbols(count: usize, below: usize, seed: u64) -> Vec<i32> {
    let numbers = signed_numbers(count, 0.5, seed).into_iter();
    numbers
        .map(|x| ((x + 0.5) * below as f32) as i32)
        .map(|symbol| symbol.min(below as i32 - 1))
        .collect()
}
