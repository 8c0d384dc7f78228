//! Models in the layout of the Hugging Face hub, against the logits of `transformers`' own classes in
//! `f64`: `hf/generate.py` made them.

use bam_attention::Implementation::{self, Fused, Reference};
use bam_data::Batch;
use bam_lm::interop::import::hf::{Options, read_model};
use bam_lm::model::checkpoint::{NamedTensors, read_tensors_and_ids};
use bam_lm::model::{Activation, ModelConfig, Residual, TokenRows, Transformer};
use bam_lm::train::batch_gradients;
use burn::tensor::{Device, Tensor};
use std::path::{Path, PathBuf};

const CASES: [&str; 9] = [
    "mpt_six_heads",
    "mpt_clipped",
    "mpt_softmax_scale",
    "mpt_bias_max",
    "bloom_five_heads",
    "bloom_normed_residual",
    "llama_grouped",
    "llama_biases_tied",
    "llama_nope",
];

/// The factor by which we may be further off than `transformers` itself in `f32`.
const FACTOR: f64 = 8.0;
const LENGTH: usize = 23;

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/hf")
        .join(case)
}

fn import(case: &str) -> Transformer {
    read_model(&folder(case), &Options::default(), &Device::flex()).unwrap()
}

struct Expected {
    tokens: Vec<i32>,
    logits: Vec<f32>,
    tolerance: f64,
}

fn expected(case: &str) -> Expected {
    let io = read_tensors_and_ids(&folder(case).join("io.safetensors")).unwrap();
    Expected {
        tokens: io["tokens"].1.iter().map(|id| *id as i32).collect(),
        logits: io["logits"].1.clone(),
        tolerance: FACTOR * f64::from(io["rounding"].1[0]),
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    differences.fold(0.0, f64::max)
}

fn error(model: &Transformer, expected: &Expected, implementation: Implementation) -> f64 {
    let vocabulary = model.config().vocabulary;
    let tokens = TokenRows::new(2, expected.tokens.clone(), vocabulary).unwrap();
    let logits = values(model.forward(&tokens, None, implementation).unwrap());
    largest_difference(&logits, &expected.logits)
}

#[test]
fn logits_are_those_of_transformers() {
    for case in CASES {
        let (model, expected) = (import(case), expected(case));
        for implementation in [Fused, Reference] {
            let error = error(&model, &expected, implementation);
            assert!(
                error < expected.tolerance,
                "{case}, {implementation:?}: {error:e}"
            );
        }
    }
}

/// A model with another configuration and other tensors.
fn changed(
    model: &Transformer,
    configure: impl Fn(&mut ModelConfig),
    replace: impl Fn(&mut NamedTensors),
) -> Transformer {
    let (mut config, mut tensors) = (model.config().clone(), model.to_tensors());
    configure(&mut config);
    replace(&mut tensors);
    let changed = config.init(&Device::flex());
    changed.with_tensors(tensors, Path::new("changed")).unwrap()
}

/// Null controls: what a layout says matters, and the numbers tell.
#[test]
fn whoever_reads_a_layout_wrongly_is_found_out() {
    type Configure = fn(&mut ModelConfig);
    let encoding = |config: &mut ModelConfig, name: &str| config.encoding = name.parse().unwrap();
    let impostors: [(&str, &str, Configure); 11] = [
        ("mpt_six_heads", "no slopes", |c| {
            c.encoding = "nope".parse().unwrap()
        }),
        ("mpt_six_heads", "gelu by tanh", |c| {
            c.design.activation = Activation::GeluTanh
        }),
        ("mpt_clipped", "no clamp", |c| c.design.clip_qkv = None),
        ("bloom_five_heads", "no slopes", |c| {
            c.encoding = "nope".parse().unwrap()
        }),
        ("bloom_five_heads", "exact gelu", |c| {
            c.design.activation = Activation::Gelu
        }),
        ("bloom_five_heads", "another residual", |c| {
            c.design.feed_forward_residual = Residual::Normed;
        }),
        ("bloom_normed_residual", "another residual", |c| {
            c.design.feed_forward_residual = Residual::Stream;
        }),
        ("llama_grouped", "another base", |c| {
            c.rotary_theta = 10_000.0
        }),
        ("llama_grouped", "no positions", |c| {
            c.encoding = "nope".parse().unwrap()
        }),
        ("llama_biases_tied", "another epsilon", |c| {
            c.norm_epsilon = 1e-3
        }),
        ("llama_nope", "positions", |c| {
            c.encoding = "rotary".parse().unwrap()
        }),
    ];
    for (case, what, configure) in impostors {
        let impostor = changed(&import(case), configure, |_| ());
        let expected = expected(case);
        let error = error(&impostor, &expected, Reference);
        assert!(
            error > 5.0 * expected.tolerance,
            "{case}, {what}: {error:e}"
        );
    }
    // The usual slopes instead of those that the configuration asks for.
    let impostor = changed(
        &import("mpt_bias_max"),
        |config| encoding(config, "alibi"),
        |tensors| drop(tensors.remove("prior.scale")),
    );
    let expected_of = expected("mpt_bias_max");
    assert!(error(&impostor, &expected_of, Reference) > 5.0 * expected_of.tolerance);
    // Rows of queries and keys that were not put in pairs: read as without positions, turned later.
    let options = Options {
        position: Some("nope".parse().unwrap()),
        ..Options::default()
    };
    let unturned = read_model(&folder("llama_grouped"), &options, &Device::flex()).unwrap();
    let impostor = changed(&unturned, |config| encoding(config, "rotary"), |_| ());
    let expected_of = expected("llama_grouped");
    assert!(error(&impostor, &expected_of, Reference) > 5.0 * expected_of.tolerance);
}

/// Reading in pieces, token by token, and from a folder of ours.
#[test]
fn the_cache_serves_every_design() {
    for case in CASES {
        let saved = tempfile::tempdir().unwrap();
        import(case).save(saved.path()).unwrap();
        let model = Transformer::load(saved.path(), &Device::flex()).unwrap();
        let expected = expected(case);
        let row = &expected.tokens[LENGTH..];
        let vocabulary = model.config().vocabulary;
        let logits = &expected.logits[LENGTH * vocabulary..];
        let mut got = Vec::new();
        let mut cache = model.cache(1, LENGTH).unwrap();
        let sink = |_, logits| got.extend(values::<3>(logits));
        model.prefill(&row[..11], &mut cache, 11, sink).unwrap();
        for token in &row[11..] {
            got.extend(values(
                model.decode_step(&[*token], &mut [&mut cache]).unwrap(),
            ));
        }
        let error = largest_difference(&got, logits);
        assert!(error < expected.tolerance, "{case}: {error:e}");
    }
}

/// The certified horizons forget as little as they say, biases or not: where nothing is hidden
/// within the row, nothing changes, and the bound of the scores is one.
#[test]
fn certified_caches_serve_every_design() {
    for case in CASES.iter().filter(|case| !case.starts_with("llama")) {
        let model = import(case);
        let expected = expected(case);
        let row = &expected.tokens[..LENGTH];
        let vocabulary = model.config().vocabulary;
        let horizons = model.horizons(LENGTH, 1e-6).unwrap();
        let mut cache = model.certified_cache(1, LENGTH, &horizons).unwrap();
        let mut got = Vec::new();
        let sink = |_, logits| got.extend(values::<3>(logits));
        model.prefill(row, &mut cache, LENGTH, sink).unwrap();
        let error = largest_difference(&got, &expected.logits[..LENGTH * vocabulary]);
        assert!(error < 1e-3, "{case}: {error:e}");
    }
}

/// Along the gradient the loss grows as fast as the gradient says, for every kind of parameter.
#[test]
fn gradients_reach_every_parameter_of_every_design() {
    for case in ["mpt_clipped", "bloom_normed_residual", "llama_biases_tied"] {
        let device = Device::flex().autodiff();
        let model = read_model(&folder(case), &Options::default(), &device).unwrap();
        let expected = expected(case);
        let batch = Batch {
            rows: 2,
            length: LENGTH - 1,
            tokens: rows(&expected.tokens, 0),
            targets: rows(&expected.tokens, 1),
            document_ids: vec![0; 2 * (LENGTH - 1)],
            weights: vec![1.0; 2 * (LENGTH - 1)],
        };
        let gradients = batch_gradients(&model, &batch, Fused, 1, 1).unwrap();
        for info in model.parameters().iter().filter(|info| info.trainable) {
            let gradient = gradients.values(info.id);
            let gradient = gradient.unwrap_or_else(|| panic!("{case}: none for {}", info.name));
            let squares: f64 = gradient.iter().map(|g| f64::from(g * g)).sum();
            if squares < 1e-6 {
                // Keys' biases move all scores of a row alike, so that they have none.
                assert!(info.name.ends_with("wk.bias"), "{case}: {}", info.name);
                continue;
            }
            let step = 2e-3 / squares.sqrt();
            let loss = |sign: f64| {
                let moved = changed(
                    &model,
                    |_| (),
                    |tensors| {
                        let (shape, values) = tensors.get_mut(&info.name).unwrap();
                        for (index, value) in values.iter_mut().enumerate() {
                            let at = if info.transposed {
                                index % shape[1] * shape[0] + index / shape[1]
                            } else {
                                index
                            };
                            *value += (sign * step * f64::from(gradient[at])) as f32;
                        }
                    },
                );
                let vocabulary = model.config().vocabulary;
                let tokens = TokenRows::new(2, batch.tokens.clone(), vocabulary).unwrap();
                let targets = TokenRows::new(2, batch.targets.clone(), vocabulary).unwrap();
                let loss = moved.loss(&tokens, &targets, &batch.weights, None, Reference);
                f64::from(values(loss.unwrap())[0])
            };
            let measured = (loss(1.0) - loss(-1.0)) / (2.0 * step);
            let error = (measured - squares).abs() / squares;
            // A loss of about 5 has steps of 5e-7, and the difference is some 4e-3·‖g‖.
            let tolerance = 0.02 + 1e-6 / (step * squares);
            assert!(
                error < tolerance,
                "{case}, {}: {measured} for {squares}",
                info.name
            );
        }
    }
}

/// Every row without its last token, or without its first.
fn rows(tokens: &[i32], from: usize) -> Vec<i32> {
    let rows = tokens.chunks_exact(LENGTH);
    rows.flat_map(|row| row[from..][..LENGTH - 1].to_vec())
        .collect()
}
