//! The language model: a decoder built as its [`Design`] says, LLaMA-like if nothing else is said,
//! whose positions enter as its [`Encoding`] says.
//!
//! One forward pass serves training, evaluation and generation ([`Transformer::forward`] without a
//! cache, [`Transformer::extend`] with one).
//!
//! [`Encoding`]: crate::encoding::Encoding

mod attention;
mod block;
mod cache;
pub mod checkpoint;
mod config;
mod content;
mod design;
pub mod generate;
mod horizon;
mod parameters;
mod prior;
mod read;
mod rotary;
pub mod scheduler;
pub mod surgery;
mod transformer;

pub(crate) use attention::Attended;
pub use cache::{Cache, CachePriors, LONGEST_ROW, check_row};
pub use config::{ModelConfig, PriorScope, PriorStart, ShapeStart};
pub use design::{Activation, Design, NormKind, Residual};
pub use horizon::Horizons;
pub(crate) use parameters::{EachParameter, ReplaceParameter, Replacing, Visiting};
pub use parameters::{ParameterInfo, ParameterKind};
pub use prior::{PriorHeads, host_values};
pub use read::{CHUNK, TokenScore, score_of};
pub use transformer::{TokenRows, Transformer};
