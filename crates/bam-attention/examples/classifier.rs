//! A tiny classifier, and every head's prior before and after: `cargo run --release -p bam-attention --example classifier`.
//!
//! The class of a row is a symbol at its beginning, and is asked for at its end. Heads start with ALiBi's
//! slopes; those that look nearby can't see so far, and learn to.

mod descent;

use bam_attention::AttentionError;
use bam_attention::nn::{
    BayesianAttention, BayesianAttentionConfig, Family, PositionalPriorConfig,
};
use bam_prior::RowSummary;
use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

const WIDTH: usize = 32;
const HEADS: usize = 4;
const CLASSES: usize = 4;
const FILLERS: usize = 8;
const ROWS: usize = 32;
const LENGTH: usize = 64;

#[derive(Module, Debug)]
struct Classifier {
    embedding: Embedding,
    attention: BayesianAttention,
    head: Linear,
}

impl Classifier {
    fn new(device: &Device) -> Result<Self, AttentionError> {
        let prior = PositionalPriorConfig::learned(Family::GeneralizedGaussian, HEADS);
        Ok(Self {
            embedding: EmbeddingConfig::new(CLASSES + FILLERS, WIDTH).init(device),
            attention: BayesianAttentionConfig::new(WIDTH, prior).init(device)?,
            head: LinearConfig::new(WIDTH, CLASSES).init(device),
        })
    }

    /// Log-probabilities of the classes, `[rows, classes]`, as the last position has them.
    fn forward(&self, symbols: Tensor<2, Int>) -> Result<Tensor<2>, AttentionError> {
        let x = self
            .attention
            .forward(self.embedding.forward(symbols), None)?;
        let last = x.narrow(1, LENGTH - 1, 1).reshape([ROWS, WIDTH]);
        Ok(log_softmax(self.head.forward(last), 1))
    }
}

/// Rows that begin with their class, and the classes, `[rows, 1]`.
fn rows(seed: u64, device: &Device) -> (Tensor<2, Int>, Tensor<2, Int>) {
    let classes = descent::symbols(ROWS, CLASSES, 2 * seed);
    let mut symbols = descent::symbols(ROWS * LENGTH, FILLERS, 2 * seed + 1);
    symbols
        .iter_mut()
        .for_each(|symbol| *symbol += CLASSES as i32);
    for (row, class) in classes.iter().enumerate() {
        symbols[row * LENGTH] = *class;
    }
    let symbols = TensorData::new(symbols, [ROWS, LENGTH]);
    let classes = TensorData::new(classes, [ROWS, 1]);
    (
        Tensor::from_data(symbols, device),
        Tensor::from_data(classes, device),
    )
}

/// The number of a row's keys that hold 99 % of the prior's mass, head by head.
fn reach(classifier: &Classifier) -> Result<Vec<(String, usize)>, AttentionError> {
    let mut heads = Vec::new();
    for prior in classifier.attention.prior.priors()? {
        let row = RowSummary::new(&prior, LENGTH)?;
        heads.push((format!("{:?}", row.class()), row.mass_lags().p99 + 1));
    }
    Ok(heads)
}

fn accuracy(classifier: &Classifier, device: &Device) -> Result<f32, AttentionError> {
    let (symbols, classes) = rows(1_000_000, device);
    let right = classifier.forward(symbols)?.argmax(1).equal(classes);
    Ok(right.int().sum().into_scalar::<i32>() as f32 / ROWS as f32)
}

fn main() -> Result<(), AttentionError> {
    const STEPS: usize = 300;
    let device = Device::flex().autodiff();
    device.seed(1);
    let mut classifier = Classifier::new(&device)?;
    let (before, at_first) = (reach(&classifier)?, accuracy(&classifier, &device)?);
    for step in 0..STEPS {
        let (symbols, classes) = rows(step as u64, &device);
        let loss = classifier.forward(symbols)?.gather(1, classes).mean().neg();
        let rate = 0.02 * (1.0 - step as f64 / STEPS as f64);
        classifier = descent::step(classifier, loss, rate);
    }
    let (after, at_last) = (reach(&classifier)?, accuracy(&classifier, &device)?);
    println!("head   keys that hold 99 % of the prior, of {LENGTH}");
    for (head, ((class, keys), (then, more))) in before.iter().zip(&after).enumerate() {
        println!("{head}      {keys:2} ({class}) → {more:2} ({then})");
    }
    println!(
        "right: {:.0} % → {:.0} %",
        100.0 * at_first,
        100.0 * at_last
    );
    assert!(at_last > 0.9, "the classifier has not learned");
    Ok(())
}

#[test]
fn it_learns() {
    main().unwrap();
}
