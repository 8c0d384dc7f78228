//! A look into a model: what its heads believe before they read ([`prior`]), what they make of a
//! text ([`posterior`], [`mod@measured`], [`mod@reading`]), how far they can look at all
//! ([`mod@context`]), whether the numbers hold ([`doctor`]), and where two models differ
//! ([`mod@difference`]); other priors in its heads ([`surgery`]), or priors that learn on ([`upcycle`]).

mod content_bounds;
pub mod context;
pub mod difference;
pub mod doctor;
mod horizons;
pub mod measured;
pub mod posterior;
pub mod prior;
pub mod reading;
pub mod surgery;
pub mod upcycle;

pub(crate) use prior::distributions;
pub use prior::{has_prior, heads};
