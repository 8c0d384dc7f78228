//! Layers against their definitions in `f64`, differences of those as gradients, and impostors that
//! the same comparison tells apart.

use bam_kernel::bf16;
use bam_kernel::layers::{
    Matrix, cross_entropy, cross_entropy_gradient, gated, gated_gradients, product_bf16, rms_norm,
    rms_norm_gradients,
};
use bam_kernel::testing::{product_oracle, signed_numbers};

const EPSILON: f64 = 1e-5;
/// One row, fewer numbers than a vector, whole vectors and a rest, and more than one task.
const SIZES: [(usize, usize); 6] = [(1, 1), (3, 5), (2, 16), (7, 33), (5, 128), (4100, 70)];

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    signed_numbers(count, 4.0, seed)
}

/// The largest distance, over the largest number.
fn distance(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(1e-6, |most: f64, x| most.max(x.abs()));
    let pairs = got.iter().zip(expected);
    let off = pairs.map(|(got, expected)| (f64::from(*got) - expected).abs());
    off.fold(
        0.0,
        |most: f64, x| if x.is_nan() { f64::NAN } else { most.max(x) },
    ) / largest
}

/// `d loss / d x_i` for some `i`, by central differences in `f64`.
fn differences(x: &[f32], some: &[usize], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = wide(x);
    let step = 1e-5;
    let of = |&i: &usize| {
        let at = x[i];
        x[i] = at + step;
        let above = loss(&x);
        x[i] = at - step;
        let below = loss(&x);
        x[i] = at;
        (above - below) / (2.0 * step)
    };
    some.iter().map(of).collect()
}

/// The first, the last and some between.
fn some_of(count: usize) -> Vec<usize> {
    let mut some: Vec<usize> = (0..5).map(|i| i * (count - 1) / 4).collect();
    some.dedup();
    some
}

fn pick(values: &[f32], some: &[usize]) -> Vec<f32> {
    some.iter().map(|i| values[*i]).collect()
}

fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn gated_oracle(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| silu(*a) * b).collect()
}

fn norm_oracle(x: &[f64], gain: &[f64]) -> Vec<f64> {
    let rows = x.chunks_exact(gain.len()).flat_map(|row| {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        let factor = 1.0 / (mean + EPSILON).sqrt();
        row.iter().zip(gain).map(move |(x, gain)| x * factor * gain)
    });
    rows.collect()
}

fn entropy_oracle(logits: &[f64], targets: &[usize], weights: &[f32]) -> f64 {
    let rows = logits.chunks_exact(logits.len() / targets.len());
    let of_rows = rows
        .zip(targets)
        .zip(weights)
        .map(|((row, target), weight)| {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let evidence: f64 = row.iter().map(|x| (x - largest).exp()).sum();
            f64::from(*weight) * (largest + evidence.ln() - row[*target])
        });
    of_rows.sum()
}

#[test]
fn the_gate_and_its_gradients_are_their_definitions() {
    for (rows, columns) in SIZES {
        let count = rows * columns;
        let [a, b, g] = [1, 2, 3].map(|seed| numbers(count, seed));
        let mut out = vec![f32::NAN; count];
        gated(&a, &b, &mut out);
        assert!(distance(&out, &gated_oracle(&wide(&a), &wide(&b))) < 1e-6);
        // Null control: the gate without its sigmoid is another function.
        let impostor: Vec<f64> = a.iter().zip(&b).map(|(a, b)| f64::from(a * b)).collect();
        assert!(distance(&out, &impostor) > 1e-3);

        let [mut da, mut db] = [(); 2].map(|()| vec![f32::NAN; count]);
        gated_gradients(&a, &b, &g, &mut da, &mut db);
        let some = some_of(count);
        let by_a = differences(&a, &some, |a| dot(&gated_oracle(a, &wide(&b)), &g));
        let by_b = differences(&b, &some, |b| dot(&gated_oracle(&wide(&a), b), &g));
        assert!(distance(&pick(&da, &some), &by_a) < 1e-5);
        assert!(distance(&pick(&db, &some), &by_b) < 1e-5);
    }
}

#[test]
fn the_gate_is_finite_where_its_exponential_is_not() {
    let a = [-1e30, -200.0, -0.0, 0.0, 200.0, 1e30];
    let mut out = [f32::NAN; 6];
    gated(&a, &[1.0; 6], &mut out);
    assert_eq!(out, [-0.0, -0.0, -0.0, 0.0, 200.0, 1e30]);
    let [mut da, mut db] = [[f32::NAN; 6]; 2];
    gated_gradients(&a, &[1.0; 6], &[1.0; 6], &mut da, &mut db);
    assert!(da.iter().chain(&db).all(|x| x.is_finite()), "{da:?} {db:?}");
    gated(&[f32::NAN], &[1.0], &mut out[..1]);
    assert!(out[0].is_nan());
}

#[test]
fn the_norm_and_its_gradients_are_their_definitions() {
    for (rows, columns) in SIZES {
        let count = rows * columns;
        let [x, g] = [1, 2].map(|seed| numbers(count, seed));
        let gain = numbers(columns, 3);
        let mut out = vec![f32::NAN; count];
        let factors = rms_norm(&x, &gain, EPSILON, &mut out);
        assert!(distance(&out, &norm_oracle(&wide(&x), &wide(&gain))) < 2e-6);

        let mut dx = vec![f32::NAN; count];
        let d_gain = rms_norm_gradients(&x, &gain, &factors, &g, &mut dx);
        let some = some_of(count);
        let by_x = differences(&x, &some, |x| dot(&norm_oracle(x, &wide(&gain)), &g));
        // A row of one number is almost a constant: what is left of its gradient is rounding.
        if columns > 1 {
            let off = distance(&pick(&dx, &some), &by_x);
            assert!(off < 1e-4, "{rows} × {columns}: {off}");
            // Null control: with the factors held, the gradient is another one.
            let held: Vec<f64> = some
                .iter()
                .map(|i| {
                    let factor = f64::from(factors[i / columns]);
                    factor * f64::from(g[*i]) * f64::from(gain[i % columns])
                })
                .collect();
            assert!(distance(&pick(&dx, &some), &held) > 1e-3);
        }
        let some = some_of(columns);
        let by_gain = differences(&gain, &some, |gain| dot(&norm_oracle(&wide(&x), gain), &g));
        assert!(distance(&pick(&d_gain, &some), &by_gain) < 1e-4);
    }
}

#[test]
fn the_loss_and_its_gradient_are_their_definitions() {
    for (rows, columns) in SIZES {
        let logits = numbers(rows * columns, 1);
        let targets: Vec<usize> = (0..rows).map(|row| row * 7 % columns).collect();
        // Every third row is not scored.
        let weights: Vec<f32> = (0..rows)
            .map(|row| (row % 3) as f32 / rows as f32)
            .collect();
        let of = cross_entropy(&logits, &targets, &weights);
        let expected = entropy_oracle(&wide(&logits), &targets, &weights);
        assert!((of.loss - expected).abs() <= 1e-6 * expected.abs().max(1.0));

        let mut gradient = vec![f32::NAN; logits.len()];
        cross_entropy_gradient(
            &logits,
            &targets,
            &weights,
            &of.ln_evidence,
            0.5,
            &mut gradient,
        );
        let some = some_of(logits.len());
        let by_logits = differences(&logits, &some, |logits| {
            0.5 * entropy_oracle(logits, &targets, &weights)
        });
        assert!(distance(&pick(&gradient, &some), &by_logits) < 1e-4);
        assert!(
            gradient[..columns].iter().all(|x| *x == 0.0),
            "a row without weight"
        );
    }
}

/// Rows, depth, columns: one number, rests of every kind, more than one task, more than one sum.
const PRODUCTS: [[usize; 3]; 7] = [
    [1, 1, 1],
    [2, 3, 5],
    [63, 65, 17],
    [100, 257, 49],
    [97, 16, 96],
    [5, 600, 1],
    [200, 33, 100],
];

fn narrow(values: &[f32]) -> Vec<bf16> {
    values.iter().copied().map(bf16::from_f32).collect()
}

/// Whether numbers are those of the oracle within its bounds.
fn agree(got: &[f32], (expected, bounds): &(Vec<f64>, Vec<f64>)) -> bool {
    assert_eq!(got.len(), expected.len());
    let mut pairs = got.iter().zip(expected).zip(bounds);
    pairs.all(|((got, expected), bound)| (f64::from(*got) - expected).abs() <= *bound)
}

#[test]
fn a_product_of_bf16_is_its_definition() {
    for [rows, depth, columns] in PRODUCTS {
        let sizes = [rows, depth, columns];
        let (left, right) = (numbers(rows * depth, 1), numbers(depth * columns, 2));
        let [of_left, of_right] = [&left, &right].map(|values| narrow(values));
        let expected = product_oracle(&of_left, &of_right, sizes);
        let turned = |values: &[f32], [rows, columns]: [usize; 2]| -> Vec<f32> {
            let of_column = |c: usize| (0..rows).map(move |r| values[r * columns + c]);
            (0..columns).flat_map(of_column).collect()
        };
        let left_turned = turned(&left, [rows, depth]);
        let right_turned = narrow(&turned(&right, [depth, columns]));
        let (of_left, of_right) = (
            Matrix::new(&of_left, [rows, depth]),
            Matrix::new(&of_right, [depth, columns]),
        );
        let product = |left, right| {
            let mut out = vec![f32::NAN; rows * columns];
            product_bf16(left, right, &mut out);
            out
        };
        let out = product(of_left, of_right);
        assert!(agree(&out, &expected), "{sizes:?}");
        // Numbers that are rounded as they are read, and transposes, give the same bits.
        assert_eq!(out, product(Matrix::new(&left, [rows, depth]), of_right));
        let left_turned = Matrix::new(&left_turned, [depth, rows]).transposed();
        let right_turned = Matrix::new(&right_turned, [columns, depth]).transposed();
        assert_eq!(out, product(left_turned, right_turned));

        // Null controls: numbers that are not rounded, and a sum without its last product.
        let unrounded = (0..rows * columns).map(|index| {
            let of_row = &left[index / columns * depth..][..depth];
            let of_column = right[index % columns..].iter().step_by(columns);
            of_row
                .iter()
                .zip(of_column)
                .map(|(l, r)| f64::from(*l) * f64::from(*r))
                .sum()
        });
        let unrounded = (unrounded.collect(), expected.1.clone());
        assert!(!agree(&out, &unrounded), "{sizes:?}");
        let mut shorter = narrow(&left);
        shorter
            .chunks_mut(depth)
            .for_each(|row| row[depth - 1] = bf16::ZERO);
        let shorter = product_oracle(&shorter, &narrow(&right), sizes);
        assert!(!agree(&out, &shorter), "{sizes:?}");
    }
}

/// `dx = g·Wᵀ` and `dW = xᵀ·g` are the differences of `Σ g·(x·W)`.
#[test]
fn products_are_the_gradients_of_a_linear_layer() {
    let [rows, inputs, outputs] = [7, 33, 18];
    let round =
        |values: Vec<f32>| -> Vec<f32> { narrow(&values).into_iter().map(bf16::to_f32).collect() };
    let x = round(numbers(rows * inputs, 1));
    let w = round(numbers(inputs * outputs, 2));
    let g = round(numbers(rows * outputs, 3));
    let of = |x: &[f64], w: &[f64]| -> f64 {
        let rows = x.chunks_exact(inputs).zip(g.chunks_exact(outputs));
        rows.map(|(x, g)| {
            let of_inputs = x.iter().zip(w.chunks_exact(outputs));
            of_inputs.map(|(x, w)| x * dot(w, g)).sum::<f64>()
        })
        .sum()
    };
    let of_x = Matrix::new(&x, [rows, inputs]);
    let (of_w, of_g) = (
        Matrix::new(&w, [inputs, outputs]),
        Matrix::new(&g, [rows, outputs]),
    );
    let (mut dx, mut dw) = (vec![f32::NAN; x.len()], vec![f32::NAN; w.len()]);
    product_bf16(of_g, of_w.transposed(), &mut dx);
    product_bf16(of_x.transposed(), of_g, &mut dw);
    let some = some_of(x.len());
    let by_x = differences(&x, &some, |x| of(x, &wide(&w)));
    assert!(distance(&pick(&dx, &some), &by_x) < 1e-5);
    let some = some_of(w.len());
    let by_w = differences(&w, &some, |w| of(&wide(&x), w));
    assert!(distance(&pick(&dw, &some), &by_w) < 1e-5);
    // Null control: the gradient by the other order of the weight's axes.
    product_bf16(of_g, Matrix::new(&w, [outputs, inputs]), &mut dx);
    assert!(distance(&pick(&dx, &some_of(x.len())), &by_x) > 1e-2);
}

#[test]
fn results_are_the_same_bits_for_any_number_of_threads() {
    let (rows, columns) = (4100, 130);
    let [x, g] = [1, 2].map(|seed| numbers(rows * columns, seed));
    let gain = numbers(columns, 3);
    let targets: Vec<usize> = (0..rows).map(|row| row % columns).collect();
    let weights = vec![0.25; rows];
    let all = || {
        let mut out = [(); 5].map(|()| vec![0.0; rows * columns]);
        let [normed, dx, gate, da, db] = &mut out;
        let factors = rms_norm(&x, &gain, EPSILON, normed);
        let d_gain = rms_norm_gradients(&x, &gain, &factors, &g, dx);
        gated(&x, &g, gate);
        gated_gradients(&x, &g, normed, da, db);
        let mut product = vec![0.0; columns * columns];
        let of_x = Matrix::new(&x, [rows, columns]);
        product_bf16(
            of_x.transposed(),
            Matrix::new(&g, [rows, columns]),
            &mut product,
        );
        (
            product,
            out,
            factors,
            d_gain,
            cross_entropy(&x, &targets, &weights),
        )
    };
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().expect("a pool").install(all)
    };
    assert!(with(1) == with(3));
}
