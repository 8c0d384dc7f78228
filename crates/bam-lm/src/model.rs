//! The language model: a decoder built as its [`Design`] says, LLaMA-like if nothing else is said,
//! whose positions enter as its [`Encoding`](encoding::Encoding) says.
//!
//! One forward pass serves training, evaluation and generation: [`Transformer::forward`] without a
//! cache; with a [`KvCache`], [`Transformer::prefill`] and [`Transformer::forward_cached`] for the tokens
//! of one batch, [`Transformer::decode_step`] for one token of each of several sequences.

mod adaptive;
mod attention;
mod block;
pub mod checkpoint;
mod config;
mod design;
pub mod encoding;
#[cfg(test)]
mod fox_tests;
mod kv_cache;
mod parameters;
mod prefill;
mod prior;
mod products;
mod rotary;
mod rowwise;
mod transformer;

pub use adaptive::AdaptiveTemperature;
pub(crate) use attention::Attended;
pub(crate) use block::Norm;
pub use config::{HeadStart, ModelConfig, PriorScope, PriorStart};
pub use design::{Activation, Design, NormKind, Residual};
pub use kv_cache::{CachePriors, Horizons, KvCache, LONGEST_SEQUENCE, check_length};
pub(crate) use parameters::{EachParameter, ReplaceParameter, Replacing, Visiting};
pub use parameters::{ParameterInfo, ParameterKind};
pub use prefill::{CHUNK, TokenScore, score_of};
pub use prior::host_values;
pub use products::Products;
pub(crate) use rowwise::Numbers;
pub use transformer::{TokenRows, Transformer};
