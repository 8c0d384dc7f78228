//! Everything that [`attend`] and its arguments refuse, with the words that they refuse it with.

use bam_attention::Implementation::{Fused, Reference};
use bam_attention::testing::{Case, OnTensors, Shape, oracle, test_device};
use bam_attention::{
    AttentionError, Documents, KernelError, KeyNorms, Lags, LogPrior, Options, Skipping,
    Temperature, TemperatureScope, attend, scalable_softmax,
};
use burn::tensor::{FloatDType, Tensor};
use std::sync::Arc;

/// A call that fits: batch 2, 4 query heads, 2 key heads, 3 queries, 5 keys, width 6.
struct Call {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    prior: LogPrior,
    options: Options,
}

fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::zeros(shape, &test_device())
}

impl Call {
    fn new() -> Self {
        Self {
            q: zeros([2, 4, 3, 6]),
            k: zeros([2, 2, 5, 6]),
            v: zeros([2, 2, 5, 6]),
            prior: LogPrior::uniform(4, Lags::causal(5), &test_device()),
            options: Options::causal(Reference).with_query_offset(2),
        }
    }

    /// The error, which must not depend on the implementation.
    fn refused(change: impl Fn(&mut Self)) -> AttentionError {
        let [by_reference, by_fused] = [Reference, Fused].map(|implementation| {
            let mut call = Self::new();
            call.options.implementation = implementation;
            change(&mut call);
            call.run().unwrap_err()
        });
        assert_eq!(by_reference, by_fused);
        by_fused
    }

    fn run(self) -> Result<Tensor<4>, AttentionError> {
        attend(self.q, self.k, self.v, &self.prior, &self.options)
    }
}

fn assert_refused(expected: &str, change: impl Fn(&mut Call)) {
    assert_eq!(Call::refused(change).to_string(), expected);
}

#[test]
fn the_call_without_a_change_is_fine() {
    for implementation in [Reference, Fused] {
        let mut call = Call::new();
        call.options.implementation = implementation;
        assert_eq!(call.run().unwrap().dims(), [2, 4, 3, 6]);
    }
}

#[test]
fn keys_and_values_of_another_shape() {
    assert_refused("k: expected shape [2, 2, 5, 6], got [1, 2, 5, 6]", |call| {
        call.k = zeros([1, 2, 5, 6]);
    });
    assert_refused("k: expected shape [2, 2, 5, 6], got [2, 2, 5, 7]", |call| {
        call.k = zeros([2, 2, 5, 7]);
    });
    assert_refused("v: expected shape [2, 2, 5, 6], got [2, 2, 4, 6]", |call| {
        call.v = zeros([2, 2, 4, 6]);
    });
    assert_refused("v: expected shape [2, 2, 5, 6], got [2, 4, 5, 6]", |call| {
        call.v = zeros([2, 4, 5, 6]);
    });
    assert_refused("v: expected shape [2, 2, 5, 6], got [2, 2, 5, 8]", |call| {
        call.v = zeros([2, 2, 5, 8]);
    });
}

#[test]
fn heads_that_can_not_be_shared_out() {
    let expected = "query heads: expected a multiple of the 3 key heads, got 4";
    assert_refused(expected, |call| {
        call.k = zeros([2, 3, 5, 6]);
        call.v = zeros([2, 3, 5, 6]);
    });
    let expected = "query heads: expected a multiple of the 8 key heads, got 4";
    assert_refused(expected, |call| {
        call.k = zeros([2, 8, 5, 6]);
        call.v = zeros([2, 8, 5, 6]);
    });
}

#[test]
fn a_prior_of_other_heads_or_lags() {
    assert_refused("log-prior: expected shape [4, 5], got [2, 5]", |call| {
        call.prior = LogPrior::uniform(2, Lags::causal(5), &test_device());
    });
    assert_refused("log-prior: expected the lags -4..=0, got -3..=0", |call| {
        call.prior = LogPrior::uniform(4, Lags::causal(4), &test_device());
    });
    assert_refused("log-prior: expected the lags -4..=0, got -9..=-1", |call| {
        call.prior = LogPrior::uniform(4, Lags::starting_at(-9, 9), &test_device());
    });
    assert_refused("log-prior: expected the lags -4..=2, got -4..=0", |call| {
        call.options.visibility = bam_attention::Visibility::Full;
    });
    let error = LogPrior::new(zeros([4, 6]), Lags::causal(5)).unwrap_err();
    let expected = "log-prior: expected shape [heads, 5], got [4, 6]";
    assert_eq!(error.to_string(), expected);
}

/// A window needs no lags beyond it.
#[test]
fn lags_beyond_the_window_are_not_asked_for() {
    for implementation in [Reference, Fused] {
        let mut call = Call::new();
        call.prior = LogPrior::uniform(4, Lags::causal(2), &test_device());
        call.options = Options::causal(implementation)
            .with_query_offset(2)
            .with_window(2);
        assert!(call.run().is_ok());
    }
    assert_refused("log-prior: expected the lags -2..=0, got -1..=0", |call| {
        call.prior = LogPrior::uniform(4, Lags::causal(2), &test_device());
        call.options.window = Some(3);
    });
}

#[test]
fn fewer_keys_than_causal_rows_stand_at() {
    let expected = "keys of causal attention: expected shape at least offset + queries = 6, got 5";
    assert_refused(expected, |call| {
        call.options.query_offset = 3;
        call.prior = LogPrior::uniform(4, Lags::causal(9), &test_device());
    });
}

#[test]
fn documents_of_another_size() {
    let of = |batch: usize, queries, keys| {
        let documents =
            Documents::with_cache(batch, vec![0; batch * queries], vec![0; batch * keys]);
        Some(Arc::new(documents.unwrap()))
    };
    for (batch, queries, keys) in [(1, 3, 5), (2, 5, 5), (2, 3, 3)] {
        let expected = format!(
            "documents (batch, queries, keys): expected shape [2, 3, 5], got [{batch}, {queries}, \
             {keys}]"
        );
        assert_refused(&expected, |call| {
            call.options.documents = of(batch, queries, keys);
        });
    }
    let options = Options::causal(Fused).with_documents(of(2, 3, 4).unwrap());
    let error = scalable_softmax(zeros([4]), 3, 5, &options).unwrap_err();
    let expected =
        "documents (queries, keys): expected shape [2, 3] and [2, 5], got [2, 3] and [2, 4]";
    assert_eq!(error.to_string(), expected);
    let error = Documents::with_cache(2, vec![0; 4], vec![0; 5]).unwrap_err();
    let expected = "key documents: expected shape [2, length], got [5]";
    assert_eq!(error.to_string(), expected);
    let error = Documents::new(0, vec![]).unwrap_err();
    let expected = "query documents: expected shape [0, length], got [0]";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_temperature_of_another_shape() {
    for (got, expected) in [
        ([3, 4, 3], [2, 4, 3]),
        ([1, 2, 3], [1, 4, 3]),
        ([2, 4, 5], [2, 4, 3]),
        ([1, 1, 3], [1, 4, 3]),
    ] {
        let expected = format!("temperature: expected shape {expected:?}, got {got:?}");
        assert_refused(&expected, |call| {
            call.options.temperature = Some(Temperature {
                values: zeros(got),
                scope: TemperatureScope::Likelihood,
            });
        });
    }
}

#[test]
fn nothing_at_all() {
    for (axis, what) in ["batch", "query heads", "queries", "head dimension"]
        .into_iter()
        .enumerate()
    {
        assert_refused(&format!("{what}: expected at least 1, got 0"), |call| {
            let mut shape = [2, 4, 3, 6];
            shape[axis] = 0;
            call.q = zeros(shape);
        });
    }
    for (axis, what) in [(1, "key heads"), (2, "keys")] {
        assert_refused(&format!("{what}: expected at least 1, got 0"), |call| {
            let mut shape = [2, 2, 5, 6];
            shape[axis] = 0;
            call.k = zeros(shape);
        });
    }
}

#[test]
fn mixed_float_types() {
    let expected = "any attention: expected q, k, v, priors and temperature of one float type, \
                    got F32 and F64";
    assert_refused(expected, |call| {
        call.k = call.k.clone().cast(FloatDType::F64)
    });
    assert_refused(expected, |call| {
        call.v = call.v.clone().cast(FloatDType::F64)
    });
    assert_refused(expected, |call| {
        let ln_weights = call.prior.ln_weights().clone().cast(FloatDType::F64);
        call.prior = LogPrior::new(ln_weights, *call.prior.lags()).unwrap();
    });
    assert_refused(expected, |call| {
        call.options.temperature = Some(Temperature {
            values: zeros([1, 4, 3]).cast(FloatDType::F64),
            scope: TemperatureScope::Likelihood,
        });
    });
}

/// The reference reads every key, and says so.
#[test]
fn skipping_by_the_reference() {
    let mut call = Call::new();
    call.options.skipping = Skipping::Exact;
    assert_eq!(
        call.run().unwrap_err().to_string(),
        "reference attention: expected no skipping, key norms or skip log, got Exact"
    );
}

/// Those of the kernel come through.
#[test]
fn skipping_that_can_not_be() {
    for skipping in [0.0, 1.0, -1.0].map(|epsilon| Skipping::Certified { epsilon }) {
        assert!(matches!(
            Call::refused(|call| call.options.skipping = skipping),
            AttentionError::Kernel(KernelError::Epsilon { .. })
        ));
    }
    let norms = KeyNorms::new(2, 2);
    let expected =
        "key norms (batch, key heads, keys): expected shape [2, 2, at least 5], got [2, 2, 0]";
    assert_refused(expected, |call| {
        call.options.key_norms = Some(Arc::new(norms.clone()));
    });
}

#[test]
fn norms_of_other_keys() {
    let mut norms = KeyNorms::new(1, 1);
    let error = norms.extend(0, &zeros([2, 1, 5, 16])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "keys of the norms: expected shape [1, 1, length, dim], got [2, 1, 5, 16]"
    );
    norms.extend(0, &zeros([1, 1, 5, 16])).unwrap();
    let error = norms.extend(500, &zeros([1, 1, 5, 16])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "keys of the norms: expected shape to start at 5 or before, got a start at 500"
    );
}

fn in_f64(
    case: &Case,
    implementation: bam_attention::Implementation,
) -> Result<f64, AttentionError> {
    let mut tensors = case.tensors(&test_device());
    tensors.q = tensors.q.cast(FloatDType::F64);
    tensors.k = tensors.k.cast(FloatDType::F64);
    tensors.v = tensors.v.cast(FloatDType::F64);
    tensors.ln_weights = tensors.ln_weights.cast(FloatDType::F64);
    tensors.temperature = tensors.temperature.cast(FloatDType::F64);
    let out = case.attend(&tensors, implementation)?.into_data();
    let errors = out.as_slice::<f64>().unwrap().iter().zip(oracle(case));
    Ok(errors
        .map(|(got, expected)| (got - expected).abs())
        .fold(0.0, f64::max))
}

/// The fused implementation says no; the reference answers, to the precision that was asked for.
#[test]
fn double_precision() {
    let shape = Shape {
        batch: 2,
        heads: 2,
        key_heads: 1,
        queries: 5,
        keys: 9,
        dim: 7,
    };
    let case = Case::random(&shape, 3)
        .with_documents(2)
        .with_temperature(true);
    let error = in_f64(&case, Fused).unwrap_err();
    let expected = "fused attention: expected tensors of type F32 or BF16, got F64";
    assert_eq!(error.to_string(), expected);
    let error = in_f64(&case, Reference).unwrap();
    assert!(error < 1e-13, "the reference in f64 is off by {error:e}");
}

/// A narrowed prior reads the same numbers, and refuses what it does not have.
#[test]
fn narrowed_priors() {
    let numbers: Vec<f32> = (0..15).map(|x| x as f32).collect();
    let ln_weights = Tensor::<1>::from_floats(numbers.as_slice(), &test_device());
    let prior = LogPrior::new(ln_weights.reshape([3, 5]), Lags::causal(5)).unwrap();
    let narrowed = prior.narrowed(1..3, Lags::causal(2)).unwrap();
    let values: Vec<f32> = narrowed.ln_weights().to_data().try_into_vec().unwrap();
    assert_eq!(values, [8.0, 9.0, 13.0, 14.0]);
    assert_eq!(*narrowed.lags(), Lags::causal(2));
    for (heads, lags, expected) in [
        (
            0..1,
            Lags::causal(6),
            "log-prior: expected the lags -5..=0, got -4..=0",
        ),
        (
            2..4,
            Lags::causal(5),
            "narrowed log-prior: expected shape some of 3 heads, and lags, got heads 2..4 and 5 lags",
        ),
        (
            1..1,
            Lags::causal(5),
            "narrowed log-prior: expected shape some of 3 heads, and lags, got heads 1..1 and 5 lags",
        ),
    ] {
        let error = prior.narrowed(heads, lags).unwrap_err().to_string();
        assert_eq!(error, expected);
    }
}
