//! Models that others trained, against numbers that neither they nor we computed: the references
//! are independent forward passes in `f64`.

use bam_attention::Implementation::{self, Fused, Reference};
use bam_attention::Skipping;
use bam_lm::Error;
use bam_lm::engine::generate::{Generator, Sampling};
use bam_lm::interop::import::alilama;
use bam_lm::interop::import::llama2c;
use bam_lm::model::checkpoint::{read_json, read_tensors, write_tensors};
use bam_lm::model::{Residual, TokenRows, Transformer};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Ten times what either model is off by in `f32`; the null controls are at 0.1 and beyond.
const TOLERANCE: f64 = 1e-4;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/weights")
        .join(name)
}

/// Row after row.
fn rows(logits: Tensor<2>) -> Vec<Vec<f32>> {
    let [_, columns] = logits.dims();
    let values = logits.into_data();
    let values = values.as_slice::<f32>().unwrap();
    values.chunks(columns).map(<[f32]>::to_vec).collect()
}

fn largest(row: &[f32]) -> i32 {
    let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    best.unwrap() as i32
}

fn cross_entropy(row: &[f32], target: i32) -> f64 {
    let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let evidence: f64 = row.iter().map(|x| (f64::from(*x) - largest).exp()).sum();
    largest + evidence.ln() - f64::from(row[target as usize])
}

fn largest_difference(got: &[f32], expected: &[f64]) -> f64 {
    let differences = got.iter().zip(expected);
    differences
        .map(|(got, expected)| (f64::from(*got) - expected).abs())
        .fold(0.0, f64::max)
}

#[derive(Deserialize)]
struct AlilamaFile {
    #[serde(rename = "alilama_batches_512_470K")]
    numbers: AlilamaNumbers,
}

#[derive(Deserialize)]
struct AlilamaNumbers {
    tokens_16: Vec<i32>,
    logits_last_first8: Vec<f64>,
    argmax_per_pos: Vec<i32>,
    tokens_129: Vec<i32>,
    mean_ce_nats_128: f64,
}

fn alilama() -> (Transformer, AlilamaNumbers) {
    let path = file("alilama_alibi_batches512.safetensors");
    let model = alilama::read_model(&path, &Device::flex()).unwrap();
    let path = file("alilama_reference.json");
    let file: AlilamaFile = read_json(&path, "reference numbers").unwrap();
    (model, file.numbers)
}

fn logits(model: &Transformer, tokens: &[i32], implementation: Implementation) -> Vec<Vec<f32>> {
    let tokens = TokenRows::new(1, tokens.to_vec(), model.config().vocabulary).unwrap();
    let logits = model.forward(&tokens, None, implementation).unwrap();
    rows(logits.squeeze_dim::<2>(0))
}

fn mean_cross_entropy(model: &Transformer, tokens: &[i32], implementation: Implementation) -> f64 {
    let (read, targets) = (&tokens[..tokens.len() - 1], &tokens[1..]);
    let logits = logits(model, read, implementation);
    let each = logits.iter().zip(targets);
    each.map(|(row, target)| cross_entropy(row, *target))
        .sum::<f64>()
        / read.len() as f64
}

#[test]
fn a_trained_alibi_model_says_what_it_should() {
    let (model, expected) = alilama();
    for implementation in [Fused, Reference] {
        let logits = logits(&model, &expected.tokens_16, implementation);
        let error = largest_difference(&logits[15][..8], &expected.logits_last_first8);
        assert!(
            error < TOLERANCE,
            "{implementation:?}: logits are off by {error:e}"
        );
        let best: Vec<i32> = logits.iter().map(|row| largest(row)).collect();
        assert_eq!(best, expected.argmax_per_pos, "{implementation:?}");
        let got = mean_cross_entropy(&model, &expected.tokens_129, implementation);
        assert!(
            (got - expected.mean_ce_nats_128).abs() < TOLERANCE,
            "{implementation:?}: cross-entropy {got}, not {}",
            expected.mean_ce_nats_128
        );
    }
}

/// The model with the same weights and another configuration, and what its prior needs.
fn impostor(model: &Transformer, encoding: &str, scales: Option<Vec<f32>>) -> Transformer {
    let mut config = model.config().clone();
    config.encoding = encoding.parse().unwrap();
    let mut tensors = model.to_tensors();
    if let Some(scales) = scales {
        tensors.insert("prior.scale".into(), (vec![1, scales.len(), 1, 1], scales));
    }
    let model = config.init(&Device::flex());
    model.with_tensors(tensors, Path::new("impostor")).unwrap()
}

/// Null control: who ignores the prior, has it off by one head, or starts the residual elsewhere, is far
/// from those numbers.
#[test]
fn without_its_prior_the_alibi_model_is_much_worse() {
    let (model, expected) = alilama();
    let slopes = |shift: i32| {
        let exponents = (0..8).map(move |head| (head + shift) % 8 + 1);
        exponents
            .map(|i| -(i as f32) * std::f32::consts::LN_2)
            .collect::<Vec<f32>>()
    };
    let right = impostor(&model, "laplace", Some(slopes(0)));
    let none = impostor(&model, "nope", None);
    let shifted = impostor(&model, "laplace", Some(slopes(1)));
    let mut config = model.config().clone();
    config.design.attention_residual = Residual::Stream;
    let elsewhere = config.init(&Device::flex());
    let elsewhere = elsewhere.with_tensors(model.to_tensors(), Path::new("elsewhere"));
    let elsewhere = elsewhere.unwrap();
    for implementation in [Fused, Reference] {
        let of = |model| mean_cross_entropy(model, &expected.tokens_129, implementation);
        let honest = of(&model);
        assert!((of(&right) - honest).abs() < TOLERANCE);
        for (what, model, more) in [
            ("no prior", &none, 1.0),
            ("other heads' priors", &shifted, 0.1),
            ("another residual", &elsewhere, 0.1),
        ] {
            let worse = of(model);
            assert!(worse > honest + more, "{what}: {worse} against {honest}");
        }
    }
}

/// A written-down model is the model, and reading it token by token with a cache is reading it.
#[test]
fn the_alibi_model_is_a_model_like_any_other() {
    let (model, expected) = alilama();
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    let model = Transformer::load(folder.path(), &Device::flex()).unwrap();
    let tokens = &expected.tokens_129[..65];
    let whole = logits(&model, tokens, Fused);
    let mut cache = model.cache(1, 65).unwrap();
    let mut other = model.cache(1, 65).unwrap();
    let mut largest = 0.0_f64;
    for (token, expected) in tokens.iter().zip(&whole) {
        let got = model
            .decode_step(&[*token, *token], &mut [&mut cache, &mut other])
            .unwrap();
        let got = rows(got.squeeze_dim::<2>(1));
        let expected: Vec<f64> = expected.iter().map(|x| f64::from(*x)).collect();
        largest = largest.max(largest_difference(&got[1], &expected));
    }
    assert!(largest < TOLERANCE, "{largest:e}");
}

#[test]
fn the_alibi_models_tokens_are_a_story() {
    let (model, expected) = alilama();
    let vocabulary = alilama::read_vocabulary(&file("alilama_minbpe.model")).unwrap();
    assert_eq!(vocabulary.size(), model.config().vocabulary);
    let text = vocabulary.decode(&expected.tokens_16).unwrap();
    assert_eq!(
        text,
        " STARTSTORY Once upon a time, there was a little girl named Lily. She loved"
    );
    let error = vocabulary.decode(&[1, 4000]).unwrap_err().to_string();
    assert_eq!(error, "token 1: expected an id from 0 to 3999, got 4000");
}

/// The rule of `minbpe`, written down again: in every word the earliest merge first, from the left.
fn minbpe_tokens(words: &[&str]) -> Vec<u32> {
    let text = std::fs::read_to_string(file("alilama_minbpe.model")).unwrap();
    let merges: Vec<[u32; 2]> = (text.lines().skip(3))
        .map(|line| {
            let (left, right) = line.split_once(' ').unwrap();
            [left.parse().unwrap(), right.parse().unwrap()]
        })
        .collect();
    let mut tokens = Vec::new();
    for word in words {
        let mut ids: Vec<u32> = word.bytes().map(u32::from).collect();
        while let Some((rank, pair)) = (merges.iter().enumerate())
            .find(|(_, pair)| ids.windows(2).any(|two| two == pair.as_slice()))
        {
            let mut merged = Vec::new();
            let mut at = 0;
            while at < ids.len() {
                let here = ids[at..].starts_with(pair);
                merged.push(if here { 256 + rank as u32 } else { ids[at] });
                at += if here { 2 } else { 1 };
            }
            ids = merged;
        }
        tokens.extend(ids);
    }
    tokens
}

#[test]
fn the_alibi_models_vocabulary_encodes_as_minbpe_does() {
    let tokenizer = alilama::read_tokenizer(&file("alilama_minbpe.model")).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 4000);
    // Cut as the pattern of the file cuts.
    let words = [
        " STARTSTORY",
        " Once",
        " upon",
        " a",
        " time",
        ",",
        " Lily",
        "\'s",
        " 123",
        "45",
        " cafés",
        "!!",
        "\n\n",
        "日本",
        " \u{1F600}",
        "  ",
        " end",
        ".",
    ];
    let expected = minbpe_tokens(&words);
    let got = tokenizer.encode(&words.concat()).unwrap();
    assert_eq!(got, expected);
    assert_eq!(tokenizer.decode(&got).unwrap(), words.concat());
    // Null control: cut into letters, nothing is merged.
    let text = words.concat();
    let letters: Vec<&str> = text.split_inclusive(|_| true).collect();
    assert_ne!(minbpe_tokens(&letters), expected);
    let (_, numbers) = alilama();
    let text: Vec<u32> = numbers.tokens_129.iter().map(|id| *id as u32).collect();
    let text = tokenizer.decode(&text).unwrap();
    let again: Vec<i32> = tokenizer
        .encode(&text)
        .unwrap()
        .iter()
        .map(|id| *id as i32)
        .collect();
    assert_eq!(again, numbers.tokens_129);
}

#[test]
fn tensors_that_make_no_alilama_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let honest = read_tensors(&file("alilama_alibi_batches512.safetensors")).unwrap();
    type Change = fn(&mut bam_lm::model::checkpoint::NamedTensors);
    let changes: [(Change, &str); 6] = [
        (
            |tensors| drop(tensors.remove("embed.weight")),
            "tensor embed.weight: expected a matrix, got no such tensor",
        ),
        (
            |tensors| tensors.retain(|name, _| !name.starts_with("blocks.")),
            "tensor blocks.0.MLP.p1.weight: expected a matrix, got no such tensor",
        ),
        (
            |tensors| drop(tensors.remove("blocks.2.norm2.bias")),
            "tensor blocks.2.norm2.bias: expected shape [64], got no such tensor",
        ),
        (
            |tensors| tensors.get_mut("blocks.1.MHSA.k.weight").unwrap().0 = vec![32, 128],
            "tensor blocks.1.MHSA.k.weight: expected shape [64, 64], got shape [32, 128]",
        ),
        (
            |tensors| tensors.get_mut("blocks.3.MLP.p2.weight").unwrap().1[5] = f32::NAN,
            "tensor blocks.3.MLP.p2.weight: expected finite numbers, got NaN at index 5",
        ),
        (
            |tensors| drop(tensors.insert("head.weight".into(), (vec![1], vec![0.0]))),
            "tensor head.weight: expected no such tensor in an Alilama model, got one",
        ),
    ];
    for (change, expected) in changes {
        let mut tensors = honest.clone();
        change(&mut tensors);
        write_tensors(&path, tensors).unwrap();
        let error = alilama::read_model(&path, &Device::flex())
            .unwrap_err()
            .to_string();
        assert_eq!(error, format!("{}: {expected}", path.display()));
    }
}

#[derive(Deserialize)]
struct StoriesNumbers {
    greedy_tokens_from_bos: Vec<i32>,
    logits_at_pos15_first8: Vec<f64>,
    text: String,
}

fn stories() -> (Transformer, StoriesNumbers) {
    let model = llama2c::read_model(&file("stories260K.bin"), &Device::flex()).unwrap();
    let path = file("stories260K_reference_numpy.json");
    (model, read_json(&path, "reference numbers").unwrap())
}

/// The first logits after 16 of the reference's tokens.
fn logits_at_15(
    model: &Transformer,
    expected: &StoriesNumbers,
    implementation: Implementation,
) -> Vec<f32> {
    let tokens = expected.greedy_tokens_from_bos[..16].to_vec();
    let tokens = TokenRows::new(1, tokens, model.config().vocabulary).unwrap();
    let logits = model.forward(&tokens, None, implementation).unwrap();
    rows(logits.squeeze_dim::<2>(0))[15][..8].to_vec()
}

#[test]
fn a_trained_rotary_model_tells_its_story() {
    let (model, expected) = stories();
    for implementation in [Fused, Reference] {
        let logits = logits_at_15(&model, &expected, implementation);
        let error = largest_difference(&logits, &expected.logits_at_pos15_first8);
        assert!(
            error < TOLERANCE,
            "{implementation:?}: logits are off by {error:e}"
        );
    }
    let (prompt, story) = expected.greedy_tokens_from_bos.split_at(1);
    let greedy = Sampling {
        temperature: 0.0,
        ..Sampling::default()
    };
    let told: Result<Vec<i32>, Error> =
        Generator::new(&model, prompt, story.len(), greedy, Skipping::Exact)
            .unwrap()
            .collect();
    assert_eq!(told.unwrap(), story);
    let vocabulary = llama2c::read_vocabulary(&file("tok512.bin"), 512).unwrap();
    let text = vocabulary.decode(&expected.greedy_tokens_from_bos).unwrap();
    assert_eq!(text, expected.text);
}

/// Null control: the same weights under other positions are far from those numbers.
#[test]
fn other_positions_are_told_apart_from_rotary_ones() {
    let (model, expected) = stories();
    let tensors = model.to_tensors();
    let changed = |encoding: &str, rotary_theta: f64| {
        let mut config = model.config().clone();
        config.encoding = encoding.parse().unwrap();
        config.rotary_theta = rotary_theta;
        let impostor = config
            .init(&Device::flex())
            .with_tensors(tensors.clone(), Path::new("impostor"))
            .unwrap();
        let logits = logits_at_15(&impostor, &expected, Fused);
        largest_difference(&logits, &expected.logits_at_pos15_first8)
    };
    assert!(changed("rotary", 10_000.0) < TOLERANCE);
    for (encoding, theta) in [("nope", 10_000.0), ("alibi", 10_000.0), ("rotary", 500.0)] {
        let error = changed(encoding, theta);
        assert!(error > 1.0, "{encoding}, base {theta}: {error:e}");
    }
}

/// A model file with some of its header's seven numbers replaced, and bytes added at its end.
fn stories_with(header: &[(usize, i32)], more: &[u8]) -> Vec<u8> {
    let mut bytes = std::fs::read(file("stories260K.bin")).unwrap();
    for (index, value) in header {
        bytes[4 * index..4 * index + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes.extend(more);
    bytes
}

const VOCABULARY: usize = 5;

#[test]
fn a_negative_vocabulary_means_a_head_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("untied.bin");
    let (model, _) = stories();
    let embeddings = 28..28 + 512 * 64 * 4;
    let head = stories_with(&[], &[])[embeddings]
        .as_chunks::<4>()
        .0
        .iter()
        .flat_map(|bytes| (2.0 * f32::from_le_bytes(*bytes)).to_le_bytes())
        .collect::<Vec<u8>>();
    std::fs::write(&path, stories_with(&[(VOCABULARY, -512)], &head)).unwrap();
    let untied = llama2c::read_model(&path, &Device::flex()).unwrap();
    let (ours, theirs) = (untied.to_tensors(), model.to_tensors());
    for (name, tensor) in &theirs {
        assert_eq!(&ours[name], tensor, "{name}");
    }
    let (shape, embeddings) = &theirs["tok_embeddings.weight"];
    let doubled: Vec<f32> = embeddings.iter().map(|x| 2.0 * x).collect();
    assert_eq!(ours["output.weight"], (shape.clone(), doubled));
    assert!(!theirs.contains_key("output.weight"));
}

#[test]
fn headers_that_lie_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    let whole = stories_with(&[], &[]);
    let size = whole.len();
    let stated = |sizes: &str, bytes: usize, got: usize| {
        format!("expected {bytes} bytes, as its header says ({sizes}, length 512), got {got} bytes")
    };
    let tied = "width 64, feed-forward 172, 5 layers, 8 heads, 4 key heads, 512 tokens with a tied \
                head";
    let sizes = |problems: &str| format!("expected sizes that fit each other, got {problems}");
    let cases = [
        (
            whole[..20].to_vec(),
            "expected a header of 28 bytes, got 20 bytes".to_owned(),
        ),
        (whole[..size - 4].to_vec(), stated(tied, size, size - 4)),
        (stories_with(&[], &[0; 3]), stated(tied, size, size + 3)),
        (
            stories_with(&[(VOCABULARY, -512)], &[]),
            stated(
                &tied.replace("a tied", "an untied"),
                size + 512 * 64 * 4,
                size,
            ),
        ),
        (
            stories_with(&[(2, 6)], &[]),
            stated(
                &tied.replace("5 layers", "6 layers"),
                size + 4 * 45_440,
                size,
            ),
        ),
        (
            stories_with(&[(0, -64)], &[]),
            "expected a header of sizes, none but the vocabulary negative, got -64".to_owned(),
        ),
        (
            stories_with(&[(3, 7)], &[]),
            sizes(
                "heads (num_attention_heads): expected a divisor of the width 64, got 7; \
                 key heads (num_key_value_heads): expected a divisor of the 7 heads, got 4",
            ),
        ),
        (
            stories_with(&[(4, 3)], &[]),
            sizes("key heads (num_key_value_heads): expected a divisor of the 8 heads, got 3"),
        ),
        (
            stories_with(&[(VOCABULARY, i32::MIN)], &[]),
            sizes("vocabulary (vocab_size): expected a number from 1 to 16777216, got 2147483648"),
        ),
        (
            stories_with(&[(2, 0)], &[]),
            sizes("layers (num_hidden_layers): expected a number from 1 to 16777216, got 0"),
        ),
    ];
    for (bytes, expected) in cases {
        std::fs::write(&path, bytes).unwrap();
        let error = llama2c::read_model(&path, &Device::flex()).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("{}: {expected}", path.display()));
    }
    let huge: Vec<(usize, i32)> = [0, 1, 2, 6].map(|index| (index, 1 << 24)).to_vec();
    std::fs::write(&path, stories_with(&huge, &[])).unwrap();
    let error = llama2c::read_model(&path, &Device::flex()).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error:?}");
    let missing = folder.path().join("missing.bin");
    let error = llama2c::read_model(&missing, &Device::flex()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
}

#[test]
fn token_lists_that_lie_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.bin");
    let whole = std::fs::read(file("tok512.bin")).unwrap();
    let with = |at: usize, value: i32| {
        let mut bytes = whole.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let left = whole.len() - 12;
    let cases = [
        (
            whole[..2].to_vec(),
            "expected the length of the longest token, got an end after 2 bytes of a number".into(),
        ),
        (
            whole[..whole.len() - 1].to_vec(),
            "expected token 511 to have at most 7 bytes, of 2 that are left, got 3".to_owned(),
        ),
        (
            with(8, -1),
            format!("expected token 0 to have at most 7 bytes, of {left} that are left, got -1"),
        ),
        (
            with(8, 8),
            format!("expected token 0 to have at most 7 bytes, of {left} that are left, got 8"),
        ),
        (
            [whole.as_slice(), &[0; 5]].concat(),
            "expected an end after 512 tokens, got 5 more bytes".into(),
        ),
    ];
    for (bytes, expected) in cases {
        std::fs::write(&path, bytes).unwrap();
        let error = llama2c::read_vocabulary(&path, 512).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("{}: {expected}", path.display()));
    }
    std::fs::write(&path, whole).unwrap();
    let error = llama2c::read_vocabulary(&path, 513).unwrap_err();
    assert!(error.to_string().contains("expected 513 tokens"), "{error}");
}

#[test]
fn merges_that_lie_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("merges.model");
    let start = "minbpe v1\n[a-z]+\n0\n";
    // Each line doubles the length of the token before: the ninth would have 512 bytes.
    let doubling: String = (0..9)
        .map(|n| match n {
            0 => "97 97\n".to_owned(),
            _ => format!("{0} {0}\n", 255 + n),
        })
        .collect();
    let cases = [
        (String::new(), "expected a minbpe file, got its end"),
        ("minbpe v2\n".into(), "expected minbpe v1, got minbpe v2"),
        (
            "minbpe v1\n[a-z]+\n1\n<s> 256\n".into(),
            "expected no special tokens, got 1",
        ),
        (
            format!("{start}97 256\n"),
            "expected two tokens below 256, together at most 256 bytes, got 97 256",
        ),
        (
            format!("{start}97 98\n-1 97\n"),
            "expected two tokens below 257, together at most 256 bytes, got -1 97",
        ),
        (
            format!("{start}{doubling}"),
            "expected two tokens below 264, together at most 256 bytes, got 263 263",
        ),
    ];
    for (text, expected) in cases {
        std::fs::write(&path, text).unwrap();
        let error = alilama::read_vocabulary(&path).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("{}: {expected}", path.display()));
    }
}
