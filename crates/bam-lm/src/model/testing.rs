//! Models for tests: small, and as lively as trained ones.

use super::parameters::ParameterKind;
use super::{ModelConfig, Transformer};
use bam_attention::log_prior::Role;
use bam_attention::testing::signed_numbers;
use burn::tensor::Device;
use std::path::Path;

pub(crate) use super::config::tests::small;

/// A model whose content scores, gains and priors are far from where training starts: scores of
/// several nats, gains of either sign, local and anti-local heads.
pub(crate) fn lively(config: ModelConfig, seed: u64, device: &Device) -> Transformer {
    let model = config.init(device);
    let mut tensors = model.to_tensors();
    for (index, info) in model.parameters().iter().enumerate() {
        let (_, values) = tensors.get_mut(&info.name).unwrap();
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
                ParameterKind::SsmaxScale => 0.8 + 0.4 * x,
            };
        }
    }
    model.with_tensors(tensors, Path::new("lively")).unwrap()
}
