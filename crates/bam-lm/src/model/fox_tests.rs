//! Tests of models with forget gates (the Forgetting Transformer, arXiv 2503.02130).
//!
//! A gate `f = σ(w·x + b)` for every token and head, of the layer's normed input, makes a prior over keys,
//! `u_j = −Σ_{l ≤ j} ln f_l`; see [`KeyPrior::forgetting`](bam_attention::KeyPrior::forgetting).

use crate::model::encoding::Encoding;
use crate::model::{HeadStart, ModelConfig, ParameterKind, TokenRows, Transformer, host_values};
use crate::testing::{lively, small};
use bam_attention::Implementation::{Fused, Reference};
use bam_attention::testing::signed_numbers;
use burn::tensor::Device;
use std::path::Path;

const ENCODINGS: [&str; 4] = [
    "fox",
    "fox+bam",
    "fox+ssmax-content",
    "fox+alibi:2,bam:4+ssmax",
];

fn tokens(count: usize) -> Vec<i32> {
    let numbers = signed_numbers(count, 15.0, 3);
    numbers.iter().map(|x| (x + 15.0) as i32).collect()
}

fn row(tokens: &[i32]) -> TokenRows {
    TokenRows::new(1, tokens.to_vec(), 31).unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

#[test]
fn text_and_back() {
    for text in ENCODINGS
        .into_iter()
        .chain(["fox+rotary", "fox+laplace+ssmax", "fox+adaptive"])
        .chain(["fox,nope+ssmax", "bam,fox+(alibi:2,bam:4)+ssmax"])
    {
        let encoding: Encoding = text.parse().unwrap();
        assert!(encoding.forgets());
        assert_eq!(encoding.to_string(), text);
        let config = small(text);
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap(), config);
    }
    let longer = "fox*3,fox+(alibi:2,bam:4)*2+ssmax";
    assert_eq!(longer.parse::<Encoding>().unwrap().to_string(), longer);
    for text in ["foxy", "fox+", "fox+fox", "bam+fox", "fox+softmax", "fox:2"] {
        let error = text.parse::<Encoding>().unwrap_err().to_string();
        assert!(error.starts_with("encoding: expected"), "{text}: {error}");
    }
}

/// Read in pieces, and in another implementation, the logits are the same; without gates they are others.
#[test]
fn pieces_are_the_whole() {
    let device = Device::flex();
    for encoding in ENCODINGS.into_iter().chain(["alibi,fox+bam+ssmax"]) {
        let model = lively(small(encoding), 7, &device);
        let all = tokens(150);
        let of =
            |implementation| host_values(model.forward(&row(&all), None, implementation).unwrap());
        let whole = of(Fused);
        let size = whole.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        assert!(largest_difference(&whole, &of(Reference)) < 1e-3 * size);
        let mut cache = model.cache(1, 150).unwrap();
        let mut pieces = Vec::new();
        let mut start = 0;
        for count in [1, 63, 2, 65, 1, 18] {
            let piece = row(&all[start..start + count]);
            let logits = model.forward_cached(&piece, &mut cache, 0..count).unwrap();
            pieces.extend(host_values(logits.unwrap()));
            start += count;
        }
        let off = largest_difference(&pieces, &whole);
        assert!(off < 1e-3 * size, "{encoding}: {off} of {size}");
        // A cache with more room, of which some tokens are read again.
        let priors = model.priors(200).unwrap();
        model.grow(&mut cache, 200, &priors, None).unwrap();
        cache.truncate(100);
        let mut caches = [&mut cache];
        let again = model.decode_step(&all[100..101], &mut caches).unwrap();
        let again = host_values(again);
        let off = largest_difference(&again, &whole[100 * 31..101 * 31]);
        assert!(off < 1e-3 * size, "{encoding}: {off} of {size}");
        // Null control: the gates count.
        let mut tensors = model.to_tensors();
        for (name, (_, values)) in &mut tensors {
            if name.ends_with("wf.bias") {
                values.fill(30.0);
            }
        }
        let open = model
            .clone()
            .with_tensors(tensors, Path::new("open"))
            .unwrap();
        let open = host_values(open.forward(&row(&all), None, Fused).unwrap());
        assert!(
            largest_difference(&open, &whole) > 0.05 * size,
            "{encoding}"
        );
    }
}

/// A gradient reaches every gate, and gates are stored.
#[test]
fn gates_learn_and_are_stored() {
    let device = Device::flex().autodiff();
    for encoding in ENCODINGS {
        let model = lively(small(encoding), 7, &device);
        let infos = model.parameters();
        let gates: Vec<_> = infos
            .iter()
            .filter(|info| info.name.contains(".wf."))
            .collect();
        let names: Vec<&str> = gates.iter().map(|info| info.name.as_str()).collect();
        let expected = ["layers.0.attention.wf.weight", "layers.0.attention.wf.bias"];
        assert_eq!(&names[..2], &expected);
        assert_eq!(gates[0].stored_shape, [6, 24]);
        assert_eq!((gates[0].kind, gates.len()), (ParameterKind::Matrix, 4));
        let all = row(&tokens(40));
        let loss = model.loss(&all, &all, &[1.0; 40], None, Fused).unwrap();
        let gradients = loss.backward();
        for layer in &model.layers {
            let gate = layer.attention.forget.as_ref().unwrap();
            let of = gate.weight.val().grad(&gradients).unwrap();
            assert!(host_values(of).iter().any(|x| x.abs() > 1e-6), "{encoding}");
        }
        let copy = small(encoding)
            .with_tensors(model.to_tensors(), Path::new("copy"), &Device::flex())
            .unwrap();
        assert_eq!(copy.to_tensors(), model.to_tensors());
    }
    let plain: Transformer = small("nope").init(&Device::flex());
    assert!(
        plain
            .parameters()
            .iter()
            .all(|info| !info.name.contains(".wf."))
    );
}

/// The configuration says where the gate of each head starts; of older ones, which say nothing, they are half open.
#[test]
fn gates_start_where_they_are_told() {
    let mut config = small("fox+bam");
    let plain = serde_json::to_string(&config).unwrap();
    assert!(!plain.contains("forget_bias"), "{plain}");
    let bias = |config: ModelConfig| -> Vec<f32> {
        let tensors = config.init(&Device::flex()).to_tensors();
        tensors["layers.1.attention.wf.bias"].1.clone()
    };
    for (start, expected) in [
        (HeadStart::Same(5.0), [5.0; 6]),
        (
            HeadStart::Linear([2.0, 12.0]),
            [2.0, 4.0, 6.0, 8.0, 10.0, 12.0],
        ),
    ] {
        config.prior_start.forget_bias = start;
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap(), config);
        assert_eq!(bias(config.clone()), expected);
    }
    assert_eq!(bias(small("fox+bam")), [0.0; 6]);
    config.prior_start.forget_bias = HeadStart::Same(f64::NAN);
    assert!(config.checked().is_err());
}

#[test]
fn what_follows_from_lags_alone_is_refused() {
    let model = lively(small("fox+bam"), 7, &Device::flex());
    assert_eq!(
        model.horizons(100, 1e-6).unwrap_err().to_string(),
        "certified horizons: expected priors over lags alone, got forget gates (fox+bam), \
         a prior over keys that depends on the text"
    );
}
