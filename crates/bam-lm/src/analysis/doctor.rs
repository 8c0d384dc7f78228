//! A check that the numbers hold: what `f32` and `bf16` make of every head's logits on a long row, found
//! from the parameters before anything runs.
//!
//! With the row's temperature `τ`, a head's logits are within `|τ|·C + max |factor·ln w|`, `C` being
//! the bound of its content scores. Keys that matter are those whose log-weight is within
//! [`MATTERS`] nats of the largest: a step between neighbouring numbers there is a relative error of
//! the posterior.

use super::prior::distributions;
use crate::Error;
use crate::model::checkpoint::NamedTensors;
use crate::model::{ModelConfig, ParameterKind, Transformer, check_length, host_values};
use bam_attention::{LN_SMALLEST_WEIGHT, Lags};
use bam_prior::{LogitBound, PositionalPrior, Prior, Sharpening};
use bam_record::{Checkup, HeadCheckup};
use burn::tensor::Device;
use std::path::Path;

/// Nats below the largest log-weight within which keys matter.
pub const MATTERS: f64 = 20.0;
/// The log-weight that saturates, a little before `e^60` of the generalised Gaussian.
const SATURATED: f64 = 1e26;
/// Steps between logits in `f32` from which on the posterior is off by a percent.
const COARSE: f64 = 0.01;
/// The same of log-weights in `bf16`, where keys [`MATTERS`] nats down are an eighth apart anyway.
const COARSE_BF16: f64 = 0.25;
/// Binary digits after the first.
const F32_DIGITS: i32 = 23;
const BF16_DIGITS: i32 = 7;

/// Examines a model of this configuration with these tensors, which may hold anything, on rows of
/// up to `length` keys. `path` is for messages.
///
/// # Errors
/// If the tensors are not those of such a model, or `length` is 0 or above
/// [`LONGEST_SEQUENCE`](crate::model::LONGEST_SEQUENCE).
pub fn examine(
    config: &ModelConfig,
    tensors: NamedTensors,
    path: &Path,
    length: usize,
    device: &Device,
) -> Result<Checkup, Error> {
    check_length(length)?;
    if length == 0 {
        return Err(Error::Value {
            what: "length",
            expected: "at least 1 token".into(),
            got: "0".into(),
        });
    }
    let broken = broken(&tensors);
    let whole = tensors.iter().map(|(name, (shape, values))| {
        let finite = |x: &f32| if x.is_finite() { *x } else { 0.0 };
        let values = values.iter().map(finite).collect();
        (name.clone(), (shape.clone(), values))
    });
    let model = config.with_tensors(whole.collect(), path, device)?;
    let bounds = model.logit_bounds();
    let priors = model.log_priors(Lags::causal(length));
    let mut heads = Vec::new();
    for (layer, (bounds, prior)) in bounds.iter().zip(priors).enumerate() {
        let ln_weights = host_values(prior.ln_weights().clone());
        let of_heads = ln_weights.chunks_exact(length).zip(bounds);
        let laws = distributions(&model, layer);
        for (head, ((ln_weights, bound), law)) in of_heads.zip(laws).enumerate() {
            let of_parameters = broken_parameters(&model, &tensors, layer, head);
            let mut checkup = HeadCheckup {
                layer,
                head,
                ..numbers(ln_weights, bound, length)
            };
            let mut worst = Verdict::Ok;
            let findings =
                of_parameters
                    .into_iter()
                    .chain(findings(&checkup, bound, law.as_ref(), length));
            for (verdict, reason) in findings {
                worst = worst.max(verdict);
                checkup.reasons.push(reason);
            }
            checkup.verdict = worst.name().to_owned();
            heads.push(checkup);
        }
    }
    Ok(Checkup {
        length,
        lag_steps: [F32_DIGITS, BF16_DIGITS].map(|digits| step(length as f64, digits)),
        broken,
        heads,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Ok,
    Warning,
    Error,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// `name: NaN at index 3 (1 of 64 values is not finite)`, by name.
fn broken(tensors: &NamedTensors) -> Vec<String> {
    let mut broken: Vec<String> = tensors
        .iter()
        .filter_map(|(name, (_, values))| {
            let first = values.iter().position(|x| !x.is_finite())?;
            let count = values.iter().filter(|x| !x.is_finite()).count();
            Some(format!(
                "{name}: {} at index {first} ({count} of {} values not finite)",
                values[first],
                values.len()
            ))
        })
        .collect();
    broken.sort();
    broken
}

/// The parameters of a head's prior and temperature that are no numbers.
fn broken_parameters(
    model: &Transformer,
    tensors: &NamedTensors,
    layer: usize,
    head: usize,
) -> Vec<(Verdict, String)> {
    let own = format!("layers.{layer}.");
    let parameters = model.parameters().into_iter().filter(|info| {
        let about_heads = matches!(
            info.kind,
            ParameterKind::Prior(_) | ParameterKind::SsmaxScale
        );
        // A prior that all layers share stands in none.
        let here = info.name.starts_with(&own) || !info.name.starts_with("layers.");
        about_heads && here && info.heads.contains(&head)
    });
    parameters
        .filter_map(|info| {
            let (_, values) = tensors.get(&info.name)?;
            let width = values.len() / info.heads.len();
            let of_head = &values[(head - info.heads.start) * width..][..width];
            let wrong = of_head.iter().find(|x| !x.is_finite())?;
            Some((Verdict::Error, format!("{} is {wrong}", info.name)))
        })
        .collect()
}

/// Counts of weights; `ln_weights` are those of the causal lags, the nearest key last.
fn numbers(ln_weights: &[f32], bound: &LogitBound, length: usize) -> HeadCheckup {
    let factor = bound.sharpening.prior_factor(length);
    let content = bound.sharpening.temperature(length).abs() * bound.content;
    let weighed = || ln_weights.iter().map(|w| factor * f64::from(*w));
    let low = weighed().fold(f64::INFINITY, f64::min);
    let high = weighed().fold(f64::NEG_INFINITY, f64::max);
    let size = |ln_weight: f64| ln_weight.abs();
    let matters = weighed()
        .filter(|w| *w >= high - MATTERS)
        .map(size)
        .fold(0.0, f64::max);
    let weighs = |w: &f64| *w - high >= LN_SMALLEST_WEIGHT;
    let farthest = weighed().position(|w| weighs(&w));
    HeadCheckup {
        layer: 0,
        head: 0,
        verdict: String::new(),
        reasons: Vec::new(),
        ln_weights: [low, high],
        logit_bound: content + low.abs().max(high.abs()),
        zero_from: farthest.map(|first| length - first).filter(|r| *r < length),
        f32_step: step(content + matters, F32_DIGITS),
        bf16_step: step(matters, BF16_DIGITS),
    }
}

/// The distance of neighbouring numbers of that size.
fn step(size: f64, digits: i32) -> f64 {
    match size > 0.0 && size.is_finite() {
        true => (size.log2().floor() - f64::from(digits)).exp2(),
        false => 0.0,
    }
}

fn findings(
    of: &HeadCheckup,
    bound: &LogitBound,
    law: Result<&Prior, &bam_prior::Error>,
    length: usize,
) -> Vec<(Verdict, String)> {
    let mut findings = Vec::new();
    let mut find = |verdict, reason: String| findings.push((verdict, reason));
    let [low, high] = of.ln_weights;
    // The last two are NaN or infinite where a log-weight is.
    if !(of.logit_bound <= f64::from(f32::MAX) && low.is_finite() && high.is_finite()) {
        find(
            Verdict::Error,
            format!("logits overflow f32: they can reach {:.1e}", of.logit_bound),
        );
    } else if low.abs().max(high.abs()) >= SATURATED {
        find(
            Verdict::Warning,
            format!("log-weights saturate: they reach {low:.1e} nats"),
        );
    }
    if of.f32_step > COARSE {
        find(
            Verdict::Warning,
            format!("logits that matter are {:.1e} apart in f32", of.f32_step),
        );
    }
    if of.bf16_step > COARSE_BF16 {
        find(
            Verdict::Warning,
            format!(
                "log-weights that matter would be {:.2e} apart in bf16",
                of.bf16_step
            ),
        );
    }
    if let Sharpening::LikelihoodAndPrior(scale) | Sharpening::Likelihood(scale) = bound.sharpening
        && scale < 0.0
    {
        find(
            Verdict::Warning,
            format!("scale of scalable softmax {scale:.3}: the least likely keys win"),
        );
    }
    match law {
        Err(error) => find(Verdict::Error, error.to_string()),
        Ok(law) => law_findings(law, length, &mut find),
    }
    findings
}

/// Remarks on unusual parameters of a prior.
fn law_findings(law: &Prior, length: usize, find: &mut impl FnMut(Verdict, String)) {
    for parameter in law.parameters() {
        let value = parameter.value;
        match parameter.name.as_ref() {
            "shape" if value <= 0.0 => find(
                Verdict::Warning,
                format!("shape {value:.3}: near keys are held down, far ones weigh the same"),
            ),
            "location" if value.abs() > (length - 1) as f64 => find(
                Verdict::Warning,
                format!("location {value:.3}: beyond the row, which is {length} long"),
            ),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{lively, small};

    fn checkup(config: &ModelConfig, tensors: NamedTensors, length: usize) -> Checkup {
        examine(config, tensors, Path::new("model"), length, &Device::flex()).unwrap()
    }

    /// The checkup of a model with one value of one tensor changed.
    fn changed(encoding: &str, name: &str, index: usize, value: f32) -> Checkup {
        let config = small(encoding);
        let mut tensors = lively(config.clone(), 8, &Device::flex()).to_tensors();
        for name in ["layers.0.attention.prior.shape", "prior.shape"] {
            if let Some((_, values)) = tensors.get_mut(name) {
                values
                    .iter_mut()
                    .for_each(|shape| *shape = shape.abs() + 0.1);
            }
        }
        tensors.get_mut(name).expect("a tensor").1[index] = value;
        checkup(&config, tensors, 1000)
    }

    fn of(checkup: &Checkup, layer: usize, head: usize) -> &HeadCheckup {
        &checkup.heads[layer * 6 + head]
    }

    #[test]
    fn what_is_wrong_is_found_in_its_head_and_no_other() {
        let shape = "layers.0.attention.prior.shape";
        let scale = "layers.0.attention.prior.scale";
        let location = "layers.0.attention.prior.loc";
        let ssmax = "layers.0.attention.seq_scale";
        for (name, value, verdict, reason) in [
            (shape, 1.0, "ok", ""),
            (shape, -0.5, "warning", "shape -0.500"),
            (shape, f32::NAN, "error", "prior.shape is NaN"),
            (shape, 30.0, "warning", "saturate"),
            (scale, 1000.0, "error", "scale"),
            (scale, f32::INFINITY, "error", "prior.scale is inf"),
            (location, -9.0, "warning", "location -8103.08"),
            (ssmax, -0.5, "warning", "least likely"),
            (ssmax, 1e6, "warning", "apart in f32"),
            (ssmax, f32::NEG_INFINITY, "error", "seq_scale is -inf"),
        ] {
            let checkup = changed("bam+ssmax", name, 2, value);
            let head = of(&checkup, 0, 2);
            let said = head.reasons.join("; ");
            assert_eq!(head.verdict, verdict, "{name} {value}: {said}");
            assert!(said.contains(reason), "{name} {value}: {said}");
            assert_eq!(checkup.broken.is_empty(), value.is_finite());
            for other in [0, 1, 3, 4, 5] {
                assert_eq!(of(&checkup, 0, other).verdict, "ok", "{name} {value}");
            }
        }
        // What is no head's own is the model's.
        let checkup = changed("bam", "output.weight", 7, f32::NAN);
        assert_eq!(
            checkup.broken,
            ["output.weight: NaN at index 7 (1 of 744 values not finite)"]
        );
        assert!(of(&checkup, 0, 0).reasons.is_empty());
        // Norms that let too much through overflow every head of their layer.
        let checkup = changed("bam", "layers.0.attention_norm.weight", 0, 1e22);
        assert_eq!(of(&checkup, 0, 1).verdict, "error");
        assert!(of(&checkup, 0, 1).reasons[0].contains("overflow"));
    }

    /// A prior that layers share is wrong in all of them, and the heads of a group are counted on.
    #[test]
    fn shared_priors_and_groups() {
        let config = ModelConfig {
            prior_scope: crate::model::PriorScope::Global,
            ..small("alibi:2,bam:4")
        };
        let mut tensors = config.init(&Device::flex()).to_tensors();
        tensors.get_mut("prior.1.scale").unwrap().1[1] = f32::NAN;
        let found = checkup(&config, tensors, 65);
        for layer in [0, 1] {
            let wrong: Vec<usize> = (0..6)
                .filter(|&head| of(&found, layer, head).verdict == "error")
                .collect();
            assert_eq!(wrong, [3]);
        }
    }

    #[test]
    fn numbers_are_as_far_apart_as_they_are() {
        for size in [1.0_f32, 1.5, 255.0, 256.0, 64_000.0, 1e-3] {
            let next = f32::from_bits(size.to_bits() + 1);
            assert_eq!(step(f64::from(size), F32_DIGITS), f64::from(next - size));
            let next = f32::from_bits(size.to_bits() + (1 << 16));
            let truncated = f32::from_bits(size.to_bits() >> 16 << 16);
            let apart = f64::from(next) - f64::from(size);
            assert_eq!(step(f64::from(truncated), BF16_DIGITS), apart);
        }
        let config = small("alibi");
        let tensors = config.init(&Device::flex()).to_tensors();
        let found = checkup(&config, tensors, 1000);
        assert_eq!(found.lag_steps, [2_f64.powi(9 - 23), 4.0]);
        // The steepest of six slopes is 1/4: the smallest weight, e^−69.3, is passed after 277 tokens.
        assert_eq!((-4.0 * LN_SMALLEST_WEIGHT).floor(), 277.0);
        let head = of(&found, 1, 0);
        assert_eq!(
            (head.ln_weights, head.zero_from),
            ([-249.75, 0.0], Some(278))
        );
        assert_eq!(of(&found, 1, 3).zero_from, None);
        assert!(found.heads.iter().all(|head| head.verdict == "ok"));
    }
}
