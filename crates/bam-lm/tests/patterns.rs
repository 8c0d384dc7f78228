//! Patterns of layers beside the encodings that they say the same as, to the bit, through training steps; and a
//! model that goes on without its rotations beside one that never had any.

use bam_attention::Implementation::{Fused, Reference};
use bam_data::Batch;
use bam_lm::analysis::upcycle::{Target, Upcycling, upcycled};
use bam_lm::device::cpu;
use bam_lm::model::{ModelConfig, Transformer};
use bam_lm::testing::{lively, small};
use bam_lm::train::{LearningRates, RAdam, RAdamConfig, batch_gradients};
use std::collections::BTreeMap;
use std::path::Path;

const LENGTH: usize = 33;

fn batch(seed: i32) -> Batch {
    let rows = 4;
    let token = |index: i32| (index * index * 7 + index * 3 + seed) % 31;
    let count = rows * LENGTH;
    Batch {
        rows,
        length: LENGTH,
        tokens: (0..count as i32).map(token).collect(),
        targets: (1..=count as i32).map(token).collect(),
        // The second document of a row begins in its middle.
        document_ids: (0..count).map(|i| i32::from(i % LENGTH > 20)).collect(),
        weights: (0..count).map(|i| 1.0 + (i % 3) as f32).collect(),
    }
}

/// Everything after a few steps, and the losses: bits.
fn trained(model: &Transformer) -> (Vec<u64>, BTreeMap<String, Vec<u32>>) {
    let device = cpu().autodiff();
    let copy = model.config().init(&device);
    let mut model = copy
        .with_tensors(model.to_tensors(), Path::new("copy"))
        .unwrap();
    let mut optimizer = RAdam::new(RAdamConfig::default(), LearningRates::default());
    let mut losses = Vec::new();
    for seed in 0..3 {
        let gradients = batch_gradients(&model, &batch(seed), Fused, 2, 1).unwrap();
        losses.push(gradients.loss_and_norm(&model).0.to_bits());
        model = optimizer.step(model, gradients, 1e-2);
    }
    let tensors = model.to_tensors().into_iter();
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    let tensors = tensors.map(|(name, (_, values))| (name, bits(values)));
    (losses, tensors.collect())
}

/// The same weights under another encoding.
fn under(model: &Transformer, encoding: &str) -> Transformer {
    let config = ModelConfig {
        encoding: encoding.parse().unwrap(),
        ..model.config().clone()
    };
    let other = config.init(&cpu());
    other
        .with_tensors(model.to_tensors(), Path::new("other"))
        .unwrap()
}

#[test]
fn patterns_that_say_the_same_train_to_the_same_bits() {
    for (pattern, plain, others) in [
        // No document is longer than those windows.
        (
            "rotary_local:21,rotary",
            "rotary",
            ["rotary_local:20,rotary", "rotary,nope"],
        ),
        (
            "rotary,rotary_local:99",
            "rotary",
            ["rotary,rotary_local:9", "nope,rotary"],
        ),
        (
            "rotary_local:16,rotary_local",
            "rotary_local",
            ["rotary_local:15,rotary_local", "rotary"],
        ),
        ("bam,generalized_gaussian", "bam", ["bam,bam", "bam"]),
        (
            "(alibi:6),alibi+ssmax",
            "alibi,alibi+ssmax",
            ["alibi,alibi+ssmax-content", "nope,nope+ssmax"],
        ),
    ] {
        let model = lively(small(pattern), 5, &cpu());
        let (ours, expected) = (trained(&model), trained(&under(&model, plain)));
        assert_eq!(ours, expected, "{pattern}");
        // Null control: something else in one layer. What is the same encoding is not another.
        for other in others {
            let same = other.parse::<bam_lm::model::encoding::Encoding>().unwrap()
                == plain.parse().unwrap();
            assert_eq!(
                trained(&under(&model, other)) == ours,
                same,
                "{pattern} and {other}"
            );
        }
    }
}

/// Every layer of a pattern learns what its item has, and gets a gradient.
#[test]
fn what_an_item_has_is_learned_in_its_layers() {
    let config = ModelConfig {
        layers: 5,
        ..small("rotary_local:9,bam+ssmax,(alibi:2,kerple_log:4)+adaptive")
    };
    let model = lively(config, 6, &cpu());
    let own = |name: &str| {
        ["prior", "seq_scale", "temperature"]
            .iter()
            .any(|of| name.contains(of))
    };
    let names: Vec<String> = (model.parameters().into_iter())
        .filter(|info| own(&info.name))
        .map(|info| info.name)
        .collect();
    let of_layers = |layers: &[usize], parts: &[&str]| -> Vec<String> {
        let names = layers.iter().flat_map(|layer| {
            let named = move |part: &&str| format!("layers.{layer}.attention.{part}");
            parts.iter().map(named)
        });
        names.collect()
    };
    let bam = ["seq_scale", "prior.loc", "prior.scale", "prior.shape"];
    let adaptive = [
        "temperature.beta.weight",
        "temperature.gamma.weight",
        "prior.1.scale",
        "prior.1.rate",
    ];
    let expected = [
        of_layers(&[1], &bam),
        of_layers(&[2], &adaptive),
        of_layers(&[4], &bam),
    ];
    assert_eq!(names, expected.concat());
    let (_, after) = trained(&model);
    let before = model.to_tensors();
    for name in &names {
        let changed = before[name].1.iter().zip(&after[name]);
        assert!(
            changed.into_iter().any(|(a, b)| a.to_bits() != *b),
            "{name}"
        );
    }
}

/// DroPE's steps are those of a model without rotations from the same weights.
#[test]
fn a_step_without_rotations_is_that_of_nope() {
    for (before, after) in [
        ("rotary", "nope"),
        ("rotary_local:9,bam+ssmax", "nope,bam+ssmax"),
    ] {
        let model = lively(small(before), 7, &cpu());
        let dropped = upcycled(
            &model,
            &Upcycling {
                target: Target::Same,
                ssmax: None,
                drop_rotary: true,
            },
        )
        .unwrap();
        assert_eq!(
            trained(&dropped),
            trained(&under(&model, after)),
            "{before}"
        );
        assert_ne!(
            trained(&dropped),
            trained(&model),
            "{before}: rotations matter"
        );
    }
}

/// Gradients of an adaptive temperature are those of the definition, every score in memory. Null control: of
/// another model.
#[test]
fn temperatures_of_rows_have_the_gradients_of_the_definition() {
    let device = cpu().autodiff();
    for encoding in [
        "bam+adaptive",
        "rotary_local:9+adaptive-content,alibi+adaptive",
    ] {
        let gradients = |seed, implementation| {
            let model = lively(small(encoding), seed, &device);
            let found = batch_gradients(&model, &batch(1), implementation, 2, 1).unwrap();
            let of = |info: bam_lm::model::ParameterInfo| found.values(info.id).unwrap();
            let parameters = model.parameters().into_iter();
            let parameters = parameters.filter(|info| info.name.contains("temperature"));
            parameters.map(of).collect::<Vec<_>>()
        };
        let ours = gradients(8, Fused);
        assert_eq!(ours.len(), 4, "{encoding}");
        let off = |other: Vec<Vec<f32>>| {
            let of = |(a, b): (&Vec<f32>, &Vec<f32>)| {
                let size = b.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                let off = a.iter().zip(b).map(|(a, b)| (a - b).abs());
                off.fold(0.0, f32::max) / size
            };
            ours.iter().zip(&other).map(of).fold(0.0, f32::max)
        };
        let (right, wrong) = (off(gradients(8, Reference)), off(gradients(9, Fused)));
        assert!(right < 1e-3, "{encoding}: {right}");
        assert!(wrong > 0.1, "{encoding}: {wrong}");
    }
}
