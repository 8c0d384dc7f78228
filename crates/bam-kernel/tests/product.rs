//! Products of matrices against sums in `f64`, and what tells them apart.
#![cfg(feature = "products")]

use bam_kernel::layers::{Matrix, product};
use bam_kernel::testing::signed_numbers;

/// Rows of so many columns.
fn of_columns(values: &[f32], columns: usize) -> Matrix<'_> {
    Matrix::new(values, [values.len() / columns, columns])
}

/// Rows, inner, columns: single ones, tails of every vector, and what is worth threads.
const SIZES: [[usize; 3]; 6] = [
    [1, 1, 1],
    [1, 300, 7],
    [5, 1, 33],
    [17, 19, 23],
    [64, 64, 64],
    [257, 131, 300],
];

/// `Σ_t a_it b_tj`, and the largest error of a sum in `f32` of any order.
fn definition(a: &[f32], b: &[f32], [m, k, n]: [usize; 3]) -> Vec<(f64, f64)> {
    let at = |i: usize, j: usize| {
        let terms = (0..k).map(|t| f64::from(a[i * k + t]) * f64::from(b[t * n + j]));
        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
        (sum, size * k as f64 * f64::from(f32::EPSILON))
    };
    (0..m * n).map(|index| at(index / n, index % n)).collect()
}

fn agrees(got: &[f32], expected: &[(f64, f64)]) -> bool {
    let near = |(got, (expected, error)): (&f32, &(f64, f64))| {
        (f64::from(*got) - expected).abs() <= *error
    };
    got.len() == expected.len() && got.iter().zip(expected).all(near)
}

fn transpose(of: &[f32], columns: usize) -> Vec<f32> {
    let rows = of.len() / columns;
    (0..of.len())
        .map(|index| of[index % rows * columns + index / rows])
        .collect()
}

#[test]
fn products_and_those_of_transposes_are_their_definition() {
    for sizes in SIZES {
        let [m, k, n] = sizes;
        let (a, b) = (signed_numbers(m * k, 2.0, 1), signed_numbers(k * n, 2.0, 2));
        let expected = definition(&a, &b, sizes);
        let (a_t, b_t) = (transpose(&a, k), transpose(&b, n));
        let of = of_columns;
        for got in [
            product(of(&a, k), of(&b, n)),
            product(of(&a, k), of(&b_t, k).transposed()),
            product(of(&a_t, m).transposed(), of(&b, n)),
        ] {
            assert!(agrees(&got, &expected), "{sizes:?}");
        }
        if m == k && k == n && n > 1 {
            let impostor = product(of(&a, k), of(&b_t, n));
            assert!(!agrees(&impostor, &expected));
        }
    }
    assert!(product(of_columns(&[], 4), of_columns(&[1.0; 12], 3)).is_empty());
}

#[test]
fn a_product_is_the_same_bits_for_any_number_of_threads() {
    let (a, b) = (
        signed_numbers(700 * 300, 2.0, 1),
        signed_numbers(300 * 260, 2.0, 2),
    );
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| product(of_columns(&a, 300), of_columns(&b, 260)))
    };
    let one = with(1);
    for threads in [2, 3, 8] {
        assert_eq!(with(threads), one);
    }
}

#[test]
#[should_panic(expected = "columns of a and rows of b")]
fn factors_that_do_not_fit() {
    let of = [0.0; 6];
    let _ = product(of_columns(&of, 3), of_columns(&of, 3));
}
