//! Models for tests: small, and as lively as trained ones.

use crate::model::{Design, ModelConfig, ParameterKind, PriorScope, PriorStart, Transformer};
use bam_attention::testing::signed_numbers;
use bam_prior::Role;
use burn::nn::Initializer;
use burn::tensor::Device;
use std::path::Path;

/// Sizes of a small model whose heads share keys, two query heads to a key head.
///
/// # Panics
/// If `encoding` is none.
#[must_use]
pub fn small(encoding: &str) -> ModelConfig {
    ModelConfig {
        encoding: encoding.parse().expect("a test names an encoding"),
        dim: 24,
        layers: 2,
        heads: 6,
        key_heads: 3,
        hidden: 40,
        vocabulary: 31,
        train_length: 16,
        norm_epsilon: 1e-5,
        rotary_theta: 1e4,
        prior_scope: PriorScope::Layer,
        prior_start: PriorStart::default(),
        ssmax_from: 0,
        design: Design::default(),
    }
}

/// A model whose content scores, gains and priors are far from where training starts: scores of
/// several nats, gains of either sign, local and anti-local heads.
///
/// # Panics
/// If `config` can't be made.
#[must_use]
pub fn lively(config: ModelConfig, seed: u64, device: &Device) -> Transformer {
    // Nothing is drawn: threads share a device's random numbers, and a test beside this one may have seeded them.
    let model = config.made(&Initializer::Zeros, device);
    let model = model.expect("a configuration that was checked fits itself");
    let mut tensors = model.to_tensors();
    for (index, info) in model.parameters().iter().enumerate() {
        let (_, values) = tensors
            .get_mut(&info.name)
            .expect("a model has its tensors");
        let scores = info.name.contains(".wq.") || info.name.contains(".wk.");
        let numbers = signed_numbers(values.len(), 1.0, 1000 * seed + index as u64);
        for (value, x) in values.iter_mut().zip(numbers) {
            *value = match info.kind {
                ParameterKind::Matrix if scores => 0.12 * x,
                ParameterKind::Matrix => 0.4 * x,
                ParameterKind::Vector => (2.0 + 0.5 * x.abs()).copysign(x),
                ParameterKind::Prior(Role::Location) => x,
                ParameterKind::Prior(Role::Scale) => x - 1.5,
                ParameterKind::Prior(Role::Shape) => 1.0 + 0.8 * x,
                ParameterKind::SsmaxScale if info.name.contains("temperature") => 0.1 * x,
                ParameterKind::SsmaxScale => 0.8 + 0.4 * x,
            };
        }
    }
    model
        .with_tensors(tensors, Path::new("lively"))
        .expect("the same tensors fit")
}
