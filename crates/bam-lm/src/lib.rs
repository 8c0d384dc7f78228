//! Small language models under positional priors: data, model, training, evaluation, inspection.
//!
//! What is done with the operation of [`bam_attention`]: a decoder whose positions enter as its
//! [`encoding`] says ([`model`]), the text it reads ([`data`]), how it learns ([`train`]), and what
//! it then can do far beyond its training length ([`eval`], [`inspect`]). Results are [`record`]s.
//!
//! This crate never prints, reads the environment or the clock: devices, seeds, clocks and
//! progress callbacks are arguments.
#![forbid(unsafe_code)]

pub mod encoding;
mod error;
pub mod export;
pub mod import;
pub mod inspect;
pub mod model;
pub mod parity;
pub mod reference;
pub mod testing;
pub mod train;
pub mod upcycle;

pub use error::Error;
