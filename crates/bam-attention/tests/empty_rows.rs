//! Rows that see nothing: exact zeros, zero gradients, and what stands at padding is never read.
//!
//! Guaranteed at [`Documents::PADDING`] only. A key that is hidden otherwise (it is later, beyond the
//! window, of another document) gets the weight 0, and `0·NaN` is NaN: its values must be finite.

use bam_attention::Implementation::{self, Fused, Reference};
use bam_attention::testing::{Case, OnTensors, Shape, Tensors, signed_numbers, test_device};
use bam_attention::{Documents, KeyPriorScope};
use burn::tensor::{Tensor, TensorData};

/// Output, and the gradients of `Σ out·weights` by q, k, v, log-prior, temperature and prior over keys.
struct Passes {
    out: Vec<f32>,
    gradients: [Vec<f32>; 6],
}

const NAMES: [&str; 6] = ["q", "k", "v", "ln_weights", "temperature", "key_prior"];

fn passes(case: &Case, implementation: Implementation) -> Passes {
    let device = test_device().autodiff();
    let plain = case.tensors(&device);
    let [of_keys, low] = plain.key_prior;
    let tensors = Tensors {
        q: plain.q.require_grad(),
        k: plain.k.require_grad(),
        v: plain.v.require_grad(),
        ln_weights: plain.ln_weights.require_grad(),
        temperature: plain.temperature.require_grad(),
        key_prior: [of_keys.require_grad(), low],
    };
    let out = case.attend(&tensors, implementation).unwrap();
    let weights = signed_numbers(out.dims().iter().product(), 1.0, 5);
    let weights = Tensor::from_data(TensorData::new(weights, out.dims()), &device);
    let gradients = (out.clone() * weights).sum().backward();
    let values = |data: Option<TensorData>| data.unwrap().as_slice::<f32>().unwrap().to_vec();
    Passes {
        out: values(Some(out.into_data())),
        gradients: [
            values(tensors.q.grad(&gradients).map(Tensor::into_data)),
            values(tensors.k.grad(&gradients).map(Tensor::into_data)),
            values(tensors.v.grad(&gradients).map(Tensor::into_data)),
            values(tensors.ln_weights.grad(&gradients).map(Tensor::into_data)),
            values(tensors.temperature.grad(&gradients).map(Tensor::into_data)),
            values(tensors.key_prior[0].grad(&gradients).map(Tensor::into_data)),
        ],
    }
}

fn case(length: usize) -> Case {
    let shape = Shape {
        batch: 3,
        heads: 4,
        key_heads: 2,
        queries: length,
        keys: length,
        dim: 5,
    };
    Case::random(&shape, 8)
        .with_temperature(true)
        .with_key_prior(false, KeyPriorScope::Scaled)
}

/// Padding before, in the middle of, and after two documents; the last batch row is nothing else.
fn with_padding(mut case: Case) -> Case {
    let length = case.keys;
    let ids: Vec<i32> = (0..case.batch * length)
        .map(|index| match (index / length, index % length) {
            (2, _) => Documents::PADDING,
            (b, j) if j < b || j % 11 == 7 || j + 3 >= length => Documents::PADDING,
            (_, j) => i32::from(2 * j > length),
        })
        .collect();
    case.documents = Some((ids.clone(), ids));
    case
}

/// Calls `of` with every index of `[batch, heads, length, width]` whose token is padding.
fn at_padding(case: &Case, heads: usize, width: usize, mut of: impl FnMut(usize)) {
    let ids = &case.documents.as_ref().unwrap().1;
    let length = case.keys;
    for index in 0..case.batch * heads * length * width {
        let (token, b) = (index / width % length, index / (width * length * heads));
        if ids[b * length + token] == Documents::PADDING {
            of(index);
        }
    }
}

const LENGTHS: [usize; 6] = [1, 2, 5, 63, 65, 130];

#[test]
fn padding_gives_exact_zeros_and_no_gradient() {
    for length in LENGTHS {
        let case = with_padding(case(length));
        for implementation in [Fused, Reference] {
            let Passes { out, gradients } = passes(&case, implementation);
            let [q, k, v, ln_weights, temperature, key_prior] = &gradients;
            for (name, values, heads, width) in [
                ("out", &out, 4, 5),
                ("gradient of q", q, 4, 5),
                ("gradient of k", k, 2, 5),
                ("gradient of v", v, 2, 5),
                ("gradient of the temperature", temperature, 4, 1),
                ("gradient of the prior over keys", key_prior, 2, 1),
            ] {
                let mut padding = 0;
                at_padding(&case, heads, width, |index| {
                    padding += 1;
                    assert_eq!(values[index], 0.0, "{implementation:?}: {name} at {index}");
                });
                assert!(padding >= heads * width * length);
                assert!(values.iter().all(|x| x.is_finite()), "{name}");
            }
            assert!(ln_weights.iter().all(|x| x.is_finite()));
            // Null control: without padding those places are not zero.
            let without = Case {
                documents: None,
                ..case.clone()
            };
            let without = passes(&without, implementation).out;
            at_padding(&case, 4, 5, |index| assert_ne!(without[index], 0.0));
        }
    }
}

#[test]
fn what_stands_at_padding_is_not_read() {
    for length in LENGTHS {
        let clean = with_padding(case(length));
        for poison in [f32::NAN, f32::INFINITY, -1e38] {
            let mut poisoned = clean.clone();
            at_padding(&clean, 4, 5, |index| poisoned.q[index] = poison);
            at_padding(&clean, 2, 5, |index| poisoned.k[index] = poison);
            at_padding(&clean, 2, 5, |index| poisoned.v[index] = poison);
            let of_keys = poisoned.key_prior.as_mut().unwrap();
            at_padding(&clean, 2, 1, |index| of_keys.high[index] = poison);
            for implementation in [Fused, Reference] {
                let (clean, poisoned) = (
                    passes(&clean, implementation),
                    passes(&poisoned, implementation),
                );
                assert_eq!(clean.out, poisoned.out, "{implementation:?}, {poison}");
                let pairs = clean.gradients.iter().zip(&poisoned.gradients);
                for (name, (clean, poisoned)) in NAMES.iter().zip(pairs) {
                    assert_eq!(clean, poisoned, "{implementation:?}, {poison}: {name}");
                }
            }
        }
    }
}

/// Null control: the same poison where a token is does spread. So the assertion above can fail.
#[test]
fn poison_at_a_token_is_not_hidden() {
    let mut case = with_padding(case(65));
    let token = 20;
    assert_ne!(
        case.documents.as_ref().unwrap().1[token],
        Documents::PADDING
    );
    case.v[token * 5] = f32::NAN;
    for implementation in [Fused, Reference] {
        let out = passes(&case, implementation).out;
        assert!(out[token * 5].is_nan());
        // The other batch rows do not see it.
        let of_first = 4 * 65 * 5;
        assert!(out[of_first..].iter().all(|x| x.is_finite()));
    }
}

/// A window of 0, and queries of a document that has no key.
#[test]
fn rows_without_a_key_by_other_means() {
    let nothing = case(9).with_window(0);
    let nothing_both_ways = nothing.clone().full();
    let mut strangers = case(9);
    strangers.documents = Some((vec![1; 27], vec![2; 27]));
    for case in [nothing, nothing_both_ways, strangers] {
        for implementation in [Fused, Reference] {
            let Passes { out, gradients } = passes(&case, implementation);
            assert!(out.iter().all(|x| *x == 0.0), "{implementation:?}: {out:?}");
            for (name, gradient) in NAMES.iter().zip(gradients) {
                assert!(
                    gradient.iter().all(|x| *x == 0.0),
                    "{implementation:?}: {name}"
                );
            }
        }
    }
}

/// Documents of one token attend to themselves: the value, whatever the prior says.
#[test]
fn one_token_documents_are_their_own_value() {
    let mut case = case(70);
    let ids: Vec<i32> = (0..210).map(|index| index % 70).collect();
    case.documents = Some((ids.clone(), ids));
    for implementation in [Fused, Reference] {
        let out = passes(&case, implementation).out;
        for (index, row) in out.chunks(5).enumerate() {
            let (b, h, token) = (index / 280, index / 70 % 4, index % 70);
            let v = &case.v[((b * 2 + h / 2) * 70 + token) * 5..][..5];
            for (got, expected) in row.iter().zip(v) {
                let error = (got - expected).abs();
                assert!(
                    error <= 4.0 * f32::EPSILON * expected.abs(),
                    "{got} {expected}"
                );
            }
        }
    }
}
