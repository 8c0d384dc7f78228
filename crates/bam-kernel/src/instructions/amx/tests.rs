//! The tiles against plain loops, and the operation on them against the definition; on the
//! processor's own AMX where it has it, else on the emulator.

use super::emulator::{Count, counted, provide};
use super::tiles::{SIDE, Tiles};
use crate::layers::Matrix;
use crate::layers::product_bf16::product_by;
use crate::testing::{
    Case, Shape, in_order, oracle, product_oracle, signed_numbers, sums_of_gradients,
};
use crate::{Call, Gradients, Instructions, KeyPriorScope, SkipLog, Skipping, bf16};
use std::sync::Arc;

fn pairs(count: usize, seed: u64) -> Vec<u32> {
    let half = |x: f32| u32::from(bf16::from_f32(x).to_bits());
    signed_numbers(2 * count, 2.0, seed)
        .chunks(2)
        .map(|pair| half(pair[0]) | half(pair[1]) << 16)
        .collect()
}

fn product_of(left: u32, right: u32) -> f64 {
    let halves = |pair: u32| [pair << 16, pair & 0xFFFF_0000].map(f32::from_bits);
    let ([a, b], [c, d]) = (halves(left), halves(right));
    f64::from(a) * f64::from(c) + f64::from(b) * f64::from(d)
}

#[test]
fn a_product_in_tiles_is_the_product() {
    provide();
    let tiles = Tiles::new().unwrap();
    for (rows, depth, stride, width, out_stride) in [
        (16, 16, 16, 16, 16),
        (32, 48, 48, 16, 16),
        (96, 32, 40, 48, 96),
        (16, 16, 17, 64, 65),
        (48, 16, 48, 96, 96),
    ] {
        let (left, right) = (pairs(rows * stride, 1), pairs(depth * width, 2));
        let mut out = vec![f32::NAN; rows * out_stride];
        let sizes = [rows, depth, width];
        tiles.product((&left, stride), sizes, &right, (&mut out, out_stride));
        for (index, got) in out.iter().enumerate() {
            let (row, column) = (index / out_stride, index % out_stride);
            if column >= width {
                assert!(got.is_nan(), "written beyond its columns");
                continue;
            }
            let terms =
                (0..depth).map(|t| product_of(left[row * stride + t], right[t * width + column]));
            let expected: f64 = terms.sum();
            assert!(
                (f64::from(*got) - expected).abs() < 1e-4,
                "{rows} × {depth} × {width} at {row}, {column}: {got}, not {expected}"
            );
        }
    }
}

#[test]
#[should_panic(expected = "assertion failed")]
fn a_product_beyond_its_numbers_is_refused() {
    provide();
    let tiles = Tiles::new().unwrap();
    let mut out = [0.0; SIDE * SIDE];
    tiles.product((&[0; 255], SIDE), [SIDE; 3], &[0; 256], (&mut out, SIDE));
}

const SHAPES: [[usize; 6]; 8] = [
    // batch, heads, key heads, queries, keys, dim
    [1, 1, 1, 9, 9, 1],
    [2, 6, 2, 63, 65, 17],
    [1, 3, 3, 257, 257, 64],
    [1, 1, 1, 9, 4500, 8],
    [1, 2, 1, 100, 500, 33],
    [2, 2, 1, 20, 130, 24],
    [1, 1, 1, 128, 192, 128],
    [1, 2, 2, 97, 97, 48],
];

/// A case whose queries, keys and values `bf16` has.
fn case(sizes: [usize; 6], seed: u64) -> Case {
    let shape = Shape::from(sizes);
    let mut case = Case::random(&shape, seed);
    for values in [&mut case.q, &mut case.k, &mut case.v] {
        values
            .iter_mut()
            .for_each(|x| *x = bf16::from_f32(*x).to_f32());
    }
    case
}

/// The case's output with `q`, `k` and `v` in `bf16`, on tiles, rounded to `bf16`.
fn on_tiles(case: &Case, change: impl Fn(Call) -> Call) -> Vec<f32> {
    provide();
    let on_amx = |call| {
        change(Call {
            instructions: Instructions::Amx,
            ..call
        })
    };
    let out = case.forward_narrow(on_amx).unwrap().out;
    out.into_iter()
        .map(|x| bf16::from_f32(x).to_f32())
        .collect()
}

/// In units of what two roundings to eight digits can do: of the weights, and of the result.
fn largest_error(got: &[f32], case: &Case) -> f64 {
    let largest_value = case.v.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let unit = |expected: f64| f64::from(largest_value).max(expected.abs()) / 256.0;
    let errors = got.iter().zip(oracle(case));
    errors
        .map(|(got, expected)| (f64::from(*got) - expected).abs() / unit(expected))
        .fold(0.0, f64::max)
}

#[test]
fn attention_on_tiles_is_the_definition() {
    for (seed, sizes) in SHAPES.into_iter().enumerate() {
        let case = case(sizes, seed as u64);
        for case in [
            case.clone(),
            case.clone().full(),
            case.clone().with_window(40),
            case.clone().with_documents(3),
            case.clone().with_temperature(true).with_documents(2),
            case.with_temperature(true)
                .with_key_prior(true, KeyPriorScope::Added),
        ] {
            let error = largest_error(&on_tiles(&case, |as_it_is| as_it_is), &case);
            assert!(error <= 1.0, "{sizes:?}: {error}");
        }
    }
}

/// Null control: the test above sees a key too few and two per cent of a value.
#[test]
fn a_wrong_case_is_seen() {
    let right = case(SHAPES[2], 2);
    let got = on_tiles(&right, |as_it_is| as_it_is);
    let mut wrong = right.clone();
    wrong.v.iter_mut().for_each(|v| *v *= 1.02);
    assert!(largest_error(&got, &wrong) > 1.0);
    assert!(largest_error(&got, &right.with_window(100)) > 1.0);
}

#[test]
fn skipping_on_tiles_is_exact() {
    let mut case = case([1, 2, 2, 700, 700, 16], 3);
    let falling = |lag: usize| -0.7 * (case.lags - 1 - lag) as f32;
    case.ln_weights = (0..case.heads)
        .flat_map(|_| (0..case.lags).map(falling))
        .collect();
    let off = on_tiles(&case, |call| Call {
        skipping: Skipping::Off,
        ..call
    });
    let log = Arc::new(SkipLog::default());
    let exact = on_tiles(&case, |call| Call {
        skip_log: Some(log.clone()),
        ..call
    });
    assert_eq!(off, exact);
    assert!(log.heads().iter().all(|head| head.skipped_tiles > 0));
    assert!(gradients_on_tiles(&case, Skipping::Off) == gradients_on_tiles(&case, Skipping::Exact));
}

const NAMES: [&str; 6] = ["q", "k", "v", "ln_weights", "temperature", "key_prior"];

/// The case's gradients with `q`, `k`, `v` and the gradient of the output in `bf16`, on tiles.
fn gradients_on_tiles(case: &Case, skipping: Skipping) -> Gradients {
    provide();
    let on_amx = |call| Call {
        instructions: Instructions::Amx,
        skipping,
        ..call
    };
    case.forward_backward_narrow(on_amx).unwrap().1
}

fn rounded_weights(case: &Case) -> Vec<f32> {
    let weights = case.loss_weights().into_iter();
    weights.map(|w| bf16::from_f32(w).to_f32()).collect()
}

/// The definition's gradients in `f64`, and how far each may be missed. With `u = 2⁻⁸` for a rounding to eight
/// digits and `ε` for the rounding of weights in `f32`: a weight that is multiplied by `g` is off by `(u + ε)p`;
/// `δ` by `u + ε` of its terms, since forward rounded the weights too; `g·v` as a sum of `D` products in `f32`; and
/// the gradient of a logit is rounded once itself.
fn definition_and_bounds(case: &Case) -> [[Vec<f64>; 6]; 2] {
    let (u, epsilon) = (1.0 / 256.0, case.rounding_of_weights());
    let of_sum = (case.dim + 64) as f64 * f64::from(f32::EPSILON);
    let weights = rounded_weights(case);
    let definition = sums_of_gradients(
        case,
        &weights,
        |x| x,
        |of| (of.posterior, of.posterior * (of.value - of.delta)),
    );
    let bounds = sums_of_gradients(case, &weights, f64::abs, |of| {
        let beyond = (of.value - of.delta).abs();
        let of_delta = (u + epsilon) * of.delta_size;
        let of_logit = epsilon * beyond + of_delta + of_sum * of.value_size;
        // What is off is rounded too.
        let rounded = (1.0 + u) * of_logit + u * beyond;
        (of.posterior * (u + epsilon), of.posterior * rounded)
    });
    [definition, bounds]
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

/// The largest error in units of its bound, and all errors over the gradient, by name.
fn errors_back(got: &[Vec<f32>; 6], [definition, bounds]: &[[Vec<f64>; 6]; 2]) -> [(f64, f64); 6] {
    std::array::from_fn(|name| {
        let (got, definition) = (&got[name], &definition[name]);
        assert_eq!(got.len(), definition.len());
        let off = || {
            let pairs = got.iter().zip(definition);
            pairs.map(|(got, expected)| f64::from(*got) - expected)
        };
        // Where nothing flows there is no error; not a number is no agreement.
        let in_bounds = off().zip(&bounds[name]).map(|(off, bound)| match off {
            0.0 => 0.0,
            off => off.abs() / bound,
        });
        let largest = in_bounds.fold(0.0, |m, x| if x <= m { m } else { x });
        let size = norm(definition.iter().copied()).max(0.1);
        (largest, norm(off()) / size)
    })
}

#[test]
fn gradients_on_tiles_are_the_definitions() {
    for (seed, sizes) in SHAPES.into_iter().enumerate() {
        let case = case(sizes, seed as u64);
        for (number, case) in [
            case.clone(),
            case.clone().full(),
            case.clone().with_window(40),
            case.clone().with_documents(3),
            case.clone().with_temperature(false).with_documents(2),
            case.clone().with_temperature(true).with_documents(2),
            case.clone().with_key_prior(false, KeyPriorScope::Added),
            case.with_temperature(true)
                .with_key_prior(true, KeyPriorScope::Scaled),
        ]
        .iter()
        .enumerate()
        {
            let got = in_order(gradients_on_tiles(case, Skipping::Off));
            let errors = errors_back(&got, &definition_and_bounds(case));
            for (name, (largest, share)) in NAMES.iter().zip(errors) {
                let what = format!("{sizes:?}, {number}: gradient of {name}");
                assert!(largest <= 1.0, "{what}: {largest} of what rounding may do");
                // Errors of both signs: together they are less than the largest that one may be; under nine keys'
                // numbers there are too few to even out.
                let few = case.key_prior.is_some() && case.keys * case.dim < 16;
                assert!(share <= 1.0 / 128.0 || few, "{what}: off by {share}");
            }
        }
    }
}

/// Null controls: one per cent of a gradient is seen by what all errors come to, and what an implementation may
/// have forgotten by the bounds of each.
#[test]
fn wrong_gradients_are_seen() {
    let case = case(SHAPES[1], 2)
        .with_temperature(true)
        .with_documents(2)
        .with_key_prior(false, KeyPriorScope::Scaled);
    let got = in_order(gradients_on_tiles(&case, Skipping::Off));
    let expected = definition_and_bounds(&case);
    let larger = got
        .each_ref()
        .map(|of| of.iter().map(|x| x * 1.01).collect());
    for (name, (_, share)) in NAMES.iter().zip(errors_back(&larger, &expected)) {
        assert!(share > 1.0 / 128.0, "{name}");
    }
    type Change = fn(&mut Case);
    let impostors: [(&str, Change, &[&str]); 6] = [
        ("prior", |case| case.ln_weights.fill(0.0), &NAMES),
        ("keys", |case| case.k.rotate_right(case.dim), &NAMES),
        (
            "values",
            |case| case.v.rotate_right(case.dim),
            &["q", "k", "ln_weights", "temperature", "key_prior"],
        ),
        ("documents", |case| case.documents = None, &NAMES),
        (
            "prior over keys",
            |case| case.key_prior.as_mut().unwrap().high.rotate_right(1),
            &NAMES,
        ),
        (
            "temperature",
            |case| case.temperature.as_mut().unwrap().0.fill(1.0),
            &NAMES,
        ),
    ];
    for (what, change, names) in impostors {
        let mut impostor = case.clone();
        change(&mut impostor);
        let errors = errors_back(&got, &definition_and_bounds(&impostor));
        for (name, (largest, _)) in NAMES.iter().zip(errors) {
            assert!(
                largest > 2.0 || !names.contains(name),
                "{what}: gradient of {name}"
            );
        }
    }
}

#[test]
fn gradients_on_tiles_are_the_same_bits_for_any_number_of_threads() {
    let case = case([1, 3, 1, 500, 500, 20], 9)
        .with_temperature(true)
        .with_key_prior(true, KeyPriorScope::Added);
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pass = || gradients_on_tiles(&case, Skipping::Exact);
        pool.build().unwrap().install(pass)
    };
    assert!(with(1) == with(3));
}

/// [The counts in `docs/kernel.md`](../../../../../docs/kernel.md#9-precision), of one panel of 48 rows and a tile of
/// 96 keys, 64 wide.
#[test]
fn instructions_are_counted() {
    provide();
    let case = case([1, 1, 1, 192, 192, 64], 1).full();
    let with = |call| Call {
        instructions: Instructions::Amx,
        skipping: Skipping::Off,
        ..call
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    let (forward, both) = pool.build().unwrap().install(|| {
        (
            counted(|| drop(case.forward_narrow(with))),
            counted(|| drop(case.forward_backward_narrow(with))),
        )
    });
    // Panels of another width are cut into strips of other widths; AMX of the processor's own is not counted.
    let (Some(forward), Some(both), true) = (forward, both, Instructions::Avx512.check().is_ok())
    else {
        return;
    };
    let of_tile = |count: usize| {
        assert_eq!(count % 8, 0, "4 panels and 2 tiles");
        count / 8
    };
    let per_tile = |count: Count| [count.loads, count.products, count.stores].map(of_tile);
    assert_eq!(per_tile(forward), [96, 72, 30]);
    assert_eq!(per_tile(both), [96 + 252, 72 + 180, 30 + 72]);
}

/// Subnormal sums, which the tiles take as zero, are far below what is compared.
#[test]
fn a_matrix_product_on_tiles_is_its_definition() {
    provide();
    for sizes in [[1, 1, 1], [17, 33, 5], [100, 300, 97]] {
        let [rows, depth, columns] = sizes;
        let numbers = |count, seed| -> Vec<bf16> {
            let numbers = signed_numbers(count, 2.0, seed).into_iter();
            numbers.map(bf16::from_f32).collect()
        };
        let (left, right) = (numbers(rows * depth, 1), numbers(depth * columns, 2));
        let (expected, bounds) = product_oracle(&left, &right, sizes);
        let left = Matrix::new(&left, [rows, depth]);
        let right = Matrix::new(&right, [depth, columns]);
        for instructions in [Instructions::Amx, Instructions::Scalar] {
            let mut out = vec![f32::NAN; rows * columns];
            product_by(instructions, left, right, &mut out);
            for ((got, expected), bound) in out.iter().zip(&expected).zip(&bounds) {
                let off = (f64::from(*got) - expected).abs();
                assert!(
                    off <= *bound,
                    "{sizes:?} by {instructions:?}: {got}, not {expected}"
                );
            }
        }
    }
}
