//! Small language models under positional priors: model, training, inference, analysis.
//!
//! Built on the operation of [`bam_attention`], in rooms: [`model`], a decoder whose positions enter as
//! its [`encoding`](model::encoding) says; [`train`], how it learns; [`analysis`], a look into it;
//! [`engine`], many sequences at once; [`interop`], the models of other programs; [`device`], where tensors live;
//! [`ranks`], processes that work together. `model` knows none of
//! the others; `engine` knows `analysis`, for requests that ask what heads make of a text.
//!
//! This crate never prints, reads the environment or the clock: devices, seeds, clocks and
//! progress callbacks are arguments.
#![forbid(unsafe_code)]

pub mod analysis;
pub use bam_attention::device;
pub mod engine;
mod error;
pub mod interop;
pub mod model;
pub mod ranks;
mod settings;
pub mod testing;
pub mod train;

pub use error::Error;
