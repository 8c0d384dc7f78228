//! ALiBi whose slopes learn: `cargo run --release -p bam-attention --example learnable_alibi`.

use bam_attention::AttentionError;
use bam_attention::nn::{BayesianAttentionConfig, Family, PositionalPriorConfig};
use burn::tensor::{Device, Distribution, Tensor};

fn main() -> Result<(), AttentionError> {
    let device = Device::flex().autodiff();
    let alibi = PositionalPriorConfig::learned(Family::Laplace, 4);
    let attention = BayesianAttentionConfig::new(64, alibi).init(&device)?;
    let x = Tensor::<3>::random([2, 100, 64], Distribution::Default, &device);
    let gradients = attention.forward(x, None)?.square().mean().backward();
    let slopes = &attention.prior.groups[0].theta[0];
    println!("{}", slopes.val().grad(&gradients).expect("slopes learn"));
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
