//! A row read in pieces, each after the keys of those before, is the row read at once.
//!
//! Not bit by bit: a few rows are summed in another order than many, and a row visits its keys in the
//! order of its block.

use bam_attention::Implementation::{self, Fused, Reference};
use bam_attention::testing::{Case, OnTensors, Shape, Tensors, test_device};
use bam_attention::{
    Documents, Lags, LogPrior, Options, Temperature, TemperatureScope, attend, scalable_softmax,
};
use burn::tensor::Tensor;
use proptest::prelude::*;
use std::sync::Arc;

/// Everything that varies besides the tensors.
#[derive(Clone, Debug, Default)]
struct Variant {
    window: Option<usize>,
    ssmax: Option<TemperatureScope>,
    documents: bool,
}

fn case(length: usize, heads: usize, key_heads: usize, dim: usize) -> Case {
    let shape = Shape {
        batch: 2,
        heads,
        key_heads,
        queries: length,
        keys: length,
        dim,
    };
    Case::random(&shape, length as u64)
}

/// The rows `start..end` of a case over the keys up to `end`, told to stand at `offset`.
fn piece(
    case: &Case,
    tensors: &Tensors,
    variant: &Variant,
    implementation: Implementation,
    (start, end): (usize, usize),
    offset: usize,
) -> Tensor<4> {
    let length = end - start;
    let mut options = Options::causal(implementation).with_query_offset(offset);
    options.window = variant.window;
    if variant.documents {
        let ids = &case.clone().with_documents(3).documents.unwrap().1;
        let of = |range: std::ops::Range<usize>| -> Vec<i32> {
            let rows = ids.chunks(case.keys);
            rows.flat_map(|row| row[range.clone()].to_vec()).collect()
        };
        let documents = Documents::with_cache(case.batch, of(start..end), of(0..end)).unwrap();
        options.documents = Some(Arc::new(documents));
    }
    if let Some(scope) = variant.ssmax {
        let scale: Vec<f32> = (0..case.heads).map(|h| 0.4 + 0.3 * h as f32).collect();
        let scale = Tensor::<1>::from_floats(scale.as_slice(), &test_device());
        let values = scalable_softmax(scale, length, end, &options).unwrap();
        options.temperature = Some(Temperature { values, scope });
    }
    let lags = Lags::starting_at(case.first_lag, case.lags);
    let prior = LogPrior::new(tensors.ln_weights.clone(), lags).unwrap();
    attend(
        tensors.q.clone().narrow(2, start, length),
        tensors.k.clone().narrow(2, 0, end),
        tensors.v.clone().narrow(2, 0, end),
        &prior,
        &options,
    )
    .unwrap()
}

fn values(out: Tensor<4>) -> Vec<f32> {
    out.into_data().as_slice::<f32>().unwrap().to_vec()
}

/// At once, and in pieces of those sizes (the last one repeats).
fn both(
    case: &Case,
    variant: &Variant,
    implementation: Implementation,
    sizes: &[usize],
) -> (Vec<f32>, Vec<f32>) {
    let tensors = case.tensors(&test_device());
    let at = |range: (usize, usize)| piece(case, &tensors, variant, implementation, range, range.0);
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < case.keys {
        let size = sizes[pieces.len().min(sizes.len() - 1)];
        let end = (start + size).min(case.keys);
        pieces.push(at((start, end)));
        start = end;
    }
    (values(at((0, case.keys))), values(Tensor::cat(pieces, 2)))
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

fn assert_equal(case: &Case, variant: &Variant, sizes: &[usize]) {
    // Scalable softmax makes logits of up to 100 here; their last digit moves a value by 3e-5.
    let (whole, pieces) = both(case, variant, Fused, sizes);
    let difference = largest_difference(&whole, &pieces);
    assert!(
        difference < 1e-4,
        "{variant:?}, pieces {sizes:?}: {difference:e}"
    );
    let (reference, pieces) = both(case, variant, Reference, sizes);
    let difference = largest_difference(&reference, &pieces);
    assert!(difference < 1e-4, "reference, {variant:?}: {difference:e}");
    let difference = largest_difference(&whole, &reference);
    assert!(difference < 1e-4, "{variant:?}: {difference:e}");
}

fn variants() -> Vec<Variant> {
    let mut variants = Vec::new();
    for window in [None, Some(1), Some(70)] {
        for ssmax in [
            None,
            Some(TemperatureScope::LikelihoodAndPrior),
            Some(TemperatureScope::Likelihood),
        ] {
            for documents in [false, true] {
                variants.push(Variant {
                    window,
                    ssmax,
                    documents,
                });
            }
        }
    }
    variants
}

#[test]
fn in_pieces_or_at_once() {
    let long = case(200, 6, 2, 20);
    for variant in variants() {
        for sizes in [
            &[1][..],
            &[2],
            &[63],
            &[65],
            &[1, 2, 63, 65, 129],
            &[150, 1],
        ] {
            assert_equal(&long, &variant, sizes);
        }
    }
}

/// Null control: pieces that are told to stand one key earlier are told apart.
#[test]
fn a_wrong_offset_is_told_apart() {
    let case = case(100, 3, 1, 16);
    let tensors = case.tensors(&test_device());
    for variant in variants() {
        if variant.window == Some(1) {
            continue; // One key: its value, wherever the row stands.
        }
        let of = |offset| {
            let range = (50, 100);
            values(piece(&case, &tensors, &variant, Fused, range, offset))
        };
        let difference = largest_difference(&of(50), &of(49));
        assert!(difference > 1e-2, "{variant:?}: {difference:e}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 5,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_pieces_of_any_row(
        length in 1usize..150,
        key_heads in 1usize..3,
        group in 1usize..4,
        dim in 1usize..40,
        window in proptest::option::of(1usize..160),
        documents: bool,
        ssmax in 0usize..3,
        sizes in proptest::collection::vec(1usize..100, 1..5),
    ) {
        let scopes = [
            None,
            Some(TemperatureScope::LikelihoodAndPrior),
            Some(TemperatureScope::Likelihood),
        ];
        let variant = Variant { window, ssmax: scopes[ssmax], documents };
        assert_equal(&case(length, key_heads * group, key_heads, dim), &variant, &sizes);
    }
}
