//! The tiles against plain loops, and the operation on them against the definition; on the
//! processor's own AMX where it has it, else on the emulator.

use super::emulator::provide;
use super::tiles::{SIDE, Tiles};
use crate::testing::{Case, Shape, oracle, signed_numbers};
use crate::{Call, Instructions, SkipLog, Skipping, bf16};
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
            case.with_temperature(true).with_documents(2),
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
}
