//! Models of other programs ([`import`]), models for other programs ([`export`]), and the numbers of the
//! paper's program ([`mod@reference`]) beside ours ([`parity`]).

pub mod export;
pub mod import;
pub mod parity;
pub mod reference;
