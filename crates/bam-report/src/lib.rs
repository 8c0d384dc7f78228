//! Records in, something to read out: a table for the terminal, Markdown, and one self-contained HTML page.
//!
//! Everything here is a pure function of records: no clock, no file, no model. The same records give the same bytes.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod findings;
pub mod inspection;
pub mod page;
mod plot;
mod runs;
pub mod scores;
pub mod study;
pub mod surgery;
pub mod table;
#[cfg(test)]
mod tests;
pub mod text;
pub mod upcycling;

pub use runs::Runs;
