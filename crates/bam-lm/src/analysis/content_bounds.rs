//! Bounds of content scores `q·k/√D`, whatever is read, from the parameters alone.
//!
//! RMS norm divides by the root of the mean square, so what it lets through is at most `√dim` long,
//! before its gains `γ`. A head's query is `Wᵀ(γ ⊙ u)` with `‖u‖ ≤ √dim`, so
//!
//! ```text
//! ‖q‖ ≤ σ(diag(γ) W_q) · √dim        |q·k|/√D ≤ ‖q‖·‖k‖/√D        (σ: the largest singular value)
//! ```
//!
//! Layer norm divides by the standard deviation, so it obeys the same and then adds `β`; with it and a
//! bias `b` of the projection the length is at most `‖Wᵀβ + b‖` more. Clamped entries make no vector
//! longer than `clip·√D`.
//!
//! `σ` is bounded from above by a Schatten norm, not estimated by iterations that stop below it.
//! The first layer reads nothing but embeddings; there the longest query and key of the vocabulary
//! are found by asking all of it. Rotations change no length.

use crate::model::encoding::Position;
use crate::model::{Norm, Transformer, host_values};
use bam_prior::{LogitBound, Sharpening};
use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::Tensor;

/// Tokens of the vocabulary that are asked at once.
const TOKENS: usize = 1024;
/// `σ² = λ(G) ≤ (Σ λᵢ^m)^(1/m)` with `m = 2^(SQUARINGS + 1)`, at most `D^(1/m)` above it.
const SQUARINGS: i32 = 6;

impl Transformer {
    /// Every head's logits before anything is read, layer by layer: the bound of its content scores
    /// over all texts, and how scalable softmax scales them.
    #[must_use]
    pub fn logit_bounds(&self) -> Vec<Vec<LogitBound>> {
        (0..self.config.layers)
            .map(|layer| {
                let contents = self.content_bounds(layer);
                let sharpenings = self.sharpenings(layer);
                let heads = contents.into_iter().zip(sharpenings);
                heads
                    .map(|(content, sharpening)| LogitBound {
                        content,
                        sharpening,
                    })
                    .collect()
            })
            .collect()
    }

    /// `|q·k|/√D` of every query head of a layer is at most this.
    fn content_bounds(&self, layer: usize) -> Vec<f64> {
        let config = &self.config;
        let attention = &self.layers[layer].attention;
        let root = (config.head_dim() as f64).sqrt();
        let reach = |linear: &Linear, heads: usize| -> Vec<f64> {
            let mut longest = self.longest_rows(layer, linear, heads);
            if layer == 0 && matches!(config.encoding.of_layer(0).position, Position::Prior(_)) {
                let asked = self.longest_of_vocabulary(linear, heads);
                longest
                    .iter_mut()
                    .zip(asked)
                    .for_each(|(any, asked)| *any = any.min(asked));
            }
            if let Some(clip) = config.design.clip_qkv {
                let clipped = clip * root * (1.0 + f64::from(f32::EPSILON));
                longest.iter_mut().for_each(|any| *any = any.min(clipped));
            }
            longest
        };
        let queries = reach(&attention.query, config.heads);
        let keys = reach(&attention.key, config.key_heads);
        let group = config.heads / config.key_heads;
        (0..config.heads)
            .map(|head| queries[head] * keys[head / group] / root)
            .collect()
    }

    /// The longest vector that each head of a projection makes of what the layer's norm lets through.
    fn longest_rows(&self, layer: usize, linear: &Linear, heads: usize) -> Vec<f64> {
        let norm = &self.layers[layer].attention_norm;
        let matrices = self.by_head(&host_values(norm.gains().val()), linear, heads);
        let offsets = self.offsets(norm, linear, heads);
        let heads = matrices.iter().zip(offsets);
        heads
            .map(|(matrix, offset)| {
                let size = matrix.rows.len();
                let sigma = largest_eigenvalue(matrix.gram(), size).sqrt();
                let spread = (sigma + matrix.rounding()) * (self.config.dim as f64).sqrt();
                spread + offset.length + offset.rounding
            })
            .collect()
    }

    /// The longest vector that each head of a projection of the first layer makes of any token.
    fn longest_of_vocabulary(&self, linear: &Linear, heads: usize) -> Vec<f64> {
        let (dim, head_dim) = (self.config.dim, self.config.head_dim());
        let block = &self.layers[0];
        let embeddings = self.tok_embeddings.weight.val();
        let mut longest = vec![0.0_f64; heads];
        for start in (0..self.config.vocabulary).step_by(TOKENS) {
            let tokens = TOKENS.min(self.config.vocabulary - start);
            let some: Tensor<3> = embeddings
                .clone()
                .narrow(0, start, tokens)
                .reshape([1, tokens, dim]);
            let normed = block.attention_norm.forward(self.normed_embeddings(some));
            let rows = host_values(linear.forward(normed));
            for (index, row) in rows.chunks_exact(head_dim).enumerate() {
                let squares: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
                let longest = &mut longest[index % heads];
                *longest = longest.max(squares.sqrt());
            }
        }
        let norm = &block.attention_norm;
        let matrices = self.by_head(&host_values(norm.gains().val()), linear, heads);
        let offsets = self.offsets(norm, linear, heads);
        let parts = longest.into_iter().zip(matrices.iter().zip(offsets));
        parts
            .map(|(length, (matrix, offset))| {
                // Asked in other company a token's row is rounded otherwise: once here, once there.
                let rounding = matrix.rounding() * (dim as f64).sqrt() + offset.rounding;
                length + 2.0 * rounding
            })
            .collect()
    }

    /// The vector that the biases of norm and projection add to every vector of each head: `Wᵀβ + b`.
    fn offsets(&self, norm: &Norm, linear: &Linear, heads: usize) -> Vec<Offset> {
        let values = |param: Option<&Param<Tensor<1>>>, size: usize| match param {
            Some(param) => host_values(param.val()),
            None => vec![0.0; size],
        };
        let beta = values(norm.bias(), self.config.dim);
        let matrices = self.by_head(&vec![1.0; self.config.dim], linear, heads);
        let each = matrices[0].rows.len();
        let biases = values(linear.bias.as_ref(), heads * each);
        let of_head = |(matrix, bias): (&Columns, &[f32])| {
            let (mut squares, mut sizes) = (0.0, 0.0);
            for (column, b) in matrix.rows.iter().zip(bias) {
                let products = column.iter().zip(&beta).map(|(w, b)| w * f64::from(*b));
                let sum = products.clone().sum::<f64>() + f64::from(*b);
                let size = products.map(f64::abs).sum::<f64>() + f64::from(b.abs());
                (squares, sizes) = (squares + sum * sum, sizes + size * size);
            }
            Offset {
                length: squares.sqrt(),
                rounding: unit_of_sums(beta.len()) * sizes.sqrt(),
            }
        };
        matrices
            .iter()
            .zip(biases.chunks_exact(each))
            .map(of_head)
            .collect()
    }

    /// `diag(γ) W`, cut into heads.
    fn by_head(&self, gains: &[f32], linear: &Linear, heads: usize) -> Vec<Columns> {
        let weights = host_values(linear.weight.val());
        let width = weights.len() / gains.len();
        let column = |c: usize| -> Vec<f64> {
            let weights = weights[c..].iter().step_by(width);
            weights
                .zip(gains)
                .map(|(w, g)| f64::from(*w) * f64::from(*g))
                .collect()
        };
        let each = width / heads;
        (0..heads)
            .map(|head| Columns {
                rows: (head * each..(head + 1) * each).map(column).collect(),
            })
            .collect()
    }

    fn sharpenings(&self, layer: usize) -> Vec<Sharpening> {
        use bam_attention::TemperatureScope::{Likelihood, LikelihoodAndPrior};
        let temperature = self.config.encoding.of_layer(layer).temperature;
        match (&self.layers[layer].attention.ssmax_scale, temperature) {
            (Some(scale), Some(temperature)) => host_values(scale.val())
                .into_iter()
                .map(|scale| match temperature.scope() {
                    LikelihoodAndPrior => Sharpening::LikelihoodAndPrior(scale.into()),
                    Likelihood => Sharpening::Likelihood(scale.into()),
                })
                .collect(),
            _ => vec![Sharpening::None; self.config.heads],
        }
    }
}

/// A vector that is always added.
struct Offset {
    length: f64,
    /// The length that computing it in `f32` can add.
    rounding: f64,
}

/// The error of a sum of so many products and what made them in `f32`, relative to their sizes.
fn unit_of_sums(products: usize) -> f64 {
    (products + 8) as f64 * f64::from(f32::EPSILON)
}

/// The columns of a matrix, one a row here.
struct Columns {
    rows: Vec<Vec<f64>>,
}

impl Columns {
    /// `AᵀA`, row after row.
    fn gram(&self) -> Vec<f64> {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        self.rows
            .iter()
            .flat_map(|a| self.rows.iter().map(move |b| dot(a, b)))
            .collect()
    }

    /// The error that norm and projection in `f32` can add to `σ`: a sum of `n` products is off by at most `n`
    /// units of rounding times the sum of their sizes, and that is at most the Frobenius norm times
    /// the length of the input.
    fn rounding(&self) -> f64 {
        let inputs = self.rows.first().map_or(0, Vec::len);
        let squares: f64 = self.rows.iter().flatten().map(|x| x * x).sum();
        unit_of_sums(inputs) * squares.sqrt()
    }
}

/// An upper bound of the largest eigenvalue of a positive semidefinite matrix.
///
/// With `G_0 = G`, `n_k` the Frobenius norm of `G_k` and `G_(k+1) = (G_k/n_k)²`, the eigenvalues obey
/// `λ(G_k) = n_k·√λ(G_(k+1))` and `λ(G_k) ≤ n_k`. So `λ(G) ≤ n_0 · n_1^(1/2) · n_2^(1/4) ···`.
fn largest_eigenvalue(mut matrix: Vec<f64>, size: usize) -> f64 {
    let mut ln_bound = 0.0;
    for k in 0..=SQUARINGS {
        let norm = matrix.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm == 0.0 {
            return 0.0;
        }
        ln_bound += norm.ln() * 0.5_f64.powi(k);
        matrix.iter_mut().for_each(|x| *x /= norm);
        matrix = square(&matrix, size);
    }
    // The roundings of all squarings, which the roots make smaller again.
    ln_bound.exp() * (1.0 + 1e-9)
}

/// The square of a symmetric matrix.
fn square(matrix: &[f64], size: usize) -> Vec<f64> {
    let rows = || matrix.chunks_exact(size);
    rows()
        .flat_map(|a| rows().map(move |b| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Design, ModelConfig, NormKind};
    use crate::testing::{lively, small};
    use bam_attention::testing::signed_numbers;
    use burn::tensor::{Device, TensorData};

    /// Diagonal matrices turned by random rotations have known eigenvalues.
    #[test]
    fn the_eigenvalue_is_bounded_from_above_and_closely() {
        for (size, seed) in [(1, 1), (2, 2), (3, 3), (63, 4), (65, 5)] {
            let mut eigenvalues: Vec<f64> = signed_numbers(size, 1.0, seed)
                .iter()
                .map(|x| f64::from(x.abs()))
                .collect();
            eigenvalues[size / 2] = 3.0;
            let mut matrix = vec![0.0; size * size];
            for (i, value) in eigenvalues.iter().enumerate() {
                matrix[i * size + i] = *value;
            }
            for (turn, angle) in signed_numbers(4 * size, 3.0, seed + 9).iter().enumerate() {
                let (i, j) = (turn % size, (7 * turn + 1) % size);
                if i != j {
                    rotate(&mut matrix, size, (i, j), f64::from(*angle));
                }
            }
            let bound = largest_eigenvalue(matrix.clone(), size);
            assert!((3.0..3.12).contains(&bound), "{size}: {bound}");
            // Null control: the trace's mean is no bound.
            let mean: f64 = (0..size).map(|i| matrix[i * size + i]).sum::<f64>() / size as f64;
            assert!(size == 1 || mean < 3.0);
        }
        assert_eq!(largest_eigenvalue(vec![0.0; 9], 3), 0.0);
    }

    fn rotate(matrix: &mut [f64], size: usize, (i, j): (usize, usize), angle: f64) {
        let (sin, cos) = angle.sin_cos();
        let turn = |a: &mut f64, b: &mut f64| (*a, *b) = (cos * *a - sin * *b, sin * *a + cos * *b);
        for k in 0..size {
            let (mut a, mut b) = (matrix[i * size + k], matrix[j * size + k]);
            turn(&mut a, &mut b);
            (matrix[i * size + k], matrix[j * size + k]) = (a, b);
        }
        for k in 0..size {
            let (mut a, mut b) = (matrix[k * size + i], matrix[k * size + j]);
            turn(&mut a, &mut b);
            (matrix[k * size + i], matrix[k * size + j]) = (a, b);
        }
    }

    /// Streams that are climbed towards long queries come close to the bound and stay below it; the
    /// bound without the gains of the norm, or without its `√dim`, is passed.
    #[test]
    fn no_stream_makes_a_longer_query() {
        for design in [Design::default(), biased()] {
            streams_are_climbed(design);
        }
    }

    /// Biases that are as large as the rest.
    fn biased() -> Design {
        Design {
            norm: NormKind::Layer,
            attention_bias: true,
            embedding_norm: true,
            ..Design::default()
        }
    }

    fn streams_are_climbed(design: Design) {
        let device = Device::flex();
        let config = ModelConfig {
            design,
            ..small("bam+ssmax")
        };
        let model = lively(config, 5, &device);
        let (dim, head_dim) = (model.config.dim, model.config.head_dim());
        let linear = &model.layers[1].attention.query;
        let bounds = model.longest_rows(1, linear, model.config.heads);
        let length = |stream: &[f32], head: usize| -> f64 {
            let stream = TensorData::new(stream.to_vec(), [1, 1, dim]);
            let normed = model.layers[1]
                .attention_norm
                .forward(Tensor::<3>::from_data(stream, &device));
            let rows = host_values(linear.forward(normed));
            let row = &rows[head * head_dim..][..head_dim];
            row.iter()
                .map(|x| f64::from(*x).powi(2))
                .sum::<f64>()
                .sqrt()
        };
        let mut passed = 0;
        for (head, bound) in bounds.iter().enumerate() {
            let mut stream = signed_numbers(dim, 1.0, 70 + head as u64);
            let mut longest = length(&stream, head);
            for step in 0..4000 {
                let mut other = stream.clone();
                let size = if step % 2 == 0 { 0.3 } else { 0.03 };
                other[step % dim] += signed_numbers(1, size, 1000 + step as u64)[0];
                let found = length(&other, head);
                if found > longest {
                    (stream, longest) = (other, found);
                }
            }
            assert!(longest <= *bound, "{head}: {longest} of {bound}");
            // With biases two vectors add up that need not point the same way.
            let close = if design == biased() { 0.6 } else { 0.9 };
            assert!(longest > close * bound, "{head}: {longest} of {bound}");
            let ones = vec![1.0; dim];
            let of_head = &model.by_head(&ones, linear, model.config.heads)[head];
            let without_gains = largest_eigenvalue(of_head.gram(), head_dim).sqrt();
            assert!(longest > without_gains * (dim as f64).sqrt(), "{head}");
            assert!(longest > bound / (dim as f64).sqrt(), "{head}");
            if design == biased() {
                let gains = host_values(model.layers[1].attention_norm.gains().val());
                let of_head = &model.by_head(&gains, linear, model.config.heads)[head];
                let without_bias = largest_eigenvalue(of_head.gram(), head_dim).sqrt();
                passed += usize::from(longest > without_bias * (dim as f64).sqrt());
            }
        }
        assert!(
            design != biased() || passed > 0,
            "no bound without biases was passed"
        );
    }

    /// In the first layer the vocabulary is all there is.
    #[test]
    fn the_first_layer_is_asked() {
        for design in [Design::default(), biased()] {
            let config = ModelConfig {
                design,
                ..small("bam")
            };
            let model = lively(config, 6, &Device::flex());
            let linear = &model.layers[0].attention.key;
            let asked = model.longest_of_vocabulary(linear, model.config.key_heads);
            let any = model.longest_rows(0, linear, model.config.key_heads);
            for (asked, any) in asked.iter().zip(&any) {
                assert!(asked < any && *asked > 0.1 * any, "{asked} {any}");
            }
        }
        let clipped = ModelConfig {
            design: Design {
                clip_qkv: Some(0.01),
                ..Design::default()
            },
            ..small("bam")
        };
        let model = lively(clipped, 6, &Device::flex());
        for bound in model.logit_bounds().iter().flatten() {
            assert!(
                (0.0002..0.000_201).contains(&bound.content),
                "{}",
                bound.content
            );
        }
        // A sinusoid is added to the embeddings, so that the vocabulary is not all there is.
        let model = lively(small("sinusoidal"), 6, &Device::flex());
        let config = &model.config;
        let attention = &model.layers[0].attention;
        let queries = model.longest_rows(0, &attention.query, config.heads);
        let keys = model.longest_rows(0, &attention.key, config.key_heads);
        let bound = queries[5] * keys[2] / (config.head_dim() as f64).sqrt();
        assert_eq!(model.logit_bounds()[0][5].content, bound);
    }
}
