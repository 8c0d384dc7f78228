//! Positions as angles: rotary pairs, and the sinusoids that are added to embeddings.

use burn::tensor::{Device, Tensor, TensorData};

/// `cos` and `sin` of `position · θ^(−2i/width)`, `[positions, width/2]` each, computed in `f64`.
pub(crate) fn angles(
    positions: std::ops::Range<usize>,
    width: usize,
    theta: f64,
    device: &Device,
) -> (Tensor<2>, Tensor<2>) {
    let pairs = width / 2;
    let frequencies: Vec<f64> = (0..pairs)
        .map(|i| theta.powf(-((2 * i) as f64) / width as f64))
        .collect();
    let rows = positions.len();
    let values = |of: fn(f64) -> f64| {
        let values: Vec<f32> = positions
            .clone()
            .flat_map(|position| {
                frequencies
                    .iter()
                    .map(move |frequency| of(position as f64 * frequency) as f32)
            })
            .collect();
        Tensor::from_data(TensorData::new(values, [rows, pairs]), device)
    };
    (values(f64::cos), values(f64::sin))
}

/// Rotates the pairs `(2i, 2i+1)` of each head by the angle of its position.
///
/// # Shapes
/// - `x`: `[batch, length, heads, dim]`
/// - `cos`, `sin`: `[length, dim/2]`
pub(crate) fn rotate(x: Tensor<4>, (cos, sin): &(Tensor<2>, Tensor<2>)) -> Tensor<4> {
    let [batch, length, heads, dim] = x.dims();
    let pairs = x.reshape([batch, length, heads, dim / 2, 2]);
    let first = pairs.clone().narrow(4, 0, 1);
    let second = pairs.narrow(4, 1, 1);
    let [cos, sin] = [cos, sin].map(|t| t.clone().reshape([1, length, 1, dim / 2, 1]));
    let rotated = Tensor::cat(
        vec![
            first.clone() * cos.clone() - second.clone() * sin.clone(),
            first * sin + second * cos,
        ],
        4,
    );
    rotated.reshape([batch, length, heads, dim])
}

/// The reference's sinusoids, `[1, positions, width]`: column `c` turns with `θ^(−c/width)`, as a
/// sine where `c` is even and a cosine where it is odd. (Vaswani et al. give both columns of a
/// pair the frequency of the even one.)
pub(crate) fn sinusoids(
    positions: std::ops::Range<usize>,
    width: usize,
    theta: f64,
    device: &Device,
) -> Tensor<3> {
    let rows = positions.len();
    let frequencies: Vec<f64> = (0..width)
        .map(|c| theta.powf(-(c as f64) / width as f64))
        .collect();
    let values: Vec<f32> = positions
        .flat_map(|position| {
            frequencies
                .iter()
                .enumerate()
                .map(move |(column, frequency)| {
                    let angle = position as f64 * frequency;
                    (if column % 2 == 0 {
                        angle.sin()
                    } else {
                        angle.cos()
                    }) as f32
                })
        })
        .collect();
    Tensor::from_data(TensorData::new(values, [1, rows, width]), device)
}
