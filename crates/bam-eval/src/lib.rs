//! Measures of a trained model far beyond its training length.
//!
//! An [`Evaluation`](evaluation::Evaluation) is a grid of cells, the samples of a cell, a score and a record;
//! [`evaluate`](evaluation::evaluate) runs any of them, and a [`Journal`](journal::Journal) lets it go on
//! where it was stopped. [`exchange`] writes the results as other programs do.
#![forbid(unsafe_code)]

pub mod babilong;
mod dealing;
pub mod evaluation;
pub mod exchange;
pub mod greedy;
pub mod journal;
pub mod loglikelihood;
pub mod passkey;
pub mod perplexity;
pub mod ruler;
mod sentences;
pub mod stopping;
pub mod synthetic;
#[cfg(test)]
mod tests;
