//! Products in `bf16` beside those in `f32`: losses and gradients up to rounding, masters that stay `f32`.

use bam_attention::Implementation::Fused;
use bam_data::Batch;
use bam_lm::device::cpu;
use bam_lm::model::{
    Activation, Design, ModelConfig, NormKind, ParameterInfo, ParameterKind, Products, Residual,
    Transformer,
};
use bam_lm::testing::{lively, small};
use bam_lm::train::{Gradients, LearningRates, RAdam, RAdamConfig, batch_gradients};

/// Half a unit in the last place of `bf16`, relative.
const ROUNDING: f64 = 1.0 / 512.0;
/// Roundings between a gradient and its `f32`: a product has two rounded factors and a rounded result, and a path
/// through two layers, the head and back has at most 2 · (2 · 5 + 1) products, each error as large as it can be.
const TOLERANCE: f64 = 3.0 * 22.0 * ROUNDING;

fn batch(seed: i32) -> Batch {
    let (rows, length) = (4, 17);
    let token = |index: i32| (index * index * 7 + index * 3 + seed) % 31;
    let count = rows * length;
    Batch {
        rows,
        length,
        tokens: (0..count as i32).map(token).collect(),
        targets: (1..=count as i32).map(token).collect(),
        // The second document of a row begins in its middle.
        document_ids: (0..count).map(|i| i32::from(i % length > 8)).collect(),
        weights: (0..count).map(|i| 1.0 + (i % 3) as f32).collect(),
    }
}

/// Parts of parameters' names; together they name all.
const KINDS: [&str; 13] = [
    "tok_embeddings",
    "wq",
    "wk",
    "wv",
    "wo",
    "w1",
    "w2",
    "w3",
    "norm",
    "output",
    "prior",
    "seq_scale",
    "bias",
];

/// Designs between which every product, bias and clamp occurs.
fn configs() -> Vec<ModelConfig> {
    let bloom = Design {
        norm: NormKind::Layer,
        activation: Activation::GeluTanh,
        gated: false,
        attention_bias: true,
        feed_forward_bias: true,
        clip_qkv: Some(4.0),
        attention_residual: Residual::Normed,
        embedding_norm: true,
        tied_head: true,
        ..Design::default()
    };
    let design = |encoding, design| ModelConfig {
        design,
        ..small(encoding)
    };
    vec![
        small("bam+ssmax"),
        small("rotary"),
        design("alibi+ssmax", bloom),
    ]
}

fn gradients(model: &Transformer, batch: &Batch) -> Gradients {
    batch_gradients(model, batch, Fused, 2, 1).unwrap()
}

/// The gradient of all parameters of a kind together: of one alone it can be next to nothing.
fn values(of: &Gradients, infos: &[ParameterInfo], kind: &str) -> Vec<f64> {
    let some = infos.iter().filter(|info| info.name.contains(kind));
    let values = some.filter_map(|info| of.values(info.id)).flatten();
    values.map(f64::from).collect()
}

fn difference(a: &[f64], b: &[f64]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

#[test]
fn losses_and_gradients_are_those_of_f32_but_for_rounding() {
    for config in configs() {
        let exact = lively(config.clone(), 3, &cpu().autodiff());
        let rounded = exact.clone().with_products(Products::Bf16);
        let infos = exact.parameters();
        let [expected, got] = [&exact, &rounded].map(|model| gradients(model, &batch(5)));
        let impostor = gradients(&exact, &batch(6));
        let [(loss, norm), (near, near_norm)] =
            [&expected, &got].map(|of| of.loss_and_norm(&exact));
        let name = &config.encoding;
        assert!(loss != near, "{name}: nothing was rounded");
        assert!(
            (near - loss).abs() < TOLERANCE * loss,
            "{name}: {loss} {near}"
        );
        assert!(
            (near_norm - norm).abs() < TOLERANCE * norm,
            "{name}: {norm} {near_norm}"
        );
        for kind in KINDS {
            let [expected, got, impostor] =
                [&expected, &got, &impostor].map(|of| values(of, &infos, kind));
            if expected.is_empty() {
                continue;
            }
            let [error, other] = [got, impostor].map(|of| difference(&of, &expected));
            assert!(error < TOLERANCE, "{name}, {kind}: off by {error}");
            assert!(
                other > TOLERANCE,
                "{name}, {kind}: an impostor is off by {other}"
            );
        }
    }
}

/// Steps smaller than a half unit of `bf16` add up in the parameters: they are masters in `f32`.
#[test]
fn small_steps_are_not_lost() {
    let device = cpu().autodiff();
    let model = lively(small("bam+ssmax"), 3, &device).with_products(Products::Bf16);
    let (infos, before, batch) = (model.parameters(), model.to_tensors(), batch(5));
    let mut optimizer = RAdam::new(RAdamConfig::default(), LearningRates::default());
    let mut after = model;
    for _ in 0..4 {
        let of = gradients(&after, &batch);
        after = optimizer.step(after, of, 1e-5);
    }
    let after = after.to_tensors();
    for info in infos
        .iter()
        .filter(|info| info.kind == ParameterKind::Matrix)
    {
        let [(_, new), (_, old)] = [&after, &before].map(|of| &of[&info.name]);
        let lost = |(new, old): &(&f32, &f32)| {
            let size = f64::from((*new - *old).abs());
            size > 0.0 && size < ROUNDING * f64::from(old.abs())
        };
        let count = new.iter().zip(old).filter(lost).count();
        assert!(
            2 * count > new.len(),
            "{}: {count} of {}",
            info.name,
            new.len()
        );
    }
}
