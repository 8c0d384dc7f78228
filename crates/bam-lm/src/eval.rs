//! What a trained model can do beyond its training length.

pub mod passkey;
pub mod perplexity;
