//! An encoder whose prior learns to look ahead: `cargo run --release -p bam-attention --example encoder`.
//!
//! Every position is asked for the symbol two places after it. Nothing in the content says where that
//! is, so a head can only move its prior there: its location goes from 0 to 2.

mod descent;

use bam_attention::AttentionError;
use bam_attention::nn::{
    BayesianAttention, BayesianAttentionConfig, Family, Mask, PositionalPriorConfig,
};
use bam_prior::PositionalPrior;
use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

const WIDTH: usize = 32;
const SYMBOLS: usize = 8;
const ROWS: usize = 16;
const LENGTH: usize = 24;
/// The distance to the answer, ahead.
const AHEAD: usize = 2;

#[derive(Module, Debug)]
struct Encoder {
    embedding: Embedding,
    attention: BayesianAttention,
    head: Linear,
}

impl Encoder {
    fn new(device: &Device) -> Result<Self, AttentionError> {
        let prior = PositionalPriorConfig::learned(Family::GeneralizedGaussian, 2);
        let attention = BayesianAttentionConfig::new(WIDTH, prior).with_causal(false);
        Ok(Self {
            embedding: EmbeddingConfig::new(SYMBOLS, WIDTH).init(device),
            attention: attention.init(device)?,
            head: LinearConfig::new(WIDTH, SYMBOLS).init(device),
        })
    }

    /// Log-probabilities of the symbols, `[rows, length, symbols]`.
    fn forward(&self, symbols: Tensor<2, Int>, mask: &Mask) -> Result<Tensor<3>, AttentionError> {
        let x = self.embedding.forward(symbols);
        let x = self.attention.forward(x, Some(mask))?;
        Ok(log_softmax(self.head.forward(x), 2))
    }

    fn print_priors(&self, when: &str) -> Result<(), AttentionError> {
        for (head, prior) in self.attention.prior.priors()?.iter().enumerate() {
            let named = prior.parameters().into_iter();
            let named: Vec<String> = named
                .map(|p| format!("{} {:.3}", p.name, p.value))
                .collect();
            println!("{when}: head {head}, {}", named.join(", "));
        }
        Ok(())
    }
}

/// Symbols, and for each what stands [`AHEAD`] places after it; the last ones are padding.
fn rows(seed: u64, device: &Device) -> (Tensor<2, Int>, Tensor<3, Int>) {
    let symbols = descent::symbols(ROWS * LENGTH, SYMBOLS, seed);
    let symbols = Tensor::<2, Int>::from_data(TensorData::new(symbols, [ROWS, LENGTH]), device);
    let asked = LENGTH - AHEAD;
    let answers = symbols.clone().narrow(1, AHEAD, asked);
    (symbols, answers.reshape([ROWS, asked, 1]))
}

fn main() -> Result<(), AttentionError> {
    const STEPS: usize = 400;
    let device = Device::flex().autodiff();
    device.seed(1);
    let mut encoder = Encoder::new(&device)?;
    encoder.print_priors("before")?;
    // All rows are full here: nothing is padding.
    let padding = Tensor::<2, Bool>::full([ROWS, LENGTH], false, &device);
    let mask = Mask::padding(padding)?;
    let mut last = f32::INFINITY;
    for step in 0..STEPS {
        let (symbols, answers) = rows(step as u64, &device);
        let asked = answers.dims()[1];
        let ln_probabilities = encoder.forward(symbols, &mask)?.narrow(1, 0, asked);
        let loss = ln_probabilities.gather(2, answers).mean().neg();
        last = loss.clone().into_scalar::<f32>();
        let rate = 0.02 * (1.0 - step as f64 / STEPS as f64);
        encoder = descent::step(encoder, loss, rate);
    }
    encoder.print_priors("after")?;
    println!("loss {last:.3} of {:.3}", (SYMBOLS as f32).ln());
    let priors = encoder.attention.prior.priors()?;
    let ahead = |prior: &bam_prior::Prior| (prior.parameters()[0].value - AHEAD as f64).abs() < 0.5;
    assert!(
        priors.iter().any(ahead) && last < 0.5,
        "the encoder has not learned to look ahead"
    );
    Ok(())
}

#[test]
fn it_learns() {
    main().unwrap();
}
