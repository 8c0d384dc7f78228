//! A trained model's prior made learnable from where it is, so that training can go on with little more
//! than a few numbers a head: ALiBi is a generalised Gaussian of shape 1. Or a model without its rotations,
//! for all its weights to learn to do without.

use crate::Error;
use crate::analysis::distributions;
use crate::model::checkpoint::NamedTensors;
use crate::model::encoding::{LayerEncoding, Position, PriorKind, RowTemperature};
use crate::model::{ModelConfig, ParameterKind, PriorScope, PriorStart, Transformer};
use crate::settings::is_finite_f32;
use bam_attention::TemperatureScope;
use bam_prior::{Family, GeneralizedGaussian, Prior, alibi_slopes};
use std::path::Path;

/// The model that is to come of another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Upcycling {
    /// The family of the new priors.
    pub target: Target,
    /// Scalable softmax, if it is to be added.
    pub ssmax: Option<SsmaxStart>,
    /// Whether layers that rotate queries and keys stop doing so, and hide nothing any more: uniform priors
    /// take their places (DroPE, arXiv 2512.12167). This changes what the model computes.
    pub drop_rotary: bool,
}

/// The family that priors are turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Generalised Gaussians, `bam`: from uniform (shape 0), Laplace (1) and Gaussian (2) priors and
    /// from themselves.
    GeneralizedGaussian,
    /// Laplace with slopes to learn, from Laplace.
    Laplace,
    /// As they are, if that is learned or rotations are dropped.
    Same,
}

/// The start of scalable softmax.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SsmaxStart {
    /// The terms that the temperature multiplies.
    pub scope: TemperatureScope,
    /// The first layer that has it.
    pub from_layer: usize,
    /// `s` of every head.
    pub scale: f64,
}

impl SsmaxStart {
    /// The scale at which the temperature `s·ln n` is 1 on the mean over the rows of a text of that
    /// length, `L / ln L!`. At 1, the start of untrained models, it would be `ln n`: a trained model's
    /// logits would be several times as large as it has learned them.
    #[must_use]
    pub fn level(length: usize) -> f64 {
        let sum: f64 = (2..=length).map(|n| (n as f64).ln()).sum();
        if sum > 0.0 { length as f64 / sum } else { 1.0 }
    }
}

/// The model with priors that can learn, one for each layer that has priors; layers that rotate stay as they
/// are unless that is dropped. It computes what it did, up to rounding, unless scalable softmax is added or
/// rotations are dropped.
///
/// # Errors
/// If no layer has a prior, or none rotates that is to stop, a head's prior is none of the target's family, or
/// there is scalable softmax already.
pub fn upcycled(model: &Transformer, to: &Upcycling) -> Result<Transformer, Error> {
    let before = model.config();
    let wrong = |what, expected: &str| {
        Err(Error::Value {
            what,
            expected: expected.to_owned(),
            got: before.encoding.to_string(),
        })
    };
    if to.drop_rotary && !before.encoding.rotates() {
        return wrong("dropping rotations", "layers that rotate queries and keys");
    }
    if to.drop_rotary && to.target == Target::Laplace {
        return Err(Error::Value {
            what: "family",
            expected:
                "bam or same where rotations are dropped, since the priors then begin uniform"
                    .into(),
            got: "laplace".into(),
        });
    }
    let mut config = before.clone();
    config.encoding = before.encoding.with_layers(|layer| LayerEncoding {
        position: positioned(&layer.position, to, before.train_length),
        ..layer.clone()
    })?;
    if !config.encoding.has_prior() {
        return wrong("upcycling", "a model whose positions are priors");
    }
    let mut tensors = model.to_tensors();
    if to.target == Target::Same {
        if !before.encoding.learns_prior() && !to.drop_rotary {
            return wrong("upcycling", "priors that learn, to keep them");
        }
    } else {
        for info in model.parameters() {
            if matches!(info.kind, ParameterKind::Prior(_)) {
                tensors.remove(&info.name);
            }
        }
        turn(model, to.target, &mut config, &mut tensors)?;
    }
    if let Some(start) = to.ssmax {
        if before.encoding.has_temperature() {
            return wrong("adding scalable softmax", "no temperature of rows");
        }
        if !(start.from_layer < config.layers && is_finite_f32(start.scale)) {
            return Err(Error::Value {
                what: "scalable softmax",
                expected: format!(
                    "a first layer below {} and a scale that f32 holds",
                    config.layers
                ),
                got: format!("layer {} and {}", start.from_layer, start.scale),
            });
        }
        config.encoding = config.encoding.with_layers(|layer| LayerEncoding {
            temperature: Some(RowTemperature::Scalable(start.scope)),
            ..layer.clone()
        })?;
        config.ssmax_from = start.from_layer;
        for layer in start.from_layer..config.layers {
            let scales = vec![start.scale as f32; config.heads];
            let name = format!("layers.{layer}.attention.seq_scale");
            tensors.insert(name, (vec![1, config.heads, 1, 1], scales));
        }
    }
    let upcycled = config.checked()?.init(&model.device());
    let upcycled = upcycled.with_tensors(tensors, Path::new("upcycled model"))?;
    Ok(upcycled.with_history(model.history().clone()))
}

/// A layer's position at the start. A window that is the training length is said, for that length grows.
fn positioned(position: &Position, to: &Upcycling, train_length: usize) -> Position {
    match position {
        rotates if rotates.rotates() && to.drop_rotary => PriorKind::Nope.into(),
        Position::RotaryLocal { .. } => Position::RotaryLocal {
            window: position.window(train_length),
        },
        other => other.clone(),
    }
}

/// The priors of every layer that has some as parameters of the target's family.
fn turn(
    model: &Transformer,
    target: Target,
    config: &mut ModelConfig,
    tensors: &mut NamedTensors,
) -> Result<(), Error> {
    let family = match target {
        Target::Laplace => Family::Laplace,
        _ => Family::GeneralizedGaussian,
    };
    let slopes = alibi_slopes(config.heads)?;
    let specs = family.parameters(config.heads);
    for layer in (0..config.layers).filter(|layer| !config.head_groups(*layer).is_empty()) {
        let mut theta = vec![Vec::new(); specs.len()];
        for (head, prior) in distributions(model, layer).into_iter().enumerate() {
            let prior = prior?;
            let turned = match family {
                Family::Laplace => Some(prior.clone()).filter(|of| Family::of(of) == Some(family)),
                // Of a uniform prior the scale does not matter.
                _ => GeneralizedGaussian::containing(&prior, slopes[head])?.map(Prior::from),
            };
            let turned = turned.ok_or_else(|| Error::Value {
                what: "upcycling",
                expected: format!(
                    "priors that a {family} prior can be equal to, or the same family"
                ),
                got: {
                    let name = Family::of(&prior).map_or("a uniform one", Family::name);
                    format!("{name} of head {layer}.{head}")
                },
            })?;
            for (theta, values) in theta.iter_mut().zip(family.theta(&turned)?) {
                theta.extend(values.into_iter().map(|x| x as f32));
            }
        }
        for (spec, values) in specs.iter().zip(theta) {
            let name = format!("layers.{layer}.attention.prior.{}", spec.name);
            tensors.insert(name, (vec![1, config.heads, 1, 1], values));
        }
    }
    config.encoding = config.encoding.with_layers(|layer| match layer.position {
        Position::Prior(_) => LayerEncoding {
            position: PriorKind::Learned(family).into(),
            ..layer.clone()
        },
        _ => layer.clone(),
    })?;
    config.prior_scope = PriorScope::Layer;
    config.prior_start = PriorStart::default();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{TokenRows, host_values};
    use crate::testing::{lively, small};
    use bam_attention::Implementation;
    use burn::tensor::Device;

    fn logits(model: &Transformer) -> Vec<f32> {
        let tokens = (0..65).map(|i| i * 7 % 31).collect();
        let tokens = TokenRows::new(1, tokens, 31).unwrap();
        host_values(model.forward(&tokens, None, Implementation::Fused).unwrap())
    }

    fn difference(a: &Transformer, b: &Transformer) -> f32 {
        let (a, b) = (logits(a), logits(b));
        let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f32::max)
    }

    const TO_BAM: Upcycling = Upcycling {
        target: Target::GeneralizedGaussian,
        ssmax: None,
        drop_rotary: false,
    };
    const WITHOUT_ROTARY: Upcycling = Upcycling {
        target: Target::Same,
        ssmax: None,
        drop_rotary: true,
    };

    #[test]
    fn it_computes_what_it_did() {
        let device = Device::flex();
        for encoding in [
            "alibi",
            "nope",
            "bam",
            "gaussian",
            "alibi:2,bam:4",
            "laplace+ssmax",
            "alibi:4,nope:2",
        ] {
            for scope in [PriorScope::Layer, PriorScope::Global] {
                let config = ModelConfig {
                    prior_scope: scope,
                    ..small(encoding)
                };
                let model = lively(config, 31, &device);
                let after = upcycled(&model, &TO_BAM).unwrap();
                assert!(after.config().encoding.to_string().starts_with("bam"));
                let size = logits(&model).iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                let error = difference(&model, &after);
                assert!(error < 1e-4 * size, "{encoding}: {error} of {size}");
                // Null control: one head's prior off by a little.
                let mut tensors = after.to_tensors();
                tensors.get_mut("layers.1.attention.prior.shape").unwrap().1[1] += 0.1;
                let other = after.config().init(&device);
                let other = other.with_tensors(tensors, Path::new("other")).unwrap();
                assert!(difference(&model, &other) > 1e-3 * size, "{encoding}");
            }
        }
        let model = lively(small("alibi"), 31, &device);
        let to = Upcycling {
            target: Target::Laplace,
            ..TO_BAM
        };
        assert!(difference(&model, &upcycled(&model, &to).unwrap()) < 1e-4);
    }

    /// Layers that have no priors are what they were, also where the training length grows; of those that have
    /// some, each becomes what it was.
    #[test]
    fn patterns_become_patterns() {
        let device = Device::flex();
        for (before, after) in [
            ("rotary_local,alibi", "rotary_local:16,bam"),
            ("rotary_local:9,nope+ssmax", "rotary_local:9,bam+ssmax"),
            ("alibi,nope+ssmax", "bam,bam+ssmax"),
            ("rotary,(alibi:2,bam:4)", "rotary,bam"),
            ("alibi,nope", "bam"),
        ] {
            let model = lively(small(before), 31, &device);
            let turned = upcycled(&model, &TO_BAM).unwrap();
            assert_eq!(turned.config().encoding.to_string(), after);
            let size = logits(&model).iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            let error = difference(&model, &turned);
            assert!(error < 1e-4 * size, "{before}: {error} of {size}");
            let longer = ModelConfig {
                train_length: 64,
                ..turned.config().clone()
            };
            let longer = longer.init(&device);
            let longer = longer.with_tensors(turned.to_tensors(), Path::new("longer"));
            assert_eq!(difference(&turned, &longer.unwrap()), 0.0, "{before}");
        }
    }

    /// Without rotations it is the model of that encoding with the same weights, to the bit; with a family, one
    /// whose priors start uniform. Null control: the rotations matter.
    #[test]
    fn rotations_are_dropped() {
        let device = Device::flex();
        for (before, after) in [
            ("rotary", "nope"),
            ("rotary_local", "nope"),
            ("rotary+ssmax", "nope+ssmax"),
            ("rotary_local:9,nope+ssmax", "nope,nope+ssmax"),
            ("rotary,bam", "nope,bam"),
        ] {
            let scopes = [PriorScope::Layer, PriorScope::Global];
            let plain = !before.contains(',');
            for scope in &scopes[..1 + usize::from(plain)] {
                let config = ModelConfig {
                    prior_scope: *scope,
                    ..small(before)
                };
                let model = lively(config, 31, &device);
                let dropped = upcycled(&model, &WITHOUT_ROTARY).unwrap();
                assert_eq!(dropped.config().encoding.to_string(), after);
                let config = ModelConfig {
                    prior_scope: *scope,
                    ..small(after)
                };
                let other = config.init(&device);
                let other = other.with_tensors(model.to_tensors(), Path::new("nope"));
                assert_eq!(difference(&dropped, &other.unwrap()), 0.0, "{before}");
                let size = logits(&model).iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                assert!(difference(&model, &dropped) > 1e-2 * size, "{before}");
                let to = Upcycling {
                    target: Target::GeneralizedGaussian,
                    ..WITHOUT_ROTARY
                };
                let learned = upcycled(&model, &to).unwrap();
                assert!(learned.config().encoding.learns_prior());
                let error = difference(&dropped, &learned);
                assert!(error < 1e-4 * size, "{before}: {error} of {size}");
            }
        }
    }

    /// At the level start rows of the training length have a temperature of 1 on the mean.
    #[test]
    fn scalable_softmax_starts_level() {
        for length in [2, 3, 65, 128, 2000] {
            let scale = SsmaxStart::level(length);
            let mean: f64 =
                (1..=length).map(|n| scale * (n as f64).ln()).sum::<f64>() / length as f64;
            assert!((mean - 1.0).abs() < 1e-12, "{length}");
        }
        assert_eq!(SsmaxStart::level(1), 1.0);
        let model = lively(small("alibi"), 31, &Device::flex());
        let with = |scale| {
            let start = SsmaxStart {
                scope: TemperatureScope::LikelihoodAndPrior,
                from_layer: 1,
                scale,
            };
            let to = Upcycling {
                ssmax: Some(start),
                ..TO_BAM
            };
            upcycled(&model, &to).unwrap()
        };
        let (level, usual) = (with(SsmaxStart::level(65)), with(1.0));
        assert_eq!(level.config().encoding.to_string(), "bam+ssmax");
        assert!(
            !level
                .to_tensors()
                .contains_key("layers.0.attention.seq_scale")
        );
        let (near, far) = (difference(&model, &level), difference(&model, &usual));
        assert!(0.0 < near && near < 0.5 * far, "{near} and {far}");
    }

    #[test]
    fn what_can_not_be_is_an_error() {
        let device = Device::flex();
        let start = SsmaxStart {
            scope: TemperatureScope::Likelihood,
            from_layer: 2,
            scale: 1.0,
        };
        for (encoding, to, named) in [
            ("rotary", TO_BAM, "positions are priors"),
            ("alibi,bam", WITHOUT_ROTARY, "layers that rotate"),
            (
                "rotary",
                Upcycling {
                    target: Target::Laplace,
                    ..WITHOUT_ROTARY
                },
                "the priors then begin uniform",
            ),
            ("kerple_log", TO_BAM, "got kerple_log of head 0.0"),
            (
                "nope",
                Upcycling {
                    target: Target::Laplace,
                    ..TO_BAM
                },
                "laplace",
            ),
            (
                "alibi",
                Upcycling {
                    target: Target::Same,
                    ..TO_BAM
                },
                "priors that learn",
            ),
            (
                "bam+ssmax",
                Upcycling {
                    ssmax: Some(start),
                    ..TO_BAM
                },
                "no temperature of rows",
            ),
            (
                "bam",
                Upcycling {
                    ssmax: Some(start),
                    ..TO_BAM
                },
                "below 2",
            ),
        ] {
            let error = upcycled(&small(encoding).init(&device), &to).unwrap_err();
            assert!(error.to_string().contains(named), "{encoding}: {error}");
        }
        let same = Upcycling {
            target: Target::Same,
            ..TO_BAM
        };
        let model = lively(small("kerple_log"), 3, &device);
        assert_eq!(difference(&model, &upcycled(&model, &same).unwrap()), 0.0);
    }
}
