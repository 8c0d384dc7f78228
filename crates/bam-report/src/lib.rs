//! Records in, something to read out: a table for the terminal, Markdown, and one self-contained HTML page.
//!
//! Everything here is a pure function of records: no clock, no file, no model. The same records give the same bytes.

pub mod findings;
pub mod inspection;
pub mod page;
pub mod plot;
pub mod scores;
pub mod surgery;
pub mod table;
#[cfg(test)]
mod tests;
pub mod text;

use bam_record::RunRecords;

/// Runs in the order in which they are shown, each with its name, for example `bam+ssmax`.
pub type Runs = [(String, RunRecords)];
