//! What a trained model can do beyond its training length.

pub mod loglikelihood;
pub mod passkey;
pub mod perplexity;
