//! What a trained model can do beyond its training length.
#![forbid(unsafe_code)]

pub mod babilong;
pub mod continuation;
pub mod exchange;
pub mod loglikelihood;
pub mod passkey;
pub mod perplexity;
pub mod ruler;
mod sentences;
#[cfg(test)]
mod tests;
pub mod watch;
